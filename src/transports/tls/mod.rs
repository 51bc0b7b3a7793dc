//! TLS: a layer between a transport, which carries the encrypted bytes, and the program's protocol, which gets clear
//! ones. To the transport below the layer is the protocol; to the program it gives a transport of its own
//! (`transport.rs`).
//!
//! What happens per packet is done in this folder: `reading.rs` decrypts what the transport below has received,
//! `writing.rs` encrypts what the program writes; both ask the connection's engine (`engine.rs`) to do it. What happens
//! once in a connection (handshake, shutdown, timeouts, errors) is done in Python, by `TlsProtocol` in `_tls.py`. That
//! is a subclass of [`TlsLayer`], and the class of all layers. The model of both is asyncio's `sslproto.SSLProtocol`.
//!
//! An error of OpenSSL is raised by `_ssl`, as its own exception, in the engine. `TlsLayer::fail` takes it from there
//! to `TlsProtocol._fatal_error`, which ends the transport below with it: the program gets it in `connection_lost`.
//! The loop's exception handler is not told of it, because `ssl.SSLError` is an OSError; it is told of any other
//! exception. An error in the handshake goes to whoever waits for the connection.
//!
//! This file has the layer's state, and the methods by which `TlsProtocol` and transports use it. As in all transports,
//! a method looks at the state and changes it inside one `state.with`. It calls Python and the engine, which may call
//! Python, only outside.

mod direct;
mod ends;
mod engine;
mod outcome;
mod portable;
mod reading;
mod transport;
mod writing;

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::above::{LayerKind, NativeLayer};
use super::flow::{Flow, Queue};
use super::outbox::Outbox;
use super::sender::Sender;
use super::stream::StreamTransport;
use super::write_queue::WriteQueue;
use crate::core::{CoreRef, Kind, LoopCore};
use crate::error::{Message, leaves_the_loop, no_memory};
use crate::handle::Callback;
use crate::py::bytes::Chunk;
use crate::py::cell::LoopCell;
use crate::py::made::{Made, derefs_to_made};
use crate::py::new::{self, intern};
use crate::py::openssl::Objects;
use engine::Engine;
use reading::End;
pub use transport::TlsTransport;

/// The default high-water mark, in bytes (asyncio's `constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE`).
const HIGH_WATER: u32 = 512 * 1024;

/// Which phase a connection is in (asyncio's `SSLProtocolState`). A connection goes from each phase to the next, or
/// from any phase back to the first, which is also the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Unwrapped,
    Handshake,
    Wrapped,
    /// The connection is closing. What has come is still delivered, and what was written is still sent.
    Flushing,
    /// The connection is closing, and close_notify is exchanged.
    Shutdown,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Unwrapped, Self::Handshake, Self::Wrapped, Self::Flushing, Self::Shutdown];

    /// The transitions that asyncio's `SSLProtocol._set_state` allows.
    fn may_become(self, next: Self) -> bool {
        next == Self::Unwrapped || next as u8 == self as u8 + 1
    }

    /// True if the program's bytes are encrypted and decrypted in this phase.
    fn carries_data(self) -> bool {
        matches!(self, Self::Wrapped | Self::Flushing)
    }
}

/// The native part of a layer: the base class of `TlsProtocol`.
#[pyclass(extends = NativeLayer, subclass, frozen, module = "rloop._rloop")]
pub struct TlsLayer(Made<Layer>);

/// What a [`TlsLayer`] holds.
pub struct Layer {
    core: Arc<LoopCore>,
    event_loop: Py<PyAny>,
    /// What encrypts and decrypts. Set once, by `_open`.
    engine: OnceLock<Engine>,
    /// A [`Phase`].
    phase: AtomicU8,
    /// A call is scheduled that reads what is left of what was received. Until it is made, the transport below receives
    /// nothing more.
    reads_on: AtomicBool,
    /// Nothing more is received before the transport below has sent more: see `owes_answers`.
    owes: AtomicBool,
    state: LoopCell<State>,
}

derefs_to_made! { TlsLayer => Layer }

/// What changes while the layer lives, and is touched with the interpreter held only.
struct State {
    /// The transport below. None before `connection_made` and after `connection_lost`.
    lower: Option<Py<PyAny>>,
    /// The program's protocol. None once `connection_lost` was called.
    protocol: Option<Py<PyAny>>,
    /// Is the protocol a `BufferedProtocol`?
    buffered: bool,
    /// The program has paused reading, and this layer has paused the transport below.
    paused: bool,
    /// The protocol has left the loop, by KeyboardInterrupt for instance, when it got some data. This is what was read
    /// behind the data.
    end: Option<End>,
    /// What was written and is still to be encrypted. It is blocked while the transport below has paused this layer.
    outbox: Outbox<WriteQueue<Chunk>>,
}

/// How the loop calls layers, which have no fd.
static KIND: Kind = Kind { flush: TlsLayer::flush, ..Kind::NOTHING };

