//! The `EventLoop` class: what Python sees of a loop. Thin methods over `core.rs` and `run.rs`.
//!
//! `rloop.Loop` adds `asyncio.BaseEventLoop` behind it, whose cold paths work on the same state: the fields that both
//! read (`_stopping`, `_closed`, `_debug`, `_thread_id`, `_task_factory`) are properties of this class, which win over
//! an instance's dictionary.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyTuple};

use crate::core::{FdCallbacks, LoopCore, Source};
use crate::handle::{Callback, Handle, Time};
use crate::py::cell::LoopCell;
use crate::py::fastcall::{self, Arguments};
use crate::reactor::Mode;
use crate::reactor::readiness::Readiness;
use crate::reactor::token::Token;
use crate::run;
use crate::transports::listener::{Listener, Serving};
use crate::transports::socket::{Socket, SocketKind};
use crate::transports::stream::{Parts, StreamTransport};

/// The native half of `rloop.Loop`.
#[pyclass(subclass, frozen, dict, weakref, module = "rloop._rloop")]
pub struct EventLoop {
    core: Arc<LoopCore>,
    task_factory: LoopCell<Option<Py<PyAny>>>,
    /// False only in memory that CPython has zeroed and PyO3 not yet filled: the instance's dictionary is made in
    /// between, and the collection that this may start sees such an object.
    filled: bool,
}

impl EventLoop {
    pub fn core(&self) -> &Arc<LoopCore> {
        &self.core
    }

    /// What `call_soon` and its kin check first.
    #[inline]
    fn check_call(
        slf: &Bound<'_, Self>,
        callback: &Bound<'_, PyAny>,
        method: &str,
        same_thread: bool,
    ) -> PyResult<()> {
        let core = &slf.get().core;
        core.check_closed()?;
        if core.debug.load(Relaxed) {
            if same_thread {
                core.check_thread()?;
            }
            slf.call_method1("_check_callback", (callback, method))?;
        }
        // asyncio finds out when it runs the callback; there it would be too late to say who scheduled it.
        Ok(())
    }

    /// The fd of what `add_reader` takes: an int, or an object with `fileno()` (`selectors._fileobj_to_fd`).
    fn fd_of(&self, file: &Bound<'_, PyAny>) -> PyResult<i32> {
        let fd: i64 = if file.is_instance_of::<PyInt>() {
            file.extract()?
        } else {
            let invalid = || PyValueError::new_err(format!("Invalid file object: {}", repr(file)));
            let number = file.call_method0(&self.core.names.fileno).map_err(|_| invalid())?;
            number.extract().map_err(|_| invalid())?
        };
        if fd < 0
            && let Some(fd) = self.fd_of_closed_file(file)
        {
            return Ok(fd);
        }
        match i32::try_from(fd) {
            Ok(fd) if fd >= 0 => Ok(fd),
            _ => Err(PyValueError::new_err(format!("Invalid file descriptor: {fd}"))),
        }
    }

    /// The fd under which a file object was registered before it was closed.
    fn fd_of_closed_file(&self, file: &Bound<'_, PyAny>) -> Option<i32> {
        self.core.state.with(file.py(), |state| {
            state.reactor.find(|source| match source {
                Source::Callbacks(FdCallbacks { file: Some(known), .. }) => known.is(file),
                _ => false,
            })
        })
    }

    /// `BaseSelectorEventLoop._ensure_fd_no_transport`.
    fn refuse_fd_of_transport(&self, file: &Bound<'_, PyAny>, fd: i32) -> PyResult<()> {
        match self.core.owner_of(file.py(), fd) {
            Some(transport) => Err(PyRuntimeError::new_err(format!(
                "File descriptor {} is used by transport {}",
                repr(file),
                repr(&transport)
            ))),
            None => Ok(()),
        }
    }

