//! Sockets of the host on the loop's reactor.

use std::io::{Read, Write};
use std::net::TcpStream as Client;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use rloop::embed::mio::Interest;
use rloop::embed::mio::net::{TcpListener, UnixStream};

use super::tasks::wait_until;
use super::*;

#[test]
fn a_listener_and_its_connections() {
    let event_loop = start();
    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(Mutex::new(Vec::new()));
    let (handle, kept) = (event_loop.handle().clone(), connections.clone());
    let listening = event_loop
        .register(listener, Interest::READABLE, move |_, listener, _| {
            while let Ok((connection, _)) = listener.accept() {
                let echo = handle.register(connection, Interest::READABLE, |_, connection, readiness| {
                    assert!(readiness.contains(rloop::embed::Readiness::READABLE));
                    let mut buffer = [0; 64];
                    while let Ok(count @ 1..) = connection.read(&mut buffer) {
                        connection.write_all(&buffer[..count])?;
                    }
                    Ok(())
                })?;
                kept.lock().unwrap().push(echo);
            }
            Ok(())
        })
        .unwrap();
    for n in 0..5 {
        let mut client = Client::connect(address).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        for text in [format!("hello {n}"), format!("again {n}")] {
            client.write_all(text.as_bytes()).unwrap();
            let mut answer = vec![0; text.len()];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, text.as_bytes());
        }
    }
    assert_eq!(event_loop.metrics().sources, 6);
    drop(std::mem::take(&mut *connections.lock().unwrap()));
    drop(listening);
    assert_eq!(event_loop.metrics().sources, 0);
    assert!(Client::connect(address).is_err());
}

#[test]
fn the_guard_may_be_dropped_in_its_own_callback() {
    let event_loop = start();
    let (receiver, mut sender) = UnixStream::pair().unwrap();
    let guard = Arc::new(Mutex::new(None));
    let (own, (tell, told)) = (guard.clone(), channel());
    // The callback waits until the guard is in its place.
    let place = guard.lock().unwrap();
    let registered = event_loop
        .register(receiver, Interest::READABLE, move |py, _, _| {
            let guard = py.detach(|| own.lock().unwrap().take());
            drop(guard);
            Ok(tell.send(()).unwrap())
        })
        .unwrap();
    { place }.replace(registered);
    sender.write_all(b"x").unwrap();
    told.recv_timeout(SOON).unwrap();
    wait_until(|| event_loop.metrics().sources == 0);
    // The callback was dropped, and the socket with it.
    assert!(told.recv_timeout(SOON).is_err());
    let mut rest = Vec::new();
    sender.write_all(b"x").unwrap_err();
    let _ = sender.read_to_end(&mut rest);
}

#[test]
fn errors_and_panics_are_reported_and_the_source_stays() {
    let event_loop = start();
    let reports = collect_reports(&event_loop);
    let (receiver, mut sender) = UnixStream::pair().unwrap();
    let (tell, told) = channel();
    let guard = event_loop
        .register(receiver, Interest::READABLE, move |_, socket, _| {
            let mut buffer = [0; 1];
            while let Ok(1) = socket.read(&mut buffer) {
                tell.send(buffer[0]).unwrap();
                match buffer[0] {
                    b'p' => panic!("a panic"),
                    b'e' => return Err(pyo3::exceptions::PyValueError::new_err("an error")),
                    _ => (),
                }
            }
            Ok(())
        })
        .unwrap();
    for byte in [b'p', b'e', b'x'] {
        sender.write_all(&[byte]).unwrap();
        assert_eq!(told.recv_timeout(SOON).unwrap(), byte);
    }
    wait_until(|| strings(&reports).len() == 2);
    assert_eq!(strings(&reports), ["RuntimeError('panic in Rust: a panic')", "ValueError('an error')"]);
    drop(guard);
}

#[test]
fn a_loop_that_ends_drops_its_sources() {
    let event_loop = start();
    let (receiver, mut sender) = UnixStream::pair().unwrap();
    let guard = event_loop.register(receiver, Interest::READABLE, |_, _, _| Ok(())).unwrap();
    event_loop.shutdown(SOON).unwrap();
    drop(guard);
    assert!(sender.write_all(b"x").is_err());
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let event_loop = start();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    struct File(std::fs::File);
    impl rloop::embed::mio::event::Source for File {
        fn register(
            &mut self,
            registry: &rloop::embed::mio::Registry,
            token: rloop::embed::mio::Token,
            interest: Interest,
        ) -> std::io::Result<()> {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&self.0);
            registry.register(&mut rloop::embed::mio::unix::SourceFd(&fd), token, interest)
        }
        fn reregister(
            &mut self,
            registry: &rloop::embed::mio::Registry,
            token: rloop::embed::mio::Token,
            interest: Interest,
        ) -> std::io::Result<()> {
            self.register(registry, token, interest)
        }
        fn deregister(&mut self, _: &rloop::embed::mio::Registry) -> std::io::Result<()> {
            Ok(())
        }
    }
    let error = event_loop.register(File(file), Interest::READABLE, |_, _, _| Ok(())).err().unwrap();
    assert!(text_of(&error).starts_with("PermissionError"), "{}", text_of(&error));
    assert_eq!(event_loop.metrics().sources, 0);
}

/// A source whose methods use the loop, and may take long.
struct Busy(UnixStream, Py<PyAny>);

impl Busy {
    fn use_loop(&self) {
        Python::attach(|py| {
            self.1.call_method1(py, "call_soon_threadsafe", (py.get_type::<pyo3::types::PyList>(),)).unwrap();
            self.1.call_method1(py, "call_later", (60, py.get_type::<pyo3::types::PyList>())).unwrap();
        });
    }
}

