//! What a handle calls: how it keeps the callback with its arguments, and how it calls it. When that happens is decided
//! by others.

use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::origin::Origin;
use crate::py::calls;
use crate::py::cell::LoopCell;
use crate::py::context;
use crate::py::fastcall::Raised;
use crate::py::new;

/// How many arguments a handle keeps in itself. If there are more, it keeps a tuple of them.
const INLINE: usize = 3;

/// A callback with its arguments and its context, in a handle.
#[derive(Default)]
pub struct Call {
    /// None once the handle is cancelled.
    pub callback: Option<Py<PyAny>>,
    /// The arguments, or a tuple of them in the first place.
    pub args: [Option<Py<PyAny>>; INLINE],
    /// How many of `args` are in use. `INLINE + 1`: the first one is a tuple.
    pub count: usize,
    /// None: an empty context, which is made when somebody asks for it.
    pub context: Option<Py<PyAny>>,
    rare: Option<Box<Rare>>,
}

/// What few handles have. A handle that has any of it is not used again.
#[derive(Default)]
struct Rare {
    /// None: the handle was not made in debug mode.
    debug: Option<Debug>,
    /// The time of a timer as the program gave it, if it was not a float.
    when: Option<Py<PyAny>>,
}

/// What debug mode adds to a handle.
pub struct Debug {
    /// Where the handle was made.
    pub origin: Origin,
    /// The repr from before the handle was cancelled, when it still had a callback to name.
    pub repr: Option<String>,
}

/// What a handle is made for: `callback(*args)` in `context`.
pub struct Callback<'a, 'py> {
    /// What is called.
    pub callback: Bound<'py, PyAny>,
    /// The arguments: borrowed references, which are alive for as long as this.
    pub args: &'a [*mut ffi::PyObject],
    /// The context. None: a copy of the current one.
    pub context: Option<Bound<'py, PyAny>>,
}

impl Call {
    /// Fills an empty call, field by field. A whole one, made elsewhere and moved here, would be written in words and
    /// read in vectors, which makes the processor wait.
    #[inline]
    pub fn fill(place: &LoopCell<Self>, callback: Callback<'_, '_>) -> PyResult<()> {
        let Callback { callback, args, context } = callback;
        let py = callback.py();
        let context = match context {
            Some(context) => Some(context),
            None => context::copy_unless_empty(py)?,
        };
        // SAFETY: the references are alive (see `Callback::args`). Each gets one of our own.
        let own = |&arg: &*mut ffi::PyObject| unsafe { Bound::from_borrowed_ptr(py, arg) };
        let many = if args.len() > INLINE { Some(new::tuple(py, args.iter().map(own))?) } else { None };
        // The fields are empty (see `empty`). `forget` saves the code that would drop their old values.
        place.with(py, |call| {
            std::mem::forget(call.callback.replace(callback.unbind()));
            std::mem::forget(std::mem::replace(&mut call.context, context.map(Bound::unbind)));
            if let Some(many) = many {
                call.count = INLINE + 1;
                std::mem::forget(call.args[0].replace(many.into_any().unbind()));
            } else {
                call.count = args.len();
                for (slot, arg) in call.args.iter_mut().zip(args) {
                    std::mem::forget(slot.replace(own(arg).unbind()));
                }
            }
        });
        Ok(())
    }

    /// Empties a call and drops what was in it. The token shows that the GIL is held, so that not every field has to
    /// look; otherwise this is what dropping the call does. False if the call had something rare.
    #[inline]
    pub fn empty(place: &LoopCell<Self>, py: Python<'_>) -> bool {
        let (callback, context, count, rare) = place.with(py, |call| {
            (call.callback.take(), call.context.take(), std::mem::take(&mut call.count), call.rare.take())
        });
        drop(callback.map(|callback| callback.into_bound(py)));
        drop(context.map(|context| context.into_bound(py)));
        if count > 0 {
            for arg in place.with(py, |call| std::mem::take(&mut call.args)).into_iter().flatten() {
                drop(arg.into_bound(py));
            }
        }
        rare.is_none()
    }

    /// True if the first argument is a tuple of all arguments.
    pub fn has_tuple(&self) -> bool {
        self.count > INLINE
    }

