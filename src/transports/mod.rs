//! Transports: from readiness to calls of protocols, and from writes to system calls.
//!
//! - Decisions, which are pure and need no Python: `lifecycle` (what happens to a connection, and when
//!   `connection_lost` is due), `outbox` (when a write leaves, when the protocol pauses), which is made of `habit`,
//!   `flow`, `write_queue` and `datagram_queue`; `peers` and `framing`.
//! - What a stream knows of a layer on it: `above`.
//! - What all transports share. `shell` holds the parts of a transport. `transport` starts and ends it, reads on and
//!   sends. `sender` is for the transports that send. `class` has the methods that Python sees. `protocol` alone calls
//!   protocols, and reports their exceptions; `stream_reader` does natively what asyncio's protocol of streams does
//!   with bytes. `socket` is the file under a transport. `receiving` is the memory that bytes are received into.
//!   `water_marks` reads the marks that a program sets, and `inside` serves programs that look at private attributes of
//!   asyncio's transports.
//! - The kinds of transports: `stream`, `datagram`, `pipe`, and `tls`, which is a layer on a stream.
//! - Where connections come from: `listener` and `bare`.
//!
//! Three laws. A decision is taken in one borrow of the state, and Python is called only outside of it. Protocols are
//! called by `protocol` alone. A kind knows no other kind, but for `tls`, which knows `stream`.

pub mod datagram_queue;
pub mod flow;
pub mod framing;
pub mod habit;
pub mod lifecycle;
pub mod outbox;
pub mod peers;
pub mod write_queue;

#[cfg(feature = "python")]
pub mod above;
#[cfg(feature = "python")]
pub mod bare;
#[cfg(feature = "python")]
mod class;
#[cfg(feature = "python")]
pub mod datagram;
#[cfg(feature = "python")]
pub mod inside;
#[cfg(feature = "python")]
pub mod listener;
#[cfg(feature = "python")]
pub mod pipe;
#[cfg(feature = "python")]
pub mod protocol;
#[cfg(feature = "python")]
pub mod receiving;
#[cfg(feature = "python")]
pub mod sender;
#[cfg(feature = "python")]
pub mod shell;
#[cfg(feature = "python")]
pub mod socket;
#[cfg(feature = "python")]
pub mod stream;
#[cfg(feature = "python")]
mod stream_reader;
#[cfg(feature = "python")]
pub mod tls;
#[cfg(feature = "python")]
pub mod transport;
#[cfg(feature = "python")]
mod water_marks;

/// Puts the methods on the classes that are called for each packet, and so are raw.
#[cfg(feature = "python")]
pub fn add_raw_methods(py: pyo3::Python<'_>) -> pyo3::PyResult<()> {
    use crate::py::fastcall::raw_methods;

    raw_methods! { stream::StreamTransport, &py.get_type::<stream::StreamTransport>(),
        write("($self, /, data)"): "Sends bytes, or queues what the kernel does not take. Never blocks.",
    }
    raw_methods! { pipe::WritePipeTransport, &py.get_type::<pipe::WritePipeTransport>(),
        write("($self, /, data)"): "Sends bytes, or queues what the kernel does not take. Never blocks.",
    }
    raw_methods! { datagram::DatagramTransport, &py.get_type::<datagram::DatagramTransport>(),
        sendto("($self, /, data, addr=None)"): "Sends a datagram, or queues what the kernel does not take. Never blocks.",
    }
    raw_methods! { tls::TlsTransport, &py.get_type::<tls::TlsTransport>(),
        write("($self, /, data)"): "Encrypts and sends bytes, or queues what the kernel does not take. Never blocks.",
    }
    Ok(())
}
