//! Readiness: what a poll says about one file, as a set of flags. Nothing here does I/O or knows who waits.

use std::ops::{BitAnd, BitOr, BitOrAssign};

/// A set of directions and conditions. A direction that is ready can be tried without blocking; it may still fail.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness(u8);

impl Readiness {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// A read would not block.
    pub const READABLE: Self = Self(1);
    /// A write would not block.
    pub const WRITABLE: Self = Self(2);
    /// Both directions.
    pub const BOTH: Self = Self(3);
    /// The peer will send no more, or the fd has failed, or there is urgent data. One edge can tell of data and of
    /// this. So while this is set, a short read does not show that there is nothing more to read.
    pub const READ_CLOSED: Self = Self(4);

    /// True if all flags of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self & other == other
    }

    /// True if no flag is set.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// This set without the flags of `other`.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Readiness {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Readiness {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for Readiness {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names =
            [(Self::READABLE, "READABLE"), (Self::WRITABLE, "WRITABLE"), (Self::READ_CLOSED, "READ_CLOSED")];
        f.debug_set()
            .entries(names.iter().filter(|(flag, _)| self.contains(*flag)).map(|(_, name)| name))
            .finish()
    }
}

/// A hang-up or an error makes both directions ready, as in `selectors.EpollSelector`: whoever waits must find out. What
/// the events of Linux mean is in `sys/polling.rs`.
#[cfg(not(target_os = "linux"))]
impl From<&mio::event::Event> for Readiness {
    fn from(event: &mio::event::Event) -> Self {
        let mut readiness = Self::NONE;
        let failed = event.is_error() || (event.is_read_closed() && event.is_write_closed());
        if event.is_readable() || event.is_read_closed() || failed {
            readiness |= Self::READABLE;
        }
        if event.is_writable() || event.is_write_closed() || failed {
            readiness |= Self::WRITABLE;
        }
        if event.is_read_closed() || event.is_priority() || failed {
            readiness |= Self::READ_CLOSED;
        }
        readiness
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_a_set() {
        let both = Readiness::READABLE | Readiness::WRITABLE;
        assert!(both.contains(Readiness::READABLE) && both.contains(Readiness::WRITABLE));
        assert!(!both.contains(Readiness::READ_CLOSED));
        assert_eq!(both.without(Readiness::READABLE), Readiness::WRITABLE);
        assert!(Readiness::NONE.is_none() && !both.is_none());
        assert_eq!(format!("{both:?}"), r#"{"READABLE", "WRITABLE"}"#);
    }
}
