//! Contexts of contextvars (PEP 567): copying, entering and leaving them, and finding out whether the current one is
//! empty. Which context a callback runs in is decided by others.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::prelude::*;

use super::cell::LoopCell;
use super::fastcall::Raised;
use super::references::reference_count;

/// A copy of the current context: `contextvars.copy_context()`.
#[inline]
pub fn copy_current(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the GIL is held. The call returns a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A copy of the current context. `None` if it is empty: a new empty context is as good as a copy of it. Most programs
/// have no context variables, and a context for each callback that waits is work for the garbage collector.
#[inline]
pub fn copy_unless_empty(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    if current_is_empty(py) {
        return Ok(None);
    }
    let context = copy_current(py)?;
    Ok(if is_empty(&context) { None } else { Some(context) })
}

/// Where a `PyThreadState` has its current context: an offset in words, found by [`find_current`]. 0: not known.
///
/// CPython has no function that returns the current context, only one that copies it. To copy it for each callback that
/// is scheduled, just to see that it is empty, makes a `call_soon` slower by more than 2 % (docs/performance.md).
static CURRENT: AtomicUsize = AtomicUsize::new(0);

/// How many words of a `PyThreadState` are looked at. The smallest one of a supported CPython has 288 bytes (3.12). The
/// context is at word 26, 28 or 29.
const WORDS: usize = 36;

/// Finds out where a thread state has its current context: enters two contexts, and looks where they appear and
/// disappear. If that is not clear, or the version is not known, the place stays unknown and contexts are copied. To be
/// called once, before any loop is made.
pub fn find_current(py: Python<'_>) -> PyResult<()> {
    if py.version_info() >= (3, 16) {
        return Ok(());
    }
    let words_of = |wanted: &Bound<'_, PyAny>| {
        let is_it = |at: &usize| word(py, *at) == wanted.as_ptr();
        (0..WORDS).filter(is_it).collect::<Vec<_>>()
    };
    let (outer, inner) = (new_empty(py)?, new_empty(py)?);
    let found = run_in(&outer, || {
        let before = words_of(&outer);
        let inside = run_in(&inner, || Ok((words_of(&outer), words_of(&inner))))?;
        Ok((before, inside.0, inside.1, words_of(&outer)))
    })?;
    let (before, nowhere, inside, after) = found;
    if let [at] = before[..]
        && nowhere.is_empty()
        && inside == before
        && after == before
        && words_of(&outer).is_empty()
    {
        CURRENT.store(at, Relaxed);
    }
    Ok(())
}

/// The word at index `at` of this thread's state, which must be less than [`WORDS`].
#[inline]
fn word(_py: Python<'_>, at: usize) -> *mut ffi::PyObject {
    debug_assert!(at < WORDS);
    // SAFETY: the GIL is held, so that this thread has a state, which is at least `WORDS` words long. Other threads
    // write to some of its words (since CPython 3.13 to `eval_breaker`), so that the word is read atomically.
    unsafe {
        let words = ffi::PyThreadState_Get().cast::<*mut ffi::PyObject>();
        AtomicPtr::from_ptr(words.add(at)).load(Relaxed)
    }
}

/// True if the current context is known to be empty.
#[inline]
fn current_is_empty(py: Python<'_>) -> bool {
    let at = CURRENT.load(Relaxed);
    if at == 0 {
        return false;
    }
    let context = word(py, at);
    // SAFETY: `find_current` has seen that this word of a thread state is its current context, or null before one is
    // entered. The thread state has a reference to it, and only this thread changes that.
    context.is_null() || unsafe { ffi::PyObject_Size(context) } == 0
}

/// True if `context` is known to be the current one.
fn is_current(context: &Bound<'_, PyAny>) -> bool {
    let at = CURRENT.load(Relaxed);
    at != 0 && word(context.py(), at) == context.as_ptr()
}

/// A new context without variables.
pub fn new_empty(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the GIL is held. The call returns a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_New()) }
}

#[inline]
fn is_empty(context: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live context. Its length is a field, so that reading it cannot fail.
    unsafe { ffi::PyObject_Size(context.as_ptr()) == 0 }
}

/// An empty context that callbacks use one after the other, for as long as none of them leaves anything in it.
#[derive(Default)]
pub struct EmptyContext(LoopCell<Option<Py<PyAny>>>);

