//! The bare echo server. It shows the least CPU time that a server with one thread and epoll can spend on a request.
//! The loops are compared with that: one recv into one page-aligned buffer, one send, no bookkeeping. With TLS it is the
//! plainest server on OpenSSL: one read and one write for a record.

use crate::args::Tls;
use crate::buffer::PageAligned;
use crate::control::{self, Input};
use crate::epoll::{self, Epoll, Event, Interest};
use crate::openssl::{Context, RECORD, Session};
use crate::wire::send;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

const BUFFER: usize = 256 * 1024;
const LISTENER: usize = usize::MAX;
const STDIN: usize = usize::MAX - 1;

/// Serves 127.0.0.1 until stdin is closed.
pub fn run(port: u16, tls: Option<&Tls>) -> io::Result<()> {
    let tls = tls.map(|tls| Context::new(&tls.libssl, &tls.chain)).transpose()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    control::say(&format!("{{\"port\":{}}}", listener.local_addr()?.port()))?;
    let mut epoll = Epoll::new()?;
    epoll.add(&listener, LISTENER, Interest::LevelReadable)?;
    epoll.add(&io::stdin(), STDIN, Interest::LevelReadable)?;
    let buffer = PageAligned::zeroed(BUFFER);
    let mut clients = Clients { tls, slots: Vec::new(), free: Vec::new(), buffer };
    loop {
        for index in 0..epoll.wait(None)? {
            match epoll.event(index) {
                Event { key: LISTENER, .. } => clients.accept(&listener, &epoll)?,
                Event { key: STDIN, .. } => match control::read_lines()? {
                    Input::Closed => return Ok(()),
                    Input::Lines(count) => (0..count).try_for_each(|_| report_usage())?,
                },
                event => clients.serve(event),
            }
        }
    }
}

fn report_usage() -> io::Result<()> {
    let (cpu, resident) = (epoll::cpu_time()?.as_secs_f64(), epoll::resident_bytes()?);
    control::say(&format!("{{\"cpu_seconds\":{cpu:.6},\"resident\":{resident}}}"))
}

/// A connection, as the server sees it.
enum Peer {
    Plain(TcpStream),
    Tls(Session),
}

impl Peer {
    /// Whether a read that returned `count` bytes, where there was `room`, has certainly emptied the socket.
    /// `first`: it is the first read since an event.
    fn is_emptied(&self, count: usize, room: usize, first: bool) -> bool {
        match self {
            Self::Plain(_) => count < room,
            // OpenSSL receives into a buffer that holds more than the longest record. If this record was short and
            // nothing else is in the buffer, then OpenSSL's recv did not fill it, so the socket was emptied.
            Self::Tls(session) => first && count < RECORD && !session.holds_input(),
        }
    }
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(session) => session.read(buffer),
        }
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(session) => session.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(stream) => stream.as_fd(),
            Self::Tls(session) => session.as_fd(),
        }
    }
}

struct Client {
    peer: Peer,
    /// What was read and is not sent yet. While there is some, nothing more is read.
    unsent: Vec<u8>,
}

struct Clients {
    tls: Option<Rc<Context>>,
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
            let peer = match &self.tls {
                Some(context) => Peer::Tls(Session::new(context, stream)?),
                None => Peer::Plain(stream),
            };
            epoll.add(&peer, key, Interest::EdgeBoth)?;
            let client = Some(Client { peer, unsent: Vec::new() });
            match self.slots.get_mut(key) {
                Some(slot) => *slot = client,
                None => self.slots.push(client),
            }
        }
    }

    /// Echoes what has come. Drops the client if its connection is over.
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
    /// Returns an error if the connection is over, for whatever reason.
    fn echo(&mut self, buffer: &mut [u8], closed: bool) -> io::Result<()> {
        let sent = send(&mut self.peer, &self.unsent)?;
        self.unsent.drain(..sent);
        let mut first = true;
        while self.unsent.is_empty() {
            let count = match self.peer.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let emptied = !closed && self.peer.is_emptied(count, buffer.len(), first);
            first = false;
            let sent = send(&mut self.peer, &buffer[..count])?;
            self.unsent.extend_from_slice(&buffer[sent..count]);
            if emptied {
                return Ok(());
            }
        }
        Ok(())
    }
}
