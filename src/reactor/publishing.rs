//! The slots of a file in which a process publishes the figures of its loops, and how they are written. The layout is in
//! docs/metrics.md. The reader, and the header of the file, are in `python/rloop/_published.py`. There is no thread and
//! no clock here.
//!
//! Other processes may map the file. This one writes it by system calls. If the disk is full, or if somebody has cut the
//! file, a system call returns an error. A write to a mapping would end the process with SIGBUS.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::metrics::{Figure, LENGTH};

/// The words of a slot before the figures.
const HEAD: usize = 8;
/// The words of a slot: the head, the figures, and the figures of before.
pub const SLOT: usize = HEAD + 2 * LENGTH;
const WORD: usize = size_of::<u64>();

/// What is read of one loop at one moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The number of the loop. It is not 0.
    pub number: u64,
    /// When, in nanoseconds of the clock.
    pub at: u64,
    /// For how many nanoseconds the present turn has lasted; 0 between two turns.
    pub turn_lasts: u64,
    /// How many watches there are, each of which counts its stalls.
    pub watchers: u64,
    /// How many stalls were found.
    pub stalls: u64,
    /// The kernel's number of the loop's thread.
    pub thread: u64,
    /// What `Figures::read_all` has returned.
    pub figures: Vec<u64>,
}

/// One slot of the file.
#[derive(Default)]
struct Slot {
    /// The number of its loop; 0 if it has none.
    number: u64,
    /// Odd while the slot is being written.
    sequence: u64,
    /// What the next figures of before will be.
    next: (u64, Vec<u64>),
    /// When the figures of before were read.
    before: u64,
    /// The largest number of cancelled timers so far: see [`Dead::total`](super::timers::Dead::total).
    cancelled: u64,
    /// How many times the loop was written since the last time that this has failed.
    count: u64,
}

/// The slots of a file.
pub struct Slots {
    /// Where the first one begins, in bytes.
    start: u64,
    /// After so many readings of a loop, the figures of before are replaced.
    renewal: u64,
    slots: Vec<Slot>,
}

impl Slots {
    /// The slots of a file that has none yet.
    pub fn new(start: u64, renewal: u64) -> Self {
        Self { start, renewal, slots: Vec::new() }
    }

    /// Writes the readings of all loops. A loop of which there is none has its slot taken away.
    ///
    /// # Errors
    /// Those of writing. What is not written then is written by the next call.
    pub fn write(&mut self, file: &File, readings: Vec<Reading>) -> io::Result<()> {
        let mut result = Ok(());
        for index in 0..self.slots.len() {
            let number = self.slots[index].number;
            if number != 0 && readings.iter().all(|reading| reading.number != number) {
                let freed = self.write_slot(file, index, &[(1, &[0])]);
                if freed.is_ok() {
                    self.slots[index] = Slot { sequence: self.slots[index].sequence, ..Slot::default() };
                }
                result = result.and(freed);
            }
        }
        for reading in readings {
            result = result.and(self.write_reading(file, reading));
        }
        result
    }

    /// Writes one reading into the slot of its loop, or into a free one, and from time to time the figures of before.
    fn write_reading(&mut self, file: &File, mut reading: Reading) -> io::Result<()> {
        let place = |number| self.slots.iter().position(|slot| slot.number == number);
        let index = place(reading.number).or_else(|| place(0)).unwrap_or(self.slots.len());
        if index == self.slots.len() {
            self.slots.push(Slot::default());
        }
        let slot = &mut self.slots[index];
        let cancelled = &mut reading.figures[Figure::TimersCancelled as usize];
        *cancelled = slot.cancelled.max(*cancelled);
        slot.cancelled = *cancelled;
        // The first figures of before are those of a loop that has done nothing.
        let mut before = (slot.count == 0).then(|| (reading.at, vec![0; LENGTH]));
        if slot.count.is_multiple_of(self.renewal) {
            let next = (reading.at, reading.figures.clone());
            let last = std::mem::replace(&mut slot.next, next);
            if slot.count > 0 {
                before = Some(last);
            }
        }
        slot.number = reading.number;
        slot.count += 1;
        if let Some((at, _)) = &before {
            slot.before = *at;
        }
        let Reading { number, at, turn_lasts, watchers, stalls, thread, figures } = reading;
        let head = [number, at, turn_lasts, watchers, stalls, thread, slot.before];
        let mut parts: Vec<(usize, &[u64])> = vec![(1, &head), (HEAD, &figures)];
        if let Some((_, figures)) = &before {
            parts.push((HEAD + LENGTH, figures));
        }
        let written = self.write_slot(file, index, &parts);
        if written.is_err() {
            self.slots[index].count = 0;
        }
        written
    }