    /// Sets the callback for one direction of an fd; the previous one is cancelled.
    fn watch(
        slf: &Bound<'_, Self>,
        file: &Bound<'_, PyAny>,
        direction: Readiness,
        callback: Bound<'_, PyAny>,
        args: &[*mut ffi::PyObject],
    ) -> PyResult<()> {
        let (py, core) = (slf.py(), &slf.get().core);
        let fd = slf.get().fd_of(file)?;
        slf.get().refuse_fd_of_transport(file, fd)?;
        core.check_closed()?;
        let handle = core.handle(slf.as_any(), Callback { callback, args, context: None })?.unbind();
        let known = core.state.with(py, |state| {
            // A fresh edge for what is ready already; an error: the number belongs to another file by now.
            state.reactor.token_of(fd).filter(|&token| state.reactor.refresh(token).is_ok())
        });
        let token = match known {
            Some(token) => token,
            None => {
                let file = (!file.is_instance_of::<PyInt>()).then(|| file.clone().unbind());
                let callbacks = FdCallbacks { file, ..FdCallbacks::default() };
                core.register(py, fd, Mode::Level, Source::Callbacks(callbacks))?
            }
        };
        if let Some(replaced) = Self::exchange(py, core, token, direction, Some(handle)) {
            Handle::cancel_once(replaced.bind(py))?;
        }
        Ok(())
    }

    /// Removes the callback for one direction of an fd. False if there was none.
    fn unwatch(&self, py: Python<'_>, fd: i32, direction: Readiness) -> PyResult<bool> {
        let core = &self.core;
        let Some(token) = core.state.with(py, |state| state.reactor.token_of(fd)) else {
            return Ok(false);
        };
        match Self::exchange(py, core, token, direction, None) {
            Some(removed) => Handle::cancel_once(removed.bind(py)),
            None => Ok(false),
        }
    }

    /// Puts `handle` in the place for `direction`, and arms and disarms accordingly. A registration without any
    /// callback ends.
    fn exchange(
        py: Python<'_>,
        core: &LoopCore,
        token: Token,
        direction: Readiness,
        handle: Option<Py<Handle>>,
    ) -> Option<Py<Handle>> {
        let (previous, ended) = core.state.with(py, |state| {
            let Some(Source::Callbacks(callbacks)) = state.reactor.source_mut(token) else {
                return (None, None);
            };
            let place =
                if direction == Readiness::READABLE { &mut callbacks.reader } else { &mut callbacks.writer };
            let previous = std::mem::replace(place, handle);
            let mut armed = Readiness::NONE;
            if callbacks.reader.is_some() {
                armed |= Readiness::READABLE;
            }
            if callbacks.writer.is_some() {
                armed |= Readiness::WRITABLE;
            }
            state.reactor.arm(token, armed);
            (previous, armed.is_none().then(|| state.reactor.deregister(token)).flatten())
        });
        drop(ended);
        previous
    }
}

