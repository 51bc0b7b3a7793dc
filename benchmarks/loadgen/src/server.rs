//! The bare echo server: the least CPU that a single-threaded epoll server can spend on a request, the
//! unit in which the loops are measured. One recv into one page-aligned buffer, one send, no bookkeeping.

use crate::buffer::PageAligned;
use crate::control::{self, Input};
use crate::epoll::{self, Epoll, Event, Interest};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

const BUFFER: usize = 256 * 1024;
const LISTENER: usize = usize::MAX;
const STDIN: usize = usize::MAX - 1;

/// Serves 127.0.0.1 until stdin is closed.
pub fn run(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    control::say(&format!("{{\"port\":{}}}", listener.local_addr()?.port()))?;
    let mut epoll = Epoll::new()?;
    epoll.add(&listener, LISTENER, Interest::LevelReadable)?;
    epoll.add(&io::stdin(), STDIN, Interest::LevelReadable)?;
    let mut clients = Clients { slots: Vec::new(), free: Vec::new(), buffer: PageAligned::zeroed(BUFFER) };
    loop {
        for index in 0..epoll.wait(None)? {
            match epoll.event(index) {
                Event { key: LISTENER, .. } => clients.accept(&listener, &epoll)?,
                Event { key: STDIN, .. } => match control::read_lines()? {
                    Input::Closed => return Ok(()),
                    Input::Lines(count) => (0..count).try_for_each(|_| report_cpu())?,
                },
                event => clients.serve(event),
            }
        }
    }
}

fn report_cpu() -> io::Result<()> {
    control::say(&format!("{{\"cpu_seconds\":{:.6}}}", epoll::cpu_time()?.as_secs_f64()))
}

struct Client {
    stream: TcpStream,
    /// Read but not taken by the kernel yet; while there is some, nothing is read.
    unsent: Vec<u8>,
}

struct Clients {
    slots: Vec<Option<Client>>,
    free: Vec<usize>,
    buffer: PageAligned,
}

impl Clients {
    fn accept(&mut self, listener: &TcpListener, epoll: &Epoll) -> io::Result<()> {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let key = self.free.pop().unwrap_or(self.slots.len());
            epoll.add(&stream, key, Interest::EdgeBoth)?;
            let client = Some(Client { stream, unsent: Vec::new() });
            match self.slots.get_mut(key) {
                Some(slot) => *slot = client,
                None => self.slots.push(client),
            }
        }
    }

    /// Echoes what there is; forgets the client when it has gone.
    fn serve(&mut self, event: Event) {
        let slot = &mut self.slots[event.key];
        let Some(client) = slot else { return };
        if client.echo(&mut self.buffer, event.closed).is_err() {
            *slot = None;
            self.free.push(event.key);
        }
    }
}

impl Client {
    /// An error means that the connection is over, for whatever reason.
    fn echo(&mut self, buffer: &mut [u8], closed: bool) -> io::Result<()> {
        let sent = send(&mut self.stream, &self.unsent)?;
        self.unsent.drain(..sent);
        while self.unsent.is_empty() {
            let count = match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let sent = send(&mut self.stream, &buffer[..count])?;
            self.unsent.extend_from_slice(&buffer[sent..count]);
            if count < buffer.len() && !closed {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Sends until all is sent or the kernel takes no more, and returns how much it took.
pub fn send(stream: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