    /// Writes parts of a slot, each at the number of its first word. Until all is written, the slot's sequence is odd.
    fn write_slot(&mut self, file: &File, index: usize, parts: &[(usize, &[u64])]) -> io::Result<()> {
        let start = self.start + (index * SLOT * WORD) as u64;
        let write = |word: usize, words: &[u64]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            file.write_all_at(&bytes, start + (word * WORD) as u64)
        };
        let sequence = &mut self.slots[index].sequence;
        // It may be odd since a call that has failed.
        *sequence |= 1;
        write(0, &[*sequence])?;
        for (word, words) in parts {
            write(*word, words)?;
        }
        *sequence += 1;
        write(0, &[*sequence])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that has no name, and its words.
    fn file() -> File {
        let path = std::env::temp_dir().join(format!("rloop-test-{}-{:p}", std::process::id(), &WORD));
        let path = path.with_extension(std::thread::current().name().unwrap_or("").replace(':', "-"));
        let options = File::options().read(true).write(true).create_new(true).open(&path);
        std::fs::remove_file(&path).expect("removed");
        options.expect("opened")
    }

    fn words(file: &File, slot: usize, range: std::ops::Range<usize>) -> Vec<u64> {
        let mut bytes = vec![0; range.len() * WORD];
        let start = 16 + ((slot * SLOT + range.start) * WORD) as u64;
        file.read_exact_at(&mut bytes, start).expect("read");
        bytes.chunks_exact(WORD).map(|word| u64::from_ne_bytes(word.try_into().expect("a word"))).collect()
    }

    fn reading(number: u64, at: u64) -> Reading {
        let figures = vec![at; LENGTH];
        Reading { number, at, turn_lasts: 3, watchers: 1, stalls: 5, thread: 7, figures }
    }

    #[test]
    fn a_slot_has_the_figures_and_those_of_before() {
        let (file, mut slots) = (file(), Slots::new(16, 2));
        for (at, before) in [(10, 10), (20, 10), (30, 10), (40, 10), (50, 30), (60, 30), (70, 50)] {
            slots.write(&file, vec![reading(4, at)]).expect("written");
            assert_eq!(words(&file, 0, 1..HEAD), [4, at, 3, 1, 5, 7, before]);
            assert_eq!(words(&file, 0, HEAD..HEAD + LENGTH), vec![at; LENGTH]);
            let shown = if at < 30 { 0 } else { before };
            assert_eq!(words(&file, 0, HEAD + LENGTH..SLOT), vec![shown; LENGTH], "{at}");
        }
        assert_eq!(words(&file, 0, 0..1), [14]);
        // A thread without the GIL may have missed some cancelled timers.
        slots.write(&file, vec![reading(4, 69)]).expect("written");
        let place = HEAD + Figure::TimersCancelled as usize;
        assert_eq!(words(&file, 0, place - 1..place + 2), [69, 70, 69]);
    }

    #[test]
    fn a_slot_is_used_again() {
        let (file, mut slots) = (file(), Slots::new(16, 10));
        slots.write(&file, vec![reading(1, 5), reading(2, 5)]).expect("written");
        slots.write(&file, vec![reading(2, 6)]).expect("written");
        assert_eq!((words(&file, 0, 0..2), words(&file, 1, 0..3)), (vec![4, 0], vec![4, 2, 6]));
        slots.write(&file, vec![reading(2, 7), reading(3, 7)]).expect("written");
        assert_eq!((words(&file, 0, 0..3), words(&file, 0, 7..9)), (vec![6, 3, 7], vec![7, 7]));
        assert_eq!(words(&file, 0, HEAD + LENGTH..SLOT), vec![0; LENGTH]);
        assert_eq!(file.metadata().expect("size").len() as usize, 16 + 2 * SLOT * WORD);
    }

    #[test]
    fn a_write_that_fails_leaves_an_odd_sequence_until_the_next() {
        let (file, mut slots) = (file(), Slots::new(16, 10));
        slots.write(&file, vec![reading(1, 5)]).expect("written");
        let full = File::options().write(true).open("/dev/full");
        if let Ok(full) = full {
            slots.write(&full, vec![reading(1, 6)]).expect_err("no space");
            slots.write(&full, vec![]).expect_err("no space");
            assert_eq!(slots.slots[0].sequence % 2, 1);
        }
        slots.write(&file, vec![reading(1, 7)]).expect("written");
        assert_eq!(words(&file, 0, 1..3), [1, 7]);
        assert_eq!(words(&file, 0, 0..1)[0] % 2, 0);
    }
}
