//! Transports: from readiness to protocol calls, and from writes to system calls.
//!
//! The decisions are pure and need no Python ([`lifecycle`], [`flow`], [`habit`], [`write_queue`],
//! [`datagram_queue`], [`peers`]); the rest glues them to one kind of fd each.

pub mod datagram_queue;
pub mod flow;
pub mod framing;
pub mod habit;
pub mod lifecycle;
pub mod peers;
pub mod write_queue;

#[cfg(feature = "python")]
pub mod bare;
#[cfg(feature = "python")]
pub mod datagram;
#[cfg(feature = "python")]
pub mod inside;
#[cfg(feature = "python")]
pub mod listener;
#[cfg(feature = "python")]
pub mod pipe;
#[cfg(feature = "python")]
pub mod receiving;
#[cfg(feature = "python")]
pub mod report;
#[cfg(feature = "python")]
pub mod socket;
#[cfg(feature = "python")]
pub mod stream;
#[cfg(feature = "python")]
pub mod tls;
