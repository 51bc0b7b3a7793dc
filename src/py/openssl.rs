//! The OpenSSL that the interpreter's module `_ssl` has loaded, for calls without Python objects in between: its
//! functions, which are looked up at run time, and the `SSL*` inside an `ssl.SSLObject`. What is done with a connection
//! is the business of `transports/tls/direct.rs`.
//!
//! It has to be this library: another one could not use the program's `ssl.SSLContext`. Where anything about it is not
//! as expected, [`OpenSsl::get`] or [`OpenSsl::ssl_of`] returns None, and TLS does without.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_ulong, c_void};
use std::ops::RangeInclusive;
use std::ptr::NonNull;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::new::{self, intern};
use crate::reactor::sys;

// OpenSSL's `SSL`, `BIO` and `BIO_METHOD`. What is in them is OpenSSL's business.
pub enum Ssl {}
pub enum Bio {}
pub enum BioMethod {}

pub const SSL_ERROR_WANT_READ: c_int = 2;
pub const SSL_ERROR_WANT_WRITE: c_int = 3;
pub const SSL_ERROR_ZERO_RETURN: c_int = 6;
pub const BIO_TYPE_SOURCE_SINK: c_int = 0x0400;
pub const BIO_FLAGS_READ: c_int = 0x01;
pub const BIO_FLAGS_SHOULD_RETRY: c_int = 0x08;
pub const BIO_CTRL_PENDING: c_int = 10;
pub const BIO_CTRL_FLUSH: c_int = 11;
pub const BIO_CTRL_WPENDING: c_int = 13;

/// The minor versions of CPython 3 in whose source the layout of `_ssl`'s objects was looked up.
const LAYOUTS_KNOWN: RangeInclusive<u8> = 11..=15;

/// The functions of a BIO, as `BIO_meth_set_*` takes them.
pub type ReadEx = unsafe extern "C" fn(*mut Bio, *mut c_char, usize, *mut usize) -> c_int;
pub type WriteEx = unsafe extern "C" fn(*mut Bio, *const c_char, usize, *mut usize) -> c_int;
pub type Ctrl = unsafe extern "C" fn(*mut Bio, c_int, c_long, *mut c_void) -> c_long;
pub type Destroy = unsafe extern "C" fn(*mut Bio) -> c_int;

macro_rules! functions {
    ($($name:ident: fn($($arg:ty),*) $(-> $result:ty)?;)*) => {
        /// Functions of libssl and libcrypto, by their C names.
        #[allow(non_snake_case, reason = "the names are OpenSSL's")]
        pub struct Functions {
            $(pub $name: unsafe extern "C" fn($($arg),*) $(-> $result)?,)*
        }

        impl Functions {
            /// None if one of them is missing: a library that is no OpenSSL, or one that is too old.
            fn find(library: &sys::Library) -> Option<Self> {
                Some(Self {$(
                    // SAFETY: the signature is the one in the manual of OpenSSL 1.1.1 to 3.x, which keep their ABI.
                    $name: unsafe {
                        let name = concat!(stringify!($name), "\0");
                        let name = CStr::from_bytes_with_nul(name.as_bytes()).ok()?;
                        std::mem::transmute::<NonNull<c_void>, unsafe extern "C" fn($($arg),*) $(-> $result)?>(
                            library.symbol(name)?,
                        )
                    },
                )*})
            }
        }
    };
}

functions! {
    SSL_read_ex: fn(*mut Ssl, *mut c_void, usize, *mut usize) -> c_int;
    SSL_write_ex: fn(*mut Ssl, *const c_void, usize, *mut usize) -> c_int;
    SSL_get_error: fn(*const Ssl, c_int) -> c_int;
    SSL_has_pending: fn(*const Ssl) -> c_int;
    SSL_get_SSL_CTX: fn(*const Ssl) -> *mut c_void;
    SSL_get_rbio: fn(*const Ssl) -> *mut Bio;
    SSL_get_wbio: fn(*const Ssl) -> *mut Bio;
    SSL_set0_rbio: fn(*mut Ssl, *mut Bio);
    SSL_set0_wbio: fn(*mut Ssl, *mut Bio);
    ERR_peek_error: fn() -> c_ulong;
    ERR_clear_error: fn();
    BIO_new: fn(*const BioMethod) -> *mut Bio;
    BIO_up_ref: fn(*mut Bio) -> c_int;
    BIO_get_new_index: fn() -> c_int;
    BIO_meth_new: fn(c_int, *const c_char) -> *mut BioMethod;
    BIO_meth_set_read_ex: fn(*mut BioMethod, ReadEx) -> c_int;
    BIO_meth_set_write_ex: fn(*mut BioMethod, WriteEx) -> c_int;
    BIO_meth_set_ctrl: fn(*mut BioMethod, Ctrl) -> c_int;
    BIO_meth_set_destroy: fn(*mut BioMethod, Destroy) -> c_int;
    BIO_set_data: fn(*mut Bio, *mut c_void);
    BIO_get_data: fn(*mut Bio) -> *mut c_void;
    BIO_set_init: fn(*mut Bio, c_int);
    BIO_set_flags: fn(*mut Bio, c_int);
    BIO_clear_flags: fn(*mut Bio, c_int);
}

