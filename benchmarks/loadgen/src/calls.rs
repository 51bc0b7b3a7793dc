//! Calls: connect, have one message echoed, close; then again. So many of them are under way at a time. With TLS, the
//! echo shows that the server has finished the handshake, too, and with it come the tickets by which TLS 1.3 resumes a
//! session.

use crate::args::{Calls, Limit};
use crate::buffer::{Messages, PageAligned};
use crate::client::{Quota, Report};
use crate::epoll::{self, Epoll, Interest};
use crate::report;
use crate::stream::{self, Stream};
use crate::wire::Wire;
use rustls::ClientConfig;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Instant;

/// Warms up, measures, prints the result; true if every call was right.
pub fn run(options: &Calls) -> io::Result<bool> {
    let deadline = Instant::now() + options.timeout;
    let mut caller = Caller {
        options,
        config: options.tls.then(|| stream::config(options.resume)),
        epoll: Epoll::new()?,
        messages: Messages::new(options.size),
        scratch: PageAligned::zeroed(options.size),
        calls: Vec::new(),
        deadline,
        resumed: 0,
    };
    report::run(true, deadline, |phase| caller.phase(phase.limit(options.warmup, options.limit)))
}

struct Call {
    stream: Stream,
    started: Instant,
    sent: usize,
    received: usize,
}

struct Caller<'a> {
    options: &'a Calls,
    /// None: without TLS.
    config: Option<Arc<ClientConfig>>,
    epoll: Epoll,
    /// Each place in `calls` has a message of its own.
    messages: Messages,
    scratch: PageAligned,
    /// The index of a call is the key of its events. When a call is over, the next one takes its place.
    calls: Vec<Option<Call>>,
    deadline: Instant,
    resumed: u64,
}

impl Caller<'_> {
    fn phase(&mut self, limit: Limit) -> io::Result<Report> {
        let cpu = epoll::cpu_time()?;
        let begin = Instant::now();
        let mut report = Report::default();
        let mut quota = Quota::new(limit, begin);
        self.resumed = 0;
        self.calls = Vec::new();
        for key in 0..self.options.connections {
            let call = if quota.take(begin) { Some(self.call(key)?) } else { None };
            self.calls.push(call);
        }
        while self.calls.iter().any(Option::is_some) {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                report.fail("timed out".to_owned());
                break;
            }
            for index in 0..self.epoll.wait(Some(left))? {
                self.advance(self.epoll.event(index).key, &mut quota, &mut report)?;
            }
        }
        // The first calls of a run start before any ticket has come, so they have nothing to resume.
        let expected = report.responses.total().saturating_sub(self.options.connections as u64);
        if self.options.resume && self.resumed < expected {
            report.fail(format!("{} of {expected} sessions were resumed", self.resumed));
        }
        report.elapsed = begin.elapsed();
        report.cpu = epoll::cpu_time()?.saturating_sub(cpu);
        Ok(report)
    }

    fn call(&self, key: usize) -> io::Result<Call> {
        let started = Instant::now();
        let wire = Wire::connect(&self.options.target, self.deadline)?;
        let mut stream = match &self.config {
            Some(config) => Stream::tls(wire, config)?,
            None => {
                // Otherwise the number of each port would stay in use for a minute (TIME_WAIT).
                epoll::reset_when_closed(&wire)?;
                Stream::Plain(wire)
            }
        };
        stream.flush()?;
        self.epoll.add(&stream, key, Interest::EdgeBoth)?;
        Ok(Call { stream, started, sent: 0, received: 0 })
    }

    fn advance(&mut self, key: usize, quota: &mut Quota, report: &mut Report) -> io::Result<()> {
        let Some(call) = &mut self.calls[key] else { return Ok(()) };
        match call.advance(self.messages.get(key), &mut self.scratch) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                report.responses.record(call.started.elapsed().as_nanos() as u64);
                self.resumed += u64::from(call.stream.is_resumed());
            }
            Err(error) => report.fail(format!("connection {key}: {error}")),
        }
        self.calls[key] = None;
        if report.first_error.is_none() && quota.take(Instant::now()) {
            self.calls[key] = Some(self.call(key)?);
        }
        Ok(())
    }
}

impl Call {
    /// Goes on with the call. True once the message has come back, and TLS's closing message is sent.
    fn advance(&mut self, message: &[u8], scratch: &mut [u8]) -> io::Result<bool> {
        if !self.stream.shake()? {
            return Ok(false);
        }
        if self.sent < message.len() {
            self.sent += self.stream.send(&message[self.sent..])?;
        }
        while self.received < message.len() {
            let left = &message[self.received..];
            match self.stream.read(&mut scratch[..left.len()]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) if scratch[..count] == left[..count] => self.received += count,
                Ok(_) => return Err(io::Error::new(ErrorKind::InvalidData, "the echo is wrong")),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.stream.finish()?;
        Ok(true)
    }
}
