//! What is sent around a message: nothing, the head of an HTTP request, or that of a WebSocket's frame. The client has
//! the messages, and knows none of these. What the heads mean is in `http.rs` and `websocket.rs`.

use crate::buffer::{Messages, PageAligned};
use crate::epoll::{Epoll, Interest};
use crate::http;
use crate::stream::Stream;
use crate::websocket;
use std::io::{self, ErrorKind};
use std::time::Instant;

/// How messages are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Framing {
    /// A message is all that is sent.
    Plain,
    /// A message is the body of a request, and of its answer.
    Http,
    /// A message is a frame.
    WebSocket,
}

impl Framing {
    /// Messages of `size` bytes, and what is sent for each.
    pub fn messages(self, size: usize) -> Messages {
        match self {
            Self::Plain => Messages::new(size),
            Self::Http => Messages::with_head(size, &http::request_head(size)),
            Self::WebSocket => Messages::with_head(size, &websocket::request_head(size)),
        }
    }

    /// The buffer for what is received: a message and the longest head before it.
    pub fn scratch(self, size: usize) -> PageAligned {
        let head = match self {
            Self::Plain => 0,
            Self::Http => http::LONGEST_HEAD,
            Self::WebSocket => websocket::LONGEST_HEAD,
        };
        PageAligned::zeroed(head + size)
    }

    /// The head of the answers to messages of `size` bytes, if they have one.
    pub fn head(self, size: usize) -> Option<AnswerHead> {
        match self {
            Self::Plain => None,
            Self::Http => Some(AnswerHead::Http(http::AnswerHead::default())),
            Self::WebSocket => Some(AnswerHead::WebSocket(websocket::AnswerHead::new(size))),
        }
    }

    /// Does what has to be done on a new connection before the first message, and waits for it.
    pub fn open(self, stream: &mut Stream, deadline: Instant) -> io::Result<()> {
        if self != Self::WebSocket {
            return Ok(());
        }
        let mut epoll = Epoll::new()?;
        epoll.add(stream, 0, Interest::EdgeBoth)?;
        // A new connection takes as little as this at once.
        stream.send(websocket::UPGRADE.as_bytes())?;
        let (mut answer, mut received) = (Vec::new(), [0; http::LONGEST_HEAD]);
        while !websocket::is_upgraded(&answer)? {
            match stream.read(&mut received) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => answer.extend_from_slice(&received[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(io::Error::new(ErrorKind::TimedOut, "no WebSocket within the time-out"));
                    }
                    epoll.wait(Some(left))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The head of an answer, which comes in pieces.
pub enum AnswerHead {
    Http(http::AnswerHead),
    WebSocket(websocket::AnswerHead),
}

impl AnswerHead {
    /// Begins anew, for the next answer.
    pub fn clear(&mut self) {
        match self {
            Self::Http(head) => head.clear(),
            Self::WebSocket(head) => head.clear(),
        }
    }

    /// Takes what belongs to the head from received bytes, and returns the rest, which is of the message. An error if
    /// it is not the head of an answer with `size` bytes.
    pub fn take<'a>(&mut self, received: &'a [u8], size: usize) -> io::Result<&'a [u8]> {
        match self {
            Self::Http(head) => head.take(received, size),
            Self::WebSocket(head) => head.take(received),
        }
    }
}
