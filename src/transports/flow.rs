//! Flow control (asyncio's `transports._FlowControlMixin`): by the size of a queue and two water marks, whether the
//! protocol is to pause or to resume its writing. Also what an outbox has to know of any queue ([`Queue`]).
//!
//! Pure. Nobody is told anything here: that is the transport's business, by `protocol.rs`.

/// asyncio's default high-water mark, in bytes.
const DEFAULT_HIGH: u32 = 64 * 1024;

/// What to tell the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `pause_writing()`
    Pause,
    /// `resume_writing()`
    Resume,
}

/// What an outbox needs to know of the queue in it.
pub trait Queue: Sized {
    fn is_empty(&self) -> bool;

    /// How many bytes are queued, as asyncio counts them.
    fn size(&self) -> usize;

    /// Takes everything out, for the caller to drop.
    fn take(&mut self) -> Self;

    /// Would the queue, with one more write of `added` bytes, be worth a system call of its own? Then it is no use to
    /// wait for further writes.
    fn is_worth_a_call(&self, added: usize, flow: &Flow) -> bool;
}

/// The water marks of one transport, and which side of them it is on.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    default_high: u32,
    high: usize,
    low: usize,
    paused: bool,
}

impl Flow {
    /// With another default for the high-water mark, in bytes.
    pub fn with_high(default_high: u32) -> Self {
        let high = default_high as usize;
        Self { default_high, high, low: high / 4, paused: false }
    }

    /// Sets the marks, in bytes; what is `None` follows from the other by asyncio's rule. Unless
    /// `high >= low >= 0`, nothing changes and the offending pair (high, low) is returned.
    pub fn set_limits(&mut self, high: Option<i64>, low: Option<i64>) -> Result<(), (i64, i64)> {
        let high = high.unwrap_or_else(|| low.map_or(self.default_high.into(), |low| low.saturating_mul(4)));
        let low = low.unwrap_or(high.div_euclid(4));
        if !(high >= low && low >= 0) {
            return Err((high, low));
        }
        (self.high, self.low) = (high as usize, low as usize);
        Ok(())
    }

    /// (low, high), in bytes.
    pub fn limits(&self) -> (usize, usize) {
        (self.low, self.high)
    }

    /// True between a pause and its resume.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Would a queue of so many bytes make the protocol pause?
    pub fn is_above_high(&self, queued: usize) -> bool {
        queued > self.high
    }

    /// Called after the queue has grown to `queued` bytes.
    pub fn grown(&mut self, queued: usize) -> Option<Signal> {
        if self.paused || !self.is_above_high(queued) {
            return None;
        }
        self.paused = true;
        Some(Signal::Pause)
    }

    /// Called after the queue has shrunk to `queued` bytes.
    pub fn shrunk(&mut self, queued: usize) -> Option<Signal> {
        (self.paused && queued <= self.low).then(|| {
            self.paused = false;
            Signal::Resume
        })
    }
}

impl Default for Flow {
    fn default() -> Self {
        Self::with_high(DEFAULT_HIGH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_and_resume_come_in_pairs() {
        let mut flow = Flow::default();
        flow.set_limits(Some(10), Some(2)).expect("valid");
        assert_eq!(flow.grown(10), None);
        assert_eq!(flow.grown(11), Some(Signal::Pause));
        assert_eq!(flow.grown(50), None);
        assert_eq!(flow.shrunk(3), None);
        assert_eq!(flow.shrunk(2), Some(Signal::Resume));
        assert_eq!(flow.shrunk(0), None);
        assert_eq!(flow.grown(11), Some(Signal::Pause));
    }

    #[test]
    fn limits_follow_asyncio() {
        let mut flow = Flow::default();
        assert_eq!(flow.limits(), (16 * 1024, 64 * 1024));
        for (high, low, expected) in [
            (None, None, (16 * 1024, 64 * 1024)),
            (Some(100), None, (25, 100)),
            (None, Some(100), (100, 400)),
            (Some(0), None, (0, 0)),
            (Some(7), Some(7), (7, 7)),
        ] {
            flow.set_limits(high, low).expect("valid");
            assert_eq!(flow.limits(), expected);
        }
        assert_eq!(flow.set_limits(Some(1), Some(2)), Err((1, 2)));
        assert_eq!(flow.set_limits(None, Some(-1)), Err((-4, -1)));
        assert_eq!(flow.set_limits(Some(-1), None), Err((-1, -1)));
        assert_eq!(flow.limits(), (7, 7), "unchanged by what was refused");
    }

    #[test]
    fn zero_limits_pause_on_the_first_byte() {
        let mut flow = Flow::default();
        flow.set_limits(Some(0), None).expect("valid");
        assert_eq!(flow.grown(0), None);
        assert_eq!(flow.grown(1), Some(Signal::Pause));
        assert_eq!(flow.shrunk(0), Some(Signal::Resume));
    }
}
