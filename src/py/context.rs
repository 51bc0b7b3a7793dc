//! contextvars: copying, entering and leaving a `contextvars.Context` (PEP 567), and seeing that the current one is
//! empty without copying it.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::prelude::*;

use super::cell::LoopCell;
use super::fastcall::Raised;
use super::gc::reference_count;

/// A copy of the current context: `contextvars.copy_context()`.
#[inline]
pub fn copy_current(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the interpreter is held; the call returns a new reference or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A copy of the current context, or `None` where it is empty: whoever needs it can make an empty one then. Most
/// programs have no context variables, and a context per pending callback is work for the garbage collector.
#[inline]
pub fn copy_unless_empty(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    if current_is_empty(py) {
        return Ok(None);
    }
    let context = copy_current(py)?;
    Ok(if is_empty(&context) { None } else { Some(context) })
}

/// Where a `PyThreadState` keeps its current context: an offset in words; 0: unknown, and contexts are copied to be
/// looked at, which costs 25 ns for each callback that is scheduled.
static CURRENT: AtomicUsize = AtomicUsize::new(0);

/// How many words of a `PyThreadState` are looked at: the smallest one of a supported CPython has 288 bytes (3.12). The
/// context is at 26, 28 or 29.
const WORDS: usize = 36;

/// Finds out where a thread state keeps its current context, by entering two and looking where they appear. CPython
/// has no function that shows the current context. To be called once, before any loop is made.
pub fn find_current(py: Python<'_>) -> PyResult<()> {
    if py.version_info() >= (3, 16) {
        return Ok(());
    }
    let words_of = |wanted: &Bound<'_, PyAny>| {
        // SAFETY: the thread state of this thread, which holds the interpreter, is at least `WORDS` words long.
        let words = unsafe { std::slice::from_raw_parts(ffi::PyThreadState_Get().cast::<usize>(), WORDS) };
        (0..WORDS).filter(|&at| words[at] == wanted.as_ptr() as usize).collect::<Vec<_>>()
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

/// True if the current context is known to be empty.
#[inline]
fn current_is_empty(_py: Python<'_>) -> bool {
    let at = CURRENT.load(Relaxed);
    if at == 0 {
        return false;
    }
    // SAFETY: the interpreter is held, and `find_current` has seen that this word of a thread state is its current
    // context, or null before one is entered. Nobody can change or drop it while we look.
    unsafe {
        let context = *ffi::PyThreadState_Get().cast::<*mut ffi::PyObject>().add(at);
        context.is_null() || ffi::PyObject_Size(context) == 0
    }
}

/// True if `context` is known to be the current one.
fn is_current(context: &Bound<'_, PyAny>) -> bool {
    let at = CURRENT.load(Relaxed);
    // SAFETY: as in `current_is_empty`; the pointer is only compared.
    at != 0 && unsafe { *ffi::PyThreadState_Get().cast::<*mut ffi::PyObject>().add(at) } == context.as_ptr()
}

/// A new context without variables.
pub fn new_empty(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the interpreter is held; the call returns a new reference or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_New()) }
}

#[inline]
fn is_empty(context: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live context, whose length is a field and cannot fail.
    unsafe { ffi::PyObject_Size(context.as_ptr()) == 0 }
}

/// An empty context for callbacks to use one after the other, for as long as none of them leaves anything in it.
#[derive(Default)]
pub struct EmptyContext(LoopCell<Option<Py<PyAny>>>);

impl EmptyContext {
    /// For a batch of callbacks, all of which belong to the calling thread.
    pub fn batch<'a, 'py>(&'a self, py: Python<'py>) -> EmptyBatch<'a, 'py> {
        EmptyBatch { spare: self, py, entered: None }
    }

    pub fn clear(&self, py: Python<'_>) {
        drop(self.0.with(py, Option::take));
    }
}

/// Runs callbacks in an empty context, which stays entered from one to the next.
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
        // A variable set in it, or a reference to it (a `contextvars.Token` has one), is the last callback's to keep.
        // The thread has the second reference.
        match &self.entered {
            Some(context) if reference_count(context) == 2 && is_empty(context) => (),
            _ => self.enter()?,
        }
        call()
    }

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

    /// Goes back to the context of before, for what is no callback. Returns the one that was used last, if it is not
    /// empty or is known to somebody.
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
    // SAFETY: the interpreter is held; anything but a context is refused with an exception.
    unsafe { Bound::from_owned_ptr_or_err(context.py(), ffi::PyContext_Copy(context.as_ptr())) }
}

/// Runs `call` inside `context`, as `context.run` does. A context that is entered already is no error: a protocol that
/// forks has what it wrote sent in the transport's context, which it runs in itself. Fails if it is no context.
#[inline]
pub fn run_in<'py, R>(context: &Bound<'py, PyAny>, call: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    match enter(context) {
        Ok(_inside) => call(),
        Err(raised) => {
            // Tells of nothing but a context that is entered, or is none, which `copy` tells of as well.
            drop(raised.fetch(context.py()));
            run_in_entered(context, call)
        }
    }
}

/// Runs `call` inside a context that is entered already: where we are, or in a copy.
#[cold]
fn run_in_entered<'py, R>(context: &Bound<'py, PyAny>, call: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    if is_current(context) {
        return call();
    }
    let copy = copy(context)?;
    let _inside = enter(&copy).map_err(|raised| raised.fetch(context.py()))?;
    call()
}

/// Enters `context` until the guard is dropped, by a panic too.
#[inline(always)]
pub fn enter<'a, 'py>(context: &'a Bound<'py, PyAny>) -> Result<Inside<'a, 'py>, Raised> {
    // SAFETY: the interpreter is held and `context` outlives the guard.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } < 0 { Err(Raised) } else { Ok(Inside(context)) }
}

/// Made by [`enter`].
pub struct Inside<'a, 'py>(&'a Bound<'py, PyAny>);

impl Drop for Inside<'_, '_> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: this thread entered the context in `enter`. As in `Context.run`, an exception may be set.
        if unsafe { ffi::PyContext_Exit(self.0.as_ptr()) } < 0 {
            PyErr::fetch(self.0.py()).write_unraisable(self.0.py(), Some(self.0));
        }
    }
}
