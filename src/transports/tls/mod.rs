//! TLS between a transport and a protocol: encrypted bytes below, clear ones above.
//!
//! What happens per packet is here: `reading.rs` decrypts what the lower transport has received, `writing.rs` encrypts
//! what was written in a turn. What happens once a connection (handshake, shutdown, timeouts, errors) is Python's, in
//! `TlsProtocol` of `_tls.py`, which is the class of all layers; the model is asyncio's `sslproto.SSLProtocol`.
//! `transport.rs` is what the program gets to hold. Here are the layer's state and Python's access to it.
//!
//! The rule for every method is the stream transport's: look at the state and change it inside one `state.with`, call
//! Python, the engine included, only outside.

mod ends;
mod engine;
mod openssl;
mod portable;
mod reading;
mod transport;
mod writing;

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::above::{LayerKind, NativeLayer};
use super::flow::Flow;
use super::habit::Habit;
use super::stream::StreamTransport;
use super::write_queue::WriteQueue;
use crate::core::{CoreRef, Kind, LoopCore};
use crate::handle::Callback;
use crate::py::bytes::Chunk;
use crate::py::cell::LoopCell;
use crate::py::made::Made;
use crate::py::new::intern;
use engine::Engine;
use reading::End;
pub use transport::{TlsTransport, add_raw_methods};

/// Default high-water marks, in bytes (asyncio's `constants.FLOW_CONTROL_HIGH_WATER_SSL_*`).
const HIGH_WATER_WRITE: i64 = 512 * 1024;
const HIGH_WATER_READ: i64 = 256 * 1024;

/// Where a connection is (asyncio's `SSLProtocolState`). It moves forward by one, or back to the start, which is also
/// the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Unwrapped,
    Handshake,
    Wrapped,
    /// Closing: what has come is still delivered.
    Flushing,
    /// Closing: close_notify is exchanged.
    Shutdown,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Unwrapped, Self::Handshake, Self::Wrapped, Self::Flushing, Self::Shutdown];

    fn may_become(self, next: Self) -> bool {
        next == Self::Unwrapped || next as u8 == self as u8 + 1
    }
}

/// The layer. A protocol to the transport below.
#[pyclass(extends = NativeLayer, subclass, frozen, module = "rloop._rloop")]
pub struct TlsLayer(Made<Layer>);

/// What a [`TlsLayer`] holds.
pub struct Layer {
    core: Arc<LoopCore>,
    event_loop: Py<PyAny>,
    /// Set once, by `_open`.
    engine: OnceLock<Engine>,
    phase: AtomicU8,
    /// A call that reads what is left of what was received is scheduled.
    reads_on: AtomicBool,
    state: LoopCell<State>,
}

impl Deref for TlsLayer {
    type Target = Layer;

    #[inline(always)]
    fn deref(&self) -> &Layer {
        &self.0
    }
}

struct State {
    /// None before `connection_made` and after `connection_lost`.
    lower: Option<Lower>,
    /// None once `connection_lost` was called.
    protocol: Option<Py<PyAny>>,
    /// Is the protocol a `BufferedProtocol`?
    buffered: bool,
    /// The program has paused reading; so has this layer the transport below.
    paused: bool,
    /// What was read behind the data with which the protocol has left the loop.
    end: Option<End>,
    /// What is to be encrypted.
    queue: WriteQueue<Chunk>,
    flow: Flow,
    read_limits: Flow,
    /// The transport below takes no more for now.
    lower_paused: bool,
    /// When to send.
    habit: Habit,
    /// The loop will call `flush`, for something is kept back.
    gathering: bool,
    /// Writes after the end, and the end itself, as asyncio counts them.
    conn_lost: u32,
}

/// The transport below.
enum Lower {
    Stream(Py<StreamTransport>),
    /// Any other, TLS for instance, by asyncio's methods.
    Other(Py<PyAny>),
}

impl Lower {
    fn of(transport: &Bound<'_, PyAny>) -> Self {
        match transport.cast_exact::<StreamTransport>() {
            Ok(stream) => Self::Stream(stream.clone().unbind()),
            Err(_) => Self::Other(transport.clone().unbind()),
        }
    }

    fn as_object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self {
            Self::Stream(stream) => stream.bind(py).clone().into_any(),
            Self::Other(object) => object.bind(py).clone(),
        }
    }
}

/// How the loop calls layers; they have no fd.
static KIND: Kind = Kind { on_ready: |_, _| Ok(()), flush: TlsLayer::flush, owns_fd: |_| false };

/// How the stream transport below calls layers.
static LAYER_KIND: LayerKind =
    LayerKind { receive: TlsLayer::receive, queue_shrunk: |layer| TlsLayer::queue_shrunk(layer.cast()?) };

impl TlsLayer {
    pub fn phase(&self) -> Phase {
        Phase::ALL.get(self.phase.load(Relaxed) as usize).copied().unwrap_or(Phase::Unwrapped)
    }

    /// What does the work; an error before `_open`.
    fn engine(&self) -> PyResult<&Engine> {
        self.engine.get().ok_or_else(|| PyRuntimeError::new_err("the TLS layer is not open"))
    }

