//! Socket addresses: as the kernel stores them, made from their parts, and taken apart again. No name is looked up
//! here.

use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A socket address in the kernel's form.
#[derive(Clone)]
pub struct SocketAddress {
    pub(super) storage: libc::sockaddr_storage,
    pub(super) length: libc::socklen_t,
}

/// The parts of a socket address.
#[derive(Debug, PartialEq, Eq)]
pub enum Address {
    /// The host in numeric form, and the port.
    V4(String, u16),
    /// The host in numeric form and without a scope, the port, the flow information and the scope id.
    V6(String, u16, u32, u32),
    /// A path, or NUL and an abstract name. Empty for a socket without a name.
    Unix(Vec<u8>),
    /// An address of another family, whose number this is.
    Other(i32),
}

impl SocketAddress {
    pub(super) fn empty() -> Self {
        // SAFETY: all zeroes are a valid sockaddr_storage, which is plain integers, family AF_UNSPEC.
        Self { storage: unsafe { MaybeUninit::zeroed().assume_init() }, length: 0 }
    }

    pub fn v4(host: Ipv4Addr, port: u16) -> Self {
        // SAFETY: all zeroes are a valid sockaddr_in, which is plain integers.
        let mut v4: libc::sockaddr_in = unsafe { MaybeUninit::zeroed().assume_init() };
        v4.sin_family = libc::AF_INET as libc::sa_family_t;
        v4.sin_port = port.to_be();
        v4.sin_addr.s_addr = u32::from(host).to_be();
        Self::write(v4, size_of::<libc::sockaddr_in>())
    }

    pub fn v6(host: Ipv6Addr, port: u16, flow: u32, scope: u32) -> Self {
        // SAFETY: all zeroes are a valid sockaddr_in6, which is plain integers.
        let mut v6: libc::sockaddr_in6 = unsafe { MaybeUninit::zeroed().assume_init() };
        v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        v6.sin6_port = port.to_be();
        v6.sin6_flowinfo = flow.to_be();
        v6.sin6_addr.s6_addr = host.octets();
        v6.sin6_scope_id = scope;
        Self::write(v6, size_of::<libc::sockaddr_in6>())
    }

    /// The address of a path, or of NUL and an abstract name. `None` if it is empty or too long, or if a path contains
    /// NUL.
    pub fn unix(path: &[u8]) -> Option<Self> {
        // SAFETY: all zeroes are a valid sockaddr_un, which is plain integers.
        let mut unix: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
        let is_abstract = path.first() == Some(&0);
        // A path must end in NUL. An abstract name is not terminated.
        let longest = unix.sun_path.len() - usize::from(!is_abstract);
        if path.is_empty() || path.len() > longest || (!is_abstract && path.contains(&0)) {
            return None;
        }
        unix.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (to, from) in unix.sun_path.iter_mut().zip(path) {
            *to = *from as libc::c_char;
        }
        let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + path.len();
        Some(Self::write(unix, length + usize::from(!is_abstract)))
    }

    fn write<T>(address: T, length: usize) -> Self {
        const { assert!(size_of::<T>() <= size_of::<libc::sockaddr_storage>()) };
        let mut made = Self::empty();
        // SAFETY: `T` is one of libc's sockaddr_* structs or an array of bytes, which are plain integers, and it is not
        // larger than the storage (asserted above).
        unsafe { std::ptr::from_mut(&mut made.storage).cast::<T>().write_unaligned(address) };
        made.length = length as libc::socklen_t;
        made
    }

    /// The address as the kernel has it.
    pub fn as_bytes(&self) -> &[u8] {
        let length = (self.length as usize).min(size_of::<libc::sockaddr_storage>());
        // SAFETY: the storage is fully initialised, and at least `length` bytes long.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(&self.storage).cast::<u8>(), length) }
    }

    /// True if there is no address, as for the sender of a datagram whose socket has no name.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The address family, `AF_...`.
    pub fn family(&self) -> i32 {
        self.storage.ss_family as i32
    }

