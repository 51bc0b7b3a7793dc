//! rloop: an asyncio event loop in Rust.
//!
//! - `reactor`: readiness polling, timers, the ready queue, cross-thread wake-ups. Pure Rust; needs no Python.
//! - `transports`: from readiness to protocols and from writes to system calls; their decisions are pure too.
//! - `py`: what the crate needs of Python itself; `error`: Rust's errors as Python's exceptions.
//! - `handle`: callbacks. `core`: the state of a loop. `run`: one turn of it.
//! - `event_loop`: what Python sees of a loop; `rloop.Loop` in `python/rloop` completes it.
//! - `embed`: loops for Rust programs that host Python, with the feature of that name.
//!
//! No logic here: a map, and the list of what the extension module exports.

#![deny(missing_docs)]

// Public for the tests without Python only; what hosts may use is `embed`.
#[doc(hidden)]
pub mod reactor;
#[doc(hidden)]
pub mod transports;

#[cfg(feature = "embed")]
pub mod embed;

#[cfg(feature = "python")]
mod core;
#[cfg(feature = "python")]
mod error;
#[cfg(feature = "python")]
mod event_loop;
#[cfg(feature = "python")]
mod handle;
#[cfg(feature = "python")]
mod py;
#[cfg(feature = "python")]
mod run;

/// The extension module `rloop._rloop`. It says that it needs the GIL: CPython's builds without one turn it on then.
#[cfg(feature = "python")]
#[pyo3::pymodule(gil_used = true)]
mod _rloop {
    use pyo3::prelude::*;

    use crate::event_loop::{EventLoop, Poll, ReadyHandles, Timers, add_raw_methods, new_event_loop};
    use crate::handle::{Handle, TimerHandle};
    use crate::transports::bare::BareSocket;
    use crate::transports::datagram::DatagramTransport;
    use crate::transports::listener::Listener;
    use crate::transports::pipe::{ReadPipeTransport, WritePipeTransport};
    use crate::transports::stream::StreamTransport;
    use crate::transports::tls::{TlsLayer, TlsTransport};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // Before any class is made: classes are made once in a process, of the objects of one interpreter.
        crate::py::interpreter::refuse_subinterpreter(module.py())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add_class::<BareSocket>()?;
        module.add_class::<DatagramTransport>()?;
        module.add_class::<EventLoop>()?;
        module.add_class::<Handle>()?;
        module.add_class::<Listener>()?;
        module.add_class::<Poll>()?;
        module.add_class::<ReadPipeTransport>()?;
        module.add_class::<ReadyHandles>()?;
        module.add_class::<StreamTransport>()?;
        module.add_class::<TimerHandle>()?;
        module.add_class::<Timers>()?;
        module.add_class::<TlsLayer>()?;
        module.add_class::<TlsTransport>()?;
        module.add_class::<WritePipeTransport>()?;
        module.add_function(wrap_pyfunction!(add_raw_methods, module)?)?;
        module.add_function(wrap_pyfunction!(new_event_loop, module)?)?;
        crate::py::context::find_current(module.py())?;
        crate::event_loop::add_raw_methods(&module.py().get_type::<EventLoop>())?;
        crate::transports::datagram::add_raw_methods(module.py())?;
        crate::transports::pipe::add_raw_methods(module.py())?;
        crate::transports::stream::add_raw_methods(module.py())?;
        crate::transports::tls::add_raw_methods(module.py())
    }
}
