//! Every Python object that Rust needs by name, in one table: interned strings and what is imported of asyncio.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

macro_rules! names {
    (strings { $($string:ident),* $(,)? } imports { $($import:ident = $module:literal . $path:literal),* $(,)? }) => {
        /// The table. Strings are interned, so that attribute look-up compares pointers.
        pub struct Names {
            $(pub $string: Py<PyString>,)*
            $(pub $import: Py<PyAny>,)*
            /// The empty string.
            pub empty: Py<PyString>,
            /// The keyword `loop`, which Rust has another use for.
            pub loop_keyword: Py<PyString>,
            /// `BaseEventLoop.create_task`
            pub create_task: Py<PyAny>,
            /// `asyncio.constants._SendfileMode.TRY_NATIVE`
            pub sendfile_try_native: Py<PyAny>,
            /// `asyncio.events._ThreadSafeHandle` (CPython 3.14), or `asyncio.Handle` before.
            pub threadsafe_handle: Py<PyAny>,
            /// Do other threads that cancel a handle wait for its callback? (CPython 3.14)
            pub cancel_waits: bool,
            /// Does `Server._attach` take the transport? (CPython 3.13)
            pub server_counts_transports: bool,
            /// Has the stream transport a `writelines` of its own, with its own texts? (CPython 3.12)
            pub own_writelines: bool,
        }

        impl Names {
            fn load(py: Python<'_>) -> PyResult<Self> {
                Ok(Self {
                    $($string: PyString::intern(py, stringify!($string)).unbind(),)*
                    $($import: py.import($module)?.getattr($path)?.unbind(),)*
                    empty: PyString::intern(py, "").unbind(),
                    loop_keyword: PyString::intern(py, "loop").unbind(),
                    create_task: py.import("asyncio")?.getattr("BaseEventLoop")?.getattr("create_task")?.unbind(),
                    sendfile_try_native: py
                        .import("asyncio.constants")?
                        .getattr("_SendfileMode")?
                        .getattr("TRY_NATIVE")?
                        .unbind(),
                    own_writelines: py.version_info() >= (3, 12),
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
        _accept_tls, _attach, _callback_failed, _current_handle, _detach, _slow_callback,
        buffer_updated, call_exception_handler, call_at, close, connection_lost, connection_made, context, data_received,
        eof_received, exception, fileno, get_buffer, message, name, pause_writing, protocol,
        resume_writing, setblocking, slow_callback_duration, socket, time, transport,
    }
    imports {
        af_inet = "socket"."AF_INET",
        af_inet6 = "socket"."AF_INET6",
        buffered_protocol = "asyncio"."BufferedProtocol",
        extract_stack = "asyncio.format_helpers"."extract_stack",
        format_callback = "rloop._report"."format_callback",
        future = "asyncio"."Future",
        handle = "asyncio"."Handle",
        logger = "asyncio.log"."logger",
        loop_class = "rloop._loop"."Loop",
        set_result_unless_cancelled = "asyncio.futures"."_set_result_unless_cancelled",
        sock_dgram = "socket"."SOCK_DGRAM",
        sock_stream = "socket"."SOCK_STREAM",
        socket_class = "socket"."socket",
        stream_transport = "rloop._transports"."StreamTransport",
        task = "asyncio"."Task",
        timer_handle = "asyncio"."TimerHandle",
        transport_socket = "asyncio.trsock"."TransportSocket",
    }
}

static NAMES: PyOnceLock<Names> = PyOnceLock::new();

/// The table, loaded at the first call. Fails only while asyncio or rloop cannot be imported.
pub fn names(py: Python<'_>) -> PyResult<&'static Names> {
    NAMES.get_or_try_init(py, || Names::load(py))
}