    /// Takes the address apart.
    pub fn parse(&self) -> Address {
        match self.family() {
            libc::AF_INET => {
                let v4: libc::sockaddr_in = self.read();
                Address::V4(numeric_host(libc::AF_INET, &v4.sin_addr), u16::from_be(v4.sin_port))
            }
            libc::AF_INET6 => {
                let v6: libc::sockaddr_in6 = self.read();
                let host = numeric_host(libc::AF_INET6, &v6.sin6_addr);
                Address::V6(
                    host,
                    u16::from_be(v6.sin6_port),
                    u32::from_be(v6.sin6_flowinfo),
                    v6.sin6_scope_id,
                )
            }
            libc::AF_UNIX => Address::Unix(self.unix_path()),
            family => Address::Other(family),
        }
    }

    fn read<T>(&self) -> T {
        const { assert!(size_of::<T>() <= size_of::<libc::sockaddr_storage>()) };
        // SAFETY: `T` is one of libc's sockaddr_* structs: plain integers, for which every bit pattern is valid. It is
        // not larger than the storage (asserted above), which is fully initialised.
        unsafe { std::ptr::from_ref(&self.storage).cast::<T>().read_unaligned() }
    }

    fn unix_path(&self) -> Vec<u8> {
        let unix: libc::sockaddr_un = self.read();
        let offset = std::mem::offset_of!(libc::sockaddr_un, sun_path);
        let length = (self.length as usize).saturating_sub(offset).min(unix.sun_path.len());
        let path: Vec<u8> = unix.sun_path[..length].iter().map(|&byte| byte as u8).collect();
        match path.first() {
            // An abstract name is NUL and everything that follows.
            Some(0) if length > 1 => path,
            _ => path.split(|&byte| byte == 0).next().unwrap_or_default().to_vec(),
        }
    }
}

const V4_LENGTH: usize = size_of::<libc::sockaddr_in>();
const V6_LENGTH: usize = size_of::<libc::sockaddr_in6>();

/// A socket address as a connection keeps it, of which there can be very many. A [`SocketAddress`] has room for the
/// longest one of any family.
#[derive(Clone)]
pub enum KeptAddress {
    /// The host and the port.
    V4(Ipv4Addr, u16),
    V6(Box<libc::sockaddr_in6>),
    Other(Box<SocketAddress>),
}

// A `Box` and the tag of the enum take 16 bytes. An address of IPv4, which is stored in place, takes no more.
const _: () = assert!(size_of::<Option<KeptAddress>>() <= 16);

impl From<&SocketAddress> for KeptAddress {
    fn from(address: &SocketAddress) -> Self {
        match (address.family(), address.as_bytes().len()) {
            (libc::AF_INET, V4_LENGTH) => {
                let v4: libc::sockaddr_in = address.read();
                Self::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)), u16::from_be(v4.sin_port))
            }
            (libc::AF_INET6, V6_LENGTH) => Self::V6(Box::new(address.read())),
            _ => Self::Other(Box::new(address.clone())),
        }
    }
}

impl From<&KeptAddress> for SocketAddress {
    fn from(kept: &KeptAddress) -> Self {
        match kept {
            KeptAddress::V4(host, port) => Self::v4(*host, *port),
            KeptAddress::V6(address) => Self::write(**address, V6_LENGTH),
            KeptAddress::Other(address) => (**address).clone(),
        }
    }
}

// In POSIX and every libc, but not in the crate `libc`.
unsafe extern "C" {
    fn inet_ntop(
        family: libc::c_int,
        address: *const libc::c_void,
        text: *mut libc::c_char,
        length: libc::socklen_t,
    ) -> *const libc::c_char;
}

/// The text of an IPv6 address, as Python shows it.
pub fn ipv6_host(address: &Ipv6Addr) -> String {
    numeric_host(libc::AF_INET6, &address.octets())
}

/// The length of the longest numeric form of an IPv6 address, with its NUL (`INET6_ADDRSTRLEN`, RFC 3493).
const NUMERIC_HOST_LENGTH: usize = 46;

