//! Whether a connection writes its messages in pieces, and so whether a write is sent at once or together with those
//! that follow. Pure: the time is passed in.
//!
//! asyncio sends each write at once. But a system call for each piece of a message is expensive, and many programs
//! write in pieces: a head, then a body. So a connection that was seen to do so may keep a piece back, and send it with
//! the next one. [`Habit`] is what is known of one connection. It is learned within two turns of the loop, and
//! forgotten when it no longer holds.
//!
//! What is kept back is sent when the callback that wrote it returns. The pieces may also come from several callbacks
//! of one turn, when many tasks share a connection. Then they are sent when a callback returns `SPREAD_NS` after the
//! first piece or later. A program that asks the transport anything finds everything sent ([`Habit::asked`]).

use crate::reactor::moment::Moment;

/// Pieces of one callback that are further apart than this, in nanoseconds, are not put together: a program that
/// computes between two writes wants the first one to leave.
const APART_NS: u64 = 1_000_000;

/// How long pieces of several callbacks may be kept back, in nanoseconds. It is the time of a few system calls. A
/// longer wait would cost the peer more than the calls that it saves.
const SPREAD_NS: u64 = 50_000;

/// How far apart the first two writes of a turn's callbacks may be while the habit is learned, in nanoseconds. The time
/// between them includes that of sending the first one.
const LEARNED_NS: u64 = 4 * SPREAD_NS;

/// After so many pieces in a row that no second piece has followed, the habit is forgotten.
const MOST_SINGLE: u8 = 4;

/// From this many bytes on nothing is kept back: copying them costs many times the system call that could be saved,
/// and the peer can begin to read.
pub const LARGE: usize = 32 * 1024;

/// When to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Now,
    /// With what follows: when a callback returns and the clock shows at least this many nanoseconds; 0: when the
    /// current callback returns.
    With(u64),
}

/// What is known of a connection's writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// Every write stands alone.
    #[default]
    Single,
    /// A turn had two writes. The next one shows how far they are apart.
    Suspected,
    /// The callbacks write in pieces.
    Pieces,
    /// Several callbacks of a turn write.
    Spread,
}

/// Whether a connection writes in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habit {
    step: Step,
    /// The last write, if nothing has been asked or sent on its behalf since.
    last: Moment,
    /// When the first write of this callback or turn was made, in nanoseconds. In step `Single` it is not known.
    since: u64,
    /// How many writes are kept back.
    kept: u32,
    /// How often in a row only one was.
    single: u8,
}

impl Habit {
    /// When to send a write. `moment`: none between two turns, where nobody would send it later.
    #[inline(always)]
    pub fn write(&mut self, moment: Option<Moment>, now: impl FnOnce() -> u64) -> When {
        let Some(moment) = moment else {
            return When::Now;
        };
        let last = std::mem::replace(&mut self.last, moment);
        if last.turn() != moment.turn() && self.step == Step::Single {
            return When::Now;
        }
        if self.step == Step::Pieces && last == moment && !self.looks_at_clock() {
            self.kept += 1;
            return When::With(0);
        }
        self.write_in_pieces(last, moment, now())
    }

    /// Of many pieces of one callback only the second, third, fifth, ninth and so on look at the clock. To read the clock
    /// costs more than everything else that is done for a piece.
    fn looks_at_clock(&self) -> bool {
        self.kept <= 2 || self.kept.is_power_of_two()
    }

    /// For a write that can be sent, but not be kept back as it is: true if it is to be sent now. If not, nothing has
    /// changed, and [`Habit::write`] is to be asked.
    pub fn sends_at_once(&mut self, moment: Option<Moment>, now: impl FnOnce() -> u64) -> bool {
        let keeps_back = matches!(self.step, Step::Pieces | Step::Spread);
        (moment.is_none() || !keeps_back) && self.write(moment, now) == When::Now
    }

    /// The part of [`Habit::write`] that needs the clock: learns the habit, and keeps the write back where the habit
    /// says so.
    fn write_in_pieces(&mut self, last: Moment, moment: Moment, now: u64) -> When {
        let (same_turn, same_callback) = (last.turn() == moment.turn(), last == moment);
        let first = !(same_callback || same_turn && self.step != Step::Pieces);
        if first || self.step == Step::Single {
            self.since = now;
        }
        let apart = now.saturating_sub(self.since);
        match self.step {
            Step::Single => self.step = Step::Suspected,
            Step::Suspected if first => {}
            Step::Suspected => {
                self.step = match same_callback {
                    true if apart <= APART_NS => Step::Pieces,
                    false if apart <= LEARNED_NS => Step::Spread,
                    _ => Step::Single,
                };
            }
            Step::Pieces if apart > APART_NS => self.step = Step::Single,
            Step::Spread if apart > SPREAD_NS => {}
            Step::Pieces | Step::Spread => {
                self.kept += 1;
                return When::With(if self.step == Step::Pieces { 0 } else { self.since + SPREAD_NS });
            }
        }
        When::Now
    }

    /// What was kept back has been sent, by itself or with a later write. `now`: the clock, in nanoseconds.
    #[inline(always)]
    pub fn sent(&mut self, now: impl FnOnce() -> u64) {
        if self.kept > 0 {
            self.sent_kept(now());
        }
    }

    /// The part of [`Habit::sent`] for a connection that has kept something back. It finds out whether that was worth
    /// it.
    fn sent_kept(&mut self, now: u64) {
        let kept = std::mem::take(&mut self.kept);
        self.single = if kept == 1 { self.single + 1 } else { 0 };
        // A callback that goes on for long after its write would rather have had it sent.
        if self.single >= MOST_SINGLE || now.saturating_sub(self.since) > APART_NS {
            (self.step, self.single) = (Step::Single, 0);
        }
        self.last = Moment::default();
    }