fn repr(object: &Bound<'_, PyAny>) -> String {
    object.repr().map_or_else(|_| "?".to_owned(), |text| text.to_string())
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
        Ok(Self { core: LoopCore::new(py)?, task_factory: LoopCell::new(None), filled: true })
    }

    /// Seconds of the loop's clock, the same as `time.monotonic()`.
    fn time(&self) -> f64 {
        self.core.clock.now()
    }

    /// Ends `run_forever()` once the present turn is complete.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        self.core.stopping.store(true, SeqCst);
        // asyncio's loop would go on waiting when another thread calls this; waking it costs nothing and helps.
        if self.core.is_running() && !self.core.is_own_thread() { self.core.wake(py) } else { Ok(()) }
    }

    /// True while `run_forever()` runs.
    fn is_running(&self) -> bool {
        self.core.is_running()
    }

    /// True once the loop was closed.
    fn is_closed(&self) -> bool {
        self.core.closed.load(Relaxed)
    }

    /// True in debug mode.
    fn get_debug(&self) -> bool {
        self.core.debug.load(Relaxed)
    }

    /// A new `asyncio.Future` of this loop.
    fn create_future<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let keywords = PyDict::new(slf.py());
        keywords.set_item("loop", slf)?;
        slf.get().core.names.future.bind(slf.py()).call((), Some(&keywords))
    }

    /// Removes the reader of an fd or file object. False if there was none.
    fn remove_reader(&self, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.remove(fd, Readiness::READABLE)
    }

    /// Removes the writer of an fd or file object. False if there was none.
    fn remove_writer(&self, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.remove(fd, Readiness::WRITABLE)
    }

    /// Runs the loop until `stop()` was called.
    fn _run_once(slf: &Bound<'_, Self>) -> PyResult<()> {
        let own_time = slf.py().get_type::<Self>().getattr("time")?;
        slf.get().core.custom_time.store(!slf.get_type().getattr("time")?.is(&own_time), Relaxed);
        run::run_until_stopped(slf.as_any(), &slf.get().core)
    }

    /// Wakes the loop if it is parked in its poll.
    fn _write_to_self(&self, py: Python<'_>) -> PyResult<()> {
        self.core.wake(py)
    }

    /// Watches a non-blocking fd of the loop's own: `callback` must read it until it would block.
    fn _watch_internal(slf: &Bound<'_, Self>, fd: i32, callback: Bound<'_, PyAny>) -> PyResult<()> {
        let (py, core) = (slf.py(), &slf.get().core);
        let reader =
            Some(core.handle(slf.as_any(), Callback { callback, args: &[], context: None })?.unbind());
        let callbacks = FdCallbacks { reader, ..FdCallbacks::default() };
        core.register(py, fd, Mode::Internal, Source::Callbacks(callbacks)).map(drop)
    }

    /// Ends the registration of an fd, whoever made it. To be called before the fd is closed.
    fn _unregister(&self, py: Python<'_>, fd: i32) -> PyResult<()> {
        if let Some(token) = self.core.state.with(py, |state| state.reactor.token_of(fd)) {
            let source = self.core.state.with(py, |state| state.reactor.deregister(token));
            source.map_or(Ok(()), |source| source.cancel(py))?;
        }
        Ok(())
    }

    /// The hook of `BaseEventLoop` for a connected stream socket.
    #[pyo3(signature = (sock, protocol, waiter=None, *, extra=None, server=None))]
    fn _make_socket_transport<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        protocol: Bound<'py, PyAny>,
        waiter: Option<Bound<'py, PyAny>>,
        extra: Option<Bound<'py, PyDict>>,
        server: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, StreamTransport>> {
        let fd = slf.get().fd_of(sock)?;
        slf.get().refuse_fd_of_transport(sock, fd)?;
        StreamTransport::start(Parts {
            core: &slf.get().core,
            event_loop: slf.as_any(),
            kind: SocketKind::of(sock)?,
            socket: Socket::from_python(sock)?,
            protocol,
            waiter,
            extra,
            server,
            peername: None,
        })
    }

    /// The hook of `BaseEventLoop` for a listening socket. `tls`: what `Loop._accept_tls` gets after the connection.
    #[pyo3(signature = (protocol_factory, sock, tls, server, backlog))]
    fn _listen<'py>(
        slf: &Bound<'py, Self>,
        protocol_factory: Bound<'py, PyAny>,
        sock: Bound<'py, PyAny>,
        tls: Option<Bound<'py, PyAny>>,
        server: Option<Bound<'py, PyAny>>,
        backlog: usize,
    ) -> PyResult<()> {
        let (core, event_loop) = (&slf.get().core, slf.as_any());
        Listener::start(Serving {
            core,
            event_loop,
            factory: protocol_factory,
            socket: sock,
            tls,
            server,
            backlog,
        })
    }

    /// Lets go of everything; the last step of `close()`.
    fn _release(&self, py: Python<'_>) {
        self.core.release(py);
    }

    #[getter(_stopping)]
    fn get_stopping_field(&self) -> bool {
        self.core.stopping.load(Relaxed)
    }

    #[setter(_stopping)]
    fn set_stopping_field(&self, value: bool) {
        self.core.stopping.store(value, SeqCst);
    }

    #[getter(_closed)]
    fn get_closed_field(&self) -> bool {
        self.core.closed.load(Relaxed)
    }

    #[setter(_closed)]
    fn set_closed_field(&self, value: bool) {
        self.core.closed.store(value, Relaxed);
    }

    #[getter(_debug)]
    fn get_debug_field(&self) -> bool {
        self.core.debug.load(Relaxed)
    }

    #[setter(_debug)]
    fn set_debug_field(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.core.debug.store(value.is_truthy()?, Relaxed);
        Ok(())
    }

    #[getter(_thread_id)]
    fn get_thread_id_field(&self) -> Option<u64> {
        Some(self.core.thread_id.load(Relaxed)).filter(|&id| id != 0)
    }

    #[setter(_thread_id)]
    fn set_thread_id_field(&self, value: Option<u64>) {
        self.core.thread_id.store(value.unwrap_or(0), Relaxed);
    }

    #[getter(_task_factory)]
    fn get_task_factory_field(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.task_factory.with(py, |factory| factory.as_ref().map(|factory| factory.clone_ref(py)))
    }

    #[setter(_task_factory)]
    fn set_task_factory_field(&self, py: Python<'_>, value: Option<Py<PyAny>>) {
        drop(self.task_factory.with(py, |factory| std::mem::replace(factory, value)));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if !self.filled {
            return Ok(());
        }
        self.core.traverse(&visit)?;
        self.task_factory.peek(|factory| visit.call(factory)).unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        self.core.release(py);
        drop(self.task_factory.with(py, Option::take));
    }
}

