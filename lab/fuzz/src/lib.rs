//! What the fuzz targets share: how the fuzzer's bytes are read as calls.

/// The bytes that are left of an input.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// The next byte. `None` at the end.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next byte, or 0 at the end.
    pub fn small(&mut self) -> usize {
        self.byte().map_or(0, usize::from)
    }

    /// A number of four bytes, or of those that are left.
    pub fn number(&mut self) -> u32 {
        (0..4).fold(0, |number, _| number << 8 | self.small() as u32)
    }

    /// Up to `count` bytes.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }
}
