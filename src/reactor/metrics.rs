//! The figures of one loop: counters, gauges and two histograms, as plain integers in a fixed order. What they mean is
//! in docs/metrics.md; the Python class that shows them is in `python/rloop/_metrics.py`. No clock is read here.
//!
//! Whoever holds the GIL writes them, one at a time. So an addition is a load and a store and no atomic operation of
//! the processor. They are atomic integers all the same, because others may read them at any time, also without the
//! GIL. So what belongs together is in one integer: see [`Figure::Idle`].

use std::io;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// The counters and gauges, in the order in which they lie in memory. `_metrics.py` has the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Figure {
    Turns,
    Callbacks,
    TimersFired,
    TimersCancelled,
    ReadyDepth,
    ReadyDepthMax,
    Polls,
    Wakeups,
    /// For how many nanoseconds the loop has waited. While it waits, the time at which the wait has begun is
    /// subtracted. That makes the number negative, because no loop has waited for longer than the clock has run. So
    /// one load tells the sum, whether the loop waits, and since when.
    Idle,
    /// For how many nanoseconds the loop has run, in the form of `Idle`. [`Figures::read_all`] has the busy time here.
    Busy,
    Reads,
    Writes,
    BytesRead,
    BytesWritten,
    Accepts,
    AcceptErrors,
    ConnectionsMade,
    ConnectionsOpen,
    DatagramsReceived,
    DatagramsSent,
    HandshakesDone,
    HandshakesFailed,
    FdsRegistered,
    BytesQueued,
    // From here on they are not shown.
    /// One of the constants of [`phase`].
    Phase,
    /// When the phase has begun, in nanoseconds of the clock.
    Since,
}

/// What the loop is doing.
pub mod phase {
    /// Nothing: nobody runs it.
    pub const STOPPED: u64 = 0;
    /// It is about to poll, and the first turn of this run has not begun.
    pub const STARTING: u64 = 1;
    /// It runs callbacks, or polls without waiting.
    pub const BUSY: u64 = 2;
    /// It waits in its poll.
    pub const IDLE: u64 = 3;
    /// It has just waited, and the turn has not begun.
    pub const WOKEN: u64 = 4;
}

/// How many figures there are, and how many of them are shown.
const FIGURES: usize = Figure::Since as usize + 1;
const SHOWN: usize = Figure::Phase as usize;

/// How many numbers [`Figures::read_all`] returns.
pub const LENGTH: usize = SHOWN + 2 * (2 + BUCKETS);

/// How many buckets a histogram has. The last one also counts all that is larger.
pub const BUCKETS: usize = 320;

/// How many buckets there are between a power of two and the next, as a power of two.
const SPLIT: u32 = 3;

/// How often something has lasted how long, in nanoseconds.
pub struct Histogram {
    sum: AtomicU64,
    max: AtomicU64,
    counts: [AtomicU64; BUCKETS],
}

/// All figures of a loop.
pub struct Figures {
    figures: [AtomicU64; FIGURES],
    /// The length of turns.
    turn: Histogram,
    /// How late timers, and callbacks of other threads, have run.
    delay: Histogram,
}

impl Figures {
    /// All figures at 0.
    pub fn new() -> Self {
        Self {
            figures: [const { AtomicU64::new(0) }; FIGURES],
            turn: Histogram::new(),
            delay: Histogram::new(),
        }
    }

    #[inline(always)]
    pub fn get(&self, figure: Figure) -> u64 {
        self.figures[figure as usize].load(Relaxed)
    }

    #[inline(always)]
    pub fn set(&self, figure: Figure, value: u64) {
        self.figures[figure as usize].store(value, Relaxed);
    }

    #[inline(always)]
    pub fn add(&self, figure: Figure, more: u64) {
        add(&self.figures[figure as usize], more);
    }

    /// Subtracts from a gauge.
    #[inline(always)]
    pub fn subtract(&self, figure: Figure, less: u64) {
        self.set(figure, self.get(figure).wrapping_sub(less));
    }

    /// Counts one read, or receive, of so many bytes.
    #[inline]
    pub fn read(&self, bytes: usize) {
        self.add(Figure::Reads, 1);
        self.add(Figure::BytesRead, bytes as u64);
    }

    /// Counts one write, or send, of so many bytes.
    #[inline]
    pub fn wrote(&self, bytes: usize) {
        self.add(Figure::Writes, 1);
        self.add(Figure::BytesWritten, bytes as u64);
    }

    /// Counts one write, if it has succeeded.
    #[inline]
    pub fn wrote_some(&self, written: &io::Result<usize>) {
        if let Ok(bytes) = written {
            self.wrote(*bytes);
        }
    }

