//! What a fork's child must not close: files that it does not have.
//!
//! A child has copies of its parent's epoll instance and eventfd, and closes them like any file. It has no copy of its
//! parent's kqueue. The number of that belongs to nobody in the child, or to a file that the child has opened since.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

use super::forks;

/// True where a fork's child has a copy of the poll.
const INHERITED: bool = cfg!(target_os = "linux");

/// A part of a poll, which owns an fd. It is dropped only in a process that has this fd.
pub struct Own<T> {
    value: ManuallyDrop<T>,
    /// `forks()` when the value was made.
    forks: u32,
}

impl<T> Own<T> {
    /// To be called in the process that has made the value. [`watch_forks`](super::watch_forks) was called before.
    pub fn new(value: T) -> Self {
        Self { value: ManuallyDrop::new(value), forks: forks() }
    }
}

impl<T> Deref for Own<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Own<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for Own<T> {
    fn drop(&mut self) {
        if has_fd(INHERITED, self.forks, forks()) {
            // SAFETY: the value is dropped here and nowhere else, and nobody can use it afterwards.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

/// True if this process has the fd of what was made when `forks()` was `made`.
fn has_fd(inherited: bool, made: u32, now: u32) -> bool {
    inherited || made == now
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn a_child_closes_only_what_it_has() {
        assert!(has_fd(true, 1, 1) && has_fd(true, 1, 2), "a copy of an epoll instance");
        assert!(has_fd(false, 1, 1) && !has_fd(false, 1, 2), "a kqueue is the parent's");
    }

    #[test]
    fn what_this_process_has_made_is_dropped() {
        let value = Rc::new(());
        let own = Own::new(value.clone());
        assert!(Rc::ptr_eq(&own, &value));
        drop(own);
        assert_eq!(Rc::strong_count(&value), 1);
    }
}
