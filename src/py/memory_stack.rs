//! The Python stack of a thread, read from the memory of this process by the table of offsets that CPython 3.13 and 3.14
//! have for debuggers. No function of CPython is called, and the GIL is not needed.
//!
//! Every read goes through the kernel. So an address that is wrong, because the thread goes on meanwhile, is an error
//! and not a crash.

use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::FileExt;

use pyo3::ffi;

/// The most frames that are shown, and the longest name, as in `faulthandler`.
const MOST_FRAMES: usize = 100;
const LONGEST_NAME: usize = 500;
/// The longest table of line numbers that is read, in bytes.
const LONGEST_TABLE: usize = 1 << 20;
/// What the table of offsets begins with.
const COOKIE: u64 = u64::from_ne_bytes(*b"xdebugpy");
/// Since CPython 3.14, the lowest bits of a reference in a frame are flags.
const FLAGS: u64 = 7;

/// How to read a stack in the running version: offsets in bytes.
pub struct MemoryStack {
    frame: u64,
    previous: u64,
    executable: u64,
    instruction: u64,
    owner: u64,
    /// The least owner of a frame that is no Python function's.
    not_python: u8,
    file: u64,
    name: u64,
    lines: u64,
    first_line: u64,
    instructions: u64,
    class: u64,
    bytes_len: u64,
    bytes: u64,
    text_state: u64,
    text_len: u64,
    ascii: u64,
}

impl MemoryStack {
    /// Reads the offsets from the table with which `_PyRuntime` begins; `runtime` is its address. None in another version,
    /// and in a build without the GIL.
    pub fn find(runtime: usize) -> Option<Self> {
        let mut table = [0; 8 * 81];
        memory()?.read_exact_at(&mut table, runtime as u64).ok()?;
        let at = |index: usize| u64::from_ne_bytes(std::array::from_fn(|byte| table[8 * index + byte]));
        if at(0) != COOKIE || at(2) != 0 {
            return None;
        }
        // Where the parts of the table begin: thread state, frame, code, object, bytes, string. Each part begins with
        // the size of the structure.
        let ([thread, frame, code, object, bytes, text], not_python) = match at(1) >> 16 {
            0x030d => ([19, 28, 34, 44, 64, 67], 3),
            0x030e => ([22, 31, 39, 50, 74, 77], 3),
            _ => return None,
        };
        Some(Self {
            frame: at(thread + 4),
            previous: at(frame + 1),
            executable: at(frame + 2),
            instruction: at(frame + 3),
            owner: at(frame + 5),
            not_python,
            file: at(code + 1),
            name: at(code + 2),
            lines: at(code + 4),
            first_line: at(code + 5),
            instructions: at(code + 9),
            class: at(object + 1),
            bytes_len: at(bytes + 1),
            bytes: at(bytes + 2),
            text_state: at(text + 1),
            text_len: at(text + 2),
            ascii: at(text + 3),
        })
    }

    /// The stack of the thread with this `PyThreadState`, in the form in which `faulthandler` writes it. None if it
    /// cannot be read.
    pub fn of(&self, thread_state: usize) -> Option<String> {
        Reader { at: self, memory: memory()? }.stack(thread_state as u64)
    }
}

/// The memory of this process. It is opened each time: an open file stays that of the process that has opened it, also
/// in the child of a fork.
fn memory() -> Option<File> {
    File::open("/proc/self/mem").ok()
}

/// One reading.
struct Reader<'a> {
    at: &'a MemoryStack,
    memory: File,
}