    /// Notes how many entries are about to run.
    #[inline]
    pub fn ready(&self, depth: usize) {
        let depth = depth as u64;
        self.set(Figure::ReadyDepth, depth);
        if depth > self.get(Figure::ReadyDepthMax) {
            self.set(Figure::ReadyDepthMax, depth);
        }
    }

    /// Counts a callback that has run so many nanoseconds later than it could.
    #[inline]
    pub fn delayed(&self, by: u64) {
        self.delay.record(by);
    }

    // ------------------------------------------------------------------------------------------ phases

    /// The loop begins to run.
    pub fn run_begins(&self, now: u64) {
        if self.get(Figure::Phase) == phase::STOPPED {
            self.subtract(Figure::Busy, now);
        }
        self.enter(phase::STARTING, now);
    }

    /// The loop does not run any more.
    pub fn run_ends(&self, now: u64) {
        self.leave(now);
        self.add(Figure::Busy, now);
        self.enter(phase::STOPPED, now);
    }

    /// The loop is about to wait in its poll.
    #[inline]
    pub fn wait_begins(&self, now: u64) {
        self.leave(now);
        self.subtract(Figure::Idle, now);
        self.enter(phase::IDLE, now);
    }

    /// The poll has returned, after [`Figures::wait_begins`].
    #[inline]
    pub fn wait_ends(&self, now: u64) {
        self.add(Figure::Idle, now);
        self.enter(phase::WOKEN, now);
    }

    /// The program has made the loop wait, and goes on by itself. When the next turn begins is not known.
    pub fn program_goes_on(&self) {
        if self.get(Figure::Phase) == phase::WOKEN {
            self.set(Figure::Phase, phase::STARTING);
        }
    }

    /// A turn begins, and with it the one before has ended. Returns when: at the end of the wait, or if the loop has not
    /// waited since its last turn, when `clock` says.
    #[inline]
    pub fn turn_begins(&self, clock: impl FnOnce() -> u64) -> u64 {
        self.add(Figure::Turns, 1);
        if self.get(Figure::Phase) == phase::WOKEN {
            self.figures[Figure::Phase as usize].store(phase::BUSY, Release);
            return self.get(Figure::Since);
        }
        let now = clock();
        self.leave(now);
        self.enter(phase::BUSY, now);
        now
    }

    #[inline]
    fn enter(&self, phase: u64, now: u64) {
        self.set(Figure::Since, now);
        self.figures[Figure::Phase as usize].store(phase, Release);
    }

    /// Notes what the phase that ends has lasted. It is no wait.
    #[inline]
    fn leave(&self, now: u64) {
        let phase = self.get(Figure::Phase);
        if phase == phase::BUSY {
            self.turn.record(now.saturating_sub(self.get(Figure::Since)));
        } else if phase == phase::STOPPED {
            // A program that polls by itself, or has a second run inside the first, does without `run_begins`.
            self.subtract(Figure::Busy, now);
        }
    }

    // ------------------------------------------------------------------------------------------ reading

    /// Every number that is shown, as it is at `now`: the figures, then for `turn` and for `delay` sum, maximum and
    /// buckets.
    pub fn read_all(&self, now: u64) -> Vec<u64> {
        let (idle, ran) = (self.time(Figure::Idle, now), self.time(Figure::Busy, now));
        let mut all = Vec::with_capacity(LENGTH);
        all.extend(self.figures[..SHOWN].iter().map(|figure| figure.load(Relaxed)));
        all[Figure::Idle as usize] = idle;
        all[Figure::Busy as usize] = ran.saturating_sub(idle);
        for histogram in [&self.turn, &self.delay] {
            all.extend([histogram.sum.load(Relaxed), histogram.max.load(Relaxed)]);
            all.extend(histogram.counts.iter().map(|count| count.load(Relaxed)));
        }
        all
    }

    /// For how many nanoseconds the present turn has lasted at `now`. 0 if the loop waits, or does not run.
    pub fn turn_lasts(&self, now: u64) -> u64 {
        // The phase first: it is written last, so that `Since` is not older than it.
        match self.figures[Figure::Phase as usize].load(Acquire) {
            phase::BUSY => now.saturating_sub(self.get(Figure::Since)),
            _ => 0,
        }
    }

    /// A figure in the form of [`Figure::Idle`], at `now`.
    fn time(&self, figure: Figure, now: u64) -> u64 {
        let time = self.get(figure);
        if time.cast_signed() < 0 { time.wrapping_add(now) } else { time }
    }
}

impl Default for Figures {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    fn new() -> Self {
        let counts = [const { AtomicU64::new(0) }; BUCKETS];
        Self { sum: AtomicU64::new(0), max: AtomicU64::new(0), counts }
    }

