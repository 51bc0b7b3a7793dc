//! What is called once for each callback, as raw methods: `call_soon` and similar methods. The arguments are read here;
//! the callbacks are scheduled by `core/scheduling.rs`. `create_task`, a raw method as well, is in `futures.rs`.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyString, PyType};

use super::EventLoop;
use crate::error::Message;
use crate::handle::{Callback, Time};
use crate::py::calls;
use crate::py::fastcall::{self, Arguments};
use crate::py::names::keywords_of_create_task;
use crate::py::new;

impl EventLoop {
    /// The checks that `call_soon` and similar methods begin with.
    #[inline(always)]
    fn check_call(
        slf: &Bound<'_, Self>,
        callback: &Bound<'_, PyAny>,
        method: &str,
        same_thread: bool,
    ) -> PyResult<()> {
        let core = &slf.get().core;
        core.check_closed()?;
        // In debug mode asyncio checks more: that the loop's own thread calls, and that the callback is no coroutine.
        if core.debug.load(Relaxed) {
            if same_thread {
                core.check_thread()?;
            }
            let asyncios =
                calls::is_method(slf.as_any(), &core.names._check_callback, &core.names.check_callback);
            if !asyncios || !calls::is_plain_function(callback)? {
                slf.call_method1(&core.names._check_callback, (callback, method))?;
            }
        }
        Ok(())
    }

    /// `call_soon(callback, *args, context=None)`
    fn call_soon<'py>(slf: &Bound<'py, Self>, args: &Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let core = &slf.get().core;
        let callback = args.required(0, "call_soon", "callback")?;
        let context = args.only_keyword("call_soon", core.names.context.bind(slf.py()), &["callback"])?;
        Self::check_call(slf, &callback, "call_soon", true)?;
        let callback = Callback { callback, args: args.from(1), context };
        Ok(core.call_soon(slf.as_any(), callback)?.into_any())
    }

    /// `call_soon_threadsafe(callback, *args, context=None)`: as `call_soon`, from any thread. asyncio does not check
    /// the thread in debug mode here.
    fn call_soon_threadsafe<'py>(
        slf: &Bound<'py, Self>,
        args: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = &slf.get().core;
        let callback = args.required(0, "call_soon_threadsafe", "callback")?;
        let context =
            args.only_keyword("call_soon_threadsafe", core.names.context.bind(slf.py()), &["callback"])?;
        Self::check_call(slf, &callback, "call_soon_threadsafe", false)?;
        let callback = Callback { callback, args: args.from(1), context };
        Ok(core.call_soon_threadsafe(slf.as_any(), callback)?.into_any())
    }

    /// `call_later(delay, callback, *args, context=None)`. asyncio's calls `time` and `call_at`. Without methods of the
    /// program, the clock and the heap are used at once.
    fn call_later<'py>(slf: &Bound<'py, Self>, args: &Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let (py, core) = (slf.py(), &slf.get().core);
        let delay = args.required(0, "call_later", "delay")?;
        let callback = args.required(1, "call_later", "callback")?;
        let context = args.only_keyword("call_later", core.names.context.bind(py), &["delay", "callback"])?;
        // asyncio's text. To add None to the time would give another one.
        if delay.is_none() {
            return Err(PyTypeError::new_err(Message("delay must not be None")));
        }
        if core.timers_by_methods.load(Relaxed) {
            return Self::call_later_by_methods(slf, args, &delay, &callback);
        }
        Self::check_call(slf, &callback, "call_at", true)?;
        let callback = Callback { callback, args: args.from(2), context };
        let now = core.clock.now();
        let timer = if delay.is_exact_instance_of::<PyFloat>() || delay.is_exact_instance_of::<PyInt>() {
            let seconds = now + delay.extract::<f64>()?;
            core.call_at_time(slf.as_any(), Time { seconds, given: None }, callback)?
        } else {
            // As in asyncio: anything that can be added to a float.
            core.call_at(slf.as_any(), new::float(py, now)?.into_any().add(&delay)?, callback)?
        };
        Ok(timer.into_any())
    }

    /// As asyncio's `call_later`, which calls `time` and `call_at`: the program has its own.
    #[cold]
    fn call_later_by_methods<'py>(
        slf: &Bound<'py, Self>,
        args: &Arguments<'_, 'py>,
        delay: &Bound<'py, PyAny>,
        callback: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, names) = (slf.py(), slf.get().core.names);
        let when = slf.call_method0(&names.time)?.add(delay)?;
        // SAFETY: borrowed references that the caller of the method keeps alive.
        let own = |&arg: &*mut ffi::PyObject| unsafe { Bound::from_borrowed_ptr(py, arg) };
        // The program's `call_at` gets the callback's own arguments, and the context only if one was given.
        let positional = [when, callback.clone()].into_iter().chain(args.from(2).iter().map(own));
        let keywords = new::dict(py)?;
        for (name, value) in args.keywords().filter(|(name, _)| name.eq(&names.context).unwrap_or(false)) {
            keywords.set_item(name, value)?;
        }
        let positional = new::tuple(py, positional.collect::<Vec<_>>())?;
        slf.call_method(&names.call_at, positional, Some(&keywords))
    }

    /// `call_at(when, callback, *args, context=None)`
    fn call_at<'py>(slf: &Bound<'py, Self>, args: &Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let core = &slf.get().core;
        let when = args.required(0, "call_at", "when")?;
        let callback = args.required(1, "call_at", "callback")?;
        let context =
            args.only_keyword("call_at", core.names.context.bind(slf.py()), &["when", "callback"])?;
        // asyncio's text, as in `call_later`.
        if when.is_none() {
            return Err(PyTypeError::new_err(Message("when cannot be None")));
        }
        Self::check_call(slf, &callback, "call_at", true)?;
        let callback = Callback { callback, args: args.from(2), context };
        Ok(core.call_at(slf.as_any(), when, callback)?.into_any())
    }
}

