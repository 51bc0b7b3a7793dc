//! asyncio's `StreamReaderProtocol` and `StreamReader`: are an object's classes exactly these, and is the code that
//! takes in received bytes asyncio's own? Only then may somebody else do its work. Who does, and how, is not known here.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use pyo3::exceptions::PyAttributeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType, PyWeakrefReference};

use super::calls;
use super::new;
use super::profiling::Watchers;

/// The two classes, with what is to be compared.
pub struct Streams {
    protocol: Class,
    reader: Class,
    data_received: Function,
    stream_reader: Function,
    feed_data: Function,
    wakeup_waiter: Function,
    /// The property `StreamReaderProtocol._stream_reader`, which calls `stream_reader`.
    property: Py<PyAny>,
    /// The attribute with the weak reference that the property resolves.
    reference_name: Py<PyString>,
    watchers: Watchers,
    /// A `bytearray` keeps its bytes if there is no memory to resize it. Not from CPython 3.15 on.
    pub failure_keeps_bytes: bool,
    /// What was found when the versions of the classes were last compared.
    classes_are_original: AtomicBool,
}

/// A class, and its version when it was last looked at. CPython gives a class another version after each change of its
/// attributes or of its bases', and 0 before somebody looks up an attribute again.
struct Class {
    class: Py<PyType>,
    seen: AtomicU32,
    /// The addresses of the functions by which attributes of instances are read and written, as they were at first.
    getattr: usize,
    setattr: usize,
}

/// A function of Python, and its code.
struct Function {
    name: Py<PyString>,
    function: Py<PyAny>,
    code: Py<PyAny>,
}

impl Class {
    fn new(class: Bound<'_, PyAny>) -> PyResult<Self> {
        let class = class.cast_into::<PyType>()?;
        let (getattr, setattr) = access(&class);
        Ok(Self { class: class.unbind(), seen: AtomicU32::new(0), getattr, setattr })
    }

    /// True if the class is the one of `object`.
    #[inline]
    fn is_class_of(&self, object: &Bound<'_, PyAny>) -> bool {
        object.get_type_ptr().cast() == self.class.as_ptr()
    }

    #[inline]
    fn version(&self, _py: Python<'_>) -> u32 {
        // SAFETY: a live class. The GIL is held, so that nobody changes the field at the same time.
        unsafe { (*self.class.as_ptr().cast::<ffi::PyTypeObject>()).tp_version_tag }
    }

    #[inline]
    fn is_as_seen(&self, py: Python<'_>) -> bool {
        let version = self.version(py);
        version != 0 && version == self.seen.load(Relaxed)
    }

    /// True if attributes of instances are read and written as at first.
    fn has_usual_access(&self, py: Python<'_>) -> bool {
        access(self.class.bind(py)) == (self.getattr, self.setattr)
    }
}

/// The addresses of the functions by which attributes of instances are read and written.
fn access(class: &Bound<'_, PyType>) -> (usize, usize) {
    // SAFETY: a live class; the GIL is held.
    let class = unsafe { &*class.as_type_ptr() };
    let getattr = class.tp_getattro.map_or(0, |function| function as usize);
    let setattr = class.tp_setattro.map_or(0, |function| function as usize);
    (getattr, setattr)
}

impl Function {
    /// None if the function is not asyncio's, or uses other names than `names`. `_eof` may be missing: an assertion
    /// uses it, which `python -O` leaves out.
    fn known(
        py: Python<'_>,
        name: &str,
        function: &Bound<'_, PyAny>,
        names: &[&str],
    ) -> PyResult<Option<Self>> {
        let module = py.import("asyncio.streams")?;
        let code = function.getattr("__code__")?;
        let used = code.getattr("co_names")?.extract::<Vec<String>>()?;
        let used: BTreeSet<_> = used.iter().map(String::as_str).filter(|name| *name != "_eof").collect();
        let known = function.getattr("__globals__")?.is(module.dict()) && used.iter().eq(names);
        let name = new::interned(py, name)?.unbind();
        Ok(known.then(|| Self { name, function: function.clone().unbind(), code: code.unbind() }))
    }

    /// True if nobody has given the function other code.
    #[inline]
    fn has_own_code(&self) -> bool {
        // SAFETY: `known` has found `__code__` and `__globals__`, which only a function has, and a function does not
        // become anything else. The result is borrowed.
        unsafe { ffi::PyFunction_GetCode(self.function.as_ptr()) == self.code.as_ptr() }
    }

    /// True if calling the method of `object` calls this function.
    #[inline]
    fn is_method_of(&self, object: &Bound<'_, PyAny>) -> bool {
        self.has_own_code() && calls::is_method(object, &self.name, &self.function)
    }
}