    #[inline]
    fn record(&self, value: u64) {
        add(&self.counts[bucket_of(value)], 1);
        add(&self.sum, value);
        if value > self.max.load(Relaxed) {
            self.max.store(value, Relaxed);
        }
    }
}

/// The bucket of a value. Small values have one each. From there on, eight buckets of the same width lie between a
/// power of two and the next, so that a value is known to an eighth.
#[inline]
fn bucket_of(value: u64) -> usize {
    // By so many bits the value is too long for its four leading ones to be all of it. `|`: 0 has no logarithm.
    let excess = (value | 1 << SPLIT).ilog2() - SPLIT;
    let bucket = ((excess as usize) << SPLIT) + (value >> excess) as usize;
    bucket.min(BUCKETS - 1)
}

#[inline(always)]
fn add(to: &AtomicU64, more: u64) {
    to.store(to.load(Relaxed).wrapping_add(more), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_an_eighth_wide() {
        let mut last = 0;
        for value in 0..100_000_u64 {
            let bucket = bucket_of(value);
            assert!(bucket == last || bucket == last + 1, "{value}");
            last = bucket;
        }
        assert_eq!(
            (bucket_of(8), bucket_of(15), bucket_of(16), bucket_of(17), bucket_of(18)),
            (8, 15, 16, 16, 17)
        );
        assert_eq!((bucket_of((1 << 42) - 1), bucket_of(1 << 42), bucket_of(u64::MAX)), (319, 319, 319));
    }

    #[test]
    fn every_nanosecond_of_a_run_is_idle_or_busy() {
        let figures = Figures::new();
        figures.run_begins(100);
        assert_eq!((figures.turn_begins(|| 110), figures.turn_begins(|| 150)), (110, 150));
        figures.wait_begins(160);
        figures.wait_ends(1_000);
        // The turn begins where the wait has ended, and nobody asks the clock.
        assert_eq!(figures.turn_begins(|| 0), 1_000);
        figures.run_ends(1_007);
        figures.run_begins(5_000);
        figures.run_ends(5_001);
        let all = figures.read_all(6_000);
        assert_eq!((all[Figure::Busy as usize], all[Figure::Idle as usize]), (68, 840));
        assert_eq!(figures.get(Figure::Turns), 3);
        let turns: u64 = figures.turn.counts.iter().map(|count| count.load(Relaxed)).sum();
        assert_eq!((turns, figures.turn.sum.load(Relaxed), figures.turn.max.load(Relaxed)), (3, 57, 40));
    }

    #[test]
    fn the_present_phase_is_counted() {
        let figures = Figures::new();
        let times = |now| {
            let all = figures.read_all(now);
            (all[Figure::Busy as usize], all[Figure::Idle as usize], figures.turn_lasts(now))
        };
        assert_eq!(times(50), (0, 0, 0));
        figures.run_begins(100);
        assert_eq!(times(105), (5, 0, 0));
        figures.turn_begins(|| 110);
        assert_eq!(times(140), (40, 0, 30));
        figures.wait_begins(150);
        assert_eq!(times(1_150), (50, 1_000, 0));
        figures.wait_ends(2_150);
        assert_eq!(times(2_151), (51, 2_000, 0));
        figures.run_ends(2_160);
        assert_eq!(times(9_999), (60, 2_000, 0));
    }

    #[test]
    fn a_wait_that_no_run_has_begun() {
        let figures = Figures::new();
        figures.wait_begins(100);
        figures.wait_ends(150);
        figures.program_goes_on();
        // A run inside of a callback ends before the one around it.
        figures.run_begins(160);
        figures.turn_begins(|| 160);
        figures.run_ends(170);
        figures.turn_begins(|| 200);
        figures.run_ends(205);
        let all = figures.read_all(300);
        assert_eq!((all[Figure::Idle as usize], all[Figure::Busy as usize]), (50, 25));
    }

    #[test]
    fn the_order_of_memory() {
        let figures = Figures::new();
        figures.read(5);
        figures.ready(3);
        figures.ready(2);
        figures.delayed(9);
        let all = figures.read_all(0);
        assert_eq!(all.len(), LENGTH);
        let at = |figure| all[figure as usize];
        assert_eq!((at(Figure::Reads), at(Figure::BytesRead)), (1, 5));
        assert_eq!((at(Figure::ReadyDepth), at(Figure::ReadyDepthMax)), (2, 3));
        let delay = &all[SHOWN + BUCKETS + 2..];
        assert_eq!((delay[0], delay[1], delay[2 + 9]), (9, 9, 1));
    }
}
