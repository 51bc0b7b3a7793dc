//! Socket addresses as objects of Python, in the forms of the `socket` module. No name is looked up here.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString, PyTuple};

use crate::py::new;
use crate::reactor::sys::{Address, SocketAddress};

/// The Python form of an address: (host, port), (host, port, flowinfo, scope id), a path or an abstract name.
/// As in CPython's `makesockaddr`; a family that it does not know either gives (family, b"").
pub fn to_python<'py>(py: Python<'py>, address: &SocketAddress) -> PyResult<Bound<'py, PyAny>> {
    let number = |value: u32| PyResult::Ok(new::int(py, value as usize)?.into_any());
    let host = |text: String| PyResult::Ok(new::string(py, &text)?.into_any());
    match address.parse() {
        Address::V4(name, port) => {
            Ok(new::tuple(py, [host(name.to_string())?, number(port.into())?])?.into_any())
        }
        Address::V6(name, port, flow, scope) => {
            let parts = [host(name.to_string())?, number(port.into())?, number(flow)?, number(scope)?];
            Ok(new::tuple(py, parts)?.into_any())
        }
        // An abstract name is bytes, a path is decoded as a file name is (PEP 383).
        Address::Unix(path) if path.first() == Some(&0) => Ok(new::bytes(py, &path)?.into_any()),
        Address::Unix(path) => Ok(new::file_name(py, &path)?.into_any()),
        Address::Other(family) => {
            Ok(new::tuple(py, [number(family as u32)?, new::bytes(py, b"")?.into_any()])?.into_any())
        }
    }
}

/// The address that Python's `socket.sendto` would make of `address`, for literals in exact types, absolute paths and
/// abstract names. `None` for everything else, names and errors included: then the Python socket has to be asked.
#[inline]
pub fn from_python(family: i32, address: &Bound<'_, PyAny>) -> Option<SocketAddress> {
    if family == libc::AF_UNIX {
        return from_name(address);
    }
    let parts = address.cast::<PyTuple>().ok()?;
    let host = parts.get_borrowed_item(0).ok()?;
    let host = host.cast_exact::<PyString>().ok()?;
    let host = host.to_str().ok()?;
    let number = |at| {
        let number = parts.get_borrowed_item(at).ok()?;
        number.cast_exact::<PyInt>().ok()?.extract::<u32>().ok()
    };
    let port = u16::try_from(number(1)?).ok()?;
    match (family, parts.len()) {
        (libc::AF_INET, 2) => Some(SocketAddress::v4(host.parse().ok()?, port)),
        (libc::AF_INET6, length @ 2..=4) => {
            let flow = if length > 2 { number(2)? } else { 0 };
            let scope = if length > 3 { number(3)? } else { 0 };
            (flow <= MAX_FLOW).then_some(SocketAddress::v6(host.parse().ok()?, port, flow, scope))
        }
        _ => None,
    }
}

/// The largest flow information: 20 bits (RFC 8200, section 3).
const MAX_FLOW: u32 = (1 << 20) - 1;

fn from_name(name: &Bound<'_, PyAny>) -> Option<SocketAddress> {
    let bytes = match name.cast_exact::<PyBytes>() {
        Ok(bytes) => bytes.as_bytes(),
        // ASCII text is the same in every encoding of file names.
        Err(_) => {
            name.cast_exact::<PyString>().ok()?.to_str().ok().filter(|text| text.is_ascii())?.as_bytes()
        }
    };
    // A relative path means another file once the current directory is changed.
    bytes.first().filter(|&&first| first == b'/' || first == 0)?;
    SocketAddress::unix(bytes)
}
