//! Where TLS records end in a stream of received bytes (RFC 8446, 5.1). Pure: no bytes are kept, nothing is judged
//! here that OpenSSL does not judge again.

/// Length of a record's header.
const HEADER: usize = 5;
/// The first bytes of a record with application data, in TLS 1.2 and 1.3.
const APPLICATION_DATA: [u8; 3] = [23, 3, 3];
/// Most bytes of a record, without its header (RFC 5246, 6.2.3; TLS 1.3 allows fewer).
const MAX_BODY: usize = 16384 + 2048;

/// A place in the stream.
#[derive(Default)]
pub struct Framing {
    header: [u8; HEADER],
    /// How much of the present record's header has come.
    has: usize,
    /// How much of its body is still to come, once the header has.
    missing: usize,
}

impl Framing {
    /// Goes on to the end of the present record, or of `data` if that comes first; returns how many bytes that is.
    pub fn advance(&mut self, data: &[u8]) -> usize {
        if self.is_whole() {
            *self = Self::default();
        }
        let mut count = 0;
        if self.has < HEADER {
            count = data.len().min(HEADER - self.has);
            self.header[self.has..self.has + count].copy_from_slice(&data[..count]);
            self.has += count;
            if self.has == HEADER {
                self.missing = self.body_len();
            }
        }
        let body = if self.has == HEADER { self.missing.min(data.len() - count) } else { 0 };
        self.missing -= body;
        count + body
    }

    /// What the header says of the length of its record: the last two bytes, big-endian.
    fn body_len(&self) -> usize {
        usize::from(u16::from_be_bytes([self.header[3], self.header[4]]))
    }

    /// At the end of a record.
    fn is_whole(&self) -> bool {
        self.has == HEADER && self.missing == 0
    }

    /// True if OpenSSL could do nothing with what has come of the present record but wait for the rest. Of all but
    /// application data it may have something to say before.
    pub fn must_wait(&self) -> bool {
        let plain = self.header[..3] == APPLICATION_DATA && self.body_len() <= MAX_BODY;
        !self.is_whole() && (self.has < HEADER || plain)
    }

    /// True in the middle of a record.
    pub fn is_inside(&self) -> bool {
        self.has > 0 && !self.is_whole()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, len: u16) -> Vec<u8> {
        let mut record = vec![kind, 3, 3];
        record.extend(len.to_be_bytes());
        record.resize(HEADER + usize::from(len), 0);
        record
    }

    #[test]
    fn stops_at_each_end_wherever_the_pieces_are_cut() {
        let lens = [7, 0, 300, 1];
        let stream: Vec<u8> = lens.iter().flat_map(|len| record(23, *len)).collect();
        for cut in 0..stream.len() {
            let (mut framing, mut place) = (Framing::default(), 0);
            for len in lens {
                let end = place + HEADER + usize::from(len);
                if (place + 1..end).contains(&cut) {
                    place += framing.advance(&stream[place..cut]);
                    assert_eq!(place, cut);
                }
                place += framing.advance(&stream[place..]);
                assert_eq!(place, end);
                assert!(!framing.must_wait() && !framing.is_inside());
            }
            assert_eq!(framing.advance(&[]), 0);
        }
    }

    #[test]
    fn goes_on_where_it_stopped() {
        let stream = record(23, 20);
        for step in 1..stream.len() {
            let mut framing = Framing::default();
            for piece in stream.chunks(step) {
                assert!(framing.is_inside() || framing.has == 0);
                assert_eq!(framing.advance(piece), piece.len());
            }
            assert!(!framing.must_wait() && !framing.is_inside());
        }
    }

    #[test]
    fn waits_for_application_data_only() {
        let cases: [(&[u8], bool); 7] = [
            (&[23, 3, 3, 0x40], true),
            (&[23, 3, 3, 0x40, 0, 1, 2, 3], true),
            (&[23, 3, 3, 0xff, 0xff], false),
            (&[23, 3, 1, 0, 100], false),
            (&[21, 3, 3, 0, 100], false),
            (b"HTTP/1.1 400", false),
            (b"HTT", true),
        ];
        for (data, waits) in cases {
            let mut framing = Framing::default();
            framing.advance(data);
            assert_eq!(framing.must_wait(), waits, "{data:?}");
        }
    }
}
