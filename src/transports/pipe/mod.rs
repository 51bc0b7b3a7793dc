//! Pipe transports: the reading or the writing end of a pipe, a FIFO, a socket, a terminal or another character device.
//! The models are asyncio's `_UnixReadPipeTransport` and `_UnixWritePipeTransport`.
//!
//! Here is what the two ends share beside the shell (`shell.rs`): the file. The reading end is in `reader.rs`, the
//! writing end in `writer.rs`, how much a pipe holds in `capacity.rs`. What may be a pipe is asked once per file, in
//! Python (`_pipes.py`).
//!
//! The program's pipe object owns the fd. Its `close()` closes it, once, after `connection_lost`.

mod capacity;
mod reader;
mod writer;

use std::os::fd::RawFd;

use pyo3::prelude::*;

use super::outbox::Outbox;
use super::protocol;
use super::shell::{Parts, Shell, Side, State};
use super::socket::File;
use super::transport::Transport;
use crate::core::Native;
use crate::py::file_fd::FileFd;
use crate::py::made::Made;
use capacity::Capacity;
pub use reader::ReadPipeTransport;
pub use writer::WritePipeTransport;

/// A pipe transport of either kind.
trait End: Transport<Side: Side<Queue: Default>> + Into<PyClassInitializer<Self>> {
    /// Where the side of this kind of end has the pipe's capacity.
    fn capacity(side: &mut Self::Side) -> &mut Capacity;

    /// Makes the transport, by `wrap`, and schedules its start; the second step only if there is something to watch.
    fn make<'py>(
        parts: Parts<'_, 'py>,
        (pipe, fd): (&Bound<'py, PyAny>, RawFd),
        side: Self::Side,
        watched: bool,
        wrap: impl FnOnce(Made<Shell<Self::Side>>) -> Self,
    ) -> PyResult<Bound<'py, Self>> {
        let (py, core) = (pipe.py(), parts.core);
        let file = File::Pipe(Box::new(FileFd::with_number(pipe, fd)?));
        let shell = Shell::new(&parts, file, Outbox::default(), side)?;
        shell.extra(py)?.set_item(&core.names.pipe, pipe)?;
        let transport = Bound::new(py, wrap(Made::new(shell)))?;
        core.check_closed()?;
        let made = protocol::connection_made(core.names, &parts.protocol)?;
        Self::start(&transport, made, watched, parts.waiter)?;
        Ok(transport)
    }

    /// Has the loop watch `fd` for this end from now on, and call the protocol in a copy of the current context. `fd`:
    /// none for the end's own.
    fn watch(slf: &Bound<'_, Self>, fd: Option<RawFd>) -> PyResult<()> {
        let (py, shell) = (slf.py(), slf.get().shell());
        shell.core.check_closed()?;
        shell.renew_context(py)?;
        let fd = fd.unwrap_or_else(|| shell.state.with(py, |state| state.file.number()));
        let native = Native { object: slf.as_any().clone().unbind(), kind: &Self::KIND };
        let token = shell.core.register(py, fd, native)?;
        shell.state.with(py, |state| (state.token, state.held) = (Some(token), true));
        Ok(())
    }

    /// Closes the pipe object.
    fn close_pipe(&self, py: Python<'_>) -> PyResult<()> {
        let file = self.shell().state.with(py, |state| {
            *Self::capacity(&mut state.side) = Capacity::Given;
            state.file.take(py)
        });
        file.close(py)
    }

    /// The pipe may be made to hold more once it has been full.
    fn let_grow(&self, py: Python<'_>) {
        self.shell().state.with(py, |state| *Self::capacity(&mut state.side) = Capacity::Growing);
    }
}

/// What `repr()` says of an end beyond its fd: `polled` where there is a loop and a pipe.
fn describe_rest<S: Side>(state: &State<S>, loop_is_closed: bool, polled: impl FnOnce() -> String) -> String {
    match (state.file.is_closed(), loop_is_closed) {
        (true, _) => " closed".to_owned(),
        (false, true) => " open".to_owned(),
        (false, false) => polled(),
    }
}