/// The objects of a connection: an `ssl.SSLObject`, and the `ssl.SSLContext` and the two `ssl.MemoryBIO` that it was made
/// of by `context.wrap_bio(incoming, outgoing)`, in this order.
pub type Objects<'py> = [Bound<'py, PyAny>; 4];

/// The library, once it is found and verified.
pub struct OpenSsl {
    pub functions: Functions,
    /// `_ssl._SSLSocket`, whose layout was verified.
    class: Py<PyAny>,
}

static OPENSSL: PyOnceLock<Option<OpenSsl>> = PyOnceLock::new();

impl OpenSsl {
    /// The library, unless it cannot be used. It is looked for once in a process.
    pub fn get(py: Python<'_>) -> Option<&'static Self> {
        OPENSSL.get_or_init(py, || Self::find(py).unwrap_or(None)).as_ref()
    }

    /// None, or an error, if anything is not as it was looked up. Either way TLS does without.
    fn find(py: Python<'_>) -> PyResult<Option<Self>> {
        if !LAYOUTS_KNOWN.contains(&py.version_info().minor) {
            return Ok(None);
        }
        let module = py.import("_ssl")?;
        let file = match module.getattr("__file__") {
            Ok(file) => Some(CString::new(file.extract::<String>()?)?),
            // The module is built into the interpreter.
            Err(_) => None,
        };
        let Some(functions) =
            sys::Library::loaded(file.as_deref()).and_then(|library| Functions::find(&library))
        else {
            return Ok(None);
        };
        let class = module.getattr("_SSLSocket")?.unbind();
        let found = Self { functions, class };
        Ok(if found.verify(py)? { Some(found) } else { None })
    }

    /// Tries with an object of our own whether [`OpenSsl::ssl_of`] finds the `SSL*` inside it.
    fn verify(&self, py: Python<'_>) -> PyResult<bool> {
        let module = py.import("ssl")?;
        let context = module.getattr("SSLContext")?.call1((module.getattr("PROTOCOL_TLS_CLIENT")?,))?;
        let memory_bio = module.getattr("MemoryBIO")?;
        let (incoming, outgoing) = (memory_bio.call0()?, memory_bio.call0()?);
        let keywords = new::dict(py)?;
        keywords.set_item("server_hostname", "localhost")?;
        let object = context.call_method("wrap_bio", (&incoming, &outgoing), Some(&keywords))?;
        Ok(self.ssl_of(&[object, context, incoming, outgoing]).is_some())
    }

    /// The `SSL*` inside an `ssl.SSLObject`, if everything around it is where it should be.
    pub fn ssl_of<'py>(&self, objects: &Objects<'py>) -> Option<Found<'py>> {
        let [object, context, incoming, outgoing] = objects;
        let inner = object.getattr(intern!(object.py(), "_sslobj").ok()?).ok()?;
        if !inner.get_type().is(&self.class) {
            return None;
        }
        // In `LAYOUTS_KNOWN`, `PySSLSocket` is PyObject_HEAD, Socket, SSL*, PySSLContext*; `PySSLContext` and
        // `PySSLMemoryBIO` are PyObject_HEAD, then the SSL_CTX* or BIO*.
        let address = word(&inner, 1)?;
        if word(&inner, 2)? != context.as_ptr() as usize || !address.is_multiple_of(align_of::<usize>()) {
            return None;
        }
        let ssl = NonNull::new(address as *mut Ssl)?;
        // SAFETY: the word stands before the object's own context. That is where the versions in `LAYOUTS_KNOWN` keep
        // the object's SSL*, which is alive.
        let as_expected = unsafe {
            (self.functions.SSL_get_SSL_CTX)(ssl.as_ptr()) as usize == word(context, 0)?
                && (self.functions.SSL_get_rbio)(ssl.as_ptr()) as usize == word(incoming, 0)?
                && (self.functions.SSL_get_wbio)(ssl.as_ptr()) as usize == word(outgoing, 0)?
        };
        as_expected.then_some(Found { ssl, owner: inner })
    }
}

/// The word `at` of what follows an object's header, if the object is that large.
fn word(object: &Bound<'_, PyAny>, at: usize) -> Option<usize> {
    let start = size_of::<ffi::PyObject>() + at * size_of::<usize>();
    // SAFETY: `tp_basicsize` bytes of a live object can be read, and its class lives as long as it does.
    unsafe {
        let size = (*ffi::Py_TYPE(object.as_ptr())).tp_basicsize as usize;
        (start + size_of::<usize>() <= size).then(|| object.as_ptr().byte_add(start).cast::<usize>().read())
    }
}

/// An `SSL*`, and the `_ssl._SSLSocket` that frees it. A program can put another one into its `ssl.SSLObject`.
pub struct Found<'py> {
    pub ssl: NonNull<Ssl>,
    pub owner: Bound<'py, PyAny>,
}
