//! The stream transport: one connected socket and its protocol.
//!
//! Bytes in: `on_ready` -> `read` -> `protocol.data_received`. Bytes out: `write` queues, the loop calls `flush` at
//! the end of the turn. Every decision about the life of the connection is `lifecycle.rs`'s, about flow control
//! `flow.rs`'s; here is the glue to the socket and to Python. The model is asyncio's `_SelectorSocketTransport`.
//!
//! The rule for every method: look at the state and change it inside one `state.with`, call Python only outside.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::{PyOSError, PyResourceWarning, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use super::flow::{Flow, Signal};
use super::lifecycle::{Action, Event, Lifecycle, Phase};
use super::socket::{Socket, SocketKind, hand_over, python_socket};
use super::write_queue::WriteQueue;
use crate::core::{Kind, LoopCore, Native};
use crate::error::{leaves_the_loop, os_error};
use crate::handle::Callback;
use crate::py::bytes::{self, Chunk, Writable};
use crate::py::cell::LoopCell;
use crate::py::context;
use crate::py::fastcall::{self, Arguments};
use crate::py::sockaddr;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys::{self, SocketAddress};
use crate::reactor::token::Token;

/// From this many bytes on a read goes straight into the final object: copying costs more than a larger allocation.
const DIRECT_READ: usize = 4096;
/// So many reads in a row that would have fitted a smaller buffer bring one.
const SMALL_READS_TO_SHRINK: u32 = 8;
/// Largest read, in bytes (asyncio's `max_size`).
const MAX_READ: usize = 256 * 1024;
/// Most chunks sent by one system call: beyond it the gain is small, and they live on the stack.
const SLICES: usize = 64;
/// `asyncio.constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES`
const DROPPED_WRITES_BEFORE_WARNING: u32 = 5;

/// A connected stream socket and its protocol.
#[pyclass(frozen, dict, weakref, module = "rloop._rloop")]
pub struct StreamTransport {
    core: Arc<LoopCore>,
    event_loop: Py<PyAny>,
    state: LoopCell<State>,
    /// False only in memory that CPython has zeroed and PyO3 not yet filled: the instance's dictionary is made in
    /// between, and the collection that this may start sees such an object.
    filled: bool,
}

struct State {
    socket: Socket,
    /// The registration; none once `connection_lost` is scheduled.
    token: Option<Token>,
    /// None once `connection_lost` was called.
    protocol: Option<Py<PyAny>>,
    /// Is the protocol a `BufferedProtocol`?
    buffered: bool,
    /// Where protocol callbacks run. asyncio's are those of the connection, or of whoever resumed reading last.
    context: Py<PyAny>,
    life: Lifecycle,
    flow: Flow,
    queue: WriteQueue<Chunk>,
    /// A read may find something: an edge came, and no read since has found the end of what is there.
    readable: bool,
    /// The peer's end of stream, or an error, waits behind the data.
    read_closed: bool,
    /// The kernel takes no more: wait for its edge. Invariant: a paused protocol implies this.
    write_blocked: bool,
    /// The loop will call `flush` at the end of the turn.
    in_unflushed: bool,
    /// How many bytes to read straight into a new object; 0: a small read, through the scratch buffer.
    read_size: usize,
    /// How many reads in a row needed less than `read_size`.
    small_reads: u32,
    /// Writes after the connection was lost, counted from 1 as asyncio's `_conn_lost`.
    dropped_writes: u32,
    server: Option<Py<PyAny>>,
    sockname: Option<SocketAddress>,
    peername: Option<SocketAddress>,
    /// What `get_extra_info` has been asked for, or was given; made when first needed.
    extra: Option<Py<PyDict>>,
}

/// How the loop calls stream transports.
static KIND: Kind = Kind {
    on_ready: StreamTransport::on_ready,
    flush: StreamTransport::flush,
    owns_fd: StreamTransport::owns_fd,
};

/// What a transport is made of.
pub struct Parts<'a, 'py> {
    pub core: &'a Arc<LoopCore>,
    pub event_loop: &'a Bound<'py, PyAny>,
    pub socket: Socket,
    pub kind: SocketKind,
    pub protocol: Bound<'py, PyAny>,
    /// A future that is completed once `connection_made` was called.
    pub waiter: Option<Bound<'py, PyAny>>,
    /// Extra information from the caller.
    pub extra: Option<Bound<'py, PyDict>>,
    pub server: Option<Bound<'py, PyAny>>,
    pub peername: Option<SocketAddress>,
}

