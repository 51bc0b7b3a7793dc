//! `add_reader` and similar methods as Python calls them: arguments, file objects, and the texts of errors. How an fd
//! is watched is in `core/watching.rs`.

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyInt;

use super::EventLoop;
use crate::error::Message;
use crate::handle::Callback;
use crate::py::fastcall::Arguments;
use crate::py::new;
use crate::reactor::readiness::Readiness;

/// The direction that Python calls `write`.
pub(super) fn direction(write: bool) -> Readiness {
    if write { Readiness::WRITABLE } else { Readiness::READABLE }
}

impl EventLoop {
    /// `add_reader(fd, callback, *args)`
    pub(super) fn add_reader<'py>(
        slf: &Bound<'py, Self>,
        args: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::add(slf, args, "add_reader", Readiness::READABLE)
    }

    /// `add_writer(fd, callback, *args)`
    pub(super) fn add_writer<'py>(
        slf: &Bound<'py, Self>,
        args: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::add(slf, args, "add_writer", Readiness::WRITABLE)
    }

    /// Sets the callback for one direction of an fd. Like asyncio's, these methods return None.
    fn add<'py>(
        slf: &Bound<'py, Self>,
        args: &Arguments<'_, 'py>,
        method: &str,
        direction: Readiness,
    ) -> PyResult<Bound<'py, PyAny>> {
        let file = args.required(0, method, "fd")?;
        let callback = args.required(1, method, "callback")?;
        for (name, _) in args.keywords() {
            args.check_keyword(method, &name.to_string(), &["fd", "callback"])?;
        }
        let core = &slf.get().core;
        let fd = slf.get().fd_of(&file)?;
        slf.get().refuse_fd_of_transport(&file, fd)?;
        core.check_closed()?;
        let handle = core.handle(slf.as_any(), Callback { callback, args: args.from(2), context: None })?;
        core.add_callback(&file, fd, direction, handle)?;
        Ok(slf.py().None().into_bound(slf.py()))
    }

    /// `remove_reader` and `remove_writer`: false if there was nothing to remove.
    pub(super) fn remove(&self, file: &Bound<'_, PyAny>, direction: Readiness) -> PyResult<bool> {
        let fd = self.fd_of(file)?;
        self.refuse_fd_of_transport(file, fd)?;
        self.core.remove_callback(file.py(), fd, direction)
    }

    /// The fd of what `add_reader` takes: an int, or an object with `fileno()` (`selectors._fileobj_to_fd`).
    pub(super) fn fd_of(&self, file: &Bound<'_, PyAny>) -> PyResult<i32> {
        let fd: i64 = if file.is_instance_of::<PyInt>() {
            file.extract()?
        } else {
            let invalid = || PyValueError::new_err(Message(format!("Invalid file object: {}", repr(file))));
            let number = file.call_method0(&self.core.names.fileno).map_err(|_| invalid())?;
            number.extract().map_err(|_| invalid())?
        };
        if fd < 0
            && let Some(fd) = self.core.fd_of_file(file)
        {
            // It was closed. As in asyncio's selectors, it is known by the fd that it was registered with.
            return Ok(fd);
        }
        match i32::try_from(fd) {
            Ok(fd) if fd >= 0 => Ok(fd),
            _ => Err(PyValueError::new_err(Message(format!("Invalid file descriptor: {fd}")))),
        }
    }

    /// RuntimeError if the fd belongs to a transport: `BaseSelectorEventLoop._ensure_fd_no_transport`.
    pub(super) fn refuse_fd_of_transport(&self, file: &Bound<'_, PyAny>, fd: i32) -> PyResult<()> {
        match self.core.owner_of(file.py(), fd) {
            // Two who read the same fd would take each other's bytes.
            Some(transport) => Err(PyRuntimeError::new_err(Message(format!(
                "File descriptor {} is used by transport {}",
                repr(file),
                repr(&transport)
            )))),
            None => Ok(()),
        }
    }

    /// A future that is completed once `sock`, with this fd, is ready in `direction`. To be called when a system call
    /// has just said that it is not ready.
    pub(super) fn wait<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        fd: i32,
        direction: Readiness,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, core) = (slf.py(), &slf.get().core);
        // The error names the fd's number, as that of asyncio's `sock_recv` does, whatever `sock` is.
        if core.owner_of(py, fd).is_some() {
            slf.get().refuse_fd_of_transport(new::int(py, fd as usize)?.as_any(), fd)?;
        }
        core.check_closed()?;
        let future = Self::create_future(slf)?;
        core.wait(sock, fd, direction, &future)?;
        Ok(future)
    }

    /// Takes back a future of [`EventLoop::wait`] that nobody waits for any more.
    pub(super) fn stop_waiting(
        &self,
        sock: &Bound<'_, PyAny>,
        future: &Bound<'_, PyAny>,
        direction: Readiness,
    ) -> PyResult<()> {
        // If the socket was closed meanwhile, it has no number, and its registration has ended.
        if let Ok(fd) = self.fd_of(sock) {
            self.core.stop_waiting(fd, direction, future);
        }
        Ok(())
    }
}

/// The repr of an object in an error message. If it has none, that must not hide the error.
fn repr(object: &Bound<'_, PyAny>) -> String {
    object.repr().map_or_else(|_| "?".to_owned(), |text| text.to_string())
}
