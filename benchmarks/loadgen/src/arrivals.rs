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
use crate::control;
use crate::epoll::{self, Epoll};
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
    let warmed = client.phase(&warming)?;
    if warmed.error.is_none() {
        control::say("{\"warm\":true}")?;
        control::wait_for_line(deadline)?;
    }
    let measured = if warmed.error.is_none() { client.phase(&arrivals)? } else { warmed };
    control::say(&measured.to_json())?;
    control::wait_for_line(deadline)?;
    Ok(measured.error.is_none())
}

/// What a phase has shown. Every time is kept: at the size of a histogram's buckets, medians of two loops that are
/// nearly the same would be equal or a bucket apart.
#[derive(Default)]
struct Report {
    // Invariant: both sorted once the phase is over.
    responses: Vec<Duration>,
    /// How late each request was sent, because this end was late or no connection was idle.
    lateness: Vec<Duration>,
    elapsed: Duration,
    cpu: Duration,
    error: Option<String>,
}

impl Report {
    fn fail(&mut self, key: usize, error: &io::Error) {
        self.error.get_or_insert(format!("connection {key}: {error}"));
    }

    fn to_json(&self) -> String {
        let requests = self.responses.len();
        let seconds = self.elapsed.as_secs_f64();
        let [median, tail, most] = [50.0, 99.0, 100.0].map(|percent| micros(&self.responses, percent));
        format!(
            "{{\"requests\":{requests},\"seconds\":{seconds:.6},\"requests_per_second\":{:.1},\
             \"p50_us\":{median:.1},\"p99_us\":{tail:.1},\"max_us\":{most:.1},\"late_p99_us\":{:.1},\
             \"client_cpu_seconds\":{:.6},\"errors\":{},\"first_error\":{}}}",
            requests as f64 / seconds.max(1e-9),
            micros(&self.lateness, 99.0),
            self.cpu.as_secs_f64(),
            usize::from(self.error.is_some()),
            // Rust's escapes are JSON's for the messages that errors have.
            self.error.as_ref().map_or("null".to_owned(), |text| format!("{text:?}")),
        )
    }
}

/// The smallest of the sorted times that `percent` per cent of them do not exceed, in microseconds; 0 without times.
fn micros(sorted: &[Duration], percent: f64) -> f64 {
    let rank = ((percent / 100.0 * sorted.len() as f64).ceil() as usize).max(1);
    sorted.get(rank - 1).map_or(0.0, |time| time.as_nanos() as f64 / 1000.0)
}

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
        report.lateness.reserve(arrivals.len());
        let begin = Instant::now();
        let mut due = arrivals.iter().map(|&arrival| begin + arrival).peekable();
        while report.responses.len() < arrivals.len() && report.error.is_none() {
            let now = Instant::now();
            if now > self.deadline {
                report.error = Some("timed out".to_owned());
            }
            while let Some(key) = self.idle.pop_front() {
                let Some(arrival) = due.next_if(|&arrival| arrival <= now) else {
                    self.idle.push_front(key);
                    break;
                };
                report.lateness.push(now - arrival);
                if let Err(error) = self.connections[key].start(&self.messages, arrival) {
                    report.fail(key, &error);
                }
            }
            self.take_answers(&mut report)?;
        }
        report.elapsed = begin.elapsed();
        report.responses.sort_unstable();
        report.lateness.sort_unstable();
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
                Err(error) => report.fail(event.key, &error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Target;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn percentiles_are_exact() {
        let sorted: Vec<_> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(
            [0.0, 50.0, 99.0, 100.0].map(|percent| micros(&sorted, percent)),
            [1.0, 100.0, 198.0, 200.0]
        );
        assert_eq!(micros(&[], 50.0), 0.0);
    }

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
        assert_eq!((report.error, report.responses.len()), (None, 4));
        for (number, response) in (1..).zip(&report.responses) {
            assert!(*response >= pause * number, "{number}: {response:?}");
        }
        assert!(report.lateness[3] >= pause * 3);
    }

    #[test]
    fn requests_go_to_idle_connections_and_not_before_their_time() {
        let pause = Duration::from_millis(100);
        let later = Duration::from_millis(50);
        let report = client(3, pause).phase(&[Duration::ZERO, Duration::ZERO, later]).unwrap();
        assert_eq!((report.error, report.responses.len()), (None, 3));
        // Each had a connection of its own, so none was sent after an answer.
        assert!(report.lateness.iter().all(|&late| late < pause), "{:?}", report.lateness);
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
        assert!(report.error.is_some_and(|error| error.starts_with("connection 0: ")));
    }

    #[test]
    fn report_is_json() {
        let report = Report {
            responses: vec![Duration::from_nanos(1500), Duration::from_micros(3)],
            lateness: vec![Duration::from_micros(1)],
            elapsed: Duration::from_millis(500),
            cpu: Duration::from_millis(1),
            error: Some("a \"quoted\" text".to_owned()),
        };
        assert_eq!(
            report.to_json(),
            "{\"requests\":2,\"seconds\":0.500000,\"requests_per_second\":4.0,\"p50_us\":1.5,\
             \"p99_us\":3.0,\"max_us\":3.0,\"late_p99_us\":1.0,\"client_cpu_seconds\":0.001000,\"errors\":1,\
             \"first_error\":\"a \\\"quoted\\\" text\"}"
        );
    }
}
