//! Address literals, which need not be looked up: `getaddrinfo` for them, and asyncio's own short way. Only what every
//! libc answers in the same way is answered here. All else, errors included, is left to libc.

use std::net::IpAddr;

use pyo3::prelude::*;
use pyo3::types::{PyInt, PyList, PyString, PyTuple};

use crate::py::audit;
use crate::py::names::Names;
use crate::py::new;
use crate::reactor::sys;

/// Flags that change nothing if host and port are numbers (RFC 3493).
const HARMLESS: i32 = libc::AI_PASSIVE | libc::AI_NUMERICHOST | libc::AI_NUMERICSERV;

/// The arguments of `socket.getaddrinfo`.
pub struct Question<'a, 'py> {
    pub host: &'a Bound<'py, PyAny>,
    pub port: &'a Bound<'py, PyAny>,
    pub family: &'a Bound<'py, PyAny>,
    pub kind: &'a Bound<'py, PyAny>,
    pub protocol: &'a Bound<'py, PyAny>,
    pub flags: &'a Bound<'py, PyAny>,
}

/// What `socket.getaddrinfo` returns, as a new list, if that is certain: for an address in its usual form, a port
/// number and a known kind of socket. `None` for everything else. Only an audit hook (PEP 578) can raise an error.
pub fn of_literal<'py>(names: &Names, question: &Question<'_, 'py>) -> PyResult<Option<Bound<'py, PyList>>> {
    let py = question.host.py();
    let (Ok(host), Ok(_)) = (question.host.cast_exact::<PyString>(), question.port.cast_exact::<PyInt>())
    else {
        return Ok(None);
    };
    // Each libc has its own rules for larger and for negative ports.
    let (Some(family), Some(kind), Some(protocol), Some(0..=0xffff)) =
        (number(question.family), number(question.kind), number(question.protocol), number(question.port))
    else {
        return Ok(None);
    };
    if number(question.flags).is_none_or(|flags| flags & !HARMLESS != 0) {
        return Ok(None);
    }
    let (socket_kind, its_protocol) = match (kind, protocol) {
        (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => (&names.sock_stream, libc::IPPROTO_TCP),
        (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => (&names.sock_dgram, libc::IPPROTO_UDP),
        _ => return Ok(None),
    };
    // `to_str` fails for text with a lone surrogate, which is no address.
    let address = host.to_str().ok().and_then(|text| text.parse().ok());
    let (socket_family, address) = match (address, family) {
        (Some(IpAddr::V4(_)), 0 | libc::AF_INET) => {
            // `std` parses only the usual spelling, which is also the one that libc returns.
            (&names.af_inet, new::tuple(py, [host.clone().into_any(), question.port.clone()])?)
        }
        (Some(IpAddr::V6(v6)), 0 | libc::AF_INET6) => {
            let [host, zero] =
                [new::string(py, &sys::ipv6_host(&v6))?.into_any(), new::int(py, 0)?.into_any()];
            (&names.af_inet6, new::tuple(py, [host, question.port.clone(), zero.clone(), zero])?)
        }
        _ => return Ok(None),
    };
    audit::getaddrinfo(question.host, question.port, family, kind, protocol)?;
    let canonical_name = names.empty.bind(py);
    let info = [
        socket_family.bind(py).clone(),
        socket_kind.bind(py).clone(),
        new::int(py, its_protocol as usize)?.into_any(),
        canonical_name.clone().into_any(),
        address.into_any(),
    ];
    new::list(py, [new::tuple(py, info)?.into_any()]).map(Some)
}

/// What asyncio's `_ensure_resolved` returns for an address that its `_ipaddr_info` knows to be a literal: a new list
/// with one tuple. It has the host as it is spelled, and no audit hook is told. `None` for everything else than a
/// tuple of a host and a port number, and a family, a kind of socket and a protocol that go with them.
pub fn resolved<'py>(
    names: &Names,
    address: &Bound<'py, PyAny>,
    family: &Bound<'py, PyAny>,
    kind: &Bound<'py, PyAny>,
    protocol: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyList>>> {
    let py = address.py();
    let Some((host, port)) = address.cast_exact::<PyTuple>().ok().and_then(|pair| host_and_port(pair)) else {
        return Ok(None);
    };
    let its_protocol = match (number(kind), number(protocol)) {
        (Some(libc::SOCK_STREAM), Some(0 | libc::IPPROTO_TCP | libc::IPPROTO_UDP)) => libc::IPPROTO_TCP,
        (Some(libc::SOCK_DGRAM), Some(0 | libc::IPPROTO_TCP | libc::IPPROTO_UDP)) => libc::IPPROTO_UDP,
        _ => return Ok(None),
    };
    let parsed = host.to_str().ok().and_then(|text| text.parse().ok());
    let (its_family, is_v6) = match (parsed, number(family)) {
        (Some(IpAddr::V4(_)), Some(0)) => (names.af_inet.bind(py), false),
        (Some(IpAddr::V6(_)), Some(0)) => (names.af_inet6.bind(py), true),
        (Some(IpAddr::V4(_)), Some(libc::AF_INET)) => (family, false),
        (Some(IpAddr::V6(_)), Some(libc::AF_INET6)) => (family, true),
        _ => return Ok(None),
    };
    let target = if is_v6 {
        let zero = new::int(py, 0)?.into_any();
        new::tuple(py, [host.into_any(), port.into_any(), zero.clone(), zero])?
    } else {
        new::tuple(py, [host.into_any(), port.into_any()])?
    };
    let info = [
        its_family.clone(),
        kind.clone(),
        new::int(py, its_protocol as usize)?.into_any(),
        names.empty.bind(py).clone().into_any(),
        target.into_any(),
    ];
    new::list(py, [new::tuple(py, info)?.into_any()]).map(Some)
}

/// A host and a port number that every libc takes.
fn host_and_port<'py>(pair: &Bound<'py, PyTuple>) -> Option<(Bound<'py, PyString>, Bound<'py, PyInt>)> {
    if pair.len() != 2 {
        return None;
    }
    let host = pair.get_item(0).ok()?.cast_into_exact::<PyString>().ok()?;
    let port = pair.get_item(1).ok()?.cast_into_exact::<PyInt>().ok()?;
    matches!(number(&port), Some(0..=0xffff)).then_some((host, port))
}

/// The number that CPython's argument parser reads from an object: an int, or an instance of a subclass such as an
/// enum, that fits into a C int.
fn number(object: &Bound<'_, PyAny>) -> Option<i32> {
    object.cast::<PyInt>().ok()?.extract().ok()
}
