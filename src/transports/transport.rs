//! What all transports over a file do in the same way: start, pause and resume reading, send, end, be held by the loop,
//! describe themselves, and warn when nobody has closed them.
//!
//! [`Transport`] is what each kind says of itself, and then what all of them do by means of that. It works on the parts
//! that `shell.rs` holds. What a program can ask of the transports that send (water marks, sizes) is in `sender.rs`.
//! The methods that Python sees are in `class.rs`. No kind is named here.
//!
//! One rule holds for every method of a transport. It looks at the state and changes it inside of one `state.with`, and
//! calls Python only outside: a call of Python can come back to the same transport. What is to be called is what the
//! closure returns. The same goes for dropping a Python object, whose finalizer is the program's code; exact `bytes`
//! have none.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::pyclass::PyClass;
use pyo3::pyclass::boolean_struct::True;

use super::flow::{Queue, Signal};
use super::lifecycle::{Action, Event, Phase};
use super::protocol::{self, Failure, Reporter};
use super::shell::{Hold, Shell, Side, State};
use crate::core::{Kind, Native};
use crate::error::leaves_the_loop;
use crate::py::context;
use crate::py::new::intern;
use crate::reactor::readiness::Readiness;

/// Why a connection ends whose fd the kernel refuses to watch.
pub const NOT_WATCHED: &str = "Fatal error: the socket cannot be watched.";

/// One kind of transport: what it says of itself, and what all kinds do in the same way.
pub trait Transport: PyClass<Frozen = True> + Sync {
    /// What only this kind has.
    type Side: Side;
    /// What is to be done, outside of the borrow, after something was sent.
    type After;

    /// The warning for a program that goes on writing after the loss.
    const LOST_WRITE: &'static str = "socket.send() raised exception.";

    /// How the loop calls it.
    const KIND: Kind;

    /// None for an object that was not made to the end: see `Made`.
    fn made(&self) -> Option<&Shell<Self::Side>>;

    /// Gives the kernel what it takes of the queue. None: nothing follows, as nearly always.
    fn send(&self, state: &mut State<Self::Side>) -> Option<Self::After>;

    /// Does what follows from [`Transport::send`]. Err: what leaves the loop; everything else is done all the same.
    fn follow(slf: &Bound<'_, Self>, after: Self::After) -> PyResult<()>;

    /// The connection fails: gives the kernel what it takes of what was written, as asyncio has done in each write.
    /// Nothing is told to anybody, and whether it fails makes no difference any more.
    fn send_rest(&self, _state: &mut State<Self::Side>) {}

    /// Closes the fd, and lets go of what the side holds. `transport`: none when it is being deallocated.
    fn release(&self, py: Python<'_>, transport: Option<&Bound<'_, Self>>) -> PyResult<()>;

    /// Takes another protocol.
    fn adopt(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let new = protocol.clone().unbind();
        drop(self.shell().state.with(protocol.py(), |state| state.protocol.replace(new)));
        Ok(())
    }

    /// As [`Shell::read_on`], where one must look first whether there is more.
    fn read_more(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().shell().read_on(slf.py());
        Ok(())
    }

    /// `connection_lost` is about to be scheduled.
    fn losing(&self, _py: Python<'_>) -> PyResult<()> {
        Ok(())
    }

    /// The value of `get_extra_info` for a name that nobody has asked for yet, if there is one.
    fn find_extra<'py>(
        &self,
        _py: Python<'py>,
        _name: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(None)
    }