/// What one read needs of the state.
struct Reading<'py> {
    protocol: Bound<'py, PyAny>,
    buffered: bool,
    size: usize,
}

// ---------------------------------------------------------------------------------------------- making

impl StreamTransport {
    /// Makes the transport and schedules, in this order: `connection_made`, reading, the waiter.
    pub fn start<'py>(parts: Parts<'_, 'py>) -> PyResult<Bound<'py, Self>> {
        let Parts { core, event_loop, socket, kind, protocol, waiter, extra, server, peername } = parts;
        let (py, names) = (event_loop.py(), core.names);
        let mut state = State {
            token: None,
            protocol: None,
            buffered: false,
            context: context::copy_current(py)?.unbind(),
            life: Lifecycle::new(),
            flow: Flow::new(),
            queue: WriteQueue::new(),
            readable: false,
            read_closed: false,
            write_blocked: false,
            in_unflushed: false,
            read_size: 0,
            small_reads: 0,
            dropped_writes: 1,
            server: None,
            sockname: None,
            peername,
            extra: extra.map(Bound::unbind),
            socket,
        };
        if let Some(fd) = state.socket.fd() {
            state.sockname = sys::local_address(fd).ok();
            state.peername = state.peername.or_else(|| sys::peer_address(fd).ok());
            if kind.is_tcp() {
                sys::set_nodelay(fd).map_err(|error| os_error(py, &error))?;
            }
        }
        let fd = state.socket.number();
        let transport = Bound::new(
            py,
            Self {
                core: core.clone(),
                event_loop: event_loop.clone().unbind(),
                state: LoopCell::new(state),
                filled: true,
            },
        )?;
        let this = transport.get();
        this.adopt(&protocol)?;
        let native = Native { object: transport.clone().into_any().unbind(), kind: &KIND };
        let token = core.reserve(py, fd, native)?;
        this.state.with(py, |state| state.token = Some(token));
        if let Some(server) = server {
            this.attach(&transport, &server)?;
            this.state.with(py, |state| state.server = Some(server.unbind()));
        }
        let made = protocol.getattr(&names.connection_made)?;
        let call_soon =
            |callback, args: &[_]| core.call_soon(event_loop, Callback { callback, args, context: None });
        call_soon(made, &[transport.as_ptr()])?;
        call_soon(transport.getattr("_start_reading")?, &[])?;
        if let Some(waiter) = waiter {
            let set_result = names.set_result_unless_cancelled.bind(py).clone();
            call_soon(set_result, &[waiter.as_ptr(), py.None().as_ptr()])?;
        }
        Ok(transport)
    }

    fn adopt(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = protocol.py();
        let buffered = protocol.is_instance(self.core.names.buffered_protocol.bind(py))?;
        let previous = self.state.with(py, |state| {
            state.buffered = buffered;
            state.protocol.replace(protocol.clone().unbind())
        });
        drop(previous);
        Ok(())
    }

    fn attach(&self, transport: &Bound<'_, Self>, server: &Bound<'_, PyAny>) -> PyResult<()> {
        let names = self.core.names;
        if names.server_counts_transports {
            server.call_method1(&names._attach, (transport,))?;
        } else {
            server.call_method0(&names._attach)?;
        }
        Ok(())
    }

    fn owns_fd(object: &Bound<'_, PyAny>) -> bool {
        let Ok(slf) = object.cast::<Self>() else {
            return false;
        };
        slf.get().state.with(slf.py(), |state| !state.life.is_closing())
    }
}

// ---------------------------------------------------------------------------------------------- reading

