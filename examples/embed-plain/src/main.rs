//! A TCP server in Rust whose answers are made by Python, on one thread and one reactor.
//!
//!     embed-plain [PORT]     prints "listening on ADDRESS"; answers lines; ends when its standard input does
//!
//! For each line of a client the coroutine `answer` of app.py runs, which awaits a Rust function. There is no runtime
//! but the loop.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::io::{Read, Write};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyCFunction;
use rloop::embed::mio::Interest;
use rloop::embed::mio::net::{TcpListener, TcpStream};
use rloop::embed::{LoopHandle, LoopThread, Registration};

const APP: &CStr = c_str(concat!(include_str!("app.py"), "\0"));

const fn c_str(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("app.py contains a NUL"),
    }
}

thread_local! {
    /// The connections. Only the loop's thread uses them. To remove one closes it.
    static CONNECTIONS: RefCell<HashMap<u64, Registration>> = RefCell::new(HashMap::new());
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "0".to_owned());
    let event_loop = LoopThread::start()?;
    let answer = Python::attach(|py| -> PyResult<_> {
        Ok(PyModule::from_code(py, APP, c"app.py", c"app")?.getattr("answer")?.unbind())
    })?;

    let listener = TcpListener::bind(format!("127.0.0.1:{port}").parse()?)?;
    println!("listening on {}", listener.local_addr()?);
    let handle = event_loop.handle().clone();
    let mut accepted = 0;
    let listening = event_loop.register(listener, Interest::READABLE, move |py, listener, _readiness| {
        // mio is edge-triggered, so accept until it would block.
        while let Ok((connection, _)) = listener.accept() {
            accepted += 1;
            let serving = serve(&handle, accepted, connection, answer.clone_ref(py))?;
            CONNECTIONS.with_borrow_mut(|all| all.insert(accepted, serving));
        }
        Ok(())
    })?;

    // Wait until our standard input is closed.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    drop(listening);
    event_loop.shutdown(Duration::from_secs(5))?;
    event_loop.join()?;
    println!("ended");
    Ok(())
}

/// Watches one connection. Python answers each line that comes.
fn serve(handle: &LoopHandle, id: u64, connection: TcpStream, answer: Py<PyAny>) -> PyResult<Registration> {
    let own = handle.clone();
    let mut line = Vec::new();
    handle.register(connection, Interest::READABLE, move |py, connection, _readiness| {
        let mut byte = [0; 1];
        loop {
            match connection.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => {
                    let text = String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned();
                    let coroutine = answer.bind(py).call1((text, lookup(py)?))?;
                    let task = own.spawn(coroutine)?;
                    // A duplicate of the socket, to which the answer is written.
                    let writer = std::os::fd::AsFd::as_fd(connection).try_clone_to_owned()?;
                    rloop::embed::spawn_local(py, async move {
                        let answer = task.await?;
                        let text = Python::attach(|py| answer.extract::<String>(py))? + "\n";
                        // Answers are short: they fit into the socket's buffer.
                        std::net::TcpStream::from(writer).write_all(text.as_bytes())?;
                        PyResult::Ok(())
                    })?;
                }
                Ok(1) => line.push(byte[0]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                // The peer has closed, or there was an error. Close the connection once this callback has returned.
                _ => {
                    // That fails if the loop is about to close, which ends every connection.
                    let _ = own.call_soon(move |_| {
                        drop(CONNECTIONS.with_borrow_mut(|all| all.remove(&id)));
                        Ok(())
                    });
                    return Ok(());
                }
            }
        }
    })
}

/// The function that Python awaits. It counts the characters of a text on a thread of its own.
fn lookup(py: Python<'_>) -> PyResult<Bound<'_, PyCFunction>> {
    PyCFunction::new_closure(py, None, None, |args, _keywords| {
        let text: String = args.get_item(0)?.extract()?;
        let (completer, awaitable) = LoopHandle::current(args.py())?.completer(args.py())?;
        std::thread::spawn(move || completer.complete(PyResult::Ok(text.chars().count())));
        PyResult::Ok(awaitable.unbind())
    })
}
