//! The life of a connection as a transition table. This is the only place that decides when `connection_lost` is due.
//!
//! Pure: no socket, no interpreter, no clock. A transport says what has happened, and does what the table answers.

/// Where a connection is in its life. It only moves forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Data flows, in one direction at least.
    #[default]
    Open,
    /// `close()` was called while data was queued: it is still sent, nothing more is read.
    Draining,
    /// `connection_lost` is scheduled. What is written is dropped.
    Lost,
    /// `connection_lost` was delivered and the fd is closed.
    Closed,
}

/// Something that happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `close()`, or the end of the stream with a protocol that does not want to go on.
    Close { queued: bool },
    /// The kernel has taken the last queued byte.
    Drained,
    /// `abort()`, or an error that ends the connection. What is queued is dropped.
    Fail,
    /// `connection_lost` has been called.
    Delivered,
}

/// What the transport must do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Nothing,
    /// Have `connection_lost` called by the ready queue, never from here.
    ScheduleLost,
    /// Close the fd and let go of everything.
    Release,
}

impl Phase {
    /// The transition table.
    pub fn on(self, event: Event) -> (Phase, Action) {
        match (self, event) {
            (Phase::Open, Event::Close { queued: true }) => (Phase::Draining, Action::Nothing),
            (Phase::Open, Event::Close { queued: false } | Event::Fail) => {
                (Phase::Lost, Action::ScheduleLost)
            }
            (Phase::Draining, Event::Drained | Event::Fail) => (Phase::Lost, Action::ScheduleLost),
            (Phase::Lost, Event::Delivered) => (Phase::Closed, Action::Release),
            (phase, _) => (phase, Action::Nothing),
        }
    }
}

/// A connection's phase, and which of its directions are in use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lifecycle {
    phase: Phase,
    /// False until `connection_made` was called: nothing is read before.
    pub started: bool,
    paused: bool,
    /// The peer has sent its end of stream, and the protocol was told.
    pub read_ended: bool,
    /// `write_eof()` was called.
    write_ended: bool,
    /// The sending side was shut down, or is being so.
    shut_down: bool,
}

impl Lifecycle {
    /// Makes the transition, and returns what the transport must do about it.
    pub fn on(&mut self, event: Event) -> Action {
        let (phase, action) = self.phase.on(event);
        self.phase = phase;
        action
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// asyncio's `_conn_lost`, for a transport that counts its writes after the loss from 1.
    pub fn count_of_lost(&self, writes: u32) -> u32 {
        if matches!(self.phase, Phase::Open | Phase::Draining) { 0 } else { writes }
    }

    /// asyncio's `is_closing()`: true from `close()`, `abort()` or the loss on.
    pub fn is_closing(&self) -> bool {
        self.phase != Phase::Open
    }

    /// True when what is written from here on goes nowhere.
    pub fn drops_writes(&self) -> bool {
        matches!(self.phase, Phase::Lost | Phase::Closed)
    }

    /// Has the program paused reading?
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// asyncio's `is_reading()`: open and not paused, whatever the peer has done.
    pub fn is_reading(&self) -> bool {
        self.phase == Phase::Open && !self.paused
    }

    /// True when a read may be tried.
    pub fn may_read(&self) -> bool {
        self.started && self.is_reading() && !self.read_ended
    }

    /// False if there was nothing to pause.
    pub fn pause_reading(&mut self) -> bool {
        let reading = self.is_reading();
        self.paused |= reading;
        reading
    }

    /// False if there was nothing to resume.
    pub fn resume_reading(&mut self) -> bool {
        let resume = self.phase == Phase::Open && self.paused;
        self.paused &= !resume;
        resume
    }

    /// False if writing has ended already, or the connection is closing.
    pub fn end_writing(&mut self) -> bool {
        let end = self.phase == Phase::Open && !self.write_ended;
        self.write_ended |= end;
        end
    }

    /// True once: the queue is empty now, and the sending side is to be shut down.
    pub fn take_shutdown(&mut self) -> bool {
        let due = self.phase == Phase::Open && self.write_ended && !self.shut_down;
        self.shut_down |= due;
        due
    }

    /// Was `write_eof()` called? Then no more can be written.
    pub fn write_ended(&self) -> bool {
        self.write_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 5] = [
        Event::Close { queued: false },
        Event::Close { queued: true },
        Event::Drained,
        Event::Fail,
        Event::Delivered,
    ];

    /// Every sequence of five events: `connection_lost` is scheduled once at most, the fd released once at most and
    /// only afterwards, and nothing ever goes back.
    #[test]
    fn lost_once_and_released_after_it() {
        let rank = |phase| match phase {
            Phase::Open => 0,
            Phase::Draining => 1,
            Phase::Lost => 2,
            Phase::Closed => 3,
        };
        for mut code in 0..EVENTS.len().pow(5) {
            let (mut phase, mut actions) = (Phase::Open, Vec::new());
            for _ in 0..5 {
                let (next, action) = phase.on(EVENTS[code % EVENTS.len()]);
                code /= EVENTS.len();
                assert!(rank(next) >= rank(phase));
                phase = next;
                if action != Action::Nothing {
                    actions.push(action);
                }
            }
            assert!([Action::ScheduleLost, Action::Release].starts_with(&actions), "{actions:?}");
        }
    }

    #[test]
    fn close_waits_for_queued_data_and_failure_does_not() {
        assert_eq!(Phase::Open.on(Event::Close { queued: true }), (Phase::Draining, Action::Nothing));
        assert_eq!(Phase::Draining.on(Event::Drained), (Phase::Lost, Action::ScheduleLost));
        assert_eq!(Phase::Draining.on(Event::Fail), (Phase::Lost, Action::ScheduleLost));
        assert_eq!(Phase::Open.on(Event::Close { queued: false }), (Phase::Lost, Action::ScheduleLost));
        assert_eq!(Phase::Open.on(Event::Drained), (Phase::Open, Action::Nothing));
    }

    #[test]
    fn reading_is_paused_exactly() {
        let mut life = Lifecycle::default();
        assert!(life.is_reading() && !life.may_read(), "not before connection_made");
        life.started = true;
        assert!(life.may_read());
        assert!(life.pause_reading() && !life.pause_reading() && !life.may_read());
        assert!(life.resume_reading() && !life.resume_reading() && life.may_read());
        life.read_ended = true;
        assert!(life.is_reading() && !life.may_read());
        life.read_ended = false;
        assert!(life.may_read());
        life.on(Event::Fail);
        assert!(!life.is_reading() && !life.pause_reading() && !life.resume_reading());
    }

    #[test]
    fn writing_ends_once() {
        let mut life = Lifecycle::default();
        assert!(!life.take_shutdown());
        assert!(life.end_writing() && !life.end_writing() && life.write_ended());
        assert!(life.take_shutdown() && !life.take_shutdown());
        let mut life = Lifecycle::default();
        life.on(Event::Fail);
        assert!(!life.end_writing() && !life.write_ended());
    }
}
