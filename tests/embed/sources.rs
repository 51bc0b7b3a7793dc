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
    // Only once the guard is in its place.
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
    // The callback is gone, and the socket with it.
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