impl Streams {
    /// The classes, if they are as they are known from CPython 3.11 to 3.15.
    pub fn find(py: Python<'_>) -> PyResult<Option<Self>> {
        if py.version_info() >= (3, 16) {
            return Ok(None);
        }
        match Self::look(py) {
            Err(error) if error.is_instance_of::<PyAttributeError>(py) => Ok(None),
            other => other,
        }
    }

    /// As [`Streams::find`], but with an error where something is missing. The names that a function uses are in the
    /// order of a `BTreeSet`.
    fn look(py: Python<'_>) -> PyResult<Option<Self>> {
        let module = py.import("asyncio.streams")?;
        let (protocol, reader) = (module.getattr("StreamReaderProtocol")?, module.getattr("StreamReader")?);
        let property = protocol.getattr("_stream_reader")?;
        let getter = property.getattr("fget")?;
        let data_received = protocol.getattr("data_received")?;
        let (feed_data, wakeup_waiter) = (reader.getattr("feed_data")?, reader.getattr("_wakeup_waiter")?);
        let feeds = [
            "NotImplementedError",
            "_buffer",
            "_limit",
            "_paused",
            "_transport",
            "_wakeup_waiter",
            "extend",
            "len",
            "pause_reading",
        ];
        let function = |name, function, names: &[&str]| Function::known(py, name, function, names);
        let (Some(data_received), Some(stream_reader), Some(feed_data), Some(wakeup_waiter)) = (
            function("data_received", &data_received, &["_stream_reader", "feed_data"])?,
            function("_stream_reader", &getter, &["_stream_reader_wr"])?,
            function("feed_data", &feed_data, &feeds)?,
            function("_wakeup_waiter", &wakeup_waiter, &["_waiter", "cancelled", "set_result"])?,
        ) else {
            return Ok(None);
        };
        Ok(Some(Self {
            protocol: Class::new(protocol)?,
            reader: Class::new(reader)?,
            data_received,
            stream_reader,
            feed_data,
            wakeup_waiter,
            property: property.unbind(),
            reference_name: new::interned(py, "_stream_reader_wr")?.unbind(),
            watchers: Watchers::find(py),
            failure_keeps_bytes: py.version_info() < (3, 15),
            classes_are_original: AtomicBool::new(false),
        }))
    }

    /// True if the protocol's class is asyncio's.
    #[inline]
    pub fn has_class_of(&self, protocol: &Bound<'_, PyAny>) -> bool {
        self.protocol.is_class_of(protocol)
    }

    /// The reader of a protocol of asyncio's class, if `protocol.data_received()` would run nothing but asyncio's own
    /// code, and nobody watches it run.
    pub fn reader_of<'py>(&self, protocol: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
        let py = protocol.py();
        if !self.is_unwatched(py) || !self.has_original_classes(py) || !self.stream_reader.has_own_code() {
            return None;
        }
        if !self.data_received.is_method_of(protocol) {
            return None;
        }
        let reference = protocol.getattr(&self.reference_name).ok()?;
        let reader = reference.cast_exact::<PyWeakrefReference>().ok()?.upgrade()?;
        let is_usual = self.reader.is_class_of(&reader)
            && self.feed_data.is_method_of(&reader)
            && self.wakeup_waiter.is_method_of(&reader);
        is_usual.then_some(reader)
    }

    /// True if nobody watches the functions run.
    #[inline]
    fn is_unwatched(&self, py: Python<'_>) -> bool {
        let functions = [&self.data_received, &self.stream_reader, &self.feed_data, &self.wakeup_waiter];
        self.watchers.none(py)
            && functions.into_iter().all(|function| self.watchers.none_of(function.code.bind(py)))
    }

    /// True if the property is the original one, and attributes of instances are read and written as at first. The
    /// methods are looked at for each object.
    #[inline]
    fn has_original_classes(&self, py: Python<'_>) -> bool {
        if !self.protocol.is_as_seen(py) || !self.reader.is_as_seen(py) {
            self.look_at_classes(py);
        }
        self.classes_are_original.load(Relaxed)
    }

    #[cold]
    fn look_at_classes(&self, py: Python<'_>) {
        let property = self.protocol.class.bind(py).getattr(&self.stream_reader.name);
        // The class gets its new version by this, if it has none.
        drop(self.reader.class.bind(py).getattr(&self.feed_data.name));
        let is_original = property.is_ok_and(|property| property.is(&self.property))
            && self.protocol.has_usual_access(py)
            && self.reader.has_usual_access(py);
        self.classes_are_original.store(is_original, Relaxed);
        for class in [&self.protocol, &self.reader] {
            class.seen.store(class.version(py), Relaxed);
        }
    }
}
