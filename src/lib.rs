//! rloop: an asyncio event loop in Rust.
//!
//! - `reactor`: polling for readiness, timers, the ready queue, wake-ups from other threads. Pure Rust; it needs no
//!   Python.
//! - `transports`: from readiness to calls of protocols, and from writes to system calls. Its decisions are pure, too.
//! - `py`: what the crate needs of Python itself. `error`: errors of Rust as exceptions of Python.
//! - `handle`: callbacks. `core`: the state of a loop. `run`: one turn of it.
//! - `event_loop`: what Python sees of a loop. `rloop.Loop` in `python/rloop` completes it.
//! - `event_loop::faults`: system calls that fail on purpose, with the feature `faults`, which no wheel has.
//! - `embed`: loops for Rust programs that host Python, with the feature of that name.
//!
//! This file has no logic. It is a map, and the list of what the extension module exports.

#![deny(missing_docs)]

// Every module has `cfg(unix)`, so that this sentence is the only error on Windows.
#[cfg(not(unix))]
compile_error!(
    "rloop does not run on Windows: it needs a Unix system, and is made for Linux. On Windows use asyncio's own loop."
);

// These two are public only so that they can be tested without Python. The API for hosts is `embed`.
#[cfg(unix)]
#[doc(hidden)]
pub mod reactor;
#[cfg(unix)]
#[doc(hidden)]
pub mod transports;

#[cfg(all(unix, feature = "embed"))]
pub mod embed;

#[cfg(all(unix, feature = "python"))]
mod core;
#[cfg(all(unix, feature = "python"))]
mod error;
#[cfg(all(unix, feature = "python"))]
mod event_loop;
#[cfg(all(unix, feature = "python"))]
mod handle;
#[cfg(all(unix, feature = "python"))]
mod py;
#[cfg(all(unix, feature = "python"))]
mod run;

/// The extension module `rloop._rloop`. `gil_used`: it needs the GIL, which free-threaded builds of CPython turn on
/// then.
#[cfg(all(unix, feature = "python"))]
#[pyo3::pymodule(gil_used = true)]
mod _rloop {
    use pyo3::prelude::*;

    use crate::event_loop::{
        EventLoop, Poll, Publisher, ReadyHandles, Timers, Watcher, complete, new_event_loop, relay_once,
        resolved,
    };
    use crate::handle::{Handle, TimerHandle};
    use crate::transports::bare::BareSocket;
    use crate::transports::datagram::DatagramTransport;
    use crate::transports::listener::Listener;
    use crate::transports::pipe::{ReadPipeTransport, WritePipeTransport};
    use crate::transports::stream::StreamTransport;
    use crate::transports::tls::{TlsLayer, TlsTransport};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // First of all: a class is made once in a process, from the objects of one interpreter.
        crate::py::interpreter::refuse_subinterpreter(module.py())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add_class::<BareSocket>()?;
        module.add_class::<DatagramTransport>()?;
        module.add_class::<EventLoop>()?;
        module.add_class::<Handle>()?;
        module.add_class::<Listener>()?;
        module.add_class::<Poll>()?;
        module.add_class::<Publisher>()?;
        module.add_class::<ReadPipeTransport>()?;
        module.add_class::<ReadyHandles>()?;
        module.add_class::<StreamTransport>()?;
        module.add_class::<TimerHandle>()?;
        module.add_class::<Timers>()?;
        module.add_class::<TlsLayer>()?;
        module.add_class::<TlsTransport>()?;
        module.add_class::<Watcher>()?;
        module.add_class::<WritePipeTransport>()?;
        module.add_function(wrap_pyfunction!(complete, module)?)?;
        module.add_function(wrap_pyfunction!(new_event_loop, module)?)?;
        module.add_function(wrap_pyfunction!(relay_once, module)?)?;
        module.add_function(wrap_pyfunction!(resolved, module)?)?;
        #[cfg(feature = "faults")]
        crate::event_loop::faults::add(module)?;
        crate::py::context::find_current(module.py())?;
        crate::event_loop::add_raw_methods(&module.py().get_type::<EventLoop>())?;
        crate::transports::add_raw_methods(module.py())
    }
}
