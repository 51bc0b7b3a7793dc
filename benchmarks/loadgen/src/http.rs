//! HTTP/1.1 as far as the client needs it: the request whose body a server sends back, and the head of its answer.
//! Nothing here has a socket.

use std::io::{self, ErrorKind};

/// The longest head of an answer that is accepted, in bytes.
pub const LONGEST_HEAD: usize = 4096;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// The head of a request with a body of `size` bytes.
pub fn request_head(size: usize) -> Vec<u8> {
    let head = format!("POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n");
    head.into_bytes()
}

/// The head of an answer, which comes in pieces.
#[derive(Default)]
pub struct AnswerHead {
    bytes: Vec<u8>,
    complete: bool,
}

impl AnswerHead {
    /// Begins anew, for the next answer.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.complete = false;
    }

    /// Takes what belongs to the head from received bytes, and returns the rest, which is of the body. An error if the
    /// answer is not "200 OK" with a body of `size` bytes.
    pub fn take<'a>(&mut self, received: &'a [u8], size: usize) -> io::Result<&'a [u8]> {
        if self.complete {
            return Ok(received);
        }
        let before = self.bytes.len();
        self.bytes.extend_from_slice(received);
        let Some(end) = end_of_head(&self.bytes)? else { return Ok(&[]) };
        self.complete = true;
        check(&self.bytes[..end], size)?;
        // The last byte of the head is in `received`: otherwise the head would have been complete before.
        Ok(&received[end - before..])
    }
}

fn check(head: &[u8], size: usize) -> io::Result<()> {
    let head = text(head)?;
    let status = head.split("\r\n").next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200 ") {
        return Err(wrong(&format!("begins with {status:?}")));
    }
    match header(head, "Content-Length") {
        Some(length) if length.parse() == Ok(size) => Ok(()),
        other => Err(wrong(&format!("has the length {other:?}, not {size}"))),
    }
}

/// Where the head ends at the beginning of `bytes`, with the empty line behind it. None if more of it has to come.
pub fn end_of_head(bytes: &[u8]) -> io::Result<Option<usize>> {
    match bytes.windows(END_OF_HEAD.len()).position(|four| four == END_OF_HEAD) {
        None if bytes.len() > LONGEST_HEAD => Err(wrong("has no end")),
        start => Ok(start.map(|start| start + END_OF_HEAD.len())),
    }
}

/// A head as text.
pub fn text(head: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(head).map_err(|_| wrong("is not text"))
}

/// The value of the first header with this name.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let headers = head.split("\r\n").filter_map(|line| line.split_once(':'));
    headers
        .map(|(key, value)| (key, value.trim()))
        .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
}

/// The error of an answer whose head is wrong.
pub fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the head of the answer {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-LENGTH: 5\r\n\r\nhello";

    #[test]
    fn a_request_has_the_length_of_its_body() {
        let head = String::from_utf8(request_head(1024)).unwrap();
        assert!(
            head.starts_with("POST / HTTP/1.1\r\n") && head.ends_with("\r\nContent-Length: 1024\r\n\r\n")
        );
    }

    #[test]
    fn an_answer_may_be_split_anywhere() {
        for middle in 0..=ANSWER.len() {
            let mut head = AnswerHead::default();
            let mut body = head.take(&ANSWER[..middle], 5).unwrap().to_vec();
            body.extend_from_slice(head.take(&ANSWER[middle..], 5).unwrap());
            assert_eq!(body, b"hello", "{middle}");
        }
    }

    #[test]
    fn the_next_answer_has_a_head_of_its_own() {
        let mut head = AnswerHead::default();
        for _ in 0..2 {
            head.clear();
            assert_eq!(head.take(ANSWER, 5).unwrap(), b"hello");
            assert_eq!(head.take(b"more", 5).unwrap(), b"more");
        }
    }

    #[test]
    fn wrong_answers_are_refused() {
        for (answer, part) in [
            ("HTTP/1.1 500 Oh\r\ncontent-length: 5\r\n\r\n", "500 Oh"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n", "not 5"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "None, not 5"),
            ("HTTP/1.1 200 OK\r\n\u{e9}: ", "no end"),
        ] {
            let mut bytes = answer.as_bytes().to_vec();
            if part == "no end" {
                bytes.resize(LONGEST_HEAD + 1, b'x');
            }
            let error = AnswerHead::default().take(&bytes, 5).expect_err(answer).to_string();
            assert!(error.contains(part), "{answer}: {error}");
        }
        assert!(AnswerHead::default().take(b"HTTP/1.1 200 OK\r\na: \xff\r\n\r\n", 5).is_err());
    }
}