    /// For the attributes that `_transports.py` adds: asyncio's `_conn_lost`, and what is queued.
    fn unsent<'py>(&self, _py: Python<'py>) -> PyResult<(u32, Vec<Bound<'py, PyAny>>)> {
        Ok((0, Vec::new()))
    }

    /// What `repr()` says between the fd's number and the end.
    fn describe_rest(state: &State<Self::Side>, loop_is_closed: bool) -> String {
        if loop_is_closed {
            return String::new();
        }
        let polling = |on| if on { "polling" } else { "idle" };
        let (read, write) = (polling(state.life.may_read()), polling(state.outbox.blocked));
        format!(" read={read} write=<{write}, bufsize={}>", state.outbox.queue.size())
    }

    /// Must nobody else use the fd? For `Kind::owns_fd`.
    fn owns_fd(object: &Bound<'_, PyAny>) -> bool {
        object.cast::<Self>().is_ok_and(|slf| !slf.get().shell().is_closing(slf.py()))
    }

    /// Shows the garbage collector every Python object that the transport holds.
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.made().map_or(Ok(()), |shell| shell.traverse(visit))
    }

    /// Drops what may be part of a cycle, for the garbage collector.
    fn clear(&self, py: Python<'_>) {
        drop(self.shell().state.with(py, |state| (state.protocol.take(), state.extra.take())));
    }

    // ------------------------------------------------------------------------------------------ what all do

    /// The shell. For methods only, which nobody calls on an object that was not made to the end.
    #[inline(always)]
    fn shell(&self) -> &Shell<Self::Side> {
        self.made().expect("an object that was made to the end")
    }

    /// For reports to the exception handler and to the log, in which the transport and its protocol are named.
    fn reporter<'a, 'py>(slf: &'a Bound<'py, Self>) -> Reporter<'a, 'py> {
        slf.get().shell().reporter(slf.as_any())
    }

    /// The repr, which begins as that of asyncio's transport does.
    fn describe(&self, py: Python<'_>) -> String {
        let loop_is_closed = self.shell().core.closed.load(Relaxed);
        self.shell().state.with(py, |state| {
            state.describe(<Self as PyClass>::NAME) + &Self::describe_rest(state, loop_is_closed) + ">"
        })
    }

    /// Makes the loop refer to the transport strongly while the transport waits for something, and weakly otherwise. A
    /// transport waits for nothing while reading is paused and nothing is left to send. If the program drops it then, it
    /// is freed and closed, as on asyncio.
    fn hold(slf: &Bound<'_, Self>) {
        let change = slf.get().shell().state.with(slf.py(), State::hold_change);
        Self::apply_hold(slf, change);
    }

    /// Puts into effect what [`State::hold_change`] has answered.
    #[inline]
    fn apply_hold(slf: &Bound<'_, Self>, change: Hold) {
        let shell = slf.get().shell();
        if let Some((token, held)) = change
            && !shell.core.hold(slf.as_any(), &Self::KIND, token, held)
        {
            shell.state.with(slf.py(), |state| state.held = !held);
        }
    }

    /// Reserves the fd of a transport that was just made, and schedules its start. `watch_writing`: the kernel is to
    /// report from the start when it takes more, not only once somebody waits for that.
    fn reserve_and_start<'py>(
        slf: &Bound<'py, Self>,
        connection_made: Bound<'py, PyAny>,
        waiter: Option<Bound<'py, PyAny>>,
        watch_writing: bool,
    ) -> PyResult<()> {
        let (py, shell) = (slf.py(), slf.get().shell());
        let fd = shell.state.with(py, |state| state.file.number());
        let native = Native { object: slf.as_any().clone().unbind(), kind: &Self::KIND };
        let token = shell.core.reserve(py, fd, native)?;
        shell.state.with(py, |state| state.token = Some(token));
        if !watch_writing {
            shell.core.watch(py, token, Readiness::READABLE)?;
        }
        Self::start(slf, connection_made, true, waiter)
    }

    /// Schedules, in this order: `connection_made`, the transport's next step ([`Transport::begin`]) if it has one, the
    /// waiter's result.
    fn start<'py>(
        slf: &Bound<'py, Self>,
        connection_made: Bound<'py, PyAny>,
        begins: bool,
        waiter: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let (py, shell) = (slf.py(), slf.get().shell());
        shell.call_soon(connection_made, &[slf.as_ptr()])?;
        if begins {
            shell.call_soon(slf.as_any().getattr(intern!(py, "_begin")?)?, &[])?;
        }
        waiter.map_or(Ok(()), |waiter| {
            let set_result = shell.core.names.set_result_unless_cancelled.bind(py).clone();
            shell.call_soon(set_result, &[waiter.as_ptr(), py.None().as_ptr()])
        })
    }

    /// The second step after `connection_made`. The kernel watches the fd from here on, so that what has come already
    /// is delivered in the next turn: behind those who wait for the connection, as in asyncio.
    fn begin(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, shell) = (slf.py(), slf.get().shell());
        let (token, change) = shell.state.with(py, |state| {
            state.life.started = true;
            (state.token, state.hold_change())
        });
        Self::apply_hold(slf, change);
        let watched = token.map_or(Ok(()), |token| shell.core.activate(py, token));
        Self::end_by(slf, watched.map_err(|error| Failure::new(NOT_WATCHED, error)))
    }

    /// `pause_reading()`
    fn stop_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().shell().state.with(slf.py(), |state| state.life.pause_reading()) {
            Self::hold(slf);
            Self::reporter(slf).debug("%r pauses reading")?;
        }
        Ok(())
    }

    /// `resume_reading()`
    fn go_on_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, shell) = (slf.py(), slf.get().shell());
        let resumed = shell.state.with(py, |state| (state.life.resume_reading(), state.token));
        match resumed {
            (false, _) => return Ok(()),
            (true, Some(token)) => shell.core.postpone_reading(py, token),
            (true, None) => {}
        }
        shell.renew_context(py)?;
        Self::hold(slf);
        Self::read_more(slf)?;
        Self::reporter(slf).debug("%r resumes reading")
    }

    /// Gives the kernel what it takes of the queue, and does what follows from that.
    fn send_queued(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let after = this.shell().state.with(py, |state| this.send(state));
        after.map_or(Ok(()), |after| Self::follow(slf, after))
    }

    /// The loop's call when what was kept back is to leave.
    fn flush(object: &Bound<'_, PyAny>) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let (py, this, shell) = (slf.py(), slf.get(), slf.get().shell());
        let after = shell.state.with(py, |state| {
            state.outbox.deferred = false;
            this.send(state)
        });
        after.map_or(Ok(()), |after| context::run_in(&shell.context(py), || Self::follow(slf, after)))
    }

    /// The program asks the transport something: it is to find that everything was sent which the kernel takes.
    fn send_kept(slf: &Bound<'_, Self>) -> PyResult<()> {
        let kept = slf.get().shell().state.with(slf.py(), |state| state.outbox.asked());
        if kept { Self::send_queued(slf) } else { Ok(()) }
    }

    /// Has the protocol pause or resume its writing.
    fn tell_flow(slf: &Bound<'_, Self>, signal: Option<Signal>) -> PyResult<()> {
        signal.map_or(Ok(()), |signal| {
            let reporter = Self::reporter(slf);
            reporter.flow(reporter.protocol.as_ref(), signal)
        })
    }

    /// Ends the connection once everything queued is sent.
    fn close_gracefully(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, shell) = (slf.py(), slf.get().shell());
        if shell.is_closing(py) {
            return Ok(());
        }
        // asyncio has sent by now what the kernel takes.
        let sent = Self::send_queued(slf);
        let action = shell.state.with(py, |state| {
            let queued = state.has_unsent();
            state.life.on(Event::Close { queued })
        });
        sent.and(Self::perform(slf, action, None))
    }

    /// Ends the connection if a call has failed, and reports the failure as asyncio does. Err: what leaves the loop.
    #[inline]
    fn end_by(slf: &Bound<'_, Self>, result: Result<(), Failure>) -> PyResult<()> {
        match result {
            Ok(()) => Ok(()),
            Err(failure) => Self::end_by_failure(slf, failure),
        }
    }

    /// As [`Transport::end_by`], for a call that has failed.
    #[cold]
    fn end_by_failure(slf: &Bound<'_, Self>, failure: Failure) -> PyResult<()> {
        let (py, Failure { error, text }) = (slf.py(), failure);
        let Some(text) = text.filter(|_| !leaves_the_loop(py, &error)) else {
            return Err(error);
        };
        // Also when the exception handler leaves the loop, the connection ends.
        let told = Self::reporter(slf).fatal(text, error.clone_ref(py));
        told.and(Self::fail(slf, Some(error.into_value(py).into_any())))
    }

    /// Drops what is queued and has `connection_lost(exc)` called, if nothing has before.
    fn fail(slf: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        let this = slf.get();
        let (action, rest) = this.shell().state.with(slf.py(), |state| {
            let rest = (!state.life.drops_writes()).then(|| {
                this.send_rest(state);
                let rest = state.outbox.queue.take();
                state.count_queued();
                rest
            });
            (state.life.on(Event::Fail), rest)
        });
        // A finalizer may run here, where nothing is borrowed.
        drop(rest);
        Self::perform(slf, action, exc)
    }

    /// Does what `lifecycle.rs` has answered.
    fn perform(slf: &Bound<'_, Self>, action: Action, exc: Option<Py<PyAny>>) -> PyResult<()> {
        if action != Action::ScheduleLost {
            return Ok(());
        }
        let (py, shell) = (slf.py(), slf.get().shell());
        if let Some(token) = shell.state.with(py, |state| state.token.take()) {
            shell.core.deregister(py, token);
        }
        let told = slf.get().losing(py);
        shell.core.check_closed()?;
        let exc = exc.unwrap_or_else(|| py.None());
        shell.call_soon(slf.as_any().getattr(intern!(py, "_call_connection_lost")?)?, &[exc.as_ptr()])?;
        told
    }

    /// Calls `connection_lost`, then closes the fd and lets go of everything.
    fn call_connection_lost(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, shell) = (slf.py(), slf.get().shell());
        if shell.state.with(py, |state| state.life.phase() != Phase::Lost) {
            return Ok(());
        }
        let protocol = shell.protocol(py);
        let told = protocol.map_or(Ok(()), |it| protocol::connection_lost(shell.core.names, &it, exc));
        let action = shell.state.with(py, |state| state.life.on(Event::Delivered));
        if action != Action::Release {
            return told;
        }
        let released = slf.get().release(py, Some(slf));
        drop(shell.state.with(py, |state| state.protocol.take()));
        told.and(released)
    }

    /// For `Drop`: warns of a transport that nobody has closed, as asyncio does, and closes its fd.
    fn dropped(&self) {
        let Some(shell) = self.made() else {
            return;
        };
        // SAFETY: a pyclass is only ever dropped by its tp_dealloc, which holds the interpreter.
        let py = unsafe { Python::assume_attached() };
        let closed = shell.state.with(py, |state| state.file.is_closed());
        let unclosed = (!closed).then(|| self.describe(py));
        if let Some(token) = shell.state.with(py, |state| state.token.take()) {
            shell.core.deregister(py, token);
        }
        if let Some(text) = unclosed {
            protocol::warn_unclosed(py, &text, || {
                let released = self.release(py, None);
                drop(shell.state.with(py, |state| state.protocol.take()));
                released
            });
        }
    }

    /// `get_extra_info`. Whoever takes the file to use it directly does so behind what was written.
    fn extra_info<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::send_kept(slf)?;
        let extra = slf.get().shell().extra(slf.py())?;
        if let Some(value) = extra.get_item(name)? {
            return Ok(Some(value));
        }
        let Some(value) = slf.get().find_extra(slf.py(), name)? else {
            return Ok(default);
        };
        extra.set_item(name, &value)?;
        Ok(Some(value))
    }
}
