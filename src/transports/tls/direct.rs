//! The OpenSSL that the interpreter's module `_ssl` has loaded, called without Python objects in between: its
//! functions, which are looked up at run time, the `SSL*` inside an `ssl.SSLObject`, and a BIO of ours between OpenSSL
//! and the connection's [`Ends`]. (A BIO is OpenSSL's name for what an `SSL` reads from and writes to.) Nothing here
//! knows of transports.
//!
//! It has to be this library: another one could not use the program's `ssl.SSLContext`. Where anything about it is not
//! as expected, [`OpenSsl::get`] or [`OpenSsl::ssl_of`] returns None, and `portable.rs` does the work.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_ulong, c_void};
use std::mem::MaybeUninit;
use std::ops::RangeInclusive;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering::Acquire, Ordering::Release};

use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::ends::Ends;
use super::outcome::Outcome;
use crate::py::bytes::Target;
use crate::py::new::{self, intern};
use crate::reactor::sys;

// OpenSSL's `SSL`, `BIO` and `BIO_METHOD`. What is in them is OpenSSL's business.
pub enum Ssl {}
enum Bio {}
enum BioMethod {}

const SSL_ERROR_WANT_READ: c_int = 2;
const SSL_ERROR_WANT_WRITE: c_int = 3;
const SSL_ERROR_ZERO_RETURN: c_int = 6;
const BIO_TYPE_SOURCE_SINK: c_int = 0x0400;
const BIO_FLAGS_READ: c_int = 0x01;
const BIO_FLAGS_SHOULD_RETRY: c_int = 0x08;
const BIO_CTRL_PENDING: c_int = 10;
const BIO_CTRL_FLUSH: c_int = 11;
const BIO_CTRL_WPENDING: c_int = 13;

/// The minor versions of CPython 3 in whose source the layout of `_ssl`'s objects was looked up.
const LAYOUTS_KNOWN: RangeInclusive<u8> = 11..=15;

type ReadEx = unsafe extern "C" fn(*mut Bio, *mut c_char, usize, *mut usize) -> c_int;
type WriteEx = unsafe extern "C" fn(*mut Bio, *const c_char, usize, *mut usize) -> c_int;
type Ctrl = unsafe extern "C" fn(*mut Bio, c_int, c_long, *mut c_void) -> c_long;
type Destroy = unsafe extern "C" fn(*mut Bio) -> c_int;

