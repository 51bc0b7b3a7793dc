//! What an object of ours holds, if it was made to the end.
//!
//! CPython 3.11 and 3.12 make the dictionary of an instance before PyO3 puts in what the instance holds. A collection
//! that starts meanwhile sees the object, and if there is no memory for the dictionary CPython drops it: finalizers and
//! PyO3's `tp_dealloc` get memory that is all zeroes. So each class whose instances have a dictionary, its own or that
//! of a subclass in Python, keeps its fields in a [`Made`], of which zeroes are a valid value: nothing was made.

use std::mem::MaybeUninit;
use std::ops::Deref;

/// A `T`, or nothing where the memory is all zeroes.
pub struct Made<T> {
    is_made: bool,
    /// Invariant: initialised if `is_made`.
    value: MaybeUninit<T>,
}

impl<T> Made<T> {
    pub fn new(value: T) -> Self {
        Self { is_made: true, value: MaybeUninit::new(value) }
    }

    #[inline(always)]
    pub fn get(&self) -> Option<&T> {
        // SAFETY: see the invariant.
        if self.is_made { Some(unsafe { self.value.assume_init_ref() }) } else { None }
    }
}

impl<T> Deref for Made<T> {
    type Target = T;

    /// For methods: of an object that was not made to the end only the finalizer of a subclass can call one.
    #[inline(always)]
    fn deref(&self) -> &T {
        self.get().expect("an object that was made to the end")
    }
}

impl<T> Drop for Made<T> {
    fn drop(&mut self) {
        if self.is_made {
            // SAFETY: see the invariant; nobody uses the value after its drop.
            unsafe { self.value.assume_init_drop() }
        }
    }
}