impl StreamTransport {
    fn on_ready(object: &Bound<'_, PyAny>, readiness: Readiness) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let (read, write) = slf.get().state.with(slf.py(), |state| {
            state.readable |= readiness.contains(Readiness::READABLE);
            state.read_closed |= readiness.contains(Readiness::READ_CLOSED);
            let unblocked = state.write_blocked && readiness.contains(Readiness::WRITABLE);
            state.write_blocked &= !unblocked;
            (state.readable, unblocked)
        });
        let context = slf.get().context(slf.py());
        context::run_in(&context, || {
            if read {
                Self::read(slf)?;
            }
            if write { Self::send_queued(slf) } else { Ok(()) }
        })
    }

    /// The context in which the protocol is called.
    fn context<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.state.with(py, |state| state.context.bind(py).clone())
    }

    /// One read, one call of the protocol: the others get their turn before this transport's next read.
    fn read(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let reading = this.state.with(py, |state| {
            let protocol = state.protocol.as_ref().filter(|_| state.life.may_read())?;
            Some(Reading {
                protocol: protocol.bind(py).clone(),
                buffered: state.buffered,
                size: state.read_size,
            })
        });
        let Some(reading) = reading else {
            return Ok(());
        };
        if reading.buffered {
            Self::read_into_protocol(slf, &reading)
        } else {
            Self::read_bytes(slf, &reading)
        }?;
        this.read_on(py);
        Ok(())
    }

    /// Comes back in the next turn if there is more to read.
    fn read_on(&self, py: Python<'_>) {
        if let Some(token) = self.state.with(py, |state| state.more_to_read()) {
            self.core.requeue(py, token, Readiness::READABLE);
        }
    }

    fn read_bytes(slf: &Bound<'_, Self>, reading: &Reading<'_>) -> PyResult<()> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        let received =
            if reading.size == 0 { this.receive_small(py) } else { this.receive_large(py, reading.size) };
        match received? {
            Ok((_, 0)) => Self::read_end(slf, reading),
            Ok((data, _)) => match reading.protocol.call_method1(&names.data_received, (data,)) {
                Ok(_) => Ok(()),
                Err(error) => {
                    Self::fatal_error(slf, error, "Fatal error: protocol.data_received() call failed.")
                }
            },
            Err(error) => Self::read_failed(slf, &error),
        }
    }

    /// Receives into the loop's scratch buffer, and copies.
    fn receive_small<'py>(&self, py: Python<'py>) -> PyResult<io::Result<(Bound<'py, PyBytes>, usize)>> {
        let received = self.core.scratch.with(py, |scratch| {
            let buffer = scratch.as_mut_slice();
            let count = self.state.with(py, |state| state.receive(buffer))?;
            // SAFETY: the kernel has just filled in the first `count` bytes.
            let filled = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), count) };
            Ok((PyBytes::new(py, filled), count))
        });
        Ok(received)
    }

    /// Receives straight into the `bytes` that the protocol gets.
    fn receive_large<'py>(
        &self,
        py: Python<'py>,
        size: usize,
    ) -> PyResult<io::Result<(Bound<'py, PyBytes>, usize)>> {
        bytes::fill_new(py, size, |buffer| self.state.with(py, |state| state.receive(buffer)))
    }

    fn read_into_protocol(slf: &Bound<'_, Self>, reading: &Reading<'_>) -> PyResult<()> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        let lent = || {
            let buffer = reading.protocol.call_method1(&names.get_buffer, (-1,))?;
            if buffer.len()? == 0 {
                return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
            }
            Ok(buffer)
        };
        let lent = match lent() {
            Ok(lent) => lent,
            Err(error) => {
                return Self::fatal_error(slf, error, "Fatal error: protocol.get_buffer() call failed.");
            }
        };
        let writable = match Writable::get(&lent) {
            Ok(writable) => writable,
            Err(error) => return Self::fatal_error(slf, error, "Fatal read error on socket transport"),
        };
        let received = this.state.with(py, |state| {
            // SAFETY: only the system call runs while the slice lives.
            state.receive(unsafe { writable.as_slice(py) })
        });
        drop(writable);
        match received {
            Ok(0) => Self::read_end(slf, reading),
            Ok(count) => match reading.protocol.call_method1(&names.buffer_updated, (count,)) {
                Ok(_) => Ok(()),
                Err(error) => {
                    Self::fatal_error(slf, error, "Fatal error: protocol.buffer_updated() call failed.")
                }
            },
            Err(error) => Self::read_failed(slf, &error),
        }
    }

    /// The peer has sent its last byte.
    fn read_end(slf: &Bound<'_, Self>, reading: &Reading<'_>) -> PyResult<()> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        this.state.with(py, |state| state.life.end_reading());
        this.log_debug(slf, "%r received EOF")?;
        match reading.protocol.call_method0(&names.eof_received).and_then(|keep| keep.is_truthy()) {
            Ok(true) => Ok(()),
            Ok(false) => Self::close_gracefully(slf),
            Err(error) => Self::fatal_error(slf, error, "Fatal error: protocol.eof_received() call failed."),
        }
    }

    fn read_failed(slf: &Bound<'_, Self>, error: &io::Error) -> PyResult<()> {
        if error.kind() == io::ErrorKind::WouldBlock {
            return Ok(());
        }
        Self::fatal_error(slf, os_error(slf.py(), error), "Fatal read error on socket transport")
    }
}