    /// What debug mode has added.
    pub fn debug(&self) -> Option<&Debug> {
        self.rare.as_ref()?.debug.as_ref()
    }

    /// Adds what debug mode adds.
    pub fn set_debug(&mut self, origin: Origin) {
        self.rare.get_or_insert_default().debug = Some(Debug { origin, repr: None });
    }

    /// The time of a timer, if it was not a float.
    pub fn when(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.rare.as_ref()?.when.as_ref().map(|when| when.clone_ref(py))
    }

    /// Sets the time of a timer. A new or recycled handle has none.
    pub fn set_when(&mut self, when: Option<Py<PyAny>>) {
        self.rare.get_or_insert_default().when = when;
    }

    /// What debug mode has added, to be changed.
    pub fn debug_mut(&mut self) -> Option<&mut Debug> {
        self.rare.as_mut()?.debug.as_mut()
    }

    /// Shows the garbage collector what the call holds.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.context)?;
        visit.call(&self.callback)?;
        self.args.iter().try_for_each(|arg| visit.call(arg))?;
        self.rare.iter().try_for_each(|rare| {
            visit.call(&rare.when)?;
            rare.debug.iter().try_for_each(|debug| debug.origin.traverse(visit))
        })
    }
}

/// A callback that is being called. It has references of its own: when the handle is cancelled meanwhile, the handle
/// drops its references.
pub struct Invocation {
    /// Null: there is nothing to call.
    callback: *mut ffi::PyObject,
    /// The arguments. The first slot is for the callee (`PY_VECTORCALL_ARGUMENTS_OFFSET`).
    stack: [*mut ffi::PyObject; 1 + INLINE],
    /// As in [`Call`].
    count: usize,
}

impl Default for Invocation {
    #[inline(always)]
    fn default() -> Self {
        Self { callback: std::ptr::null_mut(), stack: [std::ptr::null_mut(); 1 + INLINE], count: 0 }
    }
}

impl Invocation {
    /// Takes references to what `call` holds. To be called once.
    #[inline(always)]
    pub fn take_from(&mut self, _py: Python<'_>, call: &Call) {
        let Some(callback) = &call.callback else {
            return;
        };
        self.callback = callback.as_ptr();
        self.count = call.count;
        // SAFETY: `call` owns references to all of these, and the GIL is held. `drop` gives our references back.
        unsafe {
            ffi::Py_INCREF(self.callback);
            for (slot, arg) in self.stack[1..].iter_mut().zip(&call.args[..self.count.min(INLINE)]) {
                *slot = arg.as_ref().map_or(std::ptr::null_mut(), Py::as_ptr);
                ffi::Py_XINCREF(*slot);
            }
        }
    }

    /// True if there is nothing to call.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.callback.is_null()
    }

    /// Calls it. The result of the callback is dropped.
    #[inline(always)]
    pub fn invoke(&self, py: Python<'_>) -> Result<(), Raised> {
        let args = self.stack[1..].as_ptr();
        // SAFETY: this struct has references to the callback and to `count` arguments, or to a tuple of them. The slot
        // before the first argument belongs to this struct, and the callee may use it.
        unsafe {
            if self.count > INLINE {
                return self.invoke_with_tuple(py);
            }
            let count = self.count | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
            ffi::Py_DECREF(calls::vectorcall(self.callback, args, count)?);
        }
        Ok(())
    }

    /// The same with more arguments than there are slots.
    #[cold]
    fn invoke_with_tuple(&self, py: Python<'_>) -> Result<(), Raised> {
        // SAFETY: this struct has references to both. With so many arguments the first one is a tuple of all of them.
        let (callback, args) = unsafe {
            let args = Bound::from_borrowed_ptr(py, self.stack[1]).cast_into_unchecked::<PyTuple>();
            (Bound::from_borrowed_ptr(py, self.callback), args)
        };
        callback.call1(args).map(drop).map_err(|error| Raised::set(py, error))
    }
}

impl Drop for Invocation {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `take_from` took these references, and the same function drops this struct, with the GIL held
        // throughout.
        unsafe {
            ffi::Py_XDECREF(self.callback);
            for &arg in &self.stack[1..1 + self.count.min(INLINE)] {
                ffi::Py_XDECREF(arg);
            }
        }
    }
}
