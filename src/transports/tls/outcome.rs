//! What an attempt to read or to write comes to, in the terms that both engines share, and which exceptions of the
//! module `ssl` are no errors. The engines are not known here.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// What a read or a write comes to, unless it fails.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// So many bytes were read or written, at least one.
    Done(usize),
    /// Nothing can be done before more has come from the peer.
    Again,
    /// The peer has sent close_notify: there is nothing more to read.
    Closed,
}

impl Outcome {
    /// What a call of `ssl.SSLObject.write` has come to: it returns how many bytes it has taken.
    pub fn of_write(py: Python<'_>, written: PyResult<Py<PyAny>>) -> PyResult<Self> {
        match unless_again(py, written)? {
            Some(count) => Ok(Self::Done(count.extract(py)?)),
            None => Ok(Self::Again),
        }
    }
}

/// What is needed of the module `ssl`. It is imported late because an interpreter can be without it.
pub struct Classes {
    pub object: Py<PyAny>,
    want_read: Py<PyAny>,
    syscall_error: Py<PyAny>,
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

pub fn classes(py: Python<'_>) -> PyResult<&'static Classes> {
    CLASSES.get_or_try_init(py, || {
        let ssl = py.import("ssl")?;
        Ok(Classes {
            object: ssl.getattr("SSLObject")?.unbind(),
            want_read: ssl.getattr("SSLWantReadError")?.unbind(),
            syscall_error: ssl.getattr("SSLSyscallError")?.unbind(),
        })
    })
}

/// The result of a method of `ssl.SSLObject`; None if its exception means "not now". That is `ssl.SSLWantReadError`, and
/// `ssl.SSLSyscallError`, which asyncio takes for the same.
pub fn unless_again(py: Python<'_>, result: PyResult<Py<PyAny>>) -> PyResult<Option<Py<PyAny>>> {
    let Err(error) = result else {
        return result.map(Some);
    };
    let classes = classes(py)?;
    let again = error.is_instance(py, classes.want_read.bind(py))
        || error.is_instance(py, classes.syscall_error.bind(py));
    if again { Ok(None) } else { Err(error) }
}