impl EventLoop {
    fn remove(&self, file: &Bound<'_, PyAny>, direction: Readiness) -> PyResult<bool> {
        let fd = self.fd_of(file)?;
        self.refuse_fd_of_transport(file, fd)?;
        self.unwatch(file.py(), fd, direction)
    }

    fn call_soon<'py>(slf: &Bound<'py, Self>, args: Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let core = &slf.get().core;
        let callback = args.required(0, "call_soon", "callback")?;
        let context = args.only_keyword("call_soon", core.names.context.bind(slf.py()), &["callback"])?;
        Self::check_call(slf, &callback, "call_soon", true)?;
        let callback = Callback { callback, args: args.from(1), context };
        Ok(core.call_soon(slf.as_any(), callback)?.into_any())
    }

    fn call_soon_threadsafe<'py>(
        slf: &Bound<'py, Self>,
        args: Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = &slf.get().core;
        let callback = args.required(0, "call_soon_threadsafe", "callback")?;
        let context =
            args.only_keyword("call_soon_threadsafe", core.names.context.bind(slf.py()), &["callback"])?;
        Self::check_call(slf, &callback, "call_soon_threadsafe", false)?;
        let callback = Callback { callback, args: args.from(1), context };
        Ok(core.call_soon_threadsafe(slf.as_any(), callback)?.into_any())
    }

    fn call_later<'py>(slf: &Bound<'py, Self>, args: Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let (py, core) = (slf.py(), &slf.get().core);
        let delay = args.required(0, "call_later", "delay")?;
        let callback = args.required(1, "call_later", "callback")?;
        let context = args.only_keyword("call_later", core.names.context.bind(py), &["delay", "callback"])?;
        if delay.is_none() {
            return Err(PyTypeError::new_err("delay must not be None"));
        }
        if !slf.get_type().is(&core.names.loop_class) {
            return Self::call_later_of_subclass(slf, &args, &delay, &callback);
        }
        Self::check_call(slf, &callback, "call_at", true)?;
        let callback = Callback { callback, args: args.from(2), context };
        let now = core.clock.now();
        let timer = if delay.is_exact_instance_of::<PyFloat>() || delay.is_exact_instance_of::<PyInt>() {
            let seconds = now + delay.extract::<f64>()?;
            core.call_at_time(slf.as_any(), Time { seconds, given: None }, callback)?
        } else {
            // Whatever can be added to a float, as asyncio does it.
            core.call_at(slf.as_any(), now.into_pyobject(py)?.into_any().add(&delay)?, callback)?
        };
        Ok(timer.into_any())
    }

    /// A subclass may have its own `time` and `call_at`, by which asyncio's `call_later` goes.
    #[cold]
    fn call_later_of_subclass<'py>(
        slf: &Bound<'py, Self>,
        args: &Arguments<'_, 'py>,
        delay: &Bound<'py, PyAny>,
        callback: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, names) = (slf.py(), slf.get().core.names);
        let when = slf.call_method0(&names.time)?.add(delay)?;
        // SAFETY: borrowed references that the caller of the method keeps alive.
        let own = |&arg: &*mut ffi::PyObject| unsafe { Bound::from_borrowed_ptr(py, arg) };
        let positional = [when, callback.clone()].into_iter().chain(args.from(2).iter().map(own));
        let keywords = PyDict::new(py);
        for (name, value) in args.keywords().filter(|(name, _)| name.eq(&names.context).unwrap_or(false)) {
            keywords.set_item(name, value)?;
        }
        let positional = PyTuple::new(py, positional.collect::<Vec<_>>())?;
        slf.call_method(&names.call_at, positional, Some(&keywords))
    }

    fn call_at<'py>(slf: &Bound<'py, Self>, args: Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let core = &slf.get().core;
        let when = args.required(0, "call_at", "when")?;
        let callback = args.required(1, "call_at", "callback")?;
        let context =
            args.only_keyword("call_at", core.names.context.bind(slf.py()), &["when", "callback"])?;
        if when.is_none() {
            return Err(PyTypeError::new_err("when cannot be None"));
        }
        Self::check_call(slf, &callback, "call_at", true)?;
        let callback = Callback { callback, args: args.from(2), context };
        Ok(core.call_at(slf.as_any(), when, callback)?.into_any())
    }

    /// The common case natively; a factory, debug mode and whatever else the running version knows are left to
    /// `BaseEventLoop.create_task`.
    fn create_task<'py>(slf: &Bound<'py, Self>, args: Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let names = this.core.names;
        let plain = args.len() == 1
            && !this.core.debug.load(Relaxed)
            && !this.core.closed.load(Relaxed)
            && this.task_factory.with(py, |factory| factory.is_none());
        let keywords = PyDict::new(py);
        for (name, value) in args.keywords() {
            if !plain || !(name.eq(&names.name)? || name.eq(&names.context)?) {
                return args.forward(names.create_task.bind(py), slf.as_any());
            }
            keywords.set_item(name, value)?;
        }
        if !plain {
            return args.forward(names.create_task.bind(py), slf.as_any());
        }
        keywords.set_item("loop", slf)?;
        names.task.bind(py).call((args.required(0, "create_task", "coro")?,), Some(&keywords))
    }

    fn add_reader<'py>(slf: &Bound<'py, Self>, args: Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        Self::add(slf, args, "add_reader", Readiness::READABLE)
    }

    fn add_writer<'py>(slf: &Bound<'py, Self>, args: Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        Self::add(slf, args, "add_writer", Readiness::WRITABLE)
    }

    fn add<'py>(
        slf: &Bound<'py, Self>,
        args: Arguments<'_, 'py>,
        method: &str,
        direction: Readiness,
    ) -> PyResult<Bound<'py, PyAny>> {
        let file = args.required(0, method, "fd")?;
        let callback = args.required(1, method, "callback")?;
        for (name, _) in args.keywords() {
            args.check_keyword(method, &name.to_string(), &["fd", "callback"])?;
        }
        Self::watch(slf, &file, direction, callback, args.from(2))?;
        Ok(slf.py().None().into_bound(slf.py()))
    }
}

