//! How a loop makes a future: with keywords that it keeps, so that most futures need no dict of their own.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::prelude::*;

use super::EventLoop;
use crate::py::new;

impl EventLoop {
    /// A new `asyncio.Future` of this loop.
    pub(super) fn make_future<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let class = this.core.names.future_class(py)?;
        let known =
            this.future_keywords.with(py, |keywords| keywords.as_ref().map(|known| known.clone_ref(py)));
        if let Some(keywords) = known {
            return class.call((), Some(keywords.bind(py)));
        }
        let keywords = new::dict(py)?;
        keywords.set_item(&this.core.names.loop_keyword, slf)?;
        let future = class.call((), Some(&keywords))?;
        if !this.core.closed.load(Relaxed) {
            drop(this.future_keywords.with(py, |known| known.replace(keywords.unbind())));
        }
        Ok(future)
    }
}
