//! Moments: numbers for the callbacks that a loop runs. They say which turn it is, and which callback of it. They are
//! counts, and not times.

/// One callback of one turn. If two writes have the same moment, the same callback has made them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment(u64);

impl Moment {
    /// The moment before the first callback of the turn with this number.
    pub fn start_of(turn: u32) -> Self {
        Self(u64::from(turn) << 32)
    }

    /// The moment of the next callback of the same turn.
    #[inline]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// The number of the turn. It is 0 only for the default, which is before every turn.
    #[inline]
    pub fn turn(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The moment as an integer, for an atomic variable. 0 is the default.
    #[inline]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The moment of [`Moment::to_bits`]. None for the default.
    #[inline]
    pub fn from_bits(bits: u64) -> Option<Self> {
        (bits != 0).then_some(Self(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_has_many_moments() {
        let start = Moment::start_of(7);
        let later = start.next().next();
        assert_eq!((start.turn(), later.turn()), (7, 7));
        assert_ne!(start, later);
        assert_eq!(Moment::from_bits(later.to_bits()), Some(later));
        assert_eq!(Moment::from_bits(Moment::default().to_bits()), None);
    }
}
