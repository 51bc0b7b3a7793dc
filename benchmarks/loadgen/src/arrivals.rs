//! The open loop: requests arrive at the times of a schedule, whether the server keeps up or not. A response time
//! begins at the scheduled arrival. So if a request waits behind a slow answer, the wait is counted in full.
//!
//! A request is sent on the connection that has been idle for longest. While no connection is idle, the request waits
//! for the first one that becomes idle. A connection never has two requests under way.
//!
//! This end polls all the time and never sleeps. A sleeping client would be woken tens of microseconds late. Its
//! wake-up would also cost the server CPU time, which a client on another machine would not cost it.

use crate::args::Arrivals;
use crate::buffer::{Messages, PageAligned};
use crate::client::{self, Connection};
use crate::epoll::{self, Epoll};
use crate::report::{self, Phase, Times};
use crate::schedule;
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

/// Connects, warms up, measures, prints the result; true if every echo was right.
pub fn run(options: &Arrivals) -> io::Result<bool> {
    let deadline = Instant::now() + options.timeout;
    let mut client = Client::connect(options, deadline)?;
    let warming = schedule::poisson(options.rate, options.warmup, !options.seed);
    let arrivals = schedule::poisson(options.rate, options.length, options.seed);
    report::run(true, deadline, |phase| {
        client.phase(match phase {
            Phase::WarmUp => &warming,
            Phase::Measured => &arrivals,
        })
    })
}

/// Every single time is kept. A histogram would be too coarse: medians of two loops that are nearly the same would be
/// equal, or one bucket apart.
type Report = report::Report<Vec<Duration>>;

struct Client {
    connections: Vec<Connection>,
    /// The connections without a request under way. The one that has been idle for longest is first.
    idle: VecDeque<usize>,
    epoll: Epoll,
    messages: Messages,
    scratch: PageAligned,
    deadline: Instant,
}

impl Client {
    fn connect(options: &Arrivals, deadline: Instant) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let (size, framing) = (options.size, options.framing);
        let connections =
            client::connect(&options.target, options.connections, size, framing, None, &epoll, deadline)?;
        Ok(Self {
            idle: (0..connections.len()).collect(),
            connections,
            epoll,
            messages: framing.messages(size),
            scratch: framing.scratch(size),
            deadline,
        })
    }

    /// Starts every request at its time, or later, as soon as a connection is idle. Then waits for all answers. The
    /// phase ends at the first error.
    fn phase(&mut self, arrivals: &[Duration]) -> io::Result<Report> {
        let cpu = epoll::cpu_time()?;
        let mut report = Report::default();
        report.responses.reserve(arrivals.len());
        // How late each request was sent. It is late if no connection was idle, or if this process was late.
        let mut lateness: Vec<Duration> = Vec::with_capacity(arrivals.len());
        let begin = Instant::now();
        let mut due = arrivals.iter().map(|&arrival| begin + arrival).peekable();
        while report.responses.len() < arrivals.len() && report.first_error.is_none() {
            let now = Instant::now();
            if now > self.deadline {
                report.fail("timed out".to_owned());
            }
            while let Some(key) = self.idle.pop_front() {
                let Some(arrival) = due.next_if(|&arrival| arrival <= now) else {
                    self.idle.push_front(key);
                    break;
                };
                lateness.push(now - arrival);
                if let Err(error) = self.connections[key].start(&self.messages, arrival) {
                    report.fail(failed(key, &error));
                }
            }
            self.take_answers(&mut report)?;
        }
        report.elapsed = begin.elapsed();
        report.responses.sort_unstable();
        lateness.sort_unstable();
        report.late_us = Some(lateness.percentile_us(99.0));
        report.cpu = epoll::cpu_time()?.saturating_sub(cpu);
        Ok(report)
    }

    fn take_answers(&mut self, report: &mut Report) -> io::Result<()> {
        for index in 0..self.epoll.wait(Some(Duration::ZERO))? {
            let event = self.epoll.event(index);
            let connection = &mut self.connections[event.key];
            match connection.advance(&self.messages, &mut self.scratch, event) {
                Ok(false) => {}
                Ok(true) => {
                    report.responses.push(connection.started.elapsed());
                    self.idle.push_back(event.key);
                }
                Err(error) => report.fail(failed(event.key, &error)),
            }
        }
        Ok(())
    }
}

fn failed(key: usize, error: &io::Error) -> String {
    format!("connection {key}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Target;
    use crate::framing::Framing;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    /// An echo server for so many connections, which waits for `pause` before each answer. Its threads end when the
    /// connections are closed.
    fn slow_echo(connections: usize, pause: Duration) -> Target {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming().take(connections) {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut message = [0; 64];
                    while stream.read_exact(&mut message).is_ok() {
                        thread::sleep(pause);
                        stream.write_all(&message).unwrap();
                    }
                });
            }
        });
        Target::Tcp { port }
    }

    fn client(connections: usize, pause: Duration) -> Client {
        let options = Arrivals {
            target: slow_echo(connections, pause),
            connections,
            size: 64,
            framing: Framing::Plain,
            rate: 1.0,
            length: Duration::ZERO,
            warmup: Duration::ZERO,
            timeout: Duration::ZERO,
            seed: 0,
        };
        Client::connect(&options, Instant::now() + Duration::from_secs(30)).unwrap()
    }

    #[test]
    fn a_response_time_begins_at_the_scheduled_arrival() {
        // One connection and four requests at once: the last waits for three answers before it is sent.
        let pause = Duration::from_millis(20);
        let report = client(1, pause).phase(&[Duration::ZERO; 4]).unwrap();
        assert_eq!((report.first_error, report.responses.len()), (None, 4));
        for (number, response) in (1..).zip(&report.responses) {
            assert!(*response >= pause * number, "{number}: {response:?}");
        }
        assert!(report.late_us.unwrap() >= (pause * 3).as_micros() as f64);
    }

    #[test]
    fn requests_go_to_idle_connections_and_not_before_their_time() {
        let pause = Duration::from_millis(100);
        let later = Duration::from_millis(50);
        let report = client(3, pause).phase(&[Duration::ZERO, Duration::ZERO, later]).unwrap();
        assert_eq!((report.first_error, report.responses.len()), (None, 3));
        // There is a connection for each, so no request waited for the answer to another one.
        assert!(report.late_us.unwrap() < pause.as_micros() as f64, "{:?}", report.late_us);
        assert!(report.elapsed >= later + pause);
    }

    #[test]
    fn a_server_that_ends_is_an_error() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let options = Arrivals {
            target: Target::Tcp { port: listener.local_addr().unwrap().port() },
            connections: 1,
            size: 64,
            framing: Framing::Plain,
            rate: 1.0,
            length: Duration::ZERO,
            warmup: Duration::ZERO,
            timeout: Duration::ZERO,
            seed: 0,
        };
        let mut client = Client::connect(&options, Instant::now() + Duration::from_secs(30)).unwrap();
        drop(listener.accept().unwrap());
        let report = client.phase(&[Duration::from_millis(1)]).unwrap();
        assert!(report.first_error.is_some_and(|error| error.starts_with("connection 0: ")));
    }
}
