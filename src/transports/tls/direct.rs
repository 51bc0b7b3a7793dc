//! The engine that calls OpenSSL's own functions on the `SSL*` inside the user's `ssl.SSLObject`. A BIO of ours stands
//! between OpenSSL and the connection's [`Ends`]. (A BIO is OpenSSL's name for what an `SSL` reads from and writes to.)
//! How the library and the `SSL*` are found is in `py/openssl.rs`; where they cannot be, `portable.rs` does the work.

use std::ffi::{c_char, c_int, c_long, c_void};
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering::Acquire, Ordering::Release};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::ends::Ends;
use super::outcome::Outcome;
use crate::py::bytes::Target;
use crate::py::openssl::*;
use crate::reactor::sys::ReadBuf;

/// A read or a write has failed. OpenSSL keeps the error for whoever asks next: the caller has `_ssl` raise it.
pub struct Failed;

/// One connection: the `SSL*` of a Python object, which reads from our BIO and writes to it.
pub struct Connection {
    library: &'static OpenSsl,
    ssl: NonNull<Ssl>,
    /// Keeps the `SSL` alive.
    owner: Py<PyAny>,
}

// SAFETY: `owner` keeps the `SSL` alive. The methods below take the token of the interpreter, so that two of them never
// run at once on different threads. But OpenSSL can call a callback in the middle of a method, and that callback can
// let another thread run. What the other thread asks for is refused (`Engine::alone`). Only `holds_input` is not
// refused: it changes nothing. Methods of the `ssl.SSLObject` let go of the interpreter while they use the `SSL`. The
// layer calls them in two places: in `Engine`, which refuses all else meanwhile, and in Python during the handshake and
// the shutdown, when the layer reads and writes nothing by itself (`TlsLayer::read_app`, `TlsLayer::encrypt`). A
// program must not call them on another thread while the connection is in use: `_ssl` itself does not allow it.
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

impl Connection {
    /// Has OpenSSL read from `ends` and write to them, instead of the memory BIOs of the Python object.
    pub fn new(library: &'static OpenSsl, found: Found<'_>, ends: Arc<Ends>) -> Option<Self> {
        let functions = &library.functions;
        let Found { ssl, owner } = found;
        OF_BIOS.store(std::ptr::from_ref(library).cast_mut(), Release);
        let method = method(functions)?;
        // SAFETY: `ssl` is alive, and the interpreter is held, as `found` shows. BIO_new(3) gives one reference to the
        // BIO; `SSL_set0_rbio` and `SSL_set0_wbio` take one each, so that a second one is made. The BIO takes over the
        // count of `ends`; `destroy` gives it back.
        unsafe {
            let bio = NonNull::new((functions.BIO_new)(method.as_ptr()))?;
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

    /// Calls one of the two functions of OpenSSL that work on records, and finds out what has come of it.
    /// `SSL_get_error` looks at the thread's queue of errors, so that it must be empty before.
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

/// How OpenSSL calls the BIOs, in a table that is made once.
fn method(functions: &Functions) -> Option<NonNull<BioMethod>> {
    static METHOD: AtomicPtr<BioMethod> = AtomicPtr::new(null_mut());
    if METHOD.load(Acquire).is_null() {
        // SAFETY: the calls and their order are those of BIO_meth_new(3); the table lives as long as the process.
        let made = unsafe {
            let kind = (functions.BIO_get_new_index)() | BIO_TYPE_SOURCE_SINK;
            let method = (functions.BIO_meth_new)(kind, c"rloop".as_ptr());
            if method.is_null() {
                return None;
            }
            (functions.BIO_meth_set_read_ex)(method, read_ex);
            (functions.BIO_meth_set_write_ex)(method, write_ex);
            (functions.BIO_meth_set_ctrl)(method, ctrl);
            (functions.BIO_meth_set_destroy)(method, destroy);
            method
        };
        METHOD.store(made, Release);
    }
    NonNull::new(METHOD.load(Acquire))
}

/// The library, for functions that OpenSSL calls without any other way to it.
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
        let room = std::slice::from_raw_parts_mut(to.cast::<MaybeUninit<u8>>(), len);
        *count = ends.read(&mut ReadBuf::new(room));
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
