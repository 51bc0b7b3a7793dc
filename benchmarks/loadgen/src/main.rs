//! `rloop-loadgen`: the other end of the benchmarks.
//!
//! Lives here: choosing the mode and turning its result into output and an exit code. No sockets, no numbers.
//! The modes are `load` ([`client`], a closed loop against an echo server), `arrivals` ([`arrivals`], an open loop
//! against one), `handshakes` ([`handshakes`], drives a TLS server) and `serve` ([`server`], the bare server that the
//! loops' CPU is compared with, also on OpenSSL). Linux only.

#![deny(clippy::undocumented_unsafe_blocks)]

mod args;
mod arrivals;
mod buffer;
mod client;
mod control;
mod epoll;
mod handshakes;
mod histogram;
mod openssl;
mod report;
mod schedule;
mod server;
mod stream;
mod wire;

use args::Command;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match args::parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            println!("{}", args::USAGE);
            return ExitCode::SUCCESS;
        }
        Ok(Command::Load(load)) => client::run(&load),
        Ok(Command::Arrivals(options)) => arrivals::run(&options),
        Ok(Command::Handshakes(options)) => handshakes::run(&options),
        Ok(Command::Serve { port, tls }) => server::run(port, tls.as_ref()).map(|()| true),
        Err(message) => {
            eprintln!("rloop-loadgen: {message}\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("rloop-loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}
