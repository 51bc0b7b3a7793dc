//! The loop's clock. Nothing else in the crate reads the time, so that a virtual clock can take its place later.

use super::sys;

/// `CLOCK_MONOTONIC`, the clock of Python's `time.monotonic()`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// Nanoseconds since the clock's own epoch. They never go back.
    pub fn now_ns(self) -> u64 {
        sys::monotonic_ns()
    }

    /// The time in seconds, rounded exactly as CPython rounds `time.monotonic()`: by one division by 1e9
    /// (`_PyTime_AsSecondsDouble`).
    pub fn now(self) -> f64 {
        seconds(self.now_ns())
    }
}

/// The time by the calendar (`time.time()`), in nanoseconds, as the kernel stamps a file that changes: some milliseconds
/// coarse.
pub fn calendar_ns() -> u64 {
    sys::calendar_ns()
}

/// Converts nanoseconds to seconds.
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Converts a time in seconds to a deadline in nanoseconds: the first at which `Clock::now() >= when`, but for the
/// rounding of `when`. Negative numbers and NaN are due at once. Times that are too large for the clock are never due.
pub fn deadline_ns(when: f64) -> u64 {
    // `as` saturates: negative numbers and NaN become 0, and numbers that are too large u64::MAX.
    let ns = (when * 1e9).ceil() as u64;
    if seconds(ns) >= when { ns } else { not_before(ns, when) }
}

/// The first deadline from `ns` on that is not before `when`. The product in [`deadline_ns`] is rounded; once the clock
/// counts weeks, that can be some nanoseconds early. This is a function of its own, because the compiler would compute
/// sixteen steps of the loop at once, in each call that needs none.
#[cold]
#[inline(never)]
fn not_before(mut ns: u64, when: f64) -> u64 {
    while ns < u64::MAX && seconds(ns) < when {
        ns += 1;
    }
    ns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_is_never_early_and_hardly_late() {
        for when in [0.0, 1e-9, 0.1, 1.000000001, 86_400.123456789, 12_345_678.9] {
            let ns = deadline_ns(when);
            assert!(seconds(ns) >= when, "{when}: early");
            assert!(seconds(ns) - when < 1e-8, "{when}: late");
        }
    }

    #[test]
    fn odd_deadlines() {
        assert_eq!(deadline_ns(-5.0), 0);
        assert_eq!(deadline_ns(f64::NEG_INFINITY), 0);
        assert_eq!(deadline_ns(f64::NAN), 0);
        assert_eq!(deadline_ns(f64::INFINITY), u64::MAX);
        assert_eq!(deadline_ns(1e30), u64::MAX);
    }

    #[test]
    fn clock_does_not_go_back() {
        let first = Clock.now_ns();
        assert!(first > 0 && Clock.now_ns() >= first);
    }
}
