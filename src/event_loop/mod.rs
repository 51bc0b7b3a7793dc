//! The class `EventLoop`: what Python sees of a loop. Its methods are thin; what they do is in `core/`, `run.rs` and
//! `transports/`.
//!
//! In Python, `rloop.Loop` puts `asyncio.BaseEventLoop` behind this class, whose code works on the same state. So the
//! fields that both read (`_stopping`, `_closed`, `_debug`, `_thread_id`, `_task_factory`) are properties here, which
//! come before an instance's dictionary.

#[cfg(feature = "faults")]
pub mod faults;
mod futures;
mod inside;
mod package;
mod publisher;
mod relay;
mod resolving;
mod scheduling;
mod sockets;
mod watcher;
mod watching;

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyList, PyString, PyTuple};

use crate::core::{CoreRef, LoopCore};
use crate::error::os_error;
use crate::handle::Callback;
use crate::py::addrinfo::{self, Question};
use crate::py::bytes::Spare;
use crate::py::cell::LoopCell;
use crate::py::fastcall;
use crate::py::made::{Made, derefs_to_made};
use crate::py::new;
use crate::reactor::metrics::Figure;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys;
use crate::run;
use crate::transports::bare::BareSocket;
use crate::transports::datagram::DatagramTransport;
use crate::transports::listener::Listener;
use crate::transports::pipe::{ReadPipeTransport, WritePipeTransport};
use crate::transports::shell::Parts;
use crate::transports::socket::{File, SocketKind};
use crate::transports::stream::StreamTransport;
pub use inside::{Poll, ReadyHandles, Timers};
pub use package::{complete, new_event_loop};
pub use publisher::Publisher;
pub use relay::relay_once;
pub use resolving::resolved;
pub use scheduling::add_raw_methods;
pub use watcher::Watcher;

/// The native half of `rloop.Loop`.
#[pyclass(subclass, frozen, module = "rloop._rloop")]
pub struct EventLoop(Made<Fields>);

/// What an [`EventLoop`] holds.
pub struct Fields {
    /// The state of the loop, which its transports share.
    core: Arc<LoopCore>,
    /// What `set_task_factory()` has set.
    task_factory: LoopCell<Option<Py<PyAny>>>,
    /// `{"loop": self}`, the keywords that futures and tasks are made with. It is made for the first of them, and kept
    /// until the loop is closed.
    loop_keywords: LoopCell<Option<Py<PyDict>>>,
    /// What `sock_recv` receives into.
    spare_bytes: Spare,
}

derefs_to_made! { EventLoop => Fields }

#[cfg(feature = "embed")]
impl EventLoop {
    /// The loop's core, for the API of hosts.
    pub fn core(&self) -> &Arc<LoopCore> {
        &self.core
    }
}

impl EventLoop {
    /// What the transports of this loop are made of.
    fn parts<'a, 'py>(
        &'a self,
        slf: &'a Bound<'py, Self>,
        protocol: Bound<'py, PyAny>,
        waiter: Option<Bound<'py, PyAny>>,
        extra: Option<Bound<'py, PyDict>>,
        context: Option<Bound<'py, PyAny>>,
    ) -> Parts<'a, 'py> {
        Parts { core: &self.core, event_loop: slf.as_any(), protocol, waiter, extra, context }
    }
}

