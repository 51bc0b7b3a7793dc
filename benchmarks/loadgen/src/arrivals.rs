//! The open loop: requests arrive when the schedule says, whether the server keeps up or not. A response time begins
//! at the scheduled arrival, so what waits behind a slow answer is counted in full.
//!
//! A request goes to the connection that has been idle for longest. While none is idle it waits here for the first
//! that becomes idle, and that wait is part of its response time; nothing is pipelined. This end spins instead of
//! sleeping until something is due: being woken would be late by tens of microseconds, and the server would pay for
//! the waking, which no client on another machine asks of it.

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
    /// Those without a request under way, the longest idle first.
    idle: VecDeque<usize>,
    epoll: Epoll,
    messages: Messages,
    scratch: PageAligned,
    deadline: Instant,
}

impl Client {
    fn connect(options: &Arrivals, deadline: Instant) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let connections =
            client::connect(&options.target, options.connections, options.size, None, &epoll, deadline)?;
        Ok(Self {
            idle: (0..connections.len()).collect(),
            connections,
            epoll,
            messages: Messages::new(options.size),
            scratch: PageAligned::zeroed(options.size),
            deadline,
        })
    }

    /// Starts every request when its time has come, or as soon after that as a connection is idle, and waits for all
    /// answers. Ends at the first error.
    fn phase(&mut self, arrivals: &[Duration]) -> io::Result<Report> {
        let cpu = epoll::cpu_time()?;
        let mut report = Report::default();
        report.responses.reserve(arrivals.len());
        // How late each request was sent: this end was late, or no connection was idle.
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
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    /// Echoes on so many connections, `pause` after each message; ends when they are closed.
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
        // Each had a connection of its own, so none was sent after an answer.
        assert!(report.late_us.unwrap() < pause.as_micros() as f64, "{:?}", report.late_us);
        assert!(report.elapsed >= later + pause);
    }

    #[test]
    fn an_end_of_the_server_is_an_error() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let options = Arrivals {
            target: Target::Tcp { port: listener.local_addr().unwrap().port() },
            connections: 1,
            size: 64,
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
