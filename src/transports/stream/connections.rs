//! How many connections a server has, and which: what asyncio's `Server` keeps in `_clients`, since CPython 3.13.
//!
//! There it is a `weakref.WeakSet`, with a weak reference and a place in a table for each transport. Here it is a number,
//! because the loop has a registration of each transport anyway. `Server` itself is asyncio's class.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList, PyWeakrefMethods, PyWeakrefReference};

use super::StreamTransport;
use crate::core::LoopCore;
use crate::py::new::{self, intern};

/// Takes the place of `Server._clients`, and has the methods of a set that `Server` calls.
///
/// A transport of this loop is in it for as long as the transport refers to the server.
#[pyclass(frozen, module = "rloop._rloop")]
pub struct Connections {
    core: Arc<LoopCore>,
    /// Weak, because the server refers to this.
    server: Py<PyWeakrefReference>,
    /// How many of the loop's transports are in it.
    count: AtomicUsize,
    /// The `WeakSet`, for other transports that a program adds.
    others: Py<PyAny>,
}

impl Connections {
    /// Puts one into the place of a server's `WeakSet`. A server that has none, one that is not empty, or another object
    /// there, is left as it is.
    pub fn take_place(core: &Arc<LoopCore>, server: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, name) = (server.py(), &core.names._clients);
        let Ok(clients) = server.getattr(name) else { return Ok(()) };
        let class = py.import(intern!(py, "weakref")?)?.getattr(intern!(py, "WeakSet")?)?;
        if !clients.get_type().is(&class) || !clients.is_empty()? {
            return Ok(());
        }
        let connections = Self {
            core: core.clone(),
            server: PyWeakrefReference::new(server)?.unbind(),
            count: AtomicUsize::new(0),
            others: clients.unbind(),
        };
        server.setattr(name, Bound::new(py, connections)?)
    }

    /// Removes a transport, if it is there. Also for one that is being deallocated, which Python code must not see.
    pub fn remove(&self, py: Python<'_>, transport: &StreamTransport) -> bool {
        let server = self.server.bind(py).upgrade();
        let is_removed = server.is_some_and(|server| transport.leave_server(&server));
        self.count.fetch_sub(is_removed.into(), Relaxed);
        is_removed
    }

    /// The transport, if it is one of this loop.
    fn own<'a>(&self, transport: &'a Bound<'_, PyAny>) -> Option<&'a StreamTransport> {
        let own = transport.cast::<StreamTransport>().ok()?.get();
        own.is_of(&self.core).then_some(own)
    }
}

#[pymethods]
impl Connections {
    /// Adds a transport, if it is not there.
    fn add(&self, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = transport.py();
        if let Some(own) = self.own(transport)
            && let Some(server) = self.server.bind(py).upgrade()
        {
            if own.join_server(&server) {
                self.count.fetch_add(1, Relaxed);
                return Ok(());
            }
            if own.is_at_server(&server) {
                return Ok(());
            }
        }
        // It can be one of the loop's, of another server.
        self.others.bind(py).call_method1(intern!(py, "add")?, (transport,)).map(drop)
    }

    /// Removes a transport, if it is there.
    fn discard(&self, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = transport.py();
        if self.own(transport).is_some_and(|own| self.remove(py, own)) {
            return Ok(());
        }
        self.others.bind(py).call_method1(intern!(py, "discard")?, (transport,)).map(drop)
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.count.load(Relaxed) + self.others.bind(py).len()?)
    }

    /// A list of those that are open. One that is closed, and whose `connection_lost` is still to come, is not in it.
    fn copy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let server = self.server.bind(py).upgrade();
        let is_mine = |object: &Bound<'py, PyAny>| {
            let own = self.own(object).zip(server.as_ref());
            own.is_some_and(|(own, server)| own.is_at_server(server))
        };
        let registered = self.core.natives(py).into_iter().map(|native| native.object.into_bound(py));
        let list = new::list(py, registered.filter(is_mine))?;
        for other in self.others.bind(py).try_iter()? {
            list.append(other?)?;
        }
        Ok(list)
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.copy(py)?.try_iter()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.server)?;
        visit.call(&self.others)
    }
}
