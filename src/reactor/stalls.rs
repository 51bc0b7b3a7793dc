//! Whether a turn of a loop lasts too long, decided from samples that another thread takes of the loop. This file only
//! decides: it has no thread, no clock and no system call.
//!
//! A turn counts as long as the loop's thread was able to go on but did not finish it. Two kinds of time do not count.
//! While the process was stopped or suspended, nobody took samples: of a step between two samples, no more counts than
//! a step may last. And a thread that was ready but got no processor is not blocked by its callback.

use super::sys::Scheduling;

/// What was seen of a loop's thread at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// When, in nanoseconds of the clock.
    pub now: u64,
    /// The number of the turn whose callbacks run; 0 between two turns.
    pub turn: u32,
    /// What the kernel says of the thread.
    pub thread: Scheduling,
}

/// One loop, as it is seen from sample to sample.
#[derive(Debug, Default)]
pub struct Watched {
    last: Sample,
    /// For how long the turn of the last sample counts.
    counted: u64,
    /// True if the turn was reported.
    is_reported: bool,
}

/// What a sample says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that is to be reported.
    Nothing,
    /// The turn has now lasted for too long.
    Stalled,
    /// The turn that was reported goes on.
    GoesOn,
    /// The turn that was reported is over. It has counted for so many nanoseconds.
    Over(u64),
}

impl Watched {
    /// Takes the next sample. `threshold`: how long a turn may count. `longest_step`: how much of a step may count.
    /// Both are in nanoseconds.
    pub fn look(&mut self, sample: Sample, threshold: u64, longest_step: u64) -> Verdict {
        if sample.turn != self.last.turn || sample.turn == 0 {
            let over = std::mem::take(&mut self.is_reported).then_some(self.counted);
            (self.last, self.counted) = (sample, 0);
            return over.map_or(Verdict::Nothing, Verdict::Over);
        }
        self.counted = self.counted_at(sample, longest_step);
        self.last = sample;
        if self.is_reported {
            return Verdict::GoesOn;
        }
        self.is_reported = self.counted >= threshold;
        if self.is_reported { Verdict::Stalled } else { Verdict::Nothing }
    }

    /// For how many nanoseconds the turn counts.
    pub fn counted(&self) -> u64 {
        self.counted
    }

    /// For how many nanoseconds the turn counts at a sample of the same turn.
    fn counted_at(&self, sample: Sample, longest_step: u64) -> u64 {
        let (before, now) = (self.last.thread, sample.thread);
        let step = sample.now.saturating_sub(self.last.now).min(longest_step);
        // The kernel adds to `waited` when the wait ends. A thread that is ready and has not run still waits.
        let waits = now.is_ready && now.ran == before.ran;
        let blocked = if waits { 0 } else { step.saturating_sub(now.waited.saturating_sub(before.waited)) };
        // What was waited may belong to earlier steps, of which it was taken off already. Time on a processor counts.
        let counts = blocked.max(now.ran.saturating_sub(before.ran).min(step));
        self.counted + counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = 10;
    const THRESHOLD: u64 = 100;

    fn sample(now: u64, turn: u32) -> Sample {
        Sample { now, turn, thread: Scheduling::default() }
    }

    /// The verdicts on a row of samples.
    fn verdicts(samples: impl IntoIterator<Item = Sample>) -> Vec<Verdict> {
        let mut watched = Watched::default();
        samples.into_iter().map(|sample| watched.look(sample, THRESHOLD, 2 * STEP)).collect()
    }

    fn stalls(samples: impl IntoIterator<Item = Sample>) -> usize {
        verdicts(samples).into_iter().filter(|&verdict| verdict == Verdict::Stalled).count()
    }

    #[test]
    fn a_long_turn_is_reported_once() {
        let mut seen = verdicts((0..=15).map(|step| sample(step * STEP, 1)));
        assert_eq!(seen.split_off(11), [Verdict::GoesOn; 5]);
        assert_eq!(seen.pop(), Some(Verdict::Stalled));
        assert_eq!(seen, [Verdict::Nothing; 10]);
    }

    #[test]
    fn its_end_is_reported_with_its_length() {
        for next in [0, 2] {
            let samples = (0..=12).map(|step| sample(step * STEP, 1)).chain([sample(125, next)]);
            assert_eq!(verdicts(samples).pop(), Some(Verdict::Over(120)));
        }
    }

    #[test]
    fn short_turns_and_idle_loops_are_not_reported() {
        assert_eq!(stalls((0..1000).map(|step| sample(step * STEP, 1 + step as u32 / 9))), 0);
        assert_eq!(stalls((0..1000).map(|step| sample(step * STEP, 0))), 0);
    }

    #[test]
    fn the_time_of_a_stopped_process_does_not_count() {
        assert_eq!(stalls([sample(0, 1), sample(5, 1), sample(1_000_000, 1), sample(1_000_010, 2)]), 0);
    }

    #[test]
    fn the_time_without_a_processor_does_not_count() {
        // It runs for one nanosecond of each step.
        let at = |step: u64, waited, ran| Sample {
            thread: Scheduling { ran, waited, is_ready: true },
            ..sample(step * STEP, 1)
        };
        assert_eq!(stalls((0..90).map(|step| at(step, step * (STEP - 1), step))), 0);
        // It does not run at all, and the kernel says so afterwards.
        assert_eq!(stalls((0..90).map(|step| at(step, if step == 89 { 890 } else { 0 }, 1))), 0);
        // It waits for one step and runs for the next, and the kernel tells of the wait when it is over.
        let by_turns = |step: u64| at(step, step / 2 * STEP, step.div_ceil(2) * STEP);
        let counted = |steps: u64| {
            let mut watched = Watched::default();
            (0..steps).for_each(|step| _ = watched.look(by_turns(step), u64::MAX, 2 * STEP));
            watched.counted()
        };
        assert_eq!(counted(41), 20 * STEP);
        // It runs all the time.
        assert_eq!(stalls((0..90).map(|step| at(step, 0, step * STEP))), 1);
    }

    #[test]
    fn a_thread_that_sleeps_is_blocked() {
        let asleep = |step| Sample {
            thread: Scheduling { ran: 7, waited: 3, is_ready: false },
            ..sample(step * STEP, 1)
        };
        assert_eq!(stalls((0..90).map(asleep)), 1);
    }
}
