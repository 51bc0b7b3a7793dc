//! The socket of a connection: a stream socket, or a datagram socket that is connected. It is non-blocking. There is
//! one type for all kinds, so that the client need not know which it has. Nothing here knows of messages.

use crate::args::Target;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const CONNECT_RETRY: Duration = Duration::from_millis(5);

/// A connection to the server.
pub enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
    Udp(UdpSocket),
}

impl Wire {
    /// Connects. While nobody listens at the address, tries again, because the server may just be starting.
    pub fn connect(target: &Target, deadline: Instant) -> io::Result<Self> {
        loop {
            match Self::try_connect(target, deadline) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    if deadline.saturating_duration_since(Instant::now()) < CONNECT_RETRY {
                        return Err(error);
                    }
                    std::thread::sleep(CONNECT_RETRY);
                }
                result => return result,
            }
        }
    }

    fn try_connect(target: &Target, deadline: Instant) -> io::Result<Self> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(match target {
            Target::Tcp { port } => {
                let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                let stream = TcpStream::connect_timeout(&local(*port), left)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Self::Tcp(stream)
            }
            Target::Unix { path } => {
                let stream = UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                Self::Unix(stream)
            }
            Target::Udp { port } => {
                let socket = UdpSocket::bind(local(0))?;
                socket.connect(local(*port))?;
                socket.set_nonblocking(true)?;
                Self::Udp(socket)
            }
        })
    }

    /// Whether each message is one datagram, which comes back whole or not at all.
    pub fn is_datagram(&self) -> bool {
        matches!(self, Self::Udp(_))
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
            Self::Udp(socket) => socket.recv(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
            Self::Udp(socket) => socket.send(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

/// Sends until all is sent or the kernel takes no more. Returns how many bytes it took.
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
