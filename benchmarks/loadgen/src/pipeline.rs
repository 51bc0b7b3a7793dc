//! The closed loop with several messages under way on each connection. For each echo that is complete, the connection
//! sends one more message. Those for which echoes have come together are sent together.
//!
//! What a connection sends is one endless row of bytes, in which the messages have no borders but their length. The same
//! bytes have to come back.

use crate::args::{Limit, Load};
use crate::buffer::PageAligned;
use crate::client::{Quota, Report};
use crate::epoll::{self, Epoll, Interest};
use crate::report;
use crate::stream::Stream;
use crate::wire::Wire;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::time::Instant;

/// After so many bytes, the row of bytes begins anew. No size of a message in use divides it, so that messages differ.
const PERIOD: usize = 65_521;
/// The most that one read takes, in bytes.
const READ: usize = 65_536;

/// Connects, warms up, measures, prints the result; true if every echo was right.
pub fn run(load: &Load) -> io::Result<bool> {
    let deadline = Instant::now() + load.timeout;
    let mut client = Client::connect(load, deadline)?;
    report::run(load.gated, deadline, |phase| client.phase(phase.limit(load.warmup, load.limit)))
}

/// A connection, whose places in the row of bytes only grow.
struct Connection {
    stream: Stream,
    /// The end of the last message that has been started.
    started: usize,
    /// The end of what the kernel has taken.
    sent: usize,
    /// The end of what has come back.
    received: usize,
    /// When the messages under way were started: the first is the oldest.
    times: VecDeque<Instant>,
}

struct Client {
    connections: Vec<Connection>,
    epoll: Epoll,
    size: usize,
    depth: usize,
    bytes: PageAligned,
    scratch: PageAligned,
    deadline: Instant,
}

impl Client {
    fn connect(load: &Load, deadline: Instant) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let mut connections = Vec::with_capacity(load.connections);
        for key in 0..load.connections {
            let stream = Stream::Plain(Wire::connect(&load.target, deadline)?);
            epoll.add(&stream, key, Interest::EdgeBoth)?;
            connections.push(Connection { stream, started: 0, sent: 0, received: 0, times: VecDeque::new() });
        }
        Ok(Self {
            connections,
            epoll,
            size: load.size,
            depth: load.depth,
            bytes: PageAligned::noise(PERIOD),
            scratch: PageAligned::zeroed(READ),
            deadline,
        })
    }

    /// Starts messages until the limit is reached, then waits for those that are under way. The phase ends at the first
    /// error.
    fn phase(&mut self, limit: Limit) -> io::Result<Report> {
        let cpu = epoll::cpu_time()?;
        let begin = Instant::now();
        let mut report = Report::default();
        let mut quota = Quota::new(limit, begin);
        for key in 0..self.connections.len() {
            self.go_on(key, self.depth, begin, &mut quota, &mut report);
        }
        while report.first_error.is_none() && self.connections.iter().any(Connection::is_under_way) {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                report.fail("timed out".to_owned());
            }
            for index in 0..self.epoll.wait(Some(left))? {
                let key = self.epoll.event(index).key;
                let echoes = match self.connections[key].receive(&self.bytes, &mut self.scratch, self.size) {
                    Ok(echoes) => echoes,
                    Err(error) => {
                        report.fail(format!("connection {key}: {error}"));
                        break;
                    }
                };
                let now = Instant::now();
                for started in self.connections[key].times.drain(..echoes) {
                    report.responses.record((now - started).as_nanos() as u64);
                }
                self.go_on(key, echoes, now, &mut quota, &mut report);
            }
        }
        report.elapsed = begin.elapsed();
        report.cpu = epoll::cpu_time()?.saturating_sub(cpu);
        Ok(report)
    }

    /// Starts up to `count` messages of a connection, and sends what the kernel takes.
    fn go_on(&mut self, key: usize, count: usize, now: Instant, quota: &mut Quota, report: &mut Report) {
        let connection = &mut self.connections[key];
        for _ in 0..count {
            if !quota.take(now) {
                break;
            }
            connection.started += self.size;
            connection.times.push_back(now);
        }
        if let Err(error) = connection.send(&self.bytes) {
            report.fail(format!("connection {key}: {error}"));
        }
    }
}

impl Connection {
    fn is_under_way(&self) -> bool {
        self.received < self.started
    }

    /// Sends what is started, or as much of it as the kernel takes.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        while self.sent < self.started {
            let part = part(bytes, self.sent, self.started - self.sent);
            let count = self.stream.send(part)?;
            self.sent += count;
            if count < part.len() {
                break;
            }
        }
        Ok(())
    }

    /// Receives what has come. Returns how many messages of `size` bytes are complete now and were not before.
    fn receive(&mut self, bytes: &[u8], scratch: &mut [u8], size: usize) -> io::Result<usize> {
        let before = self.received / size;
        while self.is_under_way() {
            let expected = part(bytes, self.received, (self.started - self.received).min(scratch.len()));
            match self.stream.read(&mut scratch[..expected.len()]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) if scratch[..count] == expected[..count] => self.received += count,
                Ok(_) => return Err(io::Error::new(ErrorKind::InvalidData, "the echo is wrong")),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(self.received / size - before)
    }
}

/// The row of bytes from `start` on: `length` bytes, or as many as there are before it begins anew.
fn part(bytes: &[u8], start: usize, length: usize) -> &[u8] {
    let rest = &bytes[start % bytes.len()..];
    &rest[..length.min(rest.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Target;
    use crate::framing::Framing;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    /// A client of a server that answers up to 1,000 bytes at a time, after `change` was made to them.
    fn client(size: usize, depth: usize, change: fn(&mut [u8])) -> Client {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 1000];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                change(&mut bytes[..count]);
                stream.write_all(&bytes[..count]).unwrap();
            }
        });
        let load = Load {
            target: Target::Tcp { port },
            connections: 1,
            size,
            depth,
            limit: Limit::Requests(1),
            warmup: Duration::ZERO,
            timeout: Duration::ZERO,
            gated: false,
            tls: false,
            framing: Framing::Plain,
        };
        Client::connect(&load, Instant::now() + Duration::from_secs(30)).unwrap()
    }

    #[test]
    fn each_message_is_counted_once() {
        // The first two have more bytes than a period, so that the row of bytes begins anew in them.
        for (size, depth, count) in [(128, 32, 2000), (100_000, 3, 20), (7, 1, 100), (7, 100, 50)] {
            let mut client = client(size, depth, |_| ());
            for _ in 0..2 {
                let report = client.phase(Limit::Requests(count)).unwrap();
                assert_eq!((report.first_error, report.responses.total()), (None, count));
            }
            assert_eq!(client.connections[0].received, size * count as usize * 2);
        }
    }

    #[test]
    fn a_wrong_byte_is_found() {
        let report =
            client(128, 32, |bytes| bytes[bytes.len() / 2] ^= 1).phase(Limit::Requests(100)).unwrap();
        assert!(report.first_error.is_some_and(|error| error.contains("the echo is wrong")));
    }
}
