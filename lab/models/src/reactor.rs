//! The files under test, at the paths by which they know each other. Not all of their functions are used by a model.
#![allow(dead_code)]

#[path = "../../../src/reactor/ready.rs"]
pub mod ready;
#[path = "../../../src/reactor/token.rs"]
pub mod token;
#[path = "../../../src/reactor/waker.rs"]
pub mod waker;

pub(crate) use crate::{sync, sys};
