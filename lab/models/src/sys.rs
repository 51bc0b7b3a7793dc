//! The kernel's side of a wake-up, in the place of `src/reactor/sys`: a poll, and the fd that interrupts it.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use loom::sync::{Condvar, Mutex};

/// A model's poll: it returns once it was interrupted, and has no timeout.
pub struct Poll {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    interrupted: bool,
    /// So many of the next calls that interrupt the poll fail.
    failures: u32,
    /// True once the fd was closed.
    closed: bool,
}

impl Poll {
    /// A poll of which the first so many interruptions fail.
    pub fn new(failures: u32) -> Arc<Self> {
        let state = State { failures, ..State::default() };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Waits for an interruption.
    pub fn wait(&self) {
        let mut state = self.state.lock().expect("not poisoned");
        while !state.interrupted {
            state = self.changed.wait(state).expect("not poisoned");
        }
        state.interrupted = false;
    }
}

/// What `Waker::new` is given to register its fd with.
pub struct Registry(pub RefCell<Arc<Poll>>);

/// The number that the events of the waker would carry.
#[derive(Clone, Copy)]
pub struct Token(#[allow(dead_code)] pub usize);

/// The fd that interrupts a poll.
pub struct PollWaker(Arc<Poll>);

impl PollWaker {
    pub fn new(registry: &Registry, _token: Token) -> io::Result<Self> {
        Ok(Self(registry.0.borrow().clone()))
    }

    pub fn wake(&self) -> io::Result<()> {
        let mut state = self.0.state.lock().expect("not poisoned");
        assert!(!state.closed, "a write to an fd that is closed");
        if state.failures > 0 {
            state.failures -= 1;
            return Err(io::ErrorKind::Other.into());
        }
        state.interrupted = true;
        self.0.changed.notify_one();
        Ok(())
    }
}

impl Drop for PollWaker {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().expect("not poisoned");
        assert!(!state.closed, "an fd that is closed twice");
        state.closed = true;
    }
}

/// A model does not fork.
pub fn forks() -> u32 {
    0
}