impl Reader<'_> {
    /// The text of the stack. None if something in memory is not what it should be, for instance because the thread goes on.
    fn stack(&self, thread_state: u64) -> Option<String> {
        let mut text = "Stack (most recent call first):\n".to_owned();
        let mut frame = self.word(thread_state + self.at.frame)?;
        for _ in 0..MOST_FRAMES {
            if frame == 0 {
                return Some(text);
            }
            let owner = self.read::<1>(frame + self.at.owner)?[0];
            if owner < self.at.not_python {
                self.write_frame(frame, &mut text)?;
            }
            frame = self.word(frame + self.at.previous)?;
        }
        text.push_str("  ...\n");
        Some(text)
    }

    /// Adds the line of one frame: file, line and function.
    fn write_frame(&self, frame: u64, text: &mut String) -> Option<()> {
        let code = self.word(frame + self.at.executable)? & !FLAGS;
        if self.word(code + self.at.class)? != &raw const ffi::PyCode_Type as u64 {
            return None;
        }
        let file = self.text(self.word(code + self.at.file)?)?;
        let name = self.text(self.word(code + self.at.name)?)?;
        let first = i32::from_ne_bytes(self.read(code + self.at.first_line)?);
        let lines = self.bytes(self.word(code + self.at.lines)?)?;
        let instruction = self.word(frame + self.at.instruction)?.checked_sub(code + self.at.instructions)?;
        let line = line_at(&lines, first, instruction).map_or("???".to_owned(), |line| line.to_string());
        writeln!(text, "  File \"{file}\", line {line} in {name}").ok()
    }

    /// A `str` of Python.
    fn text(&self, object: u64) -> Option<String> {
        let state = u32::from_ne_bytes(self.read(object + self.at.text_state)?);
        // Two bits say how it is interned, three how many bytes a character has. One bit each says that the characters
        // follow the object, and that they are ASCII.
        let (width, is_compact, is_ascii) =
            ((state >> 2 & 7) as usize, state >> 5 & 1 == 1, state >> 6 & 1 == 1);
        if !is_compact || ![1, 2, 4].contains(&width) {
            return None;
        }
        let len = usize::try_from(self.word(object + self.at.text_len)?).ok()?;
        // Text that is not ASCII has a pointer and a length more.
        let start = object + self.at.ascii + if is_ascii { 0 } else { 16 };
        let data = self.many(start, len.min(LONGEST_NAME) * width)?;
        let character = |bytes: &[u8]| {
            let code = bytes.iter().rev().fold(0, |code, &byte| code << 8 | u32::from(byte));
            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
        };
        Some(data.chunks_exact(width).map(character).collect())
    }

    /// A `bytes` of Python.
    fn bytes(&self, object: u64) -> Option<Vec<u8>> {
        let len = usize::try_from(self.word(object + self.at.bytes_len)?).ok()?;
        if len > LONGEST_TABLE { None } else { self.many(object + self.at.bytes, len) }
    }

    fn many(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.memory.read_exact_at(&mut bytes, address).ok()?;
        Some(bytes)
    }

    fn word(&self, address: u64) -> Option<u64> {
        self.read(address).map(u64::from_ne_bytes)
    }

    fn read<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.memory.read_exact_at(&mut bytes, address).ok()?;
        Some(bytes)
    }
}

/// The line of the instruction at the offset `instruction`, in bytes, by a code object's `co_linetable`. None if the
/// instruction belongs to no line. CPython documents the form in `InternalDocs/code_objects.md`.
fn line_at(table: &[u8], first: i32, instruction: u64) -> Option<i32> {
    let (mut line, mut end, mut rest) = (first, 0, table);
    while let Some((&head, behind)) = rest.split_first() {
        let kind = head >> 3 & 15;
        let change = match kind {
            // No line; the same line; one or two lines on.
            15 | 0..=9 => 0,
            10..=12 => i32::from(kind - 10),
            _ => signed(behind),
        };
        line += change;
        end += 2 * (u64::from(head & 7) + 1);
        if instruction < end {
            return (kind != 15).then_some(line);
        }
        // The next entry begins with the next byte that has the highest bit.
        let len = behind.iter().position(|byte| byte & 0x80 != 0).unwrap_or(behind.len());
        rest = &behind[len..];
    }
    None
}

/// A number of six bits in each byte, the lowest first, with the sign in the lowest bit of all.
fn signed(bytes: &[u8]) -> i32 {
    let (mut value, mut shift) = (0_u32, 0);
    for byte in bytes.iter().take(5) {
        value |= u32::from(byte & 63) << shift;
        shift += 6;
        if byte & 64 == 0 {
            break;
        }
    }
    let size = (value >> 1) as i32;
    if value & 1 == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_kind_of_entry() {
        let table = [
            0x80 | 15 << 3, // one instruction of no line
            0x80 | 13 << 3 | 1,
            4, // two instructions, two lines on
            0x80 | 3 << 3,
            0, // one instruction of the same line
            0x80 | 11 << 3,
            0,
            0, // one instruction, one line on
            0x80 | 14 << 3,
            64 | 3,
            2,
            0,
            0,
            0, // one instruction, 65 lines back
        ];
        let lines: Vec<_> = (0..=12).step_by(2).map(|at| line_at(&table, 100, at)).collect();
        assert_eq!(lines, [None, Some(102), Some(102), Some(102), Some(103), Some(38), None]);
    }
}