#[pymethods]
impl EventLoop {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        py: Python<'_>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        Ok(Self(Made::new(Fields {
            core: LoopCore::new(py)?,
            task_factory: LoopCell::new(None),
            loop_keywords: LoopCell::new(None),
            spare_bytes: Spare::default(),
        })))
    }

    /// Seconds of the loop's clock, the same as `time.monotonic()`.
    fn time<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFloat>> {
        new::float(py, self.core.clock.now())
    }

    /// Ends `run_forever()` when the present turn is complete.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        self.core.stopping.store(true, SeqCst);
        // When another thread calls this, asyncio's loop would go on waiting. Ours is woken.
        if self.core.is_running() && !self.core.is_own_thread() { self.core.wake(py) } else { Ok(()) }
    }

    /// True while `run_forever()` runs.
    fn is_running(&self) -> bool {
        self.core.is_running()
    }

    /// True once the loop was closed.
    fn is_closed(&self) -> bool {
        // A finalizer may ask this of a loop that was not completely made.
        self.0.get().is_none_or(|this| this.core.closed.load(Relaxed))
    }

    /// True in debug mode.
    fn get_debug(&self) -> bool {
        self.core.debug.load(Relaxed)
    }

    /// A new `asyncio.Future` of this loop.
    fn create_future<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::make_future(slf)
    }

    /// Removes the reader of an fd or file object. False if there was none.
    fn remove_reader(&self, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.remove(fd, Readiness::READABLE)
    }

    /// Removes the writer of an fd or file object. False if there was none.
    fn remove_writer(&self, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.remove(fd, Readiness::WRITABLE)
    }

    /// Runs one turn; if `_begin_run(True)` was called before, turns until `stop()` was called.
    fn _run_once(slf: &Bound<'_, Self>) -> PyResult<()> {
        let core = &slf.get().core;
        fastcall::caught(|| {
            let until_stopped = core.until_stopped.swap(false, Relaxed);
            core.check_closed()?;
            scheduling::look_at_time(slf)?;
            core.read_switch_interval(slf.py())?;
            if until_stopped {
                sys::sigpipe::look();
                run::run_until_stopped(slf.as_any(), core)
            } else {
                run::run_turn(slf.as_any(), core)
            }
        })
    }

    /// Native, because asyncio sets attributes in places where an exception would leave the loop "already running" for
    /// ever. The handler of a signal can raise an exception inside a method that is written in Python, but not here.
    fn __setattr__(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyString>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        Self::set_attribute(slf, name, Some(value))
    }

    /// See `__setattr__`.
    fn __delattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>) -> PyResult<()> {
        Self::set_attribute(slf, name, None)
    }

    /// Finds out by whose methods timers go: to be called when `time`, `call_at` or the class of the loop has changed.
    fn _look_at_time(slf: &Bound<'_, Self>) -> PyResult<()> {
        scheduling::look_at_time(slf)
    }

    /// `until_stopped`: the next `_run_once()` runs turns until `stop()` was called. Otherwise it runs one turn.
    fn _begin_run(&self, until_stopped: bool) {
        self.core.until_stopped.store(until_stopped, Relaxed);
    }

    /// The loop's figures, for `_metrics.py`: see `src/reactor/metrics.rs` for their order.
    fn _figures(&self) -> Vec<u64> {
        self.core.read_figures(self.core.clock.now_ns())
    }

    /// Counts a TLS handshake that is over.
    fn _count_handshake(&self, done: bool) {
        let figure = if done { Figure::HandshakesDone } else { Figure::HandshakesFailed };
        self.core.figures.add(figure, 1);
    }

    /// Sends what transports keep back.
    fn _send_gathered(slf: &Bound<'_, Self>) -> PyResult<()> {
        run::send_gathered(slf.as_any(), &slf.get().core, true)
    }

    /// True if SIGPIPE has its default action, which ends the process.
    fn _sigpipe_ends_process(&self) -> bool {
        sys::sigpipe::look()
    }

    /// The loop's core, for native objects that Python makes for this loop.
    #[getter]
    fn _core(&self) -> CoreRef {
        CoreRef(self.core.clone())
    }

    /// Wakes the loop if it waits in its poll.
    fn _write_to_self(&self, py: Python<'_>) -> PyResult<()> {
        self.core.wake(py)
    }

    /// Watches a non-blocking fd of the loop's own: `callback` must read it until it would block.
    fn _watch_internal(slf: &Bound<'_, Self>, fd: i32, callback: Bound<'_, PyAny>) -> PyResult<()> {
        let core = &slf.get().core;
        let handle = core.handle(slf.as_any(), Callback { callback, args: &[], context: None })?;
        core.watch_internal(slf.py(), fd, handle)
    }

    /// Ends the registration of an fd, whoever made it. To be called before the fd is closed.
    fn _unregister(&self, py: Python<'_>, fd: i32) -> PyResult<()> {
        self.core.deregister_fd(py, fd)
    }

    /// The hook of `BaseEventLoop` for a connected stream socket.
    #[pyo3(signature = (sock, protocol, waiter=None, *, extra=None, server=None, context=None))]
    #[allow(clippy::too_many_arguments, reason = "asyncio's signature")]
    fn _make_socket_transport<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        protocol: Bound<'py, PyAny>,
        waiter: Option<Bound<'py, PyAny>>,
        extra: Option<Bound<'py, PyDict>>,
        server: Option<Bound<'py, PyAny>>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, StreamTransport>> {
        let fd = slf.get().fd_of(sock)?;
        slf.get().refuse_fd_of_transport(sock, fd)?;
        let bare = sock.cast::<BareSocket>().ok().and_then(|bare| bare.get().take(slf.py()));
        let (socket, kind, peername) = match bare {
            Some(taken) => taken,
            None => (File::for_stream(sock)?, SocketKind::of(sock)?, None),
        };
        let parts = slf.get().parts(slf, protocol, waiter, extra, context);
        StreamTransport::start(parts, socket, kind, peername, server)
    }

    /// Begins to connect a TCP socket. The caller waits until it is writable, and then calls `_check_connected()`.
    /// None, and nothing is done, for other kinds of sockets, and for addresses that are not in their usual form.
    fn _connect<'py>(
        &self,
        family: i32,
        kind: i32,
        protocol: i32,
        address: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, BareSocket>>> {
        BareSocket::connecting(SocketKind::new(family, kind, protocol), address)
    }

    /// The hook of `BaseEventLoop` for a datagram socket. `address`: the one that all datagrams go to, if there is one.
    #[pyo3(signature = (sock, protocol, address=None, waiter=None, extra=None))]
    fn _make_datagram_transport<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        protocol: Bound<'py, PyAny>,
        address: Option<Bound<'py, PyAny>>,
        waiter: Option<Bound<'py, PyAny>>,
        extra: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, DatagramTransport>> {
        let fd = slf.get().fd_of(sock)?;
        slf.get().refuse_fd_of_transport(sock, fd)?;
        DatagramTransport::start(slf.get().parts(slf, protocol, waiter, extra, None), sock, address)
    }

    /// Accepts connections of a listening socket. `tls`: the arguments of `Loop._accept_tls` that follow the
    /// connection.
    #[pyo3(signature = (protocol_factory, sock, tls, server, backlog, context))]
    #[allow(clippy::too_many_arguments, reason = "one call per listening socket")]
    fn _listen<'py>(
        slf: &Bound<'py, Self>,
        protocol_factory: Bound<'py, PyAny>,
        sock: Bound<'py, PyAny>,
        tls: Option<Bound<'py, PyAny>>,
        server: Option<Bound<'py, PyAny>>,
        backlog: i64,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let (core, event_loop) = (&slf.get().core, slf.as_any());
        Listener::start(core, event_loop, protocol_factory, &sock, tls, server, backlog, context)
    }

    /// True if this is the fd of a stream socket. A `socket.socket` made to find that out would close the fd if the
    /// caller were interrupted.
    #[staticmethod]
    fn _is_stream(fd: i32) -> PyResult<bool> {
        sys::is_stream(fd).map_err(|error| os_error(&error))
    }

    /// A transport for the reading end of a pipe. `fd` is that of `pipe`, and non-blocking.
    fn _read_pipe<'py>(
        slf: &Bound<'py, Self>,
        pipe: Bound<'py, PyAny>,
        fd: i32,
        protocol: Bound<'py, PyAny>,
        waiter: Option<Bound<'py, PyAny>>,
        extra: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, ReadPipeTransport>> {
        ReadPipeTransport::open(slf.get().parts(slf, protocol, waiter, extra, None), &pipe, fd)
    }

    /// A transport for the writing end of a pipe. `fd` is that of `pipe`, and non-blocking. `tells_end`: the fd becomes
    /// readable when the reader has gone. `by_record`: every write must be a system call of its own.
    #[allow(clippy::too_many_arguments, reason = "one call per pipe")]
    fn _write_pipe<'py>(
        slf: &Bound<'py, Self>,
        pipe: Bound<'py, PyAny>,
        fd: i32,
        protocol: Bound<'py, PyAny>,
        waiter: Option<Bound<'py, PyAny>>,
        extra: Option<Bound<'py, PyDict>>,
        tells_end: bool,
        by_record: bool,
    ) -> PyResult<Bound<'py, WritePipeTransport>> {
        let parts = slf.get().parts(slf, protocol, waiter, extra, None);
        WritePipeTransport::open(parts, &pipe, fd, tells_end, by_record)
    }

    /// A future that is completed once `sock` is readable, or writable. To be called when a system call has just said
    /// that it would block.
    fn _wait<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        write: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let fd = slf.get().fd_of(sock)?;
        Self::wait(slf, sock, fd, watching::direction(write))
    }

    /// Takes back a future of `_wait` that nobody waits for any more.
    fn _stop_waiting(&self, sock: &Bound<'_, PyAny>, future: &Bound<'_, PyAny>, write: bool) -> PyResult<()> {
        self.stop_waiting(sock, future, watching::direction(write))
    }

    /// Receives up to `n` bytes, or returns the future of `_wait` if there is nothing yet. It never blocks, even if the
    /// socket is in blocking mode. None, and nothing is done, if Python's own method must be called: for sockets of
    /// another class, sizes that are not plain ints, and in debug mode.
    fn _receive<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        n: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::receive(slf, sock, n)
    }

    /// Sends `data` from byte `start` on, without blocking. None if all of it was sent, otherwise the byte to go on
    /// with. If the socket's class has a `send` of its own, nothing is done, and the result is -1: that `send` is to
    /// be called instead.
    fn _send(
        slf: &Bound<'_, Self>,
        sock: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
        start: usize,
    ) -> PyResult<Option<isize>> {
        Self::send(slf, sock, data, start)
    }

    /// What `socket.getaddrinfo` returns for an address literal. None for names, and whenever the answer is not
    /// certain. Also None in debug mode, where look-ups are logged, and on a closed loop, whose executor refuses them.
    fn _literal_addrinfo<'py>(
        &self,
        host: &Bound<'py, PyAny>,
        port: &Bound<'py, PyAny>,
        family: &Bound<'py, PyAny>,
        kind: &Bound<'py, PyAny>,
        protocol: &Bound<'py, PyAny>,
        flags: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        if self.core.debug.load(Relaxed) || self.core.closed.load(Relaxed) {
            return Ok(None);
        }
        let question = Question { host, port, family, kind, protocol, flags };
        addrinfo::of_literal(self.core.names, &question)
    }

    /// Drops all that the loop holds: the last step of `close()`.
    fn _release(&self, py: Python<'_>) {
        self.core.release(py);
        drop(self.loop_keywords.with(py, Option::take));
        self.spare_bytes.clear(py);
    }

    /// True from `stop()` on. `BaseEventLoop.run_forever` looks at it after each `_run_once()`, and resets it at the
    /// end.
    #[getter(_stopping)]
    fn get_stopping_field(&self) -> bool {
        self.core.stopping.load(Relaxed)
    }

    /// `BaseEventLoop.run_forever` clears it when a run has ended.
    #[setter(_stopping)]
    fn set_stopping_field(&self, value: bool) {
        self.core.stopping.store(value, SeqCst);
    }

    /// True once the loop was closed. `BaseEventLoop.close` sets it.
    #[getter(_closed)]
    fn get_closed_field(&self) -> bool {
        self.core.closed.load(Relaxed)
    }

    /// `BaseEventLoop.close` sets it. What the loop holds is dropped by `_release`, which comes after.
    #[setter(_closed)]
    fn set_closed_field(&self, value: bool) {
        self.core.closed.store(value, Relaxed);
    }

    /// True in debug mode. `BaseEventLoop.set_debug` sets it.
    #[getter(_debug)]
    fn get_debug_field(&self) -> bool {
        self.core.debug.load(Relaxed)
    }

    /// As asyncio, any object is taken, and what counts is whether it is true.
    #[setter(_debug)]
    fn set_debug_field(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.core.debug.store(value.is_truthy()?, Relaxed);
        self.core.look_who_observes();
        Ok(())
    }

    /// The thread that runs the loop, or None. `BaseEventLoop.run_forever` sets it, and `is_running()` is true while it
    /// is set.
    #[getter(_thread_id)]
    fn get_thread_id_field(&self) -> Option<u64> {
        Some(self.core.thread_id.load(Relaxed)).filter(|&id| id != 0)
    }

    /// `BaseEventLoop.run_forever` sets it while the loop runs, and None afterwards.
    #[setter(_thread_id)]
    fn set_thread_id_field(slf: &Bound<'_, Self>, value: Option<u64>) -> PyResult<()> {
        let core = &slf.get().core;
        core.thread_id.store(value.unwrap_or(0), Relaxed);
        core.note_thread(slf.py(), core.is_own_thread());
        // Some programs read it from the instance's dictionary, where asyncio has it.
        if let Some(names) = slf.getattr_opt(&core.names.__dict__)? {
            let value = value.map(|id| new::int(slf.py(), id as usize)).transpose()?;
            names.set_item(&core.names._thread_id, value)?;
        }
        Ok(())
    }

    /// What `set_task_factory()` has set, or None.
    #[getter(_task_factory)]
    fn get_task_factory_field(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.task_factory.with(py, |factory| factory.as_ref().map(|factory| factory.clone_ref(py)))
    }

    /// `set_task_factory()` sets it, after it has checked that it can be called.
    #[setter(_task_factory)]
    fn set_task_factory_field(&self, py: Python<'_>, value: Option<Py<PyAny>>) {
        drop(self.task_factory.with(py, |factory| std::mem::replace(factory, value)));
    }

    /// Shows the garbage collector what the loop holds: its callbacks and timers, its registrations, and its own
    /// fields.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(this) = self.0.get() else {
            return Ok(());
        };
        this.core.traverse(&visit)?;
        this.loop_keywords.peek(&visit, |keywords| visit.call(keywords)).unwrap_or(Ok(()))?;
        this.task_factory.peek(&visit, |factory| visit.call(factory)).unwrap_or(Ok(()))
    }

    /// Breaks the cycles of a loop that nobody refers to any more. It drops what `_release` drops.
    fn __clear__(&self, py: Python<'_>) {
        self.core.release(py);
        drop(self.task_factory.with(py, Option::take));
        drop(self.loop_keywords.with(py, Option::take));
    }
}
