//! The classes of transports as Python sees them: the methods that all of them have.
//!
//! PyO3 wants all methods of a class in one block. So the block is put together here: `transport_class!` adds the
//! common methods to those that a class has for itself. None has logic: each calls what `transport.rs` or `sender.rs`
//! has for it.

/// Defines what Python sees of the class `$class`, which wraps a `Made<$held>`. `isinstance` takes it for the class
/// `$shown` of the table `Names`: asyncio's classes cannot be native bases.
///
/// The groups after `with` say which methods are added to the class's own: `reads` and `sends`. Those of every
/// transport are always added.
macro_rules! transport_class {
    ($class:ident($held:ty) shown as $shown:ident, with $($group:ident),+ { $($own:tt)* }) => {
        $crate::py::made::derefs_to_made! { $class => $held }

        impl Drop for $class {
            /// A transport that nobody has closed is warned about as asyncio does, and its file is closed.
            fn drop(&mut self) {
                self.dropped();
            }
        }

        $crate::transports::class::transport_class! { @add [$($group)+] $class {
            $($own)*

            /// Ends the transport once everything queued is sent. Nothing more is read.
            fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
                Self::close_gracefully(slf)
            }

            /// True once the transport is closing or closed.
            fn is_closing(slf: &Bound<'_, Self>) -> PyResult<bool> {
                Self::send_kept(slf)?;
                Ok(slf.get().closing(slf.py()))
            }

            /// Sets the protocol; at any time, also from one kind to the other.
            fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
                self.adopt(protocol)
            }

            /// The protocol; None once `connection_lost` was called.
            fn get_protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
                self.protocol(py)
            }

            /// Information about the transport: "socket", "sockname", "peername" or "pipe", and what its maker added.
            #[pyo3(signature = (name, default=None))]
            fn get_extra_info<'py>(
                slf: &Bound<'py, Self>,
                name: &Bound<'py, PyAny>,
                default: Option<Bound<'py, PyAny>>,
            ) -> PyResult<Option<Bound<'py, PyAny>>> {
                Self::extra_info(slf, name, default)
            }

            /// For the attributes that `_transports.py` adds.
            fn _inside<'py>(&self, py: Python<'py>) -> PyResult<$crate::transports::inside::Inside<'py>> {
                self.inside(py, self.unsent(py)?)
            }

            fn __repr__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyString>> {
                $crate::py::new::string(py, &self.describe(py))
            }

            /// `isinstance(transport, asyncio.Transport)` asks for this.
            #[getter(__class__)]
            fn class(&self, py: Python<'_>) -> Py<PyAny> {
                self.core.names.$shown.clone_ref(py)
            }

            /// asyncio's private name for it, which programs read.
            #[getter(_closing)]
            fn closing(&self, py: Python<'_>) -> bool {
                self.shell().is_closing(py)
            }

            /// asyncio's private name for it, which programs read.
            #[getter(_loop)]
            fn get_loop(&self, py: Python<'_>) -> Py<PyAny> {
                self.event_loop.clone_ref(py)
            }

            /// For how many seconds the transport exists: for `rloop.dump`.
            fn _age<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyFloat>> {
                let age = self.core.clock.now_ns() - self.made_at;
                $crate::py::new::float(py, $crate::reactor::clock::seconds(age))
            }

            /// The second step after `connection_made`.
            fn _begin(slf: &Bound<'_, Self>) -> PyResult<()> {
                Self::begin(slf)
            }

            /// The callback by which the ready queue ends the transport. It has asyncio's name.
            fn _call_connection_lost(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
                Self::call_connection_lost(slf, exc)
            }

            fn __traverse__(&self, visit: pyo3::gc::PyVisit<'_>) -> Result<(), pyo3::gc::PyTraverseError> {
                self.traverse(&visit)
            }

            fn __clear__(&self, py: Python<'_>) {
                self.clear(py);
            }
        } }
    };
    (@add [] $class:ident { $($methods:tt)* }) => {
        #[pymethods]
        impl $class {
            $($methods)*
        }
    };
    (@add [reads $($group:ident)*] $class:ident { $($methods:tt)* }) => {
        $crate::transports::class::transport_class! { @add [$($group)*] $class {
            $($methods)*

            /// True if data is being received.
            fn is_reading(&self, py: Python<'_>) -> bool {
                self.state.with(py, |state| state.life.is_reading())
            }

            /// Stops receiving: the protocol gets nothing until `resume_reading()`. No data is lost.
            fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
                Self::stop_reading(slf)
            }

            /// Goes on receiving.
            fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
                Self::go_on_reading(slf)
            }

            /// asyncio's private name for it, which programs read.
            #[getter(_paused)]
            fn is_paused(&self, py: Python<'_>) -> bool {
                self.state.with(py, |state| state.life.is_paused())
            }
        } }
    };
    (@add [sends $($group:ident)*] $class:ident { $($methods:tt)* }) => {
        $crate::transports::class::transport_class! { @add [$($group)*] $class {
            $($methods)*

            /// Sets the marks, in bytes, above which the protocol is paused and at which it is resumed.
            #[pyo3(signature = (high=None, low=None))]
            fn set_write_buffer_limits(
                slf: &Bound<'_, Self>,
                high: Option<&Bound<'_, PyAny>>,
                low: Option<&Bound<'_, PyAny>>,
            ) -> PyResult<()> {
                Self::set_limits(slf, high, low)
            }

            /// (low, high), in bytes.
            fn get_write_buffer_limits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyTuple>> {
                $crate::transports::water_marks::limits(py, self.state.with(py, |state| state.outbox.flow.limits()))
            }

            /// How many bytes are queued. For datagrams, since Python 3.13, with 8 for the header of each.
            fn get_write_buffer_size(slf: &Bound<'_, Self>) -> PyResult<$crate::py::new::Size> {
                Self::send_kept(slf)?;
                Ok($crate::py::new::Size(slf.get().queued(slf.py())))
            }

            /// asyncio's private name for it, which programs read.
            #[getter(_protocol_paused)]
            fn is_protocol_paused(&self, py: Python<'_>) -> bool {
                self.state.with(py, |state| state.outbox.flow.is_paused())
            }
        } }
    };
}
pub(crate) use transport_class;