/// The attributes that decide by whose methods timers go. `call_later` and the turns do not look at them each time, so
/// that setting one must be noticed.
const OF_TIMERS: [&str; 3] = ["time", "call_at", "__class__"];

impl EventLoop {
    /// Sets or deletes an attribute as `object.__setattr__` does.
    pub(super) fn set_attribute(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyString>,
        value: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let value = value.map_or(std::ptr::null_mut(), Bound::as_ptr);
        // SAFETY: live objects, except that `value` may be null; the GIL is held.
        if unsafe { ffi::PyObject_GenericSetAttr(slf.as_ptr(), name.as_ptr(), value) } < 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        if OF_TIMERS.iter().any(|&of_timers| name == of_timers) {
            look_at_time(slf)?;
        }
        Ok(())
    }
}

/// Finds out by whose `time()` and `call_at()` timers go. The program can have its own, in a subclass or on this loop
/// alone.
pub(super) fn look_at_time(event_loop: &Bound<'_, EventLoop>) -> PyResult<()> {
    let (py, core, class) = (event_loop.py(), &event_loop.get().core, event_loop.get_type());
    let names = core.names;
    let attributes = event_loop.getattr_opt(&names.__dict__)?;
    let has_own = |name: &Py<PyString>| attributes.as_ref().map_or(Ok(false), |own| own.contains(name));
    // The method itself is compared, so that a subclass with the usual `time()` keeps the loop's own clock. For
    // `call_at` any subclass of `Loop` is taken for one that may have its own.
    let own_time = py.get_type::<EventLoop>().getattr(&names.time)?;
    let custom_time = has_own(&names.time)? || !class.getattr(&names.time)?.is(&own_time);
    core.custom_time.store(custom_time, Relaxed);
    let by_methods = custom_time || has_own(&names.call_at)? || !class.is(&names.loop_class);
    core.timers_by_methods.store(by_methods, Relaxed);
    Ok(())
}

/// Puts the raw methods on `class`, which is `EventLoop` or a subclass.
pub fn add_raw_methods(class: &Bound<'_, PyType>) -> PyResult<()> {
    if !class.is_subclass_of::<EventLoop>()? {
        return Err(PyTypeError::new_err(Message(format!(
            "a subclass of EventLoop is required, not {class}"
        ))));
    }
    fastcall::raw_methods! { EventLoop, class,
        call_soon("($self, /, callback, *args, context=None)"):
            "Schedules callback(*args) for the next turn of the loop; returns its Handle.",
        call_soon_threadsafe("($self, /, callback, *args, context=None)"):
            "As call_soon(), from any thread.",
        call_later("($self, /, delay, callback, *args, context=None)"):
            "Schedules callback(*args) in delay seconds; returns its TimerHandle.",
        call_at("($self, /, when, callback, *args, context=None)"):
            "Schedules callback(*args) for when seconds of time(); returns its TimerHandle.",
        add_reader("($self, /, fd, callback, *args)"):
            "Calls callback(*args) in every turn in which fd is readable.",
        add_writer("($self, /, fd, callback, *args)"):
            "Calls callback(*args) in every turn in which fd is writable.",
    }
    // The signature that `inspect` shows is the one of the running version.
    match keywords_of_create_task(class.py())? {
        (false, _) => fastcall::raw_methods! { EventLoop, class,
            create_task("($self, /, coro, **kwargs)"): "Schedules a coroutine; returns its Task."
        },
        (true, true) => fastcall::raw_methods! { EventLoop, class,
            create_task("($self, /, coro, *, name=None, context=None, **kwargs)"):
                "Schedules a coroutine; returns its Task."
        },
        (true, false) => fastcall::raw_methods! { EventLoop, class,
            create_task("($self, /, coro, *, name=None, context=None)"): "Schedules a coroutine; returns its Task."
        },
    }
    Ok(())
}
