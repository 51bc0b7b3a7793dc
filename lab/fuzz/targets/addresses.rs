//! Socket addresses: what is made from parts is taken apart into the same parts, and each text that `std::net` parses
//! comes out as the same address.
#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use rloop::reactor::sys::{Address, SocketAddress, ipv6_host};
use rloop_fuzz::Input;

/// The most bytes of a path, with its NUL (unix(7)).
const PATH: usize = 108;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    match input.small() % 4 {
        0 => {
            let (host, port) = (Ipv4Addr::from(input.number()), input.number() as u16);
            let address = SocketAddress::v4(host, port);
            assert_eq!(address.parse(), Address::V4(host.to_string(), port));
            assert_eq!(address.as_bytes().len(), 16);
        }
        1 => {
            let mut octets = [0; 16];
            let given = input.take(16);
            octets[..given.len()].copy_from_slice(given);
            let host = Ipv6Addr::from(octets);
            let (port, flow, scope) = (input.number() as u16, input.number(), input.number());
            let address = SocketAddress::v6(host, port, flow, scope);
            let Address::V6(text, ..) = address.parse() else { panic!("another family") };
            assert_eq!(address.parse(), Address::V6(text.clone(), port, flow, scope));
            assert_eq!(text.parse(), Ok(host));
            assert_eq!(text, ipv6_host(&host));
        }
        2 => {
            let path = input.rest();
            let is_abstract = path.first() == Some(&0);
            let fits = !path.is_empty()
                && path.len() <= PATH - usize::from(!is_abstract)
                && (is_abstract || !path.contains(&0));
            match SocketAddress::unix(path) {
                // A single NUL is the name of nothing: the kernel tells it as a socket without a name.
                Some(address) if path == [0] => assert_eq!(address.parse(), Address::Unix(Vec::new())),
                Some(address) => assert_eq!(address.parse(), Address::Unix(path.to_vec())),
                None => assert!(!fits),
            }
            assert_eq!(SocketAddress::unix(path).is_some(), fits);
        }
        _ => {
            if let Ok(text) = std::str::from_utf8(input.rest())
                && let Ok(host) = text.parse::<Ipv6Addr>()
            {
                assert_eq!(ipv6_host(&host).parse(), Ok(host));
            }
        }
    }
});
