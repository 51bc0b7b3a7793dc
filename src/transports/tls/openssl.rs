//! The OpenSSL that the interpreter's `_ssl` itself has loaded: its functions, looked up at run time, the `SSL*` inside
//! a Python object, and a BIO of ours between it and our buffers. Nothing here knows of transports.
//!
//! A second TLS library could not honour a user's `ssl.SSLContext`. This one is driven without Python objects between;
//! where anything about it is not as expected, [`OpenSsl::get`] says no, and `portable.rs` does the work.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_ulong, c_void};
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::ends::Ends;
use crate::py::bytes::Target;
use crate::py::new::{self, intern};
use crate::reactor::sys;

/// OpenSSL's `SSL`, `BIO` and `BIO_METHOD`: opaque.
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

/// The library, found and verified.
pub struct OpenSsl {
    functions: Functions,
    method: *mut BioMethod,
    /// `_ssl._SSLSocket`, whose layout was verified.
    class: Py<PyAny>,
}

// SAFETY: function pointers, and a method table that is never changed once it is made.
unsafe impl Send for OpenSsl {}
// SAFETY: as above.
unsafe impl Sync for OpenSsl {}

static OPENSSL: PyOnceLock<Option<OpenSsl>> = PyOnceLock::new();

impl OpenSsl {
    /// The library, unless it cannot be used. Looked for once in a process.
    pub fn get(py: Python<'_>) -> Option<&'static Self> {
        OPENSSL.get_or_init(py, || Self::find(py).unwrap_or(None)).as_ref()
    }

    fn find(py: Python<'_>) -> PyResult<Option<Self>> {
        // The layouts below were looked at in these versions.
        if py.version_info() >= (3, 16) {
            return Ok(None);
        }
        let module = py.import("_ssl")?;
        let file = match module.getattr("__file__") {
            Ok(file) => Some(CString::new(file.extract::<String>()?)?),
            // Built into the interpreter.
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

    /// Looks for the `SSL*` in an object of our own, and whether it is one.
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
        // `PySSLSocket` of CPython 3.11 to 3.15: PyObject_HEAD, Socket, SSL*, PySSLContext*. `PySSLContext` and
        // `PySSLMemoryBIO`: PyObject_HEAD, then the SSL_CTX* or BIO*.
        let ssl = word(&inner, 1)? as *mut Ssl;
        if word(&inner, 2)? != context.as_ptr() as usize || ssl.is_null() || !ssl.is_aligned() {
            return None;
        }
        // SAFETY: the word stands before the object's own context, where CPython keeps its SSL*.
        let as_expected = unsafe {
            (self.functions.SSL_get_SSL_CTX)(ssl) as usize == word(context, 0)?
                && (self.functions.SSL_get_rbio)(ssl) as usize == word(incoming, 0)?
                && (self.functions.SSL_get_wbio)(ssl) as usize == word(outgoing, 0)?
        };
        Some(Found { ssl: NonNull::new(ssl).filter(|_| as_expected)?, owner: inner })
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

/// What a read or a write of a connection comes to.
pub enum Outcome {
    /// So many bytes.
    Done(usize),
    /// Not before more has come from the peer.
    Again,
    /// The peer has sent close_notify.
    Closed,
    /// An error, which OpenSSL keeps for whoever asks next: the caller has `_ssl` raise it.
    Failed,
}

/// An `SSL*`, and the `_ssl._SSLSocket` that frees it. A program can put another one into its `ssl.SSLObject`.
pub struct Found<'py> {
    ssl: NonNull<Ssl>,
    owner: Bound<'py, PyAny>,
}

/// One connection: the `SSL*` of a Python object, with our BIO on both of its ends.
pub struct Connection {
    library: &'static OpenSsl,
    ssl: NonNull<Ssl>,
    /// Keeps the `SSL` alive.
    owner: Py<PyAny>,
    /// What our BIO reads from and writes to. The BIO belongs to the `SSL`.
    shared: Arc<Shared>,
}

// SAFETY: `owner` keeps the `SSL` alive. All methods that use it take the token of the interpreter, which orders them
// among each other. `_ssl` lets go of the interpreter while it uses the `SSL`, in methods of the `ssl.SSLObject`. One
// that the layer calls runs on the loop's thread, where no method of this struct can run meanwhile. A program must not
// call one on another thread while the connection is in use: `_ssl` itself does not allow it.
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

impl Connection {
    /// Takes over both ends of the connection.
    pub fn new(library: &'static OpenSsl, found: Found<'_>) -> Option<Self> {
        let functions = &library.functions;
        let Found { ssl, owner } = found;
        OF_BIOS.store(std::ptr::from_ref(library).cast_mut(), Release);
        let shared = Arc::<Shared>::default();
        // SAFETY: `ssl` is alive, and the interpreter is held, as `found` shows. BIO_new(3) gives one reference, and two
        // are wanted, for the two ends, which the `SSL` takes. `destroy` gives back the BIO's count of `shared`.
        unsafe {
            let bio = NonNull::new((functions.BIO_new)(library.method))?;
            (functions.BIO_set_data)(bio.as_ptr(), Arc::into_raw(shared.clone()).cast_mut().cast());
            (functions.BIO_set_init)(bio.as_ptr(), 1);
            (functions.BIO_up_ref)(bio.as_ptr());
            (functions.SSL_set0_rbio)(ssl.as_ptr(), bio.as_ptr());
            (functions.SSL_set0_wbio)(ssl.as_ptr(), bio.as_ptr());
        }
        Some(Self { library, ssl, owner: owner.unbind(), shared })
    }

    /// Runs `access` on the ends. It calls neither OpenSSL nor Python.
    pub fn ends<R>(&self, access: impl FnOnce(&mut Ends) -> R) -> R {
        self.shared.with(access)
    }

    /// [`Ends::input_len`].
    pub fn input_len(&self) -> usize {
        self.shared.input_len.load(Relaxed)
    }

    /// [`Ends::output_len`].
    pub fn output_len(&self) -> usize {
        self.shared.output_len.load(Relaxed)
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
    pub fn read(&self, _py: Python<'_>, mut buffer: Target<'_>) -> Outcome {
        self.call(|functions, ssl, count| {
            // SAFETY: a live `SSL`; OpenSSL writes at most as many bytes as it is told, to memory that is writable.
            unsafe { (functions.SSL_read_ex)(ssl, buffer.as_mut_ptr().cast(), buffer.len(), count) }
        })
    }

    /// Encrypts `data`, which must not be empty.
    pub fn write(&self, _py: Python<'_>, data: &[u8]) -> Outcome {
        self.call(|functions, ssl, count| {
            // SAFETY: a live `SSL`; OpenSSL reads no more bytes than it is told. `_ssl` allows the buffer to move
            // between an attempt and the next (SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER).
            unsafe { (functions.SSL_write_ex)(ssl, data.as_ptr().cast(), data.len(), count) }
        })
    }

    fn call(&self, call: impl FnOnce(&Functions, *mut Ssl, *mut usize) -> c_int) -> Outcome {
        let functions = &self.library.functions;
        // SAFETY: the queue of errors belongs to the calling thread; somebody else's must not be taken for ours.
        unsafe {
            if (functions.ERR_peek_error)() != 0 {
                (functions.ERR_clear_error)();
            }
        }
        let mut count = 0;
        let result = call(functions, self.ssl.as_ptr(), &mut count);
        if result == 1 {
            return Outcome::Done(count);
        }
        // SAFETY: a live `SSL`, and `result` is of its last call.
        match unsafe { (functions.SSL_get_error)(self.ssl.as_ptr(), result) } {
            SSL_ERROR_WANT_READ | SSL_ERROR_WANT_WRITE => Outcome::Again,
            SSL_ERROR_ZERO_RETURN => Outcome::Closed,
            _ => Outcome::Failed,
        }
    }
}

// ------------------------------------------------------------------------------------------ BIO

/// The library whose BIOs there are, for their functions: `_ssl` calls them after letting go of the interpreter.
static OF_BIOS: AtomicPtr<OpenSsl> = AtomicPtr::new(null_mut());

fn library() -> Option<&'static OpenSsl> {
    // SAFETY: null, or set by `Connection::new` from a reference that lives as long as the process.
    unsafe { OF_BIOS.load(Acquire).as_ref() }
}

/// What a BIO of ours has for its data: the ends, shared by the connection and the BIO. `_ssl` has OpenSSL call the BIO
/// after letting go of the interpreter, when another thread may ask the transport something. Hence the lock; it is held
/// for a copy at most, and never while OpenSSL or Python is called.
#[derive(Default)]
struct Shared {
    ends: Mutex<Ends>,
    /// What `ends` would say, without the lock: asked several times for each record.
    input_len: AtomicUsize,
    output_len: AtomicUsize,
}

impl Shared {
    fn with<R>(&self, access: impl FnOnce(&mut Ends) -> R) -> R {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let result = access(&mut ends);
        self.input_len.store(ends.input_len(), Relaxed);
        self.output_len.store(ends.output_len(), Relaxed);
        result
    }

    /// Of a BIO.
    ///
    /// # Safety
    /// `bio` is one of ours, and this is OpenSSL's call of one of its functions: the reference is for as long as that.
    unsafe fn of<'a>(bio: *mut Bio) -> Option<(&'static Functions, &'a Self)> {
        let functions = &library()?.functions;
        // SAFETY: set by `Connection::new`; the BIO has a count of it until `destroy`.
        Some((functions, unsafe { (functions.BIO_get_data)(bio).cast::<Self>().as_ref()? }))
    }
}

unsafe extern "C" fn read_ex(bio: *mut Bio, to: *mut c_char, len: usize, count: *mut usize) -> c_int {
    // SAFETY: OpenSSL's call, with `len` writable bytes at `to`, and a place for the count.
    unsafe {
        let Some((functions, shared)) = Shared::of(bio) else {
            return -1;
        };
        let target = std::slice::from_raw_parts_mut(to.cast::<MaybeUninit<u8>>(), len);
        *count = shared.with(|ends| ends.read(target));
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
        let Some((functions, shared)) = Shared::of(bio) else {
            return -1;
        };
        if !shared.with(|ends| ends.put(std::slice::from_raw_parts(from.cast::<u8>(), len))) {
            // Not to be taken for "try again".
            (functions.BIO_clear_flags)(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY);
            return -1;
        }
        *count = len;
        1
    }
}

unsafe extern "C" fn ctrl(bio: *mut Bio, command: c_int, _number: c_long, _pointer: *mut c_void) -> c_long {
    // SAFETY: OpenSSL's call.
    let shared = || unsafe { Shared::of(bio) }.map(|(_, shared)| shared);
    let len = match command {
        BIO_CTRL_FLUSH => return 1,
        BIO_CTRL_PENDING => shared().map(|shared| &shared.input_len),
        BIO_CTRL_WPENDING => shared().map(|shared| &shared.output_len),
        // Several for each record: about kernel TLS, for one.
        _ => return 0,
    };
    len.map_or(0, |len| len.load(Relaxed) as c_long)
}

unsafe extern "C" fn destroy(bio: *mut Bio) -> c_int {
    let Some(library) = library() else {
        return 0;
    };
    // SAFETY: the last reference to the BIO is gone; its count of the data is that of `Connection::new`, given back once
    // as the place is emptied.
    unsafe {
        let shared = (library.functions.BIO_get_data)(bio).cast::<Shared>();
        (library.functions.BIO_set_data)(bio, null_mut());
        if !shared.is_null() {
            drop(Arc::from_raw(shared.cast_const()));
        }
    }
    1
}