impl State {
    /// One recv, and what it says about the next one.
    fn receive(&mut self, buffer: &mut [std::mem::MaybeUninit<u8>]) -> io::Result<usize> {
        let Some(fd) = self.socket.fd() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let result = sys::recv(fd, buffer);
        match &result {
            Ok(count) => {
                // A short read has emptied the socket; with the peer's end behind the data there is more to see.
                self.readable = *count == buffer.len() || self.read_closed;
                self.adapt_read_size(*count);
            }
            Err(_) => self.readable = false,
        }
        result
    }

    /// Grows at once, to have a message in one read; shrinks only after several reads that needed less.
    fn adapt_read_size(&mut self, count: usize) {
        let wanted = match count {
            0..DIRECT_READ => 0,
            // One byte more than what came: a read that is not filled says that there is no more.
            _ => (count + 1).next_power_of_two().min(MAX_READ),
        };
        if wanted >= self.read_size {
            (self.read_size, self.small_reads) = (wanted, 0);
        } else {
            self.small_reads += 1;
            if self.small_reads >= SMALL_READS_TO_SHRINK {
                (self.read_size, self.small_reads) = (wanted, 0);
            }
        }
    }

    /// The token to queue when there is more to read and somebody to give it to.
    fn more_to_read(&self) -> Option<Token> {
        self.token.filter(|_| self.readable && self.life.may_read())
    }
}

// ---------------------------------------------------------------------------------------------- writing

impl StreamTransport {
    fn write<'py>(slf: &Bound<'py, Self>, args: Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        for (name, _) in args.keywords() {
            args.check_keyword("write", &name.to_string(), &["data"])?;
        }
        let data = args.required(0, "write", "data")?;
        let Some(chunk) = Chunk::from_write(&data)? else {
            let kind = data.get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "data argument must be a bytes-like object, not {}",
                kind.repr()?
            )));
        };
        let empty = chunk.as_ref().is_empty();
        let written = slf.get().state.with(py, |state| {
            let written = state.accepts_writes("write()");
            if matches!(written, Ok(true)) {
                state.queue.push(chunk);
            }
            written
        });
        if empty {
            written?;
        } else {
            Self::written(slf, written)?;
        }
        Ok(py.None().into_bound(py))
    }

    /// What follows after something was queued (true), or dropped because the connection is lost (false).
    fn written(slf: &Bound<'_, Self>, written: PyResult<bool>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if !written? {
            return this.write_dropped(py);
        }
        let in_turn = this.core.in_turn.load(Relaxed);
        let (send, defer) = this.state.with(py, |state| {
            let queued = !state.queue.is_empty() && !state.write_blocked;
            let send = queued && (!in_turn || state.flow.is_above_high(state.queue.len()));
            let defer = queued && !send && !std::mem::replace(&mut state.in_unflushed, true);
            (send, defer)
        });
        if defer {
            let native = Native { object: slf.clone().into_any().unbind(), kind: &KIND };
            this.core.state.with(py, |state| state.unflushed.push(native));
        }
        if send {
            Self::send_queued(slf)?;
        }
        Self::queue_grown(slf)
    }

    /// A write after the end: dropped, and warned about when it goes on.
    #[cold]
    fn write_dropped(&self, py: Python<'_>) -> PyResult<()> {
        let count = self.state.with(py, |state| {
            state.dropped_writes = state.dropped_writes.saturating_add(1);
            state.dropped_writes - 1
        });
        if count >= DROPPED_WRITES_BEFORE_WARNING {
            self.core.names.logger.call_method1(py, "warning", ("socket.send() raised exception.",))?;
        }
        Ok(())
    }

    /// The loop's call at the end of a turn.
    fn flush(object: &Bound<'_, PyAny>) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let this = slf.get();
        let sent = this.state.with(slf.py(), |state| {
            state.in_unflushed = false;
            let result = state.send();
            result.map(|()| !state.life.is_closing() && !state.life.write_ended())
        });
        match sent {
            // Nearly always.
            Ok(true) => Ok(()),
            Ok(false) => context::run_in(&this.context(slf.py()), || Self::sent(slf, Ok(()))),
            Err(error) => context::run_in(&this.context(slf.py()), || Self::sent(slf, Err(error))),
        }
    }

    /// Gives the kernel what it takes of the queue, and does what follows from it.
    fn send_queued(slf: &Bound<'_, Self>) -> PyResult<()> {
        let result = slf.get().state.with(slf.py(), State::send);
        Self::sent(slf, result)
    }

    fn sent(slf: &Bound<'_, Self>, result: io::Result<()>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if let Err(error) = result {
            return Self::fatal_error(slf, os_error(py, &error), "Fatal write error on socket transport");
        }
        // The end resumes nobody.
        let signal = this.state.with(py, |state| {
            if state.life.drops_writes() { None } else { state.flow.shrunk(state.queue.len()) }
        });
        // May write again.
        Self::tell_flow(slf, signal)?;
        let (action, end) = this.state.with(py, |state| {
            if !state.queue.is_empty() {
                return (Action::Nothing, false);
            }
            (state.life.on(Event::Drained), state.life.take_shutdown())
        });
        if end && let Err(error) = this.shutdown_write(py) {
            this.report(slf, "Fatal error: shutdown of the sending side failed.", error)?;
        }
        Self::perform(slf, action, None)
    }

    /// Pauses the protocol if the queue has grown over the mark.
    fn queue_grown(slf: &Bound<'_, Self>) -> PyResult<()> {
        let signal = slf.get().state.with(slf.py(), |state| {
            // What is not sent yet only for the end of the turn does not count: the kernel may take all of it.
            state.flow.grown(if state.write_blocked { state.queue.len() } else { 0 })
        });
        Self::tell_flow(slf, signal)
    }

    fn tell_flow(slf: &Bound<'_, Self>, signal: Option<Signal>) -> PyResult<()> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        let (method, message) = match signal {
            None => return Ok(()),
            Some(Signal::Pause) => (&names.pause_writing, "protocol.pause_writing() failed"),
            Some(Signal::Resume) => (&names.resume_writing, "protocol.resume_writing() failed"),
        };
        let protocol = this.state.with(py, |state| state.protocol.as_ref().map(|p| p.bind(py).clone()));
        match protocol.map(|protocol| protocol.call_method0(method)) {
            Some(Err(error)) if leaves_the_loop(py, &error) => Err(error),
            Some(Err(error)) => this.report(slf, message, error),
            _ => Ok(()),
        }
    }

    fn shutdown_write(&self, py: Python<'_>) -> PyResult<()> {
        self.state
            .with(py, |state| state.socket.fd().map_or(Ok(()), sys::shutdown_write))
            .map_err(|error| os_error(py, &error))
    }
}