    /// The program has asked the transport something, `drain()` for instance: the next write begins a new message.
    pub fn asked(&mut self) {
        self.last = Moment::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: u64 = 1_000;

    /// A connection, and a clock that goes on by a microsecond with each write.
    struct Connection {
        habit: Habit,
        clock: u64,
        moment: Moment,
    }

    impl Connection {
        fn new() -> Self {
            Self { habit: Habit::default(), clock: 1_000_000_000, moment: Moment::start_of(1) }
        }

        fn turn(&mut self) {
            self.moment = Moment::start_of(self.moment.turn() + 1).next();
        }

        fn callback(&mut self) {
            self.moment = self.moment.next();
        }

        fn write(&mut self) -> When {
            self.clock += SOON;
            self.habit.write(Some(self.moment), || self.clock)
        }

        fn sent(&mut self) {
            self.habit.sent(|| self.clock);
        }

        /// Learned by two turns with a head and a body.
        fn in_pieces() -> Self {
            let mut connection = Self::new();
            for _ in 0..2 {
                connection.turn();
                assert_eq!((connection.write(), connection.write()), (When::Now, When::Now));
            }
            connection.turn();
            connection
        }
    }

    #[test]
    fn single_writes_leave_at_once_for_ever() {
        let mut connection = Connection::new();
        for _ in 0..100 {
            connection.turn();
            assert_eq!(connection.write(), When::Now);
        }
    }

    #[test]
    fn pieces_are_kept_until_the_callback_returns() {
        let mut connection = Connection::in_pieces();
        for _ in 0..10 {
            assert_eq!((connection.write(), connection.write()), (When::With(0), When::With(0)));
            connection.sent();
            connection.turn();
        }
    }

    #[test]
    fn the_third_piece_of_the_first_turn_shows_the_habit() {
        let mut connection = Connection::new();
        connection.turn();
        for when in [When::Now, When::Now, When::Now, When::With(0), When::With(0)] {
            assert_eq!(connection.write(), when);
        }
    }

    #[test]
    fn many_pieces_read_the_clock_a_few_times() {
        let mut connection = Connection::in_pieces();
        let reads = std::cell::Cell::new(0);
        for _ in 0..100 {
            let now = || {
                reads.set(reads.get() + 1);
                connection.clock
            };
            assert_eq!(connection.habit.write(Some(connection.moment), now), When::With(0));
        }
        assert_eq!(reads.get(), 8, "the first three pieces, then the 5th, 9th, 17th, 33rd and 65th");
    }

    #[test]
    fn nothing_is_kept_between_two_turns() {
        let mut connection = Connection::in_pieces();
        assert_eq!(connection.habit.write(None, || 0), When::Now);
    }

    #[test]
    fn what_is_apart_is_no_piece() {
        let mut connection = Connection::new();
        for _ in 0..10 {
            connection.turn();
            for _ in 0..3 {
                assert_eq!(connection.write(), When::Now);
                connection.clock += APART_NS + 1;
            }
        }
    }

    #[test]
    fn a_piece_that_comes_late_sends_all_and_ends_the_habit() {
        let mut connection = Connection::in_pieces();
        assert_eq!(connection.write(), When::With(0));
        connection.clock += APART_NS;
        assert_eq!(connection.write(), When::Now);
        connection.sent();
        connection.turn();
        assert_eq!(connection.write(), When::Now);
    }

    #[test]
    fn a_callback_that_goes_on_for_long_ends_the_habit() {
        let mut connection = Connection::in_pieces();
        assert_eq!((connection.write(), connection.write()), (When::With(0), When::With(0)));
        connection.clock += APART_NS;
        connection.sent();
        connection.turn();
        assert_eq!(connection.write(), When::Now);
    }

    #[test]
    fn writes_with_a_question_between_are_no_pieces() {
        let mut connection = Connection::new();
        for _ in 0..10 {
            connection.turn();
            for _ in 0..3 {
                assert_eq!(connection.write(), When::Now);
                connection.habit.asked();
            }
        }
    }

    #[test]
    fn a_habit_is_forgotten_when_the_second_piece_stays_out() {
        let mut connection = Connection::in_pieces();
        for _ in 0..MOST_SINGLE {
            assert_eq!(connection.write(), When::With(0));
            connection.sent();
            connection.turn();
        }
        assert_eq!(connection.write(), When::Now);
    }

    #[test]
    fn single_answers_between_split_ones_do_not_end_the_habit() {
        let mut connection = Connection::in_pieces();
        for count in [2, 1, 1, 2, 1, 1, 1, 2] {
            for _ in 0..count {
                assert_eq!(connection.write(), When::With(0));
            }
            connection.sent();
            connection.turn();
        }
    }

    #[test]
    fn many_callbacks_of_a_turn_share_a_limit() {
        let mut connection = Connection::new();
        for _ in 0..2 {
            connection.turn();
            assert_eq!(connection.write(), When::Now);
            connection.callback();
            assert_eq!(connection.write(), When::Now);
        }
        connection.turn();
        let limit = connection.clock + SOON + SPREAD_NS;
        assert_eq!(connection.write(), When::With(limit));
        connection.callback();
        assert_eq!(connection.write(), When::With(limit));
        connection.clock += SPREAD_NS;
        connection.callback();
        assert_eq!(connection.write(), When::Now);
        connection.sent();
        assert_eq!(connection.write(), When::With(connection.clock + SPREAD_NS));
    }
}
