//! WebSockets (RFC 6455) as far as the client needs them: the request that opens one, and frames of binary data. Nothing
//! here has a socket.

use crate::http;
use std::io::{self, ErrorKind};

/// The request that opens a WebSocket. The key is the one of RFC 6455, 1.3.
pub const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
/// What a server makes of that key.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// The longest head of a frame, in bytes.
pub const LONGEST_HEAD: usize = 14;

/// The first byte of a frame: the last of its message (FIN), and binary.
const BINARY: u8 = 0x82;
/// In the second byte: the frame is masked, as all those of clients are.
const MASKED: u8 = 0x80;
/// Makes the masked data equal to the data. The server has to unmask it all the same.
const MASK: [u8; 4] = [0; 4];

/// True if `answer` opens the WebSocket; false if more of it has to come. An error if the server has refused.
pub fn is_upgraded(answer: &[u8]) -> io::Result<bool> {
    let Some(end) = http::end_of_head(answer)? else { return Ok(false) };
    let head = http::text(&answer[..end])?;
    if !head.starts_with("HTTP/1.1 101 ") {
        return Err(http::wrong(&format!("is {head:?}")));
    }
    if http::header(head, "Sec-WebSocket-Accept") != Some(ACCEPT) {
        return Err(http::wrong("has not the key that was asked for"));
    }
    if end != answer.len() {
        return Err(http::wrong("has something behind it"));
    }
    Ok(true)
}

/// The head of a frame that a client sends, with `size` bytes of data.
pub fn request_head(size: usize) -> Vec<u8> {
    let mut head = frame_head(size);
    head[1] |= MASKED;
    head.extend_from_slice(&MASK);
    head
}

/// The head of a frame without a mask.
fn frame_head(size: usize) -> Vec<u8> {
    let mut head = vec![BINARY];
    match (size, u16::try_from(size)) {
        (..126, _) => head.push(size as u8),
        (_, Ok(short)) => {
            head.push(126);
            head.extend_from_slice(&short.to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
    head
}

/// The head of the frame that answers, which comes in pieces. There is only one that is right.
pub struct AnswerHead {
    expected: Vec<u8>,
    taken: usize,
}

impl AnswerHead {
    /// For answers of `size` bytes.
    pub fn new(size: usize) -> Self {
        Self { expected: frame_head(size), taken: 0 }
    }

    /// Begins anew, for the next answer.
    pub fn clear(&mut self) {
        self.taken = 0;
    }

    /// Takes what belongs to the head from received bytes, and returns the rest, which is data.
    pub fn take<'a>(&mut self, received: &'a [u8]) -> io::Result<&'a [u8]> {
        let left = &self.expected[self.taken..];
        let (head, data) = received.split_at(left.len().min(received.len()));
        if !left.starts_with(head) {
            let text = format!("the head of the frame has {head:?}, not {left:?}");
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        self.taken += head.len();
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    #[test]
    fn an_answer_opens_it_when_it_is_complete() {
        for end in 0..ANSWER.len() {
            assert!(!is_upgraded(&ANSWER.as_bytes()[..end]).unwrap(), "{end}");
        }
        assert!(is_upgraded(ANSWER.as_bytes()).unwrap());
    }

    #[test]
    fn other_answers_are_refused() {
        for (before, after, part) in [
            ("101 Switching", "400 Bad", "400 Bad"),
            ("s3pP", "S3pP", "key"),
            ("accept:", "other:", "key"),
            ("=\r\n\r\n", "=\r\n\r\nmore", "behind"),
        ] {
            let error = is_upgraded(ANSWER.replace(before, after).as_bytes()).expect_err(part).to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn the_head_of_a_frame_has_its_length() {
        assert_eq!(request_head(125), [0x82, 0x80 | 125, 0, 0, 0, 0]);
        assert_eq!(request_head(126), [0x82, 0x80 | 126, 0, 126, 0, 0, 0, 0]);
        assert_eq!(request_head(1024), [0x82, 0x80 | 126, 4, 0, 0, 0, 0, 0]);
        assert_eq!(request_head(65536), [0x82, 0x80 | 127, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(request_head(usize::MAX).len(), LONGEST_HEAD);
    }

    #[test]
    fn an_answer_may_be_split_anywhere() {
        let frame = [&frame_head(1024)[..], b"data"].concat();
        let mut head = AnswerHead::new(1024);
        for middle in 0..=frame.len() {
            head.clear();
            let mut data = head.take(&frame[..middle]).unwrap().to_vec();
            data.extend_from_slice(head.take(&frame[middle..]).unwrap());
            assert_eq!(data, b"data", "{middle}");
        }
    }

    #[test]
    fn another_frame_is_refused() {
        for frame in [frame_head(1023), vec![0x81, 126, 4, 0], request_head(1024)] {
            assert!(AnswerHead::new(1024).take(&frame).is_err(), "{frame:?}");
        }
    }
}
