//! Every Python object that Rust needs by name, in one table: interned strings, what is imported from asyncio and the
//! standard library, and what the package `rloop` has handed in. Nothing here imports `rloop`: it imports us.

use pyo3::exceptions::{PyAttributeError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyInt, PyString};

use super::fastcall::caught;
use super::new::{self, intern};
use super::profiling::ProfileFunction;
use super::streams::Streams;
use crate::error::Message;

macro_rules! names {
    (
        strings { $($string:ident),* $(,)? }
        package { $($(#[$doc:meta])* $given:ident),* $(,)? }
        imports { $($import:ident = $module:literal . $path:literal),* $(,)? }
    ) => {
        /// What the package `rloop` hands in.
        pub struct Package {
            $($(#[$doc])* pub $given: Py<PyAny>,)*
        }

        /// The table. Strings are interned, so that looking up an attribute compares pointers.
        pub struct Names {
            $(pub $string: Py<PyString>,)*
            $(pub $import: Py<PyAny>,)*
            $(pub $given: Py<PyAny>,)*
            /// Where to see whether a profiler is set.
            pub profile_function: ProfileFunction,
            /// asyncio's streams. None if they are not as they are known.
            pub streams: Option<Streams>,
            /// The empty string.
            pub empty: Py<PyString>,
            /// The string "loop", which cannot be the name of a field.
            pub loop_keyword: Py<PyString>,
            /// `BaseEventLoop.create_task`
            pub create_task: Py<PyAny>,
            /// True if `BaseEventLoop.create_task` passes every keyword to the class of tasks (CPython 3.13.3).
            pub tasks_take_keywords: bool,
            /// `BaseEventLoop._check_callback`
            pub check_callback: Py<PyAny>,
            /// `asyncio.events._ThreadSafeHandle` (CPython 3.14), or `asyncio.Handle` before.
            pub threadsafe_handle: Py<PyAny>,
            /// True if another thread that cancels a handle waits for its callback (CPython 3.14).
            pub cancel_waits: bool,
            /// True if `Server._attach` takes the transport (CPython 3.13).
            pub server_counts_transports: bool,
            /// True if asyncio's stream transport has a `writelines` of its own, with its own texts (CPython 3.12).
            pub own_writelines: bool,
            /// True if the size of a queue of datagrams includes their headers (CPython 3.13).
            pub datagram_headers: bool,
        }

        impl Names {
            fn load(py: Python<'_>, package: Package) -> PyResult<Self> {
                Ok(Self {
                    $($string: new::interned(py, stringify!($string))?.unbind(),)*
                    $($import: py.import($module)?.getattr($path)?.unbind(),)*
                    $($given: package.$given,)*
                    empty: new::interned(py, "")?.unbind(),
                    loop_keyword: new::interned(py, "loop")?.unbind(),
                    create_task: of_base_event_loop(py, "create_task")?.unbind(),
                    tasks_take_keywords: keywords_of_create_task(py)?.1,
                    check_callback: of_base_event_loop(py, "_check_callback")?.unbind(),
                    profile_function: ProfileFunction::find(py),
                    streams: Streams::find(py)?,
                    own_writelines: py.version_info() >= (3, 12),
                    datagram_headers: py.version_info() >= (3, 13),
                    threadsafe_handle: py
                        .import("asyncio.events")?
                        .getattr("_ThreadSafeHandle")
                        .or_else(|_| py.import("asyncio")?.getattr("Handle"))?
                        .unbind(),
                    cancel_waits: py.version_info() >= (3, 14),
                    server_counts_transports: py.version_info() >= (3, 13),
                })
            }
        }
    };
}

names! {
    strings {
        _accept_tls, _attach, buffer_updated, call_at, _call_eof_received, call_exception_handler,
        _buffer, _callback_failed, cancelled, _check_callback, _check_socket, _clients, close, connection_lost, connection_made, context, _current_handle, data_received,
        datagram_received, _detach, detach, __dict__, done, _eof, eof_received, error_received, exception,
        _fatal_error, fileno, get_buffer, getpeername, getsockname, is_closing, _limit, message,
        name, pause_reading, pause_writing, _paused, peername, pending, pipe, _proceed, protocol, read, recvfrom,
        resume_reading, resume_writing, select, _selector, send, sendto, set_result, setblocking,
        _slow_callback, slow_callback_duration, socket, sockname, _start_shutdown, _thread_id, time,
        _transport, transport, _waiter, write,
    }
    package {
        /// `rloop.Loop`
        loop_class,
        /// The classes that native transports pass for (`_transports.py`).
        stream_transport,
        /// See `stream_transport`.
        tls_transport,
        /// See `stream_transport`.
        datagram_transport,
        /// See `stream_transport`.
        read_pipe_transport,
        /// See `stream_transport`.
        write_pipe_transport,
        /// Names a callback in reports (`_report.py`).
        format_callback,
        /// Makes a `traceback.StackSummary` of frames (`_report.py`).
        source_traceback,
        /// Called before and after a wait while a profiler is set (`_inside.py`).
        outside_tasks,
    }
    imports {
        af_inet = "socket"."AF_INET",
        af_inet6 = "socket"."AF_INET6",
        buffered_protocol = "asyncio"."BufferedProtocol",
        constants = "asyncio.constants"."__dict__",
        extract_stack = "asyncio.format_helpers"."extract_stack",
        future_names = "asyncio.futures"."__dict__",
        handle = "asyncio"."Handle",
        getswitchinterval = "sys"."getswitchinterval",
        logger = "asyncio.log"."logger",
        native_file = "_io"."FileIO",
        native_socket = "_socket"."socket",
        set_result_unless_cancelled = "asyncio.futures"."_set_result_unless_cancelled",
        sock_dgram = "socket"."SOCK_DGRAM",
        sock_stream = "socket"."SOCK_STREAM",
        socket_class = "socket"."socket",
        task_names = "asyncio.tasks"."__dict__",
        timer_handle = "asyncio"."TimerHandle",
        transport_socket = "asyncio.trsock"."TransportSocket",
    }
}

impl Names {
    /// The class of futures. As in asyncio it is looked up each time, because programs replace it.
    #[inline]
    pub fn future_class<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        of_module(self.future_names.bind(py), intern!(py, "Future")?)
    }

    /// asyncio's `DEBUG_STACK_DEPTH`, which a program may change. None if it is no plain number of frames.
    pub fn debug_stack_depth(&self, py: Python<'_>) -> PyResult<Option<usize>> {
        let depth = of_module(self.constants.bind(py), intern!(py, "DEBUG_STACK_DEPTH")?)?;
        Ok(if depth.is_exact_instance_of::<PyInt>() { depth.extract().ok() } else { None })
    }

    /// The class of tasks. It is looked up each time, as that of futures.
    #[inline]
    pub fn task_class<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        of_module(self.task_names.bind(py), intern!(py, "Task")?)
    }
}

/// A method of `asyncio.BaseEventLoop`, by its name.
fn of_base_event_loop<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("asyncio")?.getattr(intern!(py, "BaseEventLoop")?)?.getattr(new::interned(py, name)?)
}

/// Two facts about the signature of the running version's `create_task`: whether it names its keywords (until CPython
/// 3.13), and whether it passes on keywords that it does not know (since 3.13.3).
pub fn keywords_of_create_task(py: Python<'_>) -> PyResult<(bool, bool)> {
    const CO_VARKEYWORDS: u32 = 8;
    let code = of_base_event_loop(py, "create_task")?.getattr(intern!(py, "__code__")?)?;
    let named: u32 = code.getattr(intern!(py, "co_kwonlyargcount")?)?.extract()?;
    let flags: u32 = code.getattr(intern!(py, "co_flags")?)?.extract()?;
    Ok((named > 0, flags & CO_VARKEYWORDS != 0))
}

#[inline]
fn of_module<'py>(names: &Bound<'py, PyAny>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    names
        .cast::<PyDict>()?
        .get_item(name)?
        .ok_or_else(|| PyAttributeError::new_err(Message(name.to_string())))
}

static NAMES: PyOnceLock<Names> = PyOnceLock::new();

/// Makes the table. Called once, when the package is imported; if it is imported again, the first table stays.
pub fn set_package(py: Python<'_>, package: Package) -> PyResult<()> {
    NAMES.get_or_try_init(py, || caught(|| Names::load(py, package))).map(drop)
}

/// The table. Fails only while the package `rloop` is not imported completely.
#[inline]
pub fn names(py: Python<'_>) -> PyResult<&'static Names> {
    NAMES
        .get(py)
        .ok_or_else(|| PyRuntimeError::new_err(Message("the package rloop is not imported completely")))
}