/// How the stream transport below calls layers.
static LAYER_KIND: LayerKind = LayerKind {
    receive: TlsLayer::receive,
    queue_shrunk: |layer| {
        let layer = layer.cast::<TlsLayer>()?;
        // Also when the program's protocol leaves the loop: nothing else has the transport below receive again.
        TlsLayer::queue_shrunk(layer).and(layer.get().sent_below(layer.py()))
    },
};

impl TlsLayer {
    /// The phase, as Python has set it last.
    pub fn phase(&self) -> Phase {
        Phase::ALL.get(self.phase.load(Relaxed) as usize).copied().unwrap_or(Phase::Unwrapped)
    }

    /// What encrypts and decrypts; an error before `_open`.
    fn engine(&self) -> PyResult<&Engine> {
        self.engine.get().ok_or_else(|| PyRuntimeError::new_err(Message("the TLS layer is not open")))
    }

    /// The transport below. Unless it is a stream of ours it is called by asyncio's methods.
    fn lower<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.state.with(py, |state| state.lower.as_ref().map(|lower| lower.bind(py).clone()))
    }

    /// The transport below, if it is a stream of ours, which is called natively.
    fn stream<'py>(&self, py: Python<'py>) -> Option<Bound<'py, StreamTransport>> {
        self.lower(py)?.cast_into_exact().ok()
    }

    fn protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.state.with(py, |state| state.protocol.as_ref().map(|protocol| protocol.bind(py).clone()))
    }

    /// Takes another protocol, or none. It may be of another kind than the last one.
    fn adopt(&self, py: Python<'_>, protocol: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let buffered = match protocol {
            Some(protocol) => protocol.is_instance(self.core.names.buffered_protocol.bind(py))?,
            None => false,
        };
        let previous = self.state.with(py, |state| {
            state.buffered = buffered;
            std::mem::replace(&mut state.protocol, protocol.map(|protocol| protocol.clone().unbind()))
        });
        drop(previous);
        Ok(())
    }

    /// Has Python end the connection because of `error`. Err: the error is one that leaves the loop, and nothing was
    /// done.
    #[cold]
    fn fail(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        if leaves_the_loop(py, &error) {
            return Err(error);
        }
        let args = (error.into_value(py), new::string(py, "Fatal error on SSL protocol")?);
        slf.call_method1(&slf.get().core.names._fatal_error, args).map(drop)
    }

    /// True if the transport below is closing; so is this one then.
    fn lower_is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        match self.lower(py) {
            Some(lower) => lower.call_method0(&self.core.names.is_closing)?.is_truthy(),
            None => Ok(false),
        }
    }

    /// The program pauses reading: nothing more is received, and what is decrypted already is delivered later. While the
    /// connection is closing, the peer's close_notify is received all the same.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let paused = this.state.with(py, |state| std::mem::replace(&mut state.paused, true));
        match this.lower(py).filter(|_| !paused && !this.drops_writes()) {
            Some(lower) => lower.call_method0(&this.core.names.pause_reading).map(drop),
            None => Ok(()),
        }
    }

    /// Goes on in the next turn, as asyncio does: what has been received meanwhile is delivered first.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if !this.state.with(py, |state| std::mem::replace(&mut state.paused, false)) {
            return Ok(());
        }
        Self::call_soon(slf, intern!(py, "_resumed")?)
    }

    /// Has a method of the layer called in the next turn.
    fn call_soon(slf: &Bound<'_, Self>, method: &Bound<'_, PyString>) -> PyResult<()> {
        let this = slf.get();
        let callback = Callback { callback: slf.getattr(method)?, args: &[], context: None };
        this.core.call_soon(this.event_loop.bind(slf.py()), callback).map(drop)
    }

    /// How many bytes wait to be sent, in this layer and in the transport below.
    fn queued(&self, py: Python<'_>) -> usize {
        self.queued_below(py) + self.state.with(py, |state| state.outbox.queue.size())
    }

    /// How many bytes wait in the transport below. Of one that is no stream of ours it is not known.
    fn queued_below(&self, py: Python<'_>) -> usize {
        self.stream(py).map_or(0, |stream| stream.get().queued(py))
    }
}

#[pymethods]
impl TlsLayer {
    #[new]
    fn new(event_loop: &Bound<'_, PyAny>) -> PyResult<PyClassInitializer<Self>> {
        let py = event_loop.py();
        let layer = Layer {
            core: event_loop.getattr(intern!(py, "_core")?)?.cast::<CoreRef>()?.get().0.clone(),
            event_loop: event_loop.clone().unbind(),
            engine: OnceLock::new(),
            phase: AtomicU8::new(Phase::Unwrapped as u8),
            reads_on: AtomicBool::new(false),
            owes: AtomicBool::new(false),
            state: LoopCell::new(State {
                lower: None,
                protocol: None,
                buffered: false,
                paused: false,
                end: None,
                outbox: Outbox::new(WriteQueue::default(), Flow::with_high(HIGH_WATER), 0),
            }),
        };
        let base = PyClassInitializer::from(NativeLayer::new(&LAYER_KIND));
        Ok(base.add_subclass(Self(Made::new(layer))))
    }