impl State {
    /// True: queue it. False: drop it. Err: the program has ended its writing itself.
    fn accepts_writes(&self, method: &str) -> PyResult<bool> {
        if self.life.write_ended() {
            return Err(PyRuntimeError::new_err(format!("Cannot call {method} after write_eof()")));
        }
        Ok(!self.life.drops_writes())
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() && !self.write_blocked {
            let Some(fd) = self.socket.fd() else {
                return Ok(());
            };
            let mut slices = [IoSlice::new(&[]); SLICES];
            let slices = self.queue.front(&mut slices);
            let offered: usize = slices.iter().map(|slice| slice.len()).sum();
            match sys::send(fd, slices) {
                Ok(sent) => {
                    self.queue.advance(sent);
                    self.write_blocked = sent < offered;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.write_blocked = true,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

// ---------------------------------------------------------------------------------------------- the end

impl StreamTransport {
    fn close_gracefully(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if this.state.with(py, |state| state.life.is_closing()) {
            return Ok(());
        }
        // asyncio has sent by now what the kernel takes.
        Self::send_queued(slf)?;
        let action =
            this.state.with(py, |state| state.life.on(Event::Close { queued: !state.queue.is_empty() }));
        Self::perform(slf, action, None)
    }

    /// Ends the connection: an exception of the protocol or an OSError, told as asyncio tells it.
    fn fatal_error(slf: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if leaves_the_loop(py, &error) {
            return Err(error);
        }
        if !error.is_instance_of::<PyOSError>(py) {
            this.report(slf, message, error.clone_ref(py))?;
        } else if this.core.debug.load(Relaxed) {
            let keywords = PyDict::new(py);
            keywords.set_item("exc_info", error.value(py))?;
            let args = ("%r: %s", slf, message);
            this.core.names.logger.bind(py).getattr("debug")?.call(args, Some(&keywords))?;
        }
        Self::fail(slf, Some(error.into_value(py).into_any()))
    }

    /// Drops what is queued and has `connection_lost(exc)` called, if nothing has before.
    fn fail(slf: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        let action = slf.get().state.with(slf.py(), |state| {
            if !state.life.drops_writes() {
                // What asyncio had given to the kernel when it was written; whether it fails makes no difference.
                let _ = state.send();
                state.queue.clear();
            }
            state.life.on(Event::Fail)
        });
        Self::perform(slf, action, exc)
    }

    fn perform(slf: &Bound<'_, Self>, action: Action, exc: Option<Py<PyAny>>) -> PyResult<()> {
        if action != Action::ScheduleLost {
            return Ok(());
        }
        let (py, this) = (slf.py(), slf.get());
        if let Some(token) = this.state.with(py, |state| state.token.take()) {
            this.core.deregister(py, token);
        }
        this.core.check_closed()?;
        let lost = slf.getattr("_call_connection_lost")?;
        let exc = exc.unwrap_or_else(|| py.None());
        let callback = Callback { callback: lost, args: &[exc.as_ptr()], context: None };
        this.core.call_soon(this.event_loop.bind(py), callback)?;
        Ok(())
    }

    /// Closes the socket and lets go of everything.
    fn release(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        let (socket, protocol, server) =
            this.state.with(py, |state| (state.socket.take(), state.protocol.take(), state.server.take()));
        drop(protocol);
        let closed = socket.close(py);
        if let Some(server) = server {
            if names.server_counts_transports {
                server.call_method1(py, &names._detach, (slf,))?;
            } else {
                server.call_method0(py, &names._detach)?;
            }
        }
        closed
    }

    /// Gives an exception to the loop's exception handler.
    #[cold]
    fn report(&self, slf: &Bound<'_, Self>, message: &str, error: PyErr) -> PyResult<()> {
        let (py, names) = (slf.py(), self.core.names);
        let context = PyDict::new(py);
        context.set_item(&names.message, message)?;
        context.set_item(&names.exception, error.into_value(py))?;
        context.set_item(&names.transport, slf)?;
        context.set_item(&names.protocol, self.get_protocol(py))?;
        self.event_loop.call_method1(py, &names.call_exception_handler, (context,))?;
        Ok(())
    }

    fn log_debug(&self, slf: &Bound<'_, Self>, format: &str) -> PyResult<()> {
        if self.core.debug.load(Relaxed) {
            self.core.names.logger.call_method1(slf.py(), "debug", (format, slf))?;
        }
        Ok(())
    }
}

impl Drop for StreamTransport {
    /// A transport that nobody closed: warned about as asyncio does, and its fd is closed.
    fn drop(&mut self) {
        // SAFETY: a pyclass is only ever dropped by its tp_dealloc, which holds the interpreter.
        let py = unsafe { Python::assume_attached() };
        let text = self.describe(py);
        let state = self.state.get_mut();
        if state.socket.is_closed() {
            return;
        }
        let (socket, server, protocol) = (state.socket.take(), state.server.take(), state.protocol.take());
        // A finalizer must leave the exception that is being handled alone.
        let raised = PyErr::take(py);
        let warning = std::ffi::CString::new(format!("unclosed transport {text}")).unwrap_or_default();
        let warned = PyErr::warn(py, &py.get_type::<PyResourceWarning>(), &warning, 1);
        let closed = socket.close(py);
        // Since 3.13 the server holds its transports weakly, and has lost this one already. A server that is garbage
        // as well may have been taken apart before: then there is nothing left to count.
        if let Some(server) = server
            && !self.core.names.server_counts_transports
            && server.bind(py).hasattr("_active_count").unwrap_or(false)
            && let Err(error) = server.call_method0(py, &self.core.names._detach)
        {
            error.write_unraisable(py, None);
        }
        drop(protocol);
        for error in [warned, closed].into_iter().filter_map(Result::err) {
            error.write_unraisable(py, None);
        }
        if let Some(raised) = raised {
            raised.restore(py);
        }
    }
}

// ---------------------------------------------------------------------------------------------- Python's view

#[pymethods]
impl StreamTransport {
    /// Queues all of `list_of_data`, an iterable of bytes-like objects; nothing if one of them is not.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let method = if this.core.names.own_writelines { "writelines()" } else { "write()" };
        if this.state.with(py, |state| state.accepts_writes(method))? {
            let chunks = list_of_data
                .try_iter()?
                .map(|data| Chunk::from_buffer(&data?))
                .collect::<PyResult<Vec<_>>>()?;
            this.state.with(py, |state| chunks.into_iter().for_each(|chunk| state.queue.push(chunk)));
        }
        let written = this.state.with(py, |state| state.accepts_writes(method));
        Self::written(slf, written)
    }

    /// Ends the sending side once everything queued is sent. The peer reads the end of the stream.
    fn write_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let ends = |state: &mut State| !state.life.is_closing() && !state.life.write_ended();
        if !this.state.with(py, ends) {
            return Ok(());
        }
        Self::send_queued(slf)?;
        let now = this.state.with(py, |state| {
            state.life.end_writing() && state.queue.is_empty() && state.life.take_shutdown()
        });
        if now { this.shutdown_write(py) } else { Ok(()) }
    }

    /// True: the stream can be ended in one direction.
    fn can_write_eof(&self) -> bool {
        true
    }

    /// Ends the connection once everything queued is sent. Nothing more is read.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::close_gracefully(slf)
    }

    /// Ends the connection at once; what is queued is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::fail(slf, None)
    }

    /// True once the connection is closing or closed.
    fn is_closing(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.life.is_closing())
    }

