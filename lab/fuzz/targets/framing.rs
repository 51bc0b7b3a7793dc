//! The framing of TLS records beside a reader that has the whole stream: wherever it is cut, each record ends where its
//! header says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rloop::transports::framing::Framing;
use rloop_fuzz::Input;

const HEADER: usize = 5;

/// Where the records of a stream end.
fn ends(stream: &[u8]) -> Vec<usize> {
    let (mut ends, mut start) = (Vec::new(), 0);
    while start + HEADER <= stream.len() {
        start += HEADER + (usize::from(stream[start + 3]) << 8 | usize::from(stream[start + 4]));
        ends.push(start);
    }
    ends
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let cuts: Vec<usize> = (0..1 + input.small() % 8).map(|_| 1 + input.small()).collect();
    let stream = input.rest();
    let ends = ends(stream);
    let (mut framing, mut place, mut start) = (Framing::default(), 0, 0);
    for step in cuts.iter().cycle() {
        if place == stream.len() {
            break;
        }
        let piece = &stream[place..stream.len().min(place + step)];
        let count = framing.advance(piece);
        assert!(count <= piece.len());
        let end = ends.iter().copied().find(|end| *end > start).unwrap_or(usize::MAX);
        // It goes as far as it can, and no further than the end of the record.
        assert_eq!(place + count, end.min(place + piece.len()));
        place += count;
        let whole = place == end;
        assert_eq!(framing.is_inside(), !whole);
        let record = &stream[start..place];
        let application = record.len() >= HEADER && record[..3] == [23, 3, 3] && end - start <= HEADER + 16384 + 2048;
        assert_eq!(framing.must_wait(), !whole && (record.len() < HEADER || application));
        if whole {
            start = end;
        }
        assert_eq!(Framing::advance(&mut Framing::default(), &[]), 0);
    }
});