impl EmptyContext {
    /// Begins a batch of callbacks, which all run on the calling thread.
    pub fn batch<'a, 'py>(&'a self, py: Python<'py>) -> EmptyBatch<'a, 'py> {
        EmptyBatch { spare: self, py, entered: None }
    }

    /// Drops the context.
    pub fn clear(&self, py: Python<'_>) {
        drop(self.0.with(py, Option::take));
    }
}

/// A batch of callbacks that run in an empty context, which stays entered from one callback to the next.
pub struct EmptyBatch<'a, 'py> {
    spare: &'a EmptyContext,
    py: Python<'py>,
    /// The context that is entered now.
    entered: Option<Bound<'py, PyAny>>,
}

impl<'py> EmptyBatch<'_, 'py> {
    /// Runs `call` in a context that is empty and that nobody else knows.
    #[inline(always)]
    pub fn run(&mut self, call: impl FnOnce() -> Result<(), Raised>) -> Result<(), Raised> {
        // The entered context is used again only if it is still empty and nobody else has it: the two references are
        // ours and the thread's. A callback may have set a variable in it, or kept a reference (a `contextvars.Token`
        // has one).
        match &self.entered {
            Some(context) if reference_count(context) == 2 && is_empty(context) => (),
            _ => self.enter()?,
        }
        call()
    }

    /// Enters another context.
    fn enter(&mut self) -> Result<(), Raised> {
        drop(self.leave());
        let context = match self.spare.0.with(self.py, Option::take) {
            Some(context) => context.into_bound(self.py),
            None => new_empty(self.py).map_err(|error| Raised::set(self.py, error))?,
        };
        std::mem::forget(enter(&context)?);
        self.entered = Some(context);
        Ok(())
    }

    /// Leaves the context, for code that is no callback. Returns the context if it is not empty, or if somebody else
    /// has a reference to it.
    pub fn leave(&mut self) -> Option<Bound<'py, PyAny>> {
        let context = self.entered.take()?;
        drop(Inside(&context));
        if reference_count(&context) > 1 || !is_empty(&context) {
            return Some(context);
        }
        drop(self.spare.0.with(self.py, |spare| spare.replace(context.unbind())));
        None
    }
}

impl Drop for EmptyBatch<'_, '_> {
    fn drop(&mut self) {
        drop(self.leave());
    }
}

/// A copy of `context`: `context.copy()`.
pub fn copy<'py>(context: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the GIL is held. Anything but a context is refused with an exception.
    unsafe { Bound::from_owned_ptr_or_err(context.py(), ffi::PyContext_Copy(context.as_ptr())) }
}

/// Runs `call` inside `context`, as `context.run` does. Fails if it is no context. That it is entered already is no
/// error: if a protocol forks, what it has written is sent in the transport's context, which the protocol runs in.
#[inline]
pub fn run_in<'py, R>(context: &Bound<'py, PyAny>, call: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    match enter(context) {
        Ok(_inside) => call(),
        Err(raised) => {
            // Either the context is entered already, or it is no context, which `copy` will find out, too.
            drop(raised.fetch(context.py()));
            run_in_entered(context, call)
        }
    }
}

/// Runs `call` inside a context that is entered already. If it is not the current one, that has to be a copy.
#[cold]
fn run_in_entered<'py, R>(context: &Bound<'py, PyAny>, call: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    if is_current(context) {
        return call();
    }
    let copy = copy(context)?;
    let _inside = enter(&copy).map_err(|raised| raised.fetch(context.py()))?;
    call()
}

/// Enters `context` until the guard is dropped, which a panic does, too.
#[inline(always)]
pub fn enter<'a, 'py>(context: &'a Bound<'py, PyAny>) -> Result<Inside<'a, 'py>, Raised> {
    // SAFETY: the GIL is held, and `context` outlives the guard.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } < 0 { Err(Raised) } else { Ok(Inside(context)) }
}

/// Made by [`enter`].
pub struct Inside<'a, 'py>(&'a Bound<'py, PyAny>);

impl Drop for Inside<'_, '_> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: this thread has entered the context in `enter`. An exception may be set, as in `Context.run`.
        if unsafe { ffi::PyContext_Exit(self.0.as_ptr()) } < 0 {
            PyErr::fetch(self.0.py()).write_unraisable(self.0.py(), Some(self.0));
        }
    }
}
