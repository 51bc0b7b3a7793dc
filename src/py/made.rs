//! The fields of an object that may not have been made completely.
//!
//! CPython 3.11 and 3.12 make the dictionary of an instance before PyO3 writes the fields. A collection that starts in
//! between sees the object. If there is no memory for the dictionary, CPython drops the object. In both cases the
//! memory of the fields is all zeroes. So a class whose instances can have a dictionary keeps its fields in a [`Made`],
//! for which all zeroes mean that nothing was made.

use std::mem::MaybeUninit;
use std::ops::Deref;

/// Lets methods of `$class`, which is a tuple struct of a `Made<$fields>`, use the fields as if they were its own.
macro_rules! derefs_to_made {
    ($class:ty => $fields:ty) => {
        impl std::ops::Deref for $class {
            type Target = $fields;

            #[inline(always)]
            fn deref(&self) -> &$fields {
                &self.0
            }
        }
    };
}
pub(crate) use derefs_to_made;

/// A `T`, or nothing if the memory is all zeroes.
pub struct Made<T> {
    is_made: bool,
    /// Invariant: initialised if `is_made`.
    value: MaybeUninit<T>,
}

impl<T> Made<T> {
    /// A value.
    pub fn new(value: T) -> Self {
        Self { is_made: true, value: MaybeUninit::new(value) }
    }

    /// The value, if it was made.
    #[inline(always)]
    pub fn get(&self) -> Option<&T> {
        // SAFETY: the invariant of `value`.
        if self.is_made { Some(unsafe { self.value.assume_init_ref() }) } else { None }
    }
}

impl<T> Deref for Made<T> {
    type Target = T;

    /// For methods. Of an object that was not made completely, only the finalizer of a subclass can call one; that
    /// panics.
    #[inline(always)]
    fn deref(&self) -> &T {
        self.get().expect("an object that was made to the end")
    }
}

impl<T> Drop for Made<T> {
    fn drop(&mut self) {
        if self.is_made {
            // SAFETY: the invariant of `value`. Nobody uses the value after this.
            unsafe { self.value.assume_init_drop() }
        }
    }
}
