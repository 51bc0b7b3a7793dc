//! The closed loop: every connection has one message under way. It sends the next one when the whole echo has come back
//! and is right. Nothing here knows which server is at the other end.

use crate::args::{Limit, Load, Target};
use crate::buffer::{Messages, PageAligned};
use crate::epoll::{self, Epoll, Event, Interest};
use crate::framing::{AnswerHead, Framing};
use crate::histogram::Histogram;
use crate::report;
use crate::stream::{self, Stream};
use crate::wire::Wire;
use rustls::ClientConfig;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Instant;

/// Connects, warms up, measures, prints the result; true if every echo was right.
pub fn run(load: &Load) -> io::Result<bool> {
    let deadline = Instant::now() + load.timeout;
    let mut client = Client::connect(load, deadline)?;
    report::run(load.gated, deadline, |phase| client.phase(phase.limit(load.warmup, load.limit)))
}

/// Latencies are kept as a histogram: a closed loop makes too many requests to keep each.
pub type Report = report::Report<Histogram>;

/// A connection that has at most one message under way.
pub struct Connection {
    stream: Stream,
    /// The number of the message that is under way.
    number: usize,
    sent: usize,
    received: usize,
    /// The head of the answer, if answers have one.
    head: Option<AnswerHead>,
    /// When the message under way was sent, or, in the open loop, should have been sent.
    pub started: Instant,
    alive: bool,
}

/// Makes `count` connections. The events of each carry its index in the result. No message is under way.
pub fn connect(
    target: &Target,
    count: usize,
    size: usize,
    framing: Framing,
    tls: Option<&Arc<ClientConfig>>,
    epoll: &Epoll,
    deadline: Instant,
) -> io::Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(count);
    for key in 0..count {
        let wire = Wire::connect(target, deadline)?;
        let mut stream = match tls {
            Some(config) => Stream::shaken(wire, config, deadline)?,
            None => Stream::Plain(wire),
        };
        framing.open(&mut stream, deadline)?;
        epoll.add(&stream, key, Interest::EdgeBoth)?;
        let started = Instant::now();
        // The state after a message has been answered.
        connections.push(Connection {
            stream,
            number: key,
            sent: size,
            received: size,
            head: framing.head(size),
            started,
            alive: true,
        });
    }
    Ok(connections)
}

struct Client {
    connections: Vec<Connection>,
    epoll: Epoll,
    messages: Messages,
    scratch: PageAligned,
    deadline: Instant,
}

impl Client {
    fn connect(load: &Load, deadline: Instant) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let tls = load.tls.then(|| stream::config(false));
        let (size, framing) = (load.size, load.framing);
        let connections =
            connect(&load.target, load.connections, size, framing, tls.as_ref(), &epoll, deadline)?;
        let (messages, scratch) = (framing.messages(size), framing.scratch(size));
        Ok(Self { connections, epoll, messages, scratch, deadline })
    }

    /// Starts requests until the limit is reached, then waits for those that are under way.
    fn phase(&mut self, limit: Limit) -> io::Result<Report> {
        let cpu = epoll::cpu_time()?;
        let begin = Instant::now();
        let mut now = begin;
        let mut report = Report::default();
        let mut quota = Quota::new(limit, begin);
        let mut under_way = 0;
        for key in 0..self.connections.len() {
            if self.connections[key].alive && quota.take(now) {
                match self.connections[key].start(&self.messages, now) {
                    Ok(()) => under_way += 1,
                    Err(error) => self.fail(key, error, &mut report),
                }
            }
        }
        while under_way > 0 {
            let left = self.deadline.saturating_duration_since(now);
            if left.is_zero() {
                report.fail_many(under_way, format!("timed out with {under_way} requests under way"));
                break;
            }
            let count = self.epoll.wait(Some(left))?;
            for index in 0..count {
                let event = self.epoll.event(index);
                match self.connections[event.key].advance(&self.messages, &mut self.scratch, event) {
                    Ok(false) => continue,
                    Ok(true) => {
                        now = Instant::now();
                        let connection = &mut self.connections[event.key];
                        report.responses.record((now - connection.started).as_nanos() as u64);
                        under_way -= 1;
                        if !quota.take(now) {
                            continue;
                        }
                        match connection.start(&self.messages, now) {
                            Ok(()) => under_way += 1,
                            Err(error) => self.fail(event.key, error, &mut report),
                        }
                    }
                    Err(error) => {
                        under_way -= 1;
                        self.fail(event.key, error, &mut report);
                    }
                }
            }
            if count == 0 {
                now = Instant::now();
            }
        }
        report.elapsed = now - begin;
        report.cpu = epoll::cpu_time()? - cpu;
        Ok(report)
    }

    fn fail(&mut self, key: usize, error: io::Error, report: &mut Report) {
        self.connections[key].alive = false;
        report.fail(format!("connection {key}: {error}"));
    }
}