macro_rules! functions {
    ($($name:ident: fn($($arg:ty),*) $(-> $result:ty)?;)*) => {
        /// Functions of libssl and libcrypto, by their C names.
        #[allow(non_snake_case, reason = "the names are OpenSSL's")]
        struct Functions {
            $($name: unsafe extern "C" fn($($arg),*) $(-> $result)?,)*
        }

        impl Functions {
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

/// The library, once it is found and verified.
pub struct OpenSsl {
    functions: Functions,
    method: *mut BioMethod,
    /// `_ssl._SSLSocket`, whose layout was verified.
    class: Py<PyAny>,
}

// SAFETY: function pointers, which any thread can call, and a method table, which is not changed once it is made.
unsafe impl Send for OpenSsl {}
// SAFETY: as above.
unsafe impl Sync for OpenSsl {}

static OPENSSL: PyOnceLock<Option<OpenSsl>> = PyOnceLock::new();

impl OpenSsl {
    /// The library, unless it cannot be used. It is looked for once in a process.
    pub fn get(py: Python<'_>) -> Option<&'static Self> {
        OPENSSL.get_or_init(py, || Self::find(py).unwrap_or(None)).as_ref()
    }

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
        // SAFETY: the calls and their order are those of BIO_meth_new(3); the table lives as long as the process.
        let method = unsafe {
            let kind = (functions.BIO_get_new_index)() | BIO_TYPE_SOURCE_SINK;
            let method = (functions.BIO_meth_new)(kind, c"rloop".as_ptr());
            if method.is_null() {
                return Ok(None);
            }
            (functions.BIO_meth_set_read_ex)(method, read_ex);
            (functions.BIO_meth_set_write_ex)(method, write_ex);
            (functions.BIO_meth_set_ctrl)(method, ctrl);
            (functions.BIO_meth_set_destroy)(method, destroy);
            method
        };
        let class = module.getattr("_SSLSocket")?.unbind();
        let found = Self { functions, method, class };
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
        Ok(self.ssl_of(&object, &context, &incoming, &outgoing).is_some())
    }

    /// The `SSL*` inside an `ssl.SSLObject`, if everything around it is where it should be.
    pub fn ssl_of<'py>(
        &self,
        object: &Bound<'py, PyAny>,
        context: &Bound<'_, PyAny>,
        incoming: &Bound<'_, PyAny>,
        outgoing: &Bound<'_, PyAny>,
    ) -> Option<Found<'py>> {
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

// ------------------------------------------------------------------------------------------ connection

/// A read or a write has failed. OpenSSL keeps the error for whoever asks next: the caller has `_ssl` raise it.
pub struct Failed;

/// An `SSL*`, and the `_ssl._SSLSocket` that frees it. A program can put another one into its `ssl.SSLObject`.
pub struct Found<'py> {
    ssl: NonNull<Ssl>,
    owner: Bound<'py, PyAny>,
}

/// One connection: the `SSL*` of a Python object, which reads from our BIO and writes to it.
pub struct Connection {
    library: &'static OpenSsl,
    ssl: NonNull<Ssl>,
    /// Keeps the `SSL` alive.
    owner: Py<PyAny>,
}

// SAFETY: `owner` keeps the `SSL` alive. The methods below take the token of the interpreter, so that two of them never
// run at once on different threads. But OpenSSL can call a callback in the middle of a method, and that callback can let
// another thread run. What the other thread asks for is refused (`Engine::alone`). Only `holds_input` is not refused: it
// changes nothing. Methods of the
// `ssl.SSLObject` let go of the interpreter while they use the `SSL`. The layer calls them in two places: in `Engine`,
// which refuses all else meanwhile, and in Python during the handshake and the shutdown, when the layer reads and
// writes nothing by itself (`TlsLayer::read_app`, `TlsLayer::encrypt`). A program must not call them on another thread
// while the connection is in use: `_ssl` itself does not allow it.
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

impl Connection {
    /// Has OpenSSL read from `ends` and write to them, instead of the memory BIOs of the Python object.
    pub fn new(library: &'static OpenSsl, found: Found<'_>, ends: Arc<Ends>) -> Option<Self> {
        let functions = &library.functions;
        let Found { ssl, owner } = found;
        OF_BIOS.store(std::ptr::from_ref(library).cast_mut(), Release);
        // SAFETY: `ssl` is alive, and the interpreter is held, as `found` shows. BIO_new(3) gives one reference to the
        // BIO; `SSL_set0_rbio` and `SSL_set0_wbio` take one each, so that a second one is made. The BIO takes over the
        // count of `ends`; `destroy` gives it back.
        unsafe {
            let bio = NonNull::new((functions.BIO_new)(library.method))?;
            (functions.BIO_set_data)(bio.as_ptr(), Arc::into_raw(ends).cast_mut().cast());
            (functions.BIO_set_init)(bio.as_ptr(), 1);
            (functions.BIO_up_ref)(bio.as_ptr());
            (functions.SSL_set0_rbio)(ssl.as_ptr(), bio.as_ptr());
            (functions.SSL_set0_wbio)(ssl.as_ptr(), bio.as_ptr());
        }
        Some(Self { library, ssl, owner: owner.unbind() })
    }

    /// True if OpenSSL holds part of a record, or decrypted bytes.
    pub fn holds_input(&self, _py: Python<'_>) -> bool {
        // SAFETY: a live `SSL`.
        unsafe { (self.library.functions.SSL_has_pending)(self.ssl.as_ptr()) != 0 }
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.owner)
    }

    /// Decrypts into `buffer`, which must not be empty: at most one record.
    pub fn read(&self, _py: Python<'_>, mut buffer: Target<'_>) -> Result<Outcome, Failed> {
        self.call(|functions, ssl, count| {
            // SAFETY: a live `SSL`; OpenSSL writes at most as many bytes as it is told, to memory that is writable.
            unsafe { (functions.SSL_read_ex)(ssl, buffer.as_mut_ptr().cast(), buffer.len(), count) }
        })
    }

    /// Encrypts `data`, which must not be empty.
    pub fn write(&self, _py: Python<'_>, data: &[u8]) -> Result<Outcome, Failed> {
        let written = self.call(|functions, ssl, count| {
            // SAFETY: a live `SSL`; OpenSSL reads no more bytes than it is told. `_ssl` allows the buffer to move
            // between an attempt and the next (SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER).
            unsafe { (functions.SSL_write_ex)(ssl, data.as_ptr().cast(), data.len(), count) }
        });
        match written {
            Ok(Outcome::Closed) => Err(Failed),
            written => written,
        }
    }

    fn call(&self, call: impl FnOnce(&Functions, *mut Ssl, *mut usize) -> c_int) -> Result<Outcome, Failed> {
        let functions = &self.library.functions;
        // SAFETY: these look at the calling thread's own queue of errors, and empty it: an error that somebody else has
        // left there must not be taken for ours.
        unsafe {
            if (functions.ERR_peek_error)() != 0 {
                (functions.ERR_clear_error)();
            }
        }
        let mut count = 0;
        let result = call(functions, self.ssl.as_ptr(), &mut count);
        if result == 1 {
            return Ok(Outcome::Done(count));
        }
        // SAFETY: a live `SSL`, and `result` is of its last call.
        match unsafe { (functions.SSL_get_error)(self.ssl.as_ptr(), result) } {
            SSL_ERROR_WANT_READ | SSL_ERROR_WANT_WRITE => Ok(Outcome::Again),
            SSL_ERROR_ZERO_RETURN => Ok(Outcome::Closed),
            _ => Err(Failed),
        }
    }
}

// ------------------------------------------------------------------------------------------ BIO

// The data of a BIO of ours is the connection's `Ends`. The connection and the BIO own them together, because either
// can live longer than the other.

/// The library that the BIOs belong to. Its functions are found here because `_ssl` has OpenSSL call a BIO after
/// letting go of the interpreter.
static OF_BIOS: AtomicPtr<OpenSsl> = AtomicPtr::new(null_mut());

fn library() -> Option<&'static OpenSsl> {
    // SAFETY: null, or set by `Connection::new` from a reference that lives as long as the process.
    unsafe { OF_BIOS.load(Acquire).as_ref() }
}