    /// The transport below, if it is one that can be called natively.
    fn stream<'py>(&self, py: Python<'py>) -> Option<Bound<'py, StreamTransport>> {
        self.state.with(py, |state| match &state.lower {
            Some(Lower::Stream(stream)) => Some(stream.bind(py).clone()),
            _ => None,
        })
    }

    fn lower<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.state.with(py, |state| state.lower.as_ref().map(|lower| lower.as_object(py)))
    }

    fn protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.state.with(py, |state| state.protocol.as_ref().map(|protocol| protocol.bind(py).clone()))
    }

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

    /// Has Python end the connection because of `error`.
    #[cold]
    fn fail(slf: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = slf.py();
        if crate::error::leaves_the_loop(py, &error) {
            return Err(error);
        }
        slf.call_method1(&slf.get().core.names._fatal_error, (error.into_value(py), message)).map(drop)
    }

    /// True if the transport below is closing; so is this one then.
    fn lower_is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        match self.lower(py) {
            Some(lower) => lower.call_method0(&self.core.names.is_closing)?.is_truthy(),
            None => Ok(false),
        }
    }

    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let paused = slf.get().state.with(py, |state| std::mem::replace(&mut state.paused, true));
        match slf.get().lower(py).filter(|_| !paused) {
            Some(lower) => lower.call_method0(&slf.get().core.names.pause_reading).map(drop),
            None => Ok(()),
        }
    }

    /// In the next turn, as in asyncio: what has been received meanwhile is delivered first.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if !this.state.with(py, |state| std::mem::replace(&mut state.paused, false)) {
            return Ok(());
        }
        let callback =
            Callback { callback: slf.getattr(intern!(py, "_resumed")?)?, args: &[], context: None };
        this.core.call_soon(this.event_loop.bind(py), callback).map(drop)
    }

    /// How many bytes are on their way, in this layer and in the one below.
    fn queued(&self, py: Python<'_>) -> usize {
        let own = self.state.with(py, |state| state.queue.len());
        own + self.stream(py).map_or(0, |stream| stream.get().queued(py))
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
            state: LoopCell::new(State {
                lower: None,
                protocol: None,
                buffered: false,
                paused: false,
                end: None,
                queue: WriteQueue::new(),
                flow: Flow::with_high(HIGH_WATER_WRITE),
                read_limits: Flow::with_high(HIGH_WATER_READ),
                lower_paused: false,
                habit: Habit::default(),
                gathering: false,
                conn_lost: 0,
            }),
        };
        let base = PyClassInitializer::from(NativeLayer::new(&LAYER_KIND));
        Ok(base.add_subclass(Self(Made::new(layer))))
    }

    /// Gives the layer what it works with. True: by OpenSSL itself.
    fn _open(
        &self,
        object: &Bound<'_, PyAny>,
        context: &Bound<'_, PyAny>,
        incoming: &Bound<'_, PyAny>,
        outgoing: &Bound<'_, PyAny>,
        direct: bool,
    ) -> bool {
        self.engine.get_or_init(|| Engine::new(object, context, incoming, outgoing, direct)).is_direct()
    }

    #[getter(_state)]
    fn get_state(&self) -> u8 {
        self.phase() as u8
    }

    /// Raises RuntimeError for a step that there is not.
    #[setter(_state)]
    fn set_state(&self, py: Python<'_>, next: u8) -> PyResult<()> {
        match Phase::ALL.get(next as usize) {
            Some(&next) if self.phase().may_become(next) => {
                self.phase.store(next as u8, Relaxed);
                match next {
                    // What was not delivered is seen by `unwrap`.
                    Phase::Shutdown => self.engine()?.hand_over(py),
                    _ => Ok(()),
                }
            }
            next => Err(PyRuntimeError::new_err(format!(
                "cannot switch state from {:?} to {next:?}",
                self.phase()
            ))),
        }
    }

    #[getter(_transport)]
    fn get_transport<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.lower(py)
    }

    #[setter(_transport)]
    fn set_transport(&self, py: Python<'_>, transport: Option<&Bound<'_, PyAny>>) {
        let lower = transport.map(Lower::of);
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
        engine.feed(py, data)?;
        engine.hand_over(py)
    }

    /// Delivers what can be decrypted of what was received.
    fn _read_on(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::read_app(slf)
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
            state.conn_lost += 1;
            (std::mem::take(&mut state.queue), state.end.take())
        });
        drop(dropped);
        self.engine()?.clear(py);
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
        proceeded.and(resumed)
    }

    // What a transport calls that does not know this class. A stream transport calls `received` instead.

    fn data_received(slf: &Bound<'_, Self>, data: &[u8]) -> PyResult<()> {
        slf.get().engine()?.feed(slf.py(), data)?;
        Self::proceed(slf)
    }

    fn pause_writing(&self, py: Python<'_>) {
        self.state.with(py, |state| state.lower_paused = true);
    }

    fn resume_writing(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().state.with(slf.py(), |state| state.lower_paused = false);
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
            .peek(|state| {
                visit.call(&state.protocol)?;
                match &state.lower {
                    Some(Lower::Stream(stream)) => visit.call(stream),
                    Some(Lower::Other(object)) => visit.call(object),
                    None => Ok(()),
                }
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = self.state.with(py, |state| (state.protocol.take(), state.lower.take()));
        drop(cleared);
    }
}
