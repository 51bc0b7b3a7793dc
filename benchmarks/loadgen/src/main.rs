//! `rloop-loadgen`: the other end of the benchmarks.
//!
//! This file chooses the mode and turns its result into output and an exit code. It has no sockets and no numbers.
//! The modes:
//! - `load` ([`client`]): a closed loop against an echo server. Each connection sends its next request when it has the
//!   answer to the last one. Or each has several under way ([`pipeline`]).
//! - `arrivals` ([`arrivals`]): an open loop against an echo server. Requests are sent at times that are fixed before.
//! - `calls` ([`calls`]): one connection after the other, each for one request, with or without TLS.
//! - `serve` ([`server`]): the bare server, with or without TLS, that the loops' CPU time is compared with.
//!
//! Linux only.

#![deny(clippy::undocumented_unsafe_blocks)]

mod args;
mod arrivals;
mod buffer;
mod calls;
mod client;
mod control;
mod epoll;
mod framing;
mod histogram;
mod http;
mod openssl;
mod pipeline;
mod report;
mod schedule;
mod server;
mod stream;
mod websocket;
mod wire;

use args::Command;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match args::parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            println!("{}", args::USAGE);
            return ExitCode::SUCCESS;
        }
        Ok(Command::Load(load)) if load.depth > 1 => pipeline::run(&load),
        Ok(Command::Load(load)) => client::run(&load),
        Ok(Command::Arrivals(options)) => arrivals::run(&options),
        Ok(Command::Calls(options)) => calls::run(&options),
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