/// The ends of a BIO, and the functions of its library.
///
/// # Safety
/// `bio` is one of ours, and OpenSSL is calling one of its functions. The reference is valid until that returns.
unsafe fn ends_of<'a>(bio: *mut Bio) -> Option<(&'static Functions, &'a Ends)> {
    let functions = &library()?.functions;
    // SAFETY: `Connection::new` has set them, and the BIO has a count of them until `destroy`.
    Some((functions, unsafe { (functions.BIO_get_data)(bio).cast::<Ends>().as_ref()? }))
}

unsafe extern "C" fn read_ex(bio: *mut Bio, to: *mut c_char, len: usize, count: *mut usize) -> c_int {
    // SAFETY: OpenSSL's call, with `len` writable bytes at `to`, and a place for the count.
    unsafe {
        let Some((functions, ends)) = ends_of(bio) else {
            return -1;
        };
        *count = ends.read(std::slice::from_raw_parts_mut(to.cast::<MaybeUninit<u8>>(), len));
        (functions.BIO_clear_flags)(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY);
        if *count == 0 {
            (functions.BIO_set_flags)(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY);
            return -1;
        }
        1
    }
}

unsafe extern "C" fn write_ex(bio: *mut Bio, from: *const c_char, len: usize, count: *mut usize) -> c_int {
    // SAFETY: OpenSSL's call, with `len` readable bytes at `from`, and a place for the count.
    unsafe {
        let Some((functions, ends)) = ends_of(bio) else {
            return -1;
        };
        if !ends.put(std::slice::from_raw_parts(from.cast::<u8>(), len)) {
            // Without these flags OpenSSL takes it for a failure, not for "try again".
            (functions.BIO_clear_flags)(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY);
            return -1;
        }
        *count = len;
        1
    }
}

unsafe extern "C" fn ctrl(bio: *mut Bio, command: c_int, _number: c_long, _pointer: *mut c_void) -> c_long {
    // SAFETY: OpenSSL's call.
    let ends = || unsafe { ends_of(bio) }.map(|(_, ends)| ends);
    let len = match command {
        BIO_CTRL_FLUSH => return 1,
        BIO_CTRL_PENDING => ends().map(Ends::input_len),
        BIO_CTRL_WPENDING => ends().map(Ends::output_len),
        // OpenSSL asks several such questions for each record, about kernel TLS for instance.
        _ => return 0,
    };
    len.map_or(0, |len| len as c_long)
}

unsafe extern "C" fn destroy(bio: *mut Bio) -> c_int {
    let Some(library) = library() else {
        return 0;
    };
    // SAFETY: OpenSSL calls this once, when the last reference to the BIO is gone. The data is the count that
    // `Connection::new` has given to the BIO; it is given back once, as the place is emptied.
    unsafe {
        let ends = (library.functions.BIO_get_data)(bio).cast::<Ends>();
        (library.functions.BIO_set_data)(bio, null_mut());
        if !ends.is_null() {
            drop(Arc::from_raw(ends.cast_const()));
        }
    }
    1
}
