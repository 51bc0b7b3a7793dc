//! Tokens, and the table of slots behind them. There is no I/O here.
//!
//! A [`Token`] is the number of one registration: the index of its slot, and the generation of that slot. If the kernel
//! still delivers an event for a registration that has ended, the event carries an old generation, and finds nothing.

use std::num::NonZeroU64;

// The two halves of a token fill the `usize` of a mio::Token.
const _: () = assert!(usize::BITS >= 64, "rloop needs a 64-bit target");

/// The number of one registration. No other one ever has it.
///
/// The upper half is the generation, the lower half is the index of the slot plus one. So the number is never zero, and
/// an `Option` of a token takes no more memory than a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(NonZeroU64);

impl Token {
    fn new(index: u32, generation: u32) -> Self {
        // The index of a slot is less than u32::MAX: a table of so many would not fit into memory.
        Self(NonZeroU64::MIN.saturating_add(u64::from(generation) << 32 | u64::from(index)))
    }

    /// Where the slot is in its table. Beyond every table for a number that is no token's.
    fn index(self) -> usize {
        (self.0.get() as u32).wrapping_sub(1) as usize
    }

    fn generation(self) -> u32 {
        (self.0.get() >> 32) as u32
    }

    /// The same token as a number, which is not zero.
    pub fn to_bits(self) -> u64 {
        self.0.get()
    }

    /// The token of [`Token::to_bits`]. None for zero.
    pub fn from_bits(bits: u64) -> Option<Self> {
        NonZeroU64::new(bits).map(Self)
    }

    /// The same token in the form that mio carries through the kernel.
    pub fn to_mio(self) -> mio::Token {
        mio::Token(self.to_bits() as usize)
    }

    /// The token of [`Token::to_mio`]. None for `mio::Token(0)`.
    pub fn from_mio(token: mio::Token) -> Option<Self> {
        Self::from_bits(token.0 as u64)
    }
}

/// A table of values, each of which has its own [`Token`].
pub struct Slots<T> {
    slots: Vec<Slot<T>>,
    /// The indices of the vacant slots. The one that was freed last is the last one.
    free: Vec<u32>,
}

struct Slot<T> {
    /// The number of values that were in this slot before. It wraps after 2^32 of them.
    generation: u32,
    value: Option<T>,
}

impl<T> Slots<T> {
    pub fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// Stores `value` and returns its token.
    pub fn insert(&mut self, value: T) -> Token {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Slot { generation: 0, value: None });
                (self.slots.len() - 1) as u32
            }
        };
        let slot = &mut self.slots[index as usize];
        slot.value = Some(value);
        Token::new(index, slot.generation)
    }

    pub fn get(&self, token: Token) -> Option<&T> {
        let slot = self.slots.get(token.index())?;
        if slot.generation == token.generation() { slot.value.as_ref() } else { None }
    }

    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let slot = self.slots.get_mut(token.index())?;
        if slot.generation == token.generation() { slot.value.as_mut() } else { None }
    }

    /// Takes a value out. Its token finds nothing from here on.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        let slot = self.slots.get_mut(token.index())?;
        if slot.generation != token.generation() {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(token.index() as u32);
        Some(value)
    }

    /// The values, in any order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// The values with their tokens, in any order.
    pub fn tokens(&self) -> impl Iterator<Item = (Token, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let token = Token::new(index as u32, slot.generation);
            slot.value.as_ref().map(|value| (token, value))
        })
    }

    /// Takes every value out. Their tokens find nothing from here on.
    pub fn drain(&mut self) -> Vec<T> {
        let mut values = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Some(value) = slot.value.take() {
                slot.generation = slot.generation.wrapping_add(1);
                self.free.push(index as u32);
                values.push(value);
            }
        }
        values
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_token_finds_nothing_in_a_reused_slot() {
        let mut slots = Slots::new();
        let old = slots.insert("old");
        assert_eq!(slots.remove(old), Some("old"));
        let new = slots.insert("new");
        assert_ne!(old, new);
        assert_eq!(slots.get(old), None);
        assert_eq!(slots.remove(old), None);
        assert_eq!(slots.get(new), Some(&"new"));
    }

    #[test]
    fn token_survives_the_trip_through_mio() {
        for token in [Token::new(0, 0), Token::new(7, u32::MAX)] {
            assert_eq!(Token::from_mio(token.to_mio()), Some(token));
        }
        assert_eq!(Token::from_mio(mio::Token(0)), None);
    }

    #[test]
    fn number_that_is_no_token_finds_nothing() {
        let mut slots = Slots::new();
        slots.insert("value");
        let token = Token::from_bits(1 << 32).expect("not zero");
        assert_eq!(slots.get(token), None);
        assert_eq!(slots.remove(token), None);
    }

    #[test]
    fn drain_voids_every_token() {
        let mut slots = Slots::new();
        let tokens = [slots.insert(1), slots.insert(2)];
        assert_eq!(slots.drain(), [1, 2]);
        assert!(tokens.iter().all(|&token| slots.get(token).is_none()));
        let again = slots.insert(3);
        assert!(tokens.iter().all(|&token| token != again));
    }
}
