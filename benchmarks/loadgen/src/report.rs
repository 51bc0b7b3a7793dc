//! What every mode that loads a server has in common: a phase that warms the server up, a phase that is measured, and
//! a report of the result as one line of JSON. How the load is made is the modes' own.

use crate::args::Limit;
use crate::control;
use crate::histogram::Histogram;
use std::io;
use std::time::{Duration, Instant};

/// Which part of a run a mode is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Phase {
    WarmUp,
    Measured,
}

impl Phase {
    /// When the phase stops starting requests.
    pub fn limit(self, warmup: Duration, measured: Limit) -> Limit {
        match self {
            Self::WarmUp => Limit::Time(warmup),
            Self::Measured => measured,
        }
    }
}

/// The response times of a phase.
pub trait Times {
    fn count(&self) -> u64;

    /// The smallest time, in microseconds, that `percent` per cent of the times do not exceed; 0 without times.
    fn percentile_us(&self, percent: f64) -> f64;
}

impl Times for Histogram {
    fn count(&self) -> u64 {
        self.total()
    }

    fn percentile_us(&self, percent: f64) -> f64 {
        // The histogram knows its largest value exactly, the others to 1 %.
        let nanos = if percent >= 100.0 { self.max() } else { self.percentile(percent) };
        nanos as f64 / 1000.0
    }
}

/// Every single time, sorted.
impl Times for Vec<Duration> {
    fn count(&self) -> u64 {
        self.len() as u64
    }

    fn percentile_us(&self, percent: f64) -> f64 {
        let rank = ((percent / 100.0 * self.len() as f64).ceil() as usize).max(1);
        self.get(rank - 1).map_or(0.0, |time| time.as_nanos() as f64 / 1000.0)
    }
}

/// The result of one phase.
#[derive(Default)]
pub struct Report<T> {
    pub responses: T,
    pub elapsed: Duration,
    /// CPU time of this process. It shows whether the load generator was what limited the rate.
    pub cpu: Duration,
    /// The 99th percentile of how late requests were sent, in microseconds, if the mode has a schedule for them.
    pub late_us: Option<f64>,
    errors: u64,
    pub first_error: Option<String>,
}

impl<T: Times> Report<T> {
    pub fn fail(&mut self, text: String) {
        self.fail_many(1, text);
    }

    /// As many errors for the same reason.
    pub fn fail_many(&mut self, errors: u64, text: String) {
        self.errors += errors;
        self.first_error.get_or_insert(text);
    }

    fn to_json(&self) -> String {
        let requests = self.responses.count();
        let seconds = self.elapsed.as_secs_f64();
        let [median, tail, most] = [50.0, 99.0, 100.0].map(|percent| self.responses.percentile_us(percent));
        let late = self.late_us.map_or(String::new(), |late| format!("\"late_p99_us\":{late:.1},"));
        format!(
            "{{\"requests\":{requests},\"seconds\":{seconds:.6},\"requests_per_second\":{:.1},\
             \"p50_us\":{median:.1},\"p99_us\":{tail:.1},\"max_us\":{most:.1},{late}\
             \"client_cpu_seconds\":{:.6},\"errors\":{},\"first_error\":{}}}",
            requests as f64 / seconds.max(1e-9),
            self.cpu.as_secs_f64(),
            self.errors,
            // Rust escapes the characters of our error messages as JSON does.
            self.first_error.as_ref().map_or("null".to_owned(), |text| format!("{text:?}")),
        )
    }
}

/// Runs both phases and prints the report of the second one; true if it has no errors. A run that is gated says when
/// the server is warm and waits for a line on stdin before it measures; after its report it waits for another one.
pub fn run<T: Times>(
    gated: bool,
    deadline: Instant,
    mut phase: impl FnMut(Phase) -> io::Result<Report<T>>,
) -> io::Result<bool> {
    let mut report = phase(Phase::WarmUp)?;
    // An error of the warm-up ends the run: a server that fails must not be reported as fast.
    if report.first_error.is_none() {
        if gated {
            control::say("{\"warm\":true}")?;
            control::wait_for_line(deadline)?;
        }
        report = phase(Phase::Measured)?;
    }
    control::say(&report.to_json())?;
    if gated {
        control::wait_for_line(deadline)?;
    }
    Ok(report.first_error.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_all_times_are_exact() {
        let sorted: Vec<_> = (1..=200).map(Duration::from_micros).collect();
        let percentiles = [0.0, 50.0, 99.0, 100.0].map(|percent| sorted.percentile_us(percent));
        assert_eq!(percentiles, [1.0, 100.0, 198.0, 200.0]);
        assert_eq!(Vec::<Duration>::new().percentile_us(50.0), 0.0);
    }

    #[test]
    fn the_largest_time_of_a_histogram_is_exact() {
        let mut times = Histogram::default();
        for nanos in [1000, 1_234_567] {
            times.record(nanos);
        }
        assert_eq!(times.percentile_us(100.0), 1234.567);
    }

    #[test]
    fn report_of_a_histogram_is_json() {
        let mut responses = Histogram::default();
        responses.record(1500);
        let mut report = Report {
            responses,
            elapsed: Duration::from_millis(500),
            cpu: Duration::from_millis(1),
            ..Report::default()
        };
        report.fail("a \"quoted\" text".to_owned());
        report.fail_many(2, "another".to_owned());
        assert_eq!(
            report.to_json(),
            "{\"requests\":1,\"seconds\":0.500000,\"requests_per_second\":2.0,\"p50_us\":1.5,\
             \"p99_us\":1.5,\"max_us\":1.5,\"client_cpu_seconds\":0.001000,\"errors\":3,\
             \"first_error\":\"a \\\"quoted\\\" text\"}"
        );
    }

    #[test]
    fn report_of_all_times_is_json() {
        let report = Report {
            responses: vec![Duration::from_nanos(1500), Duration::from_micros(3)],
            elapsed: Duration::from_millis(500),
            late_us: Some(1.0),
            ..Report::default()
        };
        assert_eq!(
            report.to_json(),
            "{\"requests\":2,\"seconds\":0.500000,\"requests_per_second\":4.0,\"p50_us\":1.5,\
             \"p99_us\":3.0,\"max_us\":3.0,\"late_p99_us\":1.0,\"client_cpu_seconds\":0.000000,\"errors\":0,\
             \"first_error\":null}"
        );
    }

    #[test]
    fn an_error_of_the_warm_up_ends_the_run() {
        let mut phases = Vec::new();
        let passed = run(false, Instant::now(), |phase| {
            phases.push(phase);
            let mut report = Report::<Histogram>::default();
            report.fail("refused".to_owned());
            Ok(report)
        });
        assert!(!passed.unwrap());
        assert_eq!(phases, [Phase::WarmUp]);
    }

    #[test]
    fn a_run_without_errors_has_two_phases() {
        let mut phases = Vec::new();
        let passed = run(false, Instant::now(), |phase| {
            phases.push(phase);
            Ok(Report::<Histogram>::default())
        });
        assert!(passed.unwrap());
        assert_eq!(phases, [Phase::WarmUp, Phase::Measured]);
    }
}
