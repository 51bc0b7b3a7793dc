//! How a loop makes futures and tasks: with keywords that it keeps, so that most of them need no dict of their own.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::EventLoop;
use crate::py::fastcall::Arguments;
use crate::py::new;

impl EventLoop {
    /// A new `asyncio.Future` of this loop.
    pub(super) fn make_future<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let class = slf.get().core.names.future_class(slf.py())?;
        class.call((), Some(&Self::loop_keywords(slf)?))
    }

    /// Makes a task. With a task factory, in debug mode, or with keywords that the running version's
    /// `BaseEventLoop.create_task` does not pass to the class of tasks, that method does it.
    pub(super) fn create_task<'py>(
        slf: &Bound<'py, Self>,
        args: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let names = slf.get().core.names;
        if args.len() != 1 || !slf.get().makes_plain_tasks(slf.py()) {
            return args.forward(names.create_task.bind(slf.py()), slf.as_any());
        }
        let coro = args.required(0, "create_task", "coro")?;
        let class = names.task_class(slf.py())?;
        if !args.has_keywords() {
            return class.call((coro,), Some(&Self::loop_keywords(slf)?));
        }
        let keywords = new::dict(slf.py())?;
        keywords.set_item(&names.loop_keyword, slf)?;
        for (name, value) in args.keywords() {
            let passes = if names.tasks_take_keywords {
                !name.eq(&names.loop_keyword)?
            } else {
                name.eq(&names.name)? || name.eq(&names.context)?
            };
            if !passes {
                return args.forward(names.create_task.bind(slf.py()), slf.as_any());
            }
            keywords.set_item(name, value)?;
        }
        class.call((coro,), Some(&keywords))
    }

    /// True if `BaseEventLoop.create_task` would do no more than to call the class of tasks.
    fn makes_plain_tasks(&self, py: Python<'_>) -> bool {
        !self.core.debug.load(Relaxed)
            && !self.core.closed.load(Relaxed)
            && self.task_factory.with(py, |factory| factory.is_none())
    }

    /// `{"loop": self}`, kept for the next time. asyncio passes the loop by keyword as well.
    fn loop_keywords<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        let (py, this) = (slf.py(), slf.get());
        let kept = this.loop_keywords.with(py, |kept| kept.as_ref().map(|kept| kept.clone_ref(py)));
        if let Some(keywords) = kept {
            return Ok(keywords.into_bound(py));
        }
        let keywords = new::dict(py)?;
        keywords.set_item(&this.core.names.loop_keyword, slf)?;
        if !this.core.closed.load(Relaxed) {
            drop(this.loop_keywords.with(py, |kept| kept.replace(keywords.clone().unbind())));
        }
        Ok(keywords)
    }
}