    /// Gives the layer the objects that it works with. True: it calls OpenSSL's own functions.
    fn _open(&self, objects: Objects<'_>, direct: bool) -> bool {
        self.engine.get_or_init(|| Engine::new(&objects, direct)).is_direct()
    }

    #[getter(_state)]
    fn get_state(&self) -> u8 {
        self.phase() as u8
    }

    /// Raises RuntimeError if the connection cannot go to this phase from the one it is in.
    #[setter(_state)]
    fn set_state(&self, py: Python<'_>, next: u8) -> PyResult<()> {
        match Phase::ALL.get(next as usize) {
            Some(&next) if self.phase().may_become(next) => {
                self.phase.store(next as u8, Relaxed);
                match next {
                    // `unwrap` gets to see what was not delivered.
                    Phase::Shutdown => self.engine()?.hand_over(py),
                    _ => Ok(()),
                }
            }
            next => Err(PyRuntimeError::new_err(Message(format!(
                "cannot switch state from {:?} to {next:?}",
                self.phase()
            )))),
        }
    }

    #[getter(_transport)]
    fn get_transport<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.lower(py)
    }

    #[setter(_transport)]
    fn set_transport(&self, py: Python<'_>, transport: Option<&Bound<'_, PyAny>>) {
        let lower = transport.map(|transport| transport.clone().unbind());
        drop(self.state.with(py, |state| std::mem::replace(&mut state.lower, lower)));
    }

    #[getter(_app_protocol)]
    fn get_app_protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.protocol(py)
    }

    #[setter(_app_protocol)]
    fn set_app_protocol(&self, py: Python<'_>, protocol: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        self.adopt(py, protocol)
    }

    #[getter(_app_reading_paused)]
    fn is_paused(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.paused)
    }

    /// Takes bytes that were received elsewhere, to be read before all that is still to come.
    fn _feed(&self, py: Python<'_>, data: &[u8]) -> PyResult<()> {
        let engine = self.engine()?;
        engine.ends().feed(data).map_err(|_| no_memory())?;
        engine.hand_over(py)
    }

    /// Delivers what can be decrypted of what was received.
    fn _read_on(slf: &Bound<'_, Self>) -> PyResult<()> {
        let read = Self::read_app(slf);
        read.and(slf.get().receive_on(slf.py()))
    }

    /// Encrypts everything that is queued, and hands it down.
    fn _send_all(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::encrypt(slf, true)
    }

    /// Hands down what OpenSSL wants to have sent.
    fn _send_output(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::send_output(slf)
    }

    /// Forgets what is queued: the connection is lost.
    fn _drop_queued(&self, py: Python<'_>) -> PyResult<()> {
        let dropped = self.state.with(py, |state| {
            // asyncio counts the end itself as the first lost write.
            state.outbox.lose();
            (state.outbox.queue.take(), state.end.take())
        });
        drop(dropped);
        self.engine()?.ends().clear();
        Ok(())
    }

    /// The step after `resume_reading`.
    fn _resumed(slf: &Bound<'_, Self>) -> PyResult<()> {
        let proceeded = Self::proceed(slf);
        let (py, this) = (slf.py(), slf.get());
        let paused = this.state.with(py, |state| state.paused);
        // Also when that leaves the loop: nothing else resumes the transport below.
        let resumed = match this.lower(py).filter(|_| !paused) {
            Some(lower) => lower.call_method0(&this.core.names.resume_reading).map(drop),
            None => Ok(()),
        };
        proceeded.and(this.receive_on(py)).and(resumed)
    }

    // The methods that the transport below calls. A stream transport calls `receive` instead of `data_received`.

    /// For a transport below that is not ours. Its bytes are copied once more than those of a stream of ours.
    fn data_received(slf: &Bound<'_, Self>, data: &[u8]) -> PyResult<()> {
        slf.get().engine()?.ends().feed(data).map_err(|_| no_memory())?;
        Self::proceed(slf)
    }

    /// The transport below takes no more: what the program writes waits in clear. The program's protocol is told when
    /// that is more than the high-water mark.
    fn pause_writing(&self, py: Python<'_>) {
        self.state.with(py, |state| state.outbox.blocked = true);
    }

    /// The transport below takes more: what has waited is encrypted.
    fn resume_writing(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().state.with(slf.py(), |state| state.outbox.blocked = false);
        Self::encrypt(slf, false)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(this) = self.0.get() else {
            return Ok(());
        };
        visit.call(&this.event_loop)?;
        if let Some(engine) = this.engine.get() {
            engine.traverse(&visit)?;
        }
        this.state
            .peek(&visit, |state| {
                visit.call(&state.protocol)?;
                visit.call(&state.lower)
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = self.state.with(py, |state| (state.protocol.take(), state.lower.take()));
        drop(cleared);
    }
}