    /// True if data is being received.
    fn is_reading(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.life.is_reading())
    }

    /// Stops receiving: the protocol gets nothing until `resume_reading()`. No data is lost.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if this.state.with(slf.py(), |state| state.life.pause_reading()) {
            this.log_debug(slf, "%r pauses reading")?;
        }
        Ok(())
    }

    /// Goes on receiving.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if !this.state.with(py, |state| state.life.resume_reading()) {
            return Ok(());
        }
        // As in asyncio, where resuming adds a new reader, whose context is a copy of the caller's.
        let context = context::copy_current(py)?.unbind();
        let previous = this.state.with(py, |state| std::mem::replace(&mut state.context, context));
        drop(previous);
        this.read_on(py);
        this.log_debug(slf, "%r resumes reading")
    }

    /// Sets the protocol; at any time, also from one kind to the other.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        self.adopt(protocol)
    }

    /// The protocol; None once `connection_lost` was called.
    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.protocol.as_ref().map(|protocol| protocol.clone_ref(py)))
    }

    /// Sets the marks, in bytes, above which the protocol is paused and at which it is resumed.
    #[pyo3(signature = (high=None, low=None))]
    fn set_write_buffer_limits(slf: &Bound<'_, Self>, high: Option<i64>, low: Option<i64>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        this.state.with(py, |state| state.flow.set_limits(high, low)).map_err(|(high, low)| {
            PyValueError::new_err(format!("high ({high}) must be >= low ({low}) must be >= 0"))
        })?;
        Self::queue_grown(slf)
    }

    /// (low, high), in bytes.
    fn get_write_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.state.with(py, |state| state.flow.limits())
    }

    /// How many bytes are queued.
    fn get_write_buffer_size(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.queue.len())
    }

    /// Information about the connection: "socket", "sockname", "peername", or what its maker added.
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let extra = slf.get().extra(slf.py())?;
        if let Some(value) = extra.get_item(name)? {
            return Ok(Some(value));
        }
        let Ok(text) = name.cast::<PyString>() else {
            return Ok(default);
        };
        let Some(value) = slf.get().make_extra(slf.py(), &text.to_string_lossy())? else {
            return Ok(default);
        };
        extra.set_item(name, &value)?;
        Ok(Some(value))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        self.describe(py)
    }

    /// `isinstance(transport, asyncio.Transport)` asks for this: asyncio's class cannot be a native base.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        self.core.names.stream_transport.clone_ref(py)
    }

    #[getter(_sendfile_compatible)]
    fn sendfile_mode(&self, py: Python<'_>) -> Py<PyAny> {
        self.core.names.sendfile_try_native.clone_ref(py)
    }

    #[getter(_start_tls_compatible)]
    fn start_tls_mode(&self) -> bool {
        true
    }

    #[getter(_loop)]
    fn get_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.event_loop.clone_ref(py)
    }

    #[getter(_protocol_paused)]
    fn is_protocol_paused(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.flow.is_paused())
    }

    /// The second step after `connection_made`. The kernel watches the socket from here on, so that what has come
    /// already is delivered in the next turn: behind those who wait for the connection, as in asyncio.
    fn _start_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let token = this.state.with(py, |state| {
            state.life.start_reading();
            state.token
        });
        match token.map(|token| this.core.activate(py, token)) {
            Some(Err(error)) => Self::fatal_error(slf, error, "Fatal error: the socket cannot be watched."),
            _ => Ok(()),
        }
    }

    fn _call_connection_lost(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        if this.state.with(py, |state| state.life.phase() != Phase::Lost) {
            return Ok(());
        }
        let told = match this.get_protocol(py) {
            Some(protocol) => protocol.call_method1(py, &names.connection_lost, (exc,)).map(drop),
            None => Ok(()),
        };
        let action = this.state.with(py, |state| state.life.on(Event::Delivered));
        let released = if action == Action::Release { Self::release(slf) } else { Ok(()) };
        told.and(released)
    }

    /// What asyncio's TLS layer calls to end the connection.
    fn _force_close(slf: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        Self::fail(slf, exc)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if !self.filled {
            return Ok(());
        }
        visit.call(&self.event_loop)?;
        self.state
            .peek(|state| {
                visit.call(&state.protocol)?;
                visit.call(&state.context)?;
                visit.call(&state.server)?;
                visit.call(&state.extra)?;
                if let Socket::Python { object, .. } = &state.socket { visit.call(object) } else { Ok(()) }
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = self.state.with(py, |state| (state.protocol.take(), state.extra.take()));
        drop(cleared);
    }
}

impl StreamTransport {
    fn describe(&self, py: Python<'_>) -> String {
        self.state.with(py, |state| {
            let mut text = String::from("<StreamTransport");
            match state.life.phase() {
                _ if state.socket.is_closed() => text.push_str(" closed"),
                Phase::Open => {}
                _ => text.push_str(" closing"),
            }
            text.push_str(&format!(" fd={}", state.socket.number()));
            let polling = |on| if on { "polling" } else { "idle" };
            if !self.core.closed.load(Relaxed) {
                text.push_str(&format!(
                    " read={} write=<{}, bufsize={}>",
                    polling(state.life.may_read()),
                    polling(state.write_blocked),
                    state.queue.len()
                ));
            }
            text.push('>');
            text
        })
    }

    fn extra<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        if let Some(extra) =
            self.state.with(py, |state| state.extra.as_ref().map(|extra| extra.bind(py).clone()))
        {
            return Ok(extra);
        }
        let extra = PyDict::new(py);
        self.state.with(py, |state| state.extra = Some(extra.clone().unbind()));
        Ok(extra)
    }

    /// The value for a name that nobody has asked for yet.
    fn make_extra<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let address = match name {
            "socket" => return self.python_socket(py).map(Some),
            "sockname" => self.state.with(py, |state| state.sockname.clone()),
            "peername" => self.state.with(py, |state| state.peername.clone()),
            _ => return Ok(None),
        };
        match address {
            Some(address) => sockaddr::to_python(py, &address).map(Some),
            // asyncio has the key, with None, where the kernel does not know the address.
            None => Ok(Some(py.None().into_bound(py))),
        }
    }

    /// The `asyncio.TransportSocket` of the connection.
    fn python_socket<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (object, own) = self.state.with(py, |state| match &state.socket {
            Socket::Python { object, .. } => (Some(object.bind(py).clone()), None),
            Socket::Own { kind, .. } => (None, Some((state.socket.number(), *kind, true))),
            Socket::Closed { fd, kind } => (None, kind.map(|kind| (*fd, kind, false))),
        });
        let socket = match (object, own) {
            (Some(object), _) => object,
            (None, Some((fd, kind, true))) => {
                let object = python_socket(py, &self.core, fd, kind)?;
                let python = Socket::from_python(&object)?;
                if let Socket::Own { fd, .. } =
                    self.state.with(py, |state| std::mem::replace(&mut state.socket, python))
                {
                    hand_over(fd);
                }
                object
            }
            // Asked for the first time after the end: a socket that is closed, as asyncio's would be.
            (None, closed) => {
                let kind = closed.map_or((libc::AF_INET, libc::SOCK_STREAM, 0), |(_, kind, _)| {
                    (kind.family, kind.kind, kind.protocol)
                });
                let object = self.core.names.socket_class.bind(py).call1(kind)?;
                object.call_method0(&self.core.names.close)?;
                object
            }
        };
        self.core.names.transport_socket.bind(py).call1((socket,))
    }
}

/// Puts the raw methods on the class.
pub fn add_raw_methods(py: Python<'_>) -> PyResult<()> {
    unsafe extern "C" fn write(
        slf: *mut ffi::PyObject,
        args: *const *mut ffi::PyObject,
        count: ffi::Py_ssize_t,
        keywords: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject {
        // SAFETY: CPython calls this through the descriptor made below.
        unsafe { fastcall::enter::<StreamTransport>(slf, args, count, keywords, StreamTransport::write) }
    }
    let doc = c"write($self, /, data)\n--\n\nQueues bytes; they leave at the end of the turn, in order. Never blocks.";
    fastcall::add_method::<StreamTransport>(py, c"write", doc, write)
}