/// Puts the raw methods on the class.
pub fn add_raw_methods(py: Python<'_>) -> PyResult<()> {
    macro_rules! raw {
        ($($method:ident($signature:literal): $doc:literal),* $(,)?) => {$({
            unsafe extern "C" fn entry(
                slf: *mut ffi::PyObject,
                args: *const *mut ffi::PyObject,
                count: ffi::Py_ssize_t,
                keywords: *mut ffi::PyObject,
            ) -> *mut ffi::PyObject {
                // SAFETY: CPython calls this through the descriptor made below.
                unsafe { fastcall::enter::<EventLoop>(slf, args, count, keywords, EventLoop::$method) }
            }
            let name = concat!(stringify!($method), "\0");
            let doc = concat!(stringify!($method), $signature, "\n--\n\n", $doc, "\0");
            fastcall::add_method::<EventLoop>(py, fastcall::c_str(name), fastcall::c_str(doc), entry)?;
        })*};
    }
    raw! {
        call_soon("($self, /, callback, *args, context=None)"):
            "Schedules callback(*args) for the next turn of the loop; returns its Handle.",
        call_soon_threadsafe("($self, /, callback, *args, context=None)"):
            "As call_soon(), from any thread.",
        call_later("($self, /, delay, callback, *args, context=None)"):
            "Schedules callback(*args) in delay seconds; returns its TimerHandle.",
        call_at("($self, /, when, callback, *args, context=None)"):
            "Schedules callback(*args) for when seconds of time(); returns its TimerHandle.",
        create_task("($self, /, coro, **kwargs)"):
            "Schedules a coroutine; returns its Task.",
        add_reader("($self, /, fd, callback, *args)"):
            "Calls callback(*args) in every turn in which fd is readable.",
        add_writer("($self, /, fd, callback, *args)"):
            "Calls callback(*args) in every turn in which fd is writable.",
    }
    Ok(())
}
