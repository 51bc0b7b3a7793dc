//! How we talk to the program that started us: it writes lines to our stdin, we write JSON lines to stdout.

use crate::epoll::{Epoll, Interest};
use std::io::{self, Read, Write};
use std::time::Instant;

/// What was read from stdin.
#[derive(Debug, PartialEq)]
pub enum Input {
    Lines(usize),
    Closed,
}

/// Prints one line and flushes it, because stdout is a pipe and the other program waits for the line.
pub fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Reads once from stdin, which must be readable. Counts the lines; their text does not matter.
pub fn read_lines() -> io::Result<Input> {
    let mut buffer = [0; 256];
    Ok(match io::stdin().lock().read(&mut buffer)? {
        0 => Input::Closed,
        n => Input::Lines(buffer[..n].iter().filter(|&&byte| byte == b'\n').count()),
    })
}

/// Waits until stdin has a line or is closed.
pub fn wait_for_line(deadline: Instant) -> io::Result<()> {
    let mut epoll = Epoll::new()?;
    epoll.add(&io::stdin(), 0, Interest::LevelReadable)?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing on stdin within the time-out"));
        }
        if epoll.wait(Some(left))? > 0 && read_lines()? != Input::Lines(0) {
            return Ok(());
        }
    }
}