/// The numeric form of an address, by inet_ntop as in CPython. `std::net` spells some IPv6 addresses differently.
fn numeric_host<A>(family: libc::c_int, address: &A) -> String {
    let mut text = [0u8; NUMERIC_HOST_LENGTH];
    // SAFETY: `address` is the in_addr or in6_addr that belongs to `family`. `text` is writable and long enough for
    // both, so that the result ends in NUL.
    let result = unsafe {
        inet_ntop(
            family,
            std::ptr::from_ref(address).cast(),
            text.as_mut_ptr().cast(),
            text.len() as libc::socklen_t,
        )
    };
    debug_assert!(!result.is_null());
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&text[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_there_and_back() {
        let v4 = SocketAddress::v4(Ipv4Addr::new(127, 1, 2, 3), 4567);
        assert_eq!(v4.parse(), Address::V4("127.1.2.3".into(), 4567));
        let v6 = SocketAddress::v6(Ipv6Addr::LOCALHOST, 1, 0xfedcb, 7);
        assert_eq!(v6.parse(), Address::V6("::1".into(), 1, 0xfedcb, 7));
        assert!(matches!(KeptAddress::from(&v4), KeptAddress::V4(..)));
        assert!(matches!(KeptAddress::from(&v6), KeptAddress::V6(_)));
        for ip in [v4, v6, SocketAddress::empty()] {
            let back = SocketAddress::from(&KeptAddress::from(&ip));
            assert_eq!((back.as_bytes(), back.family()), (ip.as_bytes(), ip.family()));
        }
        for path in [&b"/a/path"[..], b"\0name\0with nul", &[b'x'; 107], &[0; 108]] {
            let unix = SocketAddress::unix(path).expect("fits");
            assert_eq!(unix.parse(), Address::Unix(path.to_vec()));
            assert_eq!(SocketAddress::from(&KeptAddress::from(&unix)).parse(), unix.parse());
        }
        for path in [&b""[..], b"/a\0b", &[b'x'; 108], &[0; 109]] {
            assert!(SocketAddress::unix(path).is_none());
        }
    }

    // In POSIX and every libc, but not in the crate `libc`.
    unsafe extern "C" {
        fn inet_pton(
            family: libc::c_int,
            text: *const libc::c_char,
            address: *mut libc::c_void,
        ) -> libc::c_int;
    }

    /// What Python's socket module makes of an address literal. `None` if it takes the text for a name.
    fn literal<const N: usize>(family: libc::c_int, text: &str) -> Option<[u8; N]> {
        let (text, mut address) = (std::ffi::CString::new(text).ok()?, [0; N]);
        // SAFETY: the text ends in NUL, and `address` has the size of an address of `family`.
        let result = unsafe { inet_pton(family, text.as_ptr(), address.as_mut_ptr().cast()) };
        (result == 1).then_some(address)
    }

    /// Each text that `std::net` takes for an address is the same address to inet_pton. Tried with mutations of
    /// addresses.
    #[test]
    fn literals_are_those_of_libc() {
        let seeds = ["127.0.0.1", "0.0.0.0", "255.255.255.255", "10.200.30.4"];
        let seeds6 = [
            "::",
            "::1",
            "fe80::1:2",
            "1:2:3:4:5:6:7:8",
            "::ffff:1.2.3.4",
            "1:2::7:8",
            "a:b:c:d:e:f:1.2.3.4",
        ];
        let alphabet = "0129afAFg.:% +x\u{661}";
        let mut tried = 0;
        for seed in seeds.iter().chain(&seeds6) {
            for at in 0..=seed.len() {
                for width in 0..=(seed.len() - at).min(2) {
                    for first in alphabet.chars() {
                        for second in alphabet.chars().map(Some).chain([None]) {
                            let middle: String = [Some(first), second].into_iter().flatten().collect();
                            let text = format!("{}{middle}{}", &seed[..at], &seed[at + width..]);
                            if let Ok(host) = text.parse::<Ipv4Addr>() {
                                assert_eq!(literal(libc::AF_INET, &text), Some(host.octets()), "{text}");
                            }
                            if let Ok(host) = text.parse::<Ipv6Addr>() {
                                assert_eq!(literal(libc::AF_INET6, &text), Some(host.octets()), "{text}");
                            }
                            tried += 1;
                        }
                    }
                }
            }
        }
        assert!(tried > 50_000);
    }
}
