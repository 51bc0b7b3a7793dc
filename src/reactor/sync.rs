//! What threads share state by: the standard library's own types, under a name that can be given another meaning.
//!
//! The files whose correctness depends on the order of what several threads do take these types from here. A checker
//! of concurrent code needs types of its own in their place, which let it try every order. `lab/models/` compiles the
//! same files with such types. Nothing else may live here.

#[cfg(feature = "embed")]
pub use std::sync::Condvar;
pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
pub use std::sync::{Mutex, MutexGuard, PoisonError};
