//! Tokens, and the table of slots behind them. There is no I/O here.
//!
//! A [`Token`] is the number of one registration: the index of its slot, and the generation of that slot. If the kernel
//! still delivers an event for a registration that has ended, the event carries an old generation, and finds nothing.

// The two halves of a token fill the `usize` of a mio::Token.
const _: () = assert!(usize::BITS >= 64, "rloop needs a 64-bit target");

/// The number of one registration. No other one ever has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    index: u32,
    generation: u32,
}

impl Token {
    /// The same token as a number.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The token of [`Token::to_bits`].
    pub fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 }
    }

    /// The same token in the form that mio carries through the kernel.
    pub fn to_mio(self) -> mio::Token {
        mio::Token(self.to_bits() as usize)
    }

    /// The token of [`Token::to_mio`].
    pub fn from_mio(token: mio::Token) -> Self {
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
        Token { index, generation: slot.generation }
    }

    pub fn get(&self, token: Token) -> Option<&T> {
        let slot = self.slots.get(token.index as usize)?;
        if slot.generation == token.generation { slot.value.as_ref() } else { None }
    }

    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let slot = self.slots.get_mut(token.index as usize)?;
        if slot.generation == token.generation { slot.value.as_mut() } else { None }
    }

    /// Takes a value out. Its token finds nothing from here on.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        let slot = self.slots.get_mut(token.index as usize)?;
        if slot.generation != token.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(token.index);
        Some(value)
    }

    /// The values, in any order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// The values with their tokens, in any order.
    pub fn tokens(&self) -> impl Iterator<Item = (Token, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let token = Token { index: index as u32, generation: slot.generation };
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
        let token = Token { index: 7, generation: u32::MAX };
        assert_eq!(Token::from_mio(token.to_mio()), token);
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
