//! The Python form of the addresses that an endpoint has received datagrams from, so that a peer that is known already
//! needs no new string. Pure: what the form is, is the caller's business.

use std::collections::HashMap;

/// Most peers remembered.
const REMEMBERED: usize = 2048;

/// Names by address, as many as are worth their memory.
pub struct Peers<T>(HashMap<Box<[u8]>, T>);

impl<T> Peers<T> {
    /// The name of an address, if it is remembered.
    pub fn get(&self, address: &[u8]) -> Option<&T> {
        self.0.get(address)
    }

    /// Remembers a name. Returns, for the caller to drop, what is forgotten for it: all others, when there are too
    /// many. Those that still talk are soon known again, and nothing has to be kept in order for it.
    pub fn insert(&mut self, address: &[u8], name: T) -> Self {
        let forgotten = if self.0.len() >= REMEMBERED { std::mem::take(self) } else { Self::default() };
        self.0.insert(address.into(), name);
        forgotten
    }
}

impl<T> Default for Peers<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded() {
        let (mut peers, mut forgotten) = (Peers::default(), 0);
        // miri is some thousand times slower.
        const TIMES: usize = if cfg!(miri) { 2 } else { 10 };
        for number in 0..TIMES * REMEMBERED {
            let address = number.to_ne_bytes();
            assert!(peers.get(&address).is_none());
            forgotten += peers.insert(&address, number).0.len();
            assert_eq!(peers.get(&address), Some(&number));
            assert!(peers.0.len() <= REMEMBERED);
            assert_eq!(peers.0.len() + forgotten, number + 1);
        }
    }
}