impl Connection {
    /// Sends the next message, or as much of it as the kernel takes.
    pub fn start(&mut self, messages: &Messages, now: Instant) -> io::Result<()> {
        self.number += 1;
        self.sent = 0;
        self.received = 0;
        if let Some(head) = &mut self.head {
            head.clear();
        }
        self.started = now;
        self.flush(messages)
    }

    fn flush(&mut self, messages: &Messages) -> io::Result<()> {
        let request = messages.request(self.number);
        self.stream.flush()?;
        if self.sent < request.len() {
            self.sent += self.stream.send(&request[self.sent..])?;
        }
        Ok(())
    }

    /// Sends and receives more of the message under way. True once all of it has come back.
    pub fn advance(&mut self, messages: &Messages, scratch: &mut [u8], event: Event) -> io::Result<bool> {
        if !self.under_way(messages) {
            // Not every event concerns a message: registering the socket makes one, and so does a peer that closes
            // after the last message.
            return Ok(false);
        }
        self.flush(messages)?;
        let message = messages.get(self.number);
        loop {
            let left = message.len() - self.received;
            // If the answer has a head, nobody knows where it will end.
            let wanted = if self.head.is_some() { scratch.len() } else { left };
            let count = match self.stream.read(&mut scratch[..wanted]) {
                Ok(0) => {
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed by the server"));
                }
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            let mut echo = &scratch[..count];
            if let Some(head) = &mut self.head {
                echo = head.take(echo, message.len())?;
            }
            if echo.len() > left || *echo != message[self.received..][..echo.len()] {
                return Err(io::Error::new(ErrorKind::InvalidData, "the echo is wrong"));
            }
            if self.stream.is_datagram() && count < wanted {
                return Err(io::Error::new(ErrorKind::InvalidData, "a datagram was cut or split"));
            }
            self.received += echo.len();
            if echo.len() == left {
                return Ok(true);
            }
            // A read that returns less than asked for has emptied the socket, unless the peer has closed as well.
            if count < wanted && !event.closed && self.stream.short_read_is_all() {
                return Ok(false);
            }
        }
    }

    fn under_way(&self, messages: &Messages) -> bool {
        self.alive && self.received < messages.get(self.number).len()
    }
}

/// Decides whether one more request may start.
pub struct Quota {
    limit: Limit,
    begin: Instant,
    started: u64,
}

impl Quota {
    pub fn new(limit: Limit, begin: Instant) -> Self {
        Self { limit, begin, started: 0 }
    }

    pub fn take(&mut self, now: Instant) -> bool {
        let allowed = match self.limit {
            // Each connection may start one at the very beginning, so that it is warm even if the time is 0.
            Limit::Time(time) => now == self.begin || now - self.begin < time,
            Limit::Requests(count) => self.started < count,
        };
        self.started += u64::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn quota_of_requests() {
        let now = Instant::now();
        let mut quota = Quota::new(Limit::Requests(2), now);
        assert_eq!([quota.take(now), quota.take(now), quota.take(now)], [true, true, false]);
    }

    #[test]
    fn quota_of_time_gives_everybody_a_first_request() {
        let begin = Instant::now();
        let mut quota = Quota::new(Limit::Time(Duration::ZERO), begin);
        assert!(quota.take(begin));
        assert!(quota.take(begin));
        assert!(!quota.take(begin + Duration::from_nanos(1)));
    }
}
