//! Every Python object that Rust needs by name, in one table: interned strings and what is imported of asyncio.

use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};

use super::fastcall::caught;
use super::new::{self, intern};
use super::profiling::ProfileFunction;

macro_rules! names {
    (strings { $($string:ident),* $(,)? } imports { $($import:ident = $module:literal . $path:literal),* $(,)? }) => {
        /// The table. Strings are interned, so that attribute look-up compares pointers.
        pub struct Names {
            $(pub $string: Py<PyString>,)*
            $(pub $import: Py<PyAny>,)*
            /// How to see that a profiler is at work.
            pub profile_function: ProfileFunction,
            /// The empty string.
            pub empty: Py<PyString>,
            /// The keyword `loop`, which Rust has another use for.
            pub loop_keyword: Py<PyString>,
            /// `BaseEventLoop.create_task`
            pub create_task: Py<PyAny>,
            /// `asyncio.constants._SendfileMode.TRY_NATIVE`
            pub sendfile_try_native: Py<PyAny>,
            /// `asyncio.constants._SendfileMode.FALLBACK`
            pub sendfile_fallback: Py<PyAny>,
            /// `asyncio.events._ThreadSafeHandle` (CPython 3.14), or `asyncio.Handle` before.
            pub threadsafe_handle: Py<PyAny>,
            /// Do other threads that cancel a handle wait for its callback? (CPython 3.14)
            pub cancel_waits: bool,
            /// Does `Server._attach` take the transport? (CPython 3.13)
            pub server_counts_transports: bool,
            /// Has the stream transport a `writelines` of its own, with its own texts? (CPython 3.12)
            pub own_writelines: bool,
            /// Does the size of a queue of datagrams count their headers? (CPython 3.13)
            pub datagram_headers: bool,
        }

        impl Names {
            fn load(py: Python<'_>) -> PyResult<Self> {
                Ok(Self {
                    $($string: new::interned(py, stringify!($string))?.unbind(),)*
                    $($import: py.import($module)?.getattr($path)?.unbind(),)*
                    empty: new::interned(py, "")?.unbind(),
                    loop_keyword: new::interned(py, "loop")?.unbind(),
                    create_task: py.import("asyncio")?.getattr("BaseEventLoop")?.getattr("create_task")?.unbind(),
                    sendfile_try_native: py
                        .import("asyncio.constants")?
                        .getattr("_SendfileMode")?
                        .getattr("TRY_NATIVE")?
                        .unbind(),
                    sendfile_fallback: py
                        .import("asyncio.constants")?
                        .getattr("_SendfileMode")?
                        .getattr("FALLBACK")?
                        .unbind(),
                    profile_function: ProfileFunction::find(py),
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
        detach, _accept_tls, _attach, _callback_failed, _current_handle, _detach, _selector, _slow_callback, __dict__, _thread_id,
        _call_eof_received, _fatal_error, _get_extra_info, _proceed, _start_shutdown,
        buffer_updated, call_exception_handler, call_at, close, connection_lost, connection_made, context, data_received,
        datagram_received, done, eof_received, error_received, exception, fileno, get_buffer, getpeername, getsockname,
        is_closing, message, name, pause_reading, pause_writing, peername, pending, pipe, protocol, read, recvfrom,
        resume_reading, resume_writing, select, send, sendto, set_result, setblocking, slow_callback_duration, sockname, socket, time,
        transport, write,
    }
    imports {
        outside_tasks = "rloop._inside"."outside_tasks",
        af_inet = "socket"."AF_INET",
        af_inet6 = "socket"."AF_INET6",
        buffered_protocol = "asyncio"."BufferedProtocol",
        datagram_transport = "rloop._transports"."DatagramTransport",
        extract_stack = "asyncio.format_helpers"."extract_stack",
        future_names = "asyncio.futures"."__dict__",
        format_callback = "rloop._report"."format_callback",
        handle = "asyncio"."Handle",
        logger = "asyncio.log"."logger",
        native_file = "_io"."FileIO",
        native_socket = "_socket"."socket",
        loop_class = "rloop._loop"."Loop",
        getswitchinterval = "sys"."getswitchinterval",
        read_pipe_transport = "rloop._transports"."ReadPipeTransport",
        set_result_unless_cancelled = "asyncio.futures"."_set_result_unless_cancelled",
        sock_dgram = "socket"."SOCK_DGRAM",
        sock_stream = "socket"."SOCK_STREAM",
        socket_class = "socket"."socket",
        stream_transport = "rloop._transports"."StreamTransport",
        task_names = "asyncio.tasks"."__dict__",
        tls_transport = "rloop._transports"."SSLTransport",
        timer_handle = "asyncio"."TimerHandle",
        transport_socket = "asyncio.trsock"."TransportSocket",
        write_pipe_transport = "rloop._transports"."WritePipeTransport",
    }
}

impl Names {
    /// The class of futures; like asyncio, asked for each time: programs put their own in its place.
    #[inline]
    pub fn future_class<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        of_module(self.future_names.bind(py), intern!(py, "Future")?)
    }

    /// The class of tasks, likewise.
    #[inline]
    pub fn task_class<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        of_module(self.task_names.bind(py), intern!(py, "Task")?)
    }
}

#[inline]
fn of_module<'py>(names: &Bound<'py, PyAny>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    names.cast::<PyDict>()?.get_item(name)?.ok_or_else(|| PyAttributeError::new_err(name.to_string()))
}

static NAMES: PyOnceLock<Names> = PyOnceLock::new();

/// The table, loaded at the first call. Fails only while asyncio or rloop cannot be imported, or without memory.
pub fn names(py: Python<'_>) -> PyResult<&'static Names> {
    NAMES.get_or_try_init(py, || caught(|| Names::load(py)))
}
