//! What a stream transport knows of a layer on it.
//!
//! A layer is a protocol to the transport below, and gives the program a transport of its own; TLS is the only one. The
//! stream must not know the class of its layers, because TLS knows the stream: so a layer brings a table of functions
//! along, as transports do for the core (`core::Kind`). What a layer does with the bytes is its own business.

use std::io;

use pyo3::prelude::*;

use crate::reactor::sys::ReadBuf;

/// Receives into the memory that it is given, and returns the number of bytes. 0 is the end of the stream.
pub type Receive<'a> = &'a mut dyn FnMut(&mut ReadBuf<'_>) -> io::Result<usize>;

/// What a layer has done when there was something to receive.
pub enum Received {
    /// It has received bytes, and used them.
    Data,
    /// It has met the end of the stream or an error. What follows from that is the transport's business.
    Other(io::Result<usize>),
    /// It has received nothing, because it has not used all of what came before. It has the transport go on later.
    Later,
}

/// How to call a layer. Each function gets the layer's own object.
pub struct LayerKind {
    /// Called instead of `data_received()`, so that no Python object is made of encrypted bytes.
    pub receive: fn(&Bound<'_, PyAny>, Receive<'_>) -> PyResult<Received>,
    /// The transport has less to send than before.
    pub queue_shrunk: fn(&Bound<'_, PyAny>) -> PyResult<()>,
}

/// The base of every class of layers.
#[pyclass(subclass, frozen, module = "rloop._rloop")]
pub struct NativeLayer {
    /// None in an object that was not made to the end (see `py::made`): its memory is all zeroes.
    kind: Option<&'static LayerKind>,
}

impl NativeLayer {
    /// For the constructor of a layer's class. `kind`: how a stream calls layers of that class.
    pub fn new(kind: &'static LayerKind) -> Self {
        Self { kind: Some(kind) }
    }

    /// How to call `protocol`, if it is a layer.
    pub fn kind_of(protocol: &Bound<'_, PyAny>) -> Option<&'static LayerKind> {
        protocol.cast::<Self>().ok()?.get().kind
    }
}