impl rloop::embed::mio::event::Source for Busy {
    fn register(
        &mut self,
        registry: &rloop::embed::mio::Registry,
        token: rloop::embed::mio::Token,
        interest: Interest,
    ) -> std::io::Result<()> {
        self.0.register(registry, token, interest)?;
        self.use_loop();
        // Meanwhile the loop's thread may poll and find the source ready.
        Python::attach(|py| py.detach(|| std::thread::sleep(Duration::from_millis(20))));
        Ok(())
    }
    fn reregister(
        &mut self,
        registry: &rloop::embed::mio::Registry,
        token: rloop::embed::mio::Token,
        interest: Interest,
    ) -> std::io::Result<()> {
        self.0.reregister(registry, token, interest)
    }
    fn deregister(&mut self, registry: &rloop::embed::mio::Registry) -> std::io::Result<()> {
        self.use_loop();
        self.0.deregister(registry)
    }
}

#[test]
fn the_methods_of_a_source_may_use_the_loop() {
    let event_loop = start();
    let (receiver, mut sender) = UnixStream::pair().unwrap();
    let object = Python::attach(|py| event_loop.event_loop(py).clone().unbind());
    sender.write_all(b"x").unwrap();
    let (tell, told) = channel();
    let guard = event_loop
        .register(Busy(receiver, object), Interest::READABLE, move |_, busy, _| {
            let mut buffer = [0; 8];
            while let Ok(count @ 1..) = busy.0.read(&mut buffer) {
                tell.send(buffer[..count].to_vec()).unwrap();
            }
            Ok(())
        })
        .unwrap();
    // This data had come before the callback was in its place.
    assert_eq!(told.recv_timeout(SOON).unwrap(), b"x");
    sender.write_all(b"y").unwrap();
    assert_eq!(told.recv_timeout(SOON).unwrap(), b"y");
    drop(guard);
    assert_eq!(event_loop.metrics().sources, 0);
}

/// Runs a test of this program that forks, in a process in which no other test runs.
#[test]
fn forks_in_a_process_of_their_own() {
    let program = std::env::current_exe().unwrap();
    for test in [
        "sources::a_fork_s_child_has_sources_of_its_own",
        "sources::a_fork_s_child_leaves_its_parent_s_alone",
    ] {
        let output = std::process::Command::new(&program)
            .args(["--exact", test, "--ignored", "--test-threads=1"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// A source on the loop that runs `main(wait, send, end)`: `wait` is a coroutine function that waits until something was
/// received, `send` sends, `end` ends the registration.
fn run_with_a_source(main: &str) {
    let main = function(main, "main");
    Python::attach(|py| {
        let (receiver, sender) = UnixStream::pair().unwrap();
        let mut parts = Some((receiver, sender));
        let result = rloop::embed::run(py, |handle| {
            let (receiver, sender) = parts.take().unwrap();
            let received = py.import("asyncio")?.getattr("Queue")?.call0()?.unbind();
            let put = received.clone_ref(py);
            let guard = handle.register(receiver, Interest::READABLE, move |py, socket, _| {
                let mut buffer = [0; 8];
                while let Ok(count @ 1..) = socket.read(&mut buffer) {
                    put.call_method1(py, "put_nowait", (&buffer[..count],))?;
                }
                Ok(())
            })?;
            let guard = Mutex::new(Some(guard));
            let send = move |args: &Bound<'_, pyo3::types::PyTuple>, _: Option<&Bound<'_, PyDict>>| {
                PyResult::Ok((&sender).write(&args.get_item(0)?.extract::<Vec<u8>>()?)?)
            };
            let end = move |_: &Bound<'_, pyo3::types::PyTuple>, _: Option<&Bound<'_, PyDict>>| {
                drop(guard.lock().unwrap().take());
                PyResult::Ok(())
            };
            let send = pyo3::types::PyCFunction::new_closure(py, None, None, send)?;
            let end = pyo3::types::PyCFunction::new_closure(py, None, None, end)?;
            main.bind(py).call1((received.getattr(py, "get")?, send, end))
        });
        result.map_err(|error| error.display(py)).unwrap();
    });
}

#[test]
#[ignore = "forks: run by `forks_in_a_process_of_their_own`"]
fn a_fork_s_child_has_sources_of_its_own() {
    run_with_a_source(
        "
import asyncio, os, traceback, warnings
warnings.simplefilter('ignore')
async def receive(get, send, data):
    send(data)
    async with asyncio.timeout(10):
        assert bytes(await get()) == data
async def main(get, send, end):
    await receive(get, send, b'before')
    loop = asyncio.get_running_loop()
    child = os.fork()
    if child == 0:
        try:
            # asyncio has forgotten it.
            asyncio._set_running_loop(loop)
            # Once more, for an edge that came behind the registration.
            await receive(get, send, b'child')
            await asyncio.sleep(0.01)
            await receive(get, send, b'again')
            end()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    await receive(get, send, b'parent')
",
    );
}

#[test]
#[ignore = "forks: run by `forks_in_a_process_of_their_own`"]
fn a_fork_s_child_leaves_its_parent_s_alone() {
    run_with_a_source(
        "
import asyncio, os, warnings
warnings.simplefilter('ignore')
async def main(get, send, end):
    await asyncio.sleep(0.01)
    child = os.fork()
    if child == 0:
        end()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    send(b'parent')
    async with asyncio.timeout(10):
        assert bytes(await get()) == b'parent'
",
    );
}
