//! loom's types in the place of those in `src/reactor/sync.rs`. With them loom decides which thread goes on at each
//! access, and which of the values that the memory model allows a load returns.
//!
//! loom 0.7 takes a sequentially consistent access for a weaker one (acquire, release), and would report errors that no
//! machine can show. It knows sequentially consistent fences exactly. So an access with that order is made between two
//! such fences here. If all accesses of a program are of that kind, this is the same. Weaker accesses stay as they are.

use std::time::Duration;

use loom::sync::LockResult;
pub use loom::sync::atomic::Ordering;
use loom::sync::atomic::fence;
pub use loom::sync::{Mutex, MutexGuard};
pub use std::sync::PoisonError;

/// Makes an access between two fences if its order is sequentially consistent. `weaker` is the order of the access
/// itself then.
fn ordered<R>(order: Ordering, weaker: Ordering, access: impl FnOnce(Ordering) -> R) -> R {
    if order != Ordering::SeqCst {
        return access(order);
    }
    fence(Ordering::SeqCst);
    let result = access(weaker);
    fence(Ordering::SeqCst);
    result
}

/// An atomic type of loom with the methods that the files under test call.
macro_rules! atomic {
    ($name:ident, $value:ty) => {
        #[derive(Debug, Default)]
        pub struct $name(loom::sync::atomic::$name);

        #[allow(dead_code)] // Not every type is used with every method.
        impl $name {
            pub fn new(value: $value) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }

            pub fn load(&self, order: Ordering) -> $value {
                ordered(order, Ordering::Acquire, |order| self.0.load(order))
            }

            pub fn store(&self, value: $value, order: Ordering) {
                ordered(order, Ordering::Release, |order| self.0.store(value, order));
            }

            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                ordered(order, Ordering::AcqRel, |order| self.0.swap(value, order))
            }

            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let failure = if failure == Ordering::SeqCst { Ordering::Acquire } else { failure };
                ordered(success, Ordering::AcqRel, |success| {
                    self.0.compare_exchange(current, new, success, failure)
                })
            }
        }
    };
}

atomic!(AtomicBool, bool);
atomic!(AtomicU8, u8);
atomic!(AtomicU32, u32);

/// loom's condition variable, which has no `wait_timeout_while`. Here no timeout ever passes: a wait that is never
/// notified is an error, which loom reports as a deadlock.
#[derive(Debug)]
pub struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    pub fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        _timeout: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, ())> {
        while condition(&mut guard) {
            guard = self.0.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        Ok((guard, ()))
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self(loom::sync::Condvar::new())
    }
}
