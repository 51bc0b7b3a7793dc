//! asyncio loops in Rust programs that host Python: `features = ["embed"]`.
//!
//! ```
//! use pyo3::prelude::*;
//! use rloop::embed::LoopThread;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let event_loop = LoopThread::start()?; // starts Python too, if need be
//! let double = Python::attach(|py| -> PyResult<_> {
//!     let code = c"
//! import asyncio
//! async def double(x):
//!     await asyncio.sleep(0.01)
//!     return 2 * x
//! ";
//!     Ok(PyModule::from_code(py, code, c"app.py", c"app")?.getattr("double")?.unbind())
//! })?;
//!
//! // From any thread, with or without Python; `.await` what `spawn_as` returns in async code.
//! let answer: i64 = event_loop.block_on_as(move |py| double.bind(py).call1((21,)))?;
//! assert_eq!(answer, 42);
//! # Ok(())
//! # }
//! ```
//!
//! - [`LoopThread`] runs a loop on a thread of its own, [`run`] one on the current thread, and [`LoopHandle::current`]
//!   finds the loop that is running already.
//! - [`LoopHandle`]: work for the loop from any thread. Threads of the host need not have Python attached: what they
//!   ask for is done on the loop's thread.
//! - [`PyTask`]: a Python coroutine as a Rust future. [`spawn_local`]: a Rust future as a Python awaitable.
//!   [`Completer`]: a Python awaitable that any thread completes.
//! - [`LoopHandle::register`]: sockets of the host on the loop's reactor.
//! - `tokio`, with the feature of that name: adapters for hosts with a tokio runtime.
//!
//! Whatever is asked of a loop that has ended is refused with [`LoopClosed`]; nothing panics, nothing waits for ever.
//! docs/embedding.md is the guide.

/// The guide's first program runs with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../../docs/embedding.md")]
mod guide {}

mod completer;
mod error;
mod exit;
mod guard;
mod handle;
mod local;
mod package;
mod source;
mod task;
mod thread;
#[cfg(feature = "tokio")]
pub mod tokio;

pub use completer::Completer;
pub use error::{LoopClosed, ShutdownError};
pub use handle::{LoopHandle, Metrics};
pub use local::spawn_local;
pub use package::install;
pub use source::Registration;
pub use task::PyTask;
pub use thread::{LoopThread, run};

pub use crate::reactor::readiness::Readiness;
/// The versions that this crate's API is made of.
pub use {mio, pyo3};
