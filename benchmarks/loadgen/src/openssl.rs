//! The server's side of TLS, by an OpenSSL that is loaded at run time. It is the same libssl file that the measured
//! interpreter uses, so the bare server shows what this library costs without a loop and without Python. Only what an
//! echo server needs is here. Only this file and `epoll.rs` have unsafe code.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::{NonNull, null_mut};
use std::rc::Rc;

/// The most bytes of clear text in one record.
pub const RECORD: usize = 16 * 1024;

const SSL_FILETYPE_PEM: c_int = 1;
const SSL_ERROR_WANT_READ: c_int = 2;
const SSL_ERROR_WANT_WRITE: c_int = 3;
const SSL_ERROR_ZERO_RETURN: c_int = 6;
const SSL_CTRL_MODE: c_int = 33;
const SSL_CTRL_SET_READ_AHEAD: c_int = 41;
/// The modes that Python's `ssl` sets, too: a write may be partial, its buffer may be at another address when it is
/// tried again, and an idle connection releases its buffers.
const MODES: c_long = 0x1 | 0x2 | 0x10;

macro_rules! functions {
    ($($name:ident: fn($($arg:ty),*) $(-> $result:ty)?;)*) => {
        /// Functions of libssl and of the libcrypto that it has loaded, by their C names.
        #[allow(non_snake_case, reason = "the names are OpenSSL's")]
        struct Functions {
            $($name: unsafe extern "C" fn($($arg),*) $(-> $result)?,)*
        }

        impl Functions {
            fn load(path: &str) -> io::Result<Self> {
                let path = CString::new(path)?;
                // SAFETY: `path` ends in NUL. What libssl runs when it is loaded is its own initialisation.
                let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
                let library = NonNull::new(library).ok_or_else(loading_failed)?;
                Ok(Self {$(
                    // SAFETY: the handle is never closed, the name ends in NUL, and the signature is the one in the
                    // manual of OpenSSL 1.1.1 to 3.x, which keep their ABI.
                    $name: unsafe {
                        let name = concat!(stringify!($name), "\0");
                        let symbol = libc::dlsym(library.as_ptr(), name.as_ptr().cast());
                        std::mem::transmute::<NonNull<c_void>, unsafe extern "C" fn($($arg),*) $(-> $result)?>(
                            NonNull::new(symbol).ok_or_else(loading_failed)?,
                        )
                    },
                )*})
            }
        }
    };
}

functions! {
    TLS_server_method: fn() -> *const c_void;
    SSL_CTX_new: fn(*const c_void) -> *mut c_void;
    SSL_CTX_free: fn(*mut c_void);
    SSL_CTX_ctrl: fn(*mut c_void, c_int, c_long, *mut c_void) -> c_long;
    SSL_CTX_use_certificate_chain_file: fn(*mut c_void, *const c_char) -> c_int;
    SSL_CTX_use_PrivateKey_file: fn(*mut c_void, *const c_char, c_int) -> c_int;
    SSL_new: fn(*mut c_void) -> *mut c_void;
    SSL_free: fn(*mut c_void);
    SSL_set_fd: fn(*mut c_void, c_int) -> c_int;
    SSL_set_accept_state: fn(*mut c_void);
    SSL_read: fn(*mut c_void, *mut c_void, c_int) -> c_int;
    SSL_write: fn(*mut c_void, *const c_void, c_int) -> c_int;
    SSL_has_pending: fn(*const c_void) -> c_int;
    SSL_shutdown: fn(*mut c_void) -> c_int;
    SSL_get_error: fn(*const c_void, c_int) -> c_int;
    ERR_clear_error: fn();
}

fn loading_failed() -> io::Error {
    // SAFETY: takes nothing; null, or a string that lives until the next call of the dynamic linker, in one thread.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return io::Error::other("a symbol of libssl is null");
    }
    // SAFETY: as above.
    io::Error::other(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// An `SSL_CTX` with a certificate, which all sessions of a server share.
pub struct Context {
    functions: Functions,
    context: NonNull<c_void>,
}

impl Context {
    /// `libssl`: the path of the library. `chain`: of a PEM file with a certificate chain and its key.
    pub fn new(libssl: &str, chain: &str) -> io::Result<Rc<Self>> {
        let functions = Functions::load(libssl)?;
        // SAFETY: the method is a table of the library's own.
        let context = unsafe { (functions.SSL_CTX_new)((functions.TLS_server_method)()) };
        let context = NonNull::new(context).ok_or_else(|| io::Error::other("SSL_CTX_new failed"))?;
        let made = Self { functions, context };
        let (functions, context) = (&made.functions, context.as_ptr());
        let file = CString::new(chain)?;
        // SAFETY: a live `SSL_CTX`; `file` ends in NUL and lives until the calls are over.
        let loaded = unsafe {
            (functions.SSL_CTX_ctrl)(context, SSL_CTRL_MODE, MODES, null_mut());
            (functions.SSL_CTX_ctrl)(context, SSL_CTRL_SET_READ_AHEAD, 1, null_mut());
            (functions.SSL_CTX_use_certificate_chain_file)(context, file.as_ptr()) == 1
                && (functions.SSL_CTX_use_PrivateKey_file)(context, file.as_ptr(), SSL_FILETYPE_PEM) == 1
        };
        if loaded { Ok(Rc::new(made)) } else { Err(io::Error::other(format!("{chain} cannot be loaded"))) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: our own reference; sessions have theirs.
        unsafe { (self.functions.SSL_CTX_free)(self.context.as_ptr()) };
    }
}

/// One connection. Its handshake is part of the first reads.
pub struct Session {
    context: Rc<Context>,
    ssl: NonNull<c_void>,
    /// OpenSSL has only its descriptor. It stays open as long as this struct lives.
    stream: TcpStream,
}

impl Session {
    /// `stream` does not block.
    pub fn new(context: &Rc<Context>, stream: TcpStream) -> io::Result<Self> {
        let functions = &context.functions;
        // SAFETY: a live `SSL_CTX`.
        let ssl = unsafe { (functions.SSL_new)(context.context.as_ptr()) };
        let ssl = NonNull::new(ssl).ok_or_else(|| io::Error::other("SSL_new failed"))?;
        let session = Self { context: context.clone(), ssl, stream };
        // SAFETY: a live `SSL`, and an open descriptor that outlives it.
        let set = unsafe {
            (functions.SSL_set_accept_state)(ssl.as_ptr());
            (functions.SSL_set_fd)(ssl.as_ptr(), session.stream.as_raw_fd())
        };
        if set == 1 { Ok(session) } else { Err(io::Error::other("SSL_set_fd failed")) }
    }

    /// True if OpenSSL holds something that was received and not read.
    pub fn holds_input(&self) -> bool {
        // SAFETY: a live `SSL`.
        unsafe { (self.context.functions.SSL_has_pending)(self.ssl.as_ptr()) != 0 }
    }

    /// The outcome of a read or write that has returned `result`. No other function of OpenSSL may have been called
    /// since.
    fn outcome(&mut self, result: c_int) -> io::Result<usize> {
        if result > 0 {
            return Ok(result as usize);
        }
        let functions = &self.context.functions;
        // SAFETY: a live `SSL`, and `result` is of its last call.
        match unsafe { (functions.SSL_get_error)(self.ssl.as_ptr(), result) } {
            SSL_ERROR_WANT_READ | SSL_ERROR_WANT_WRITE => Err(ErrorKind::WouldBlock.into()),
            SSL_ERROR_ZERO_RETURN => {
                // SAFETY: as above. It sends close_notify. It may fail to, but nobody waits for that.
                unsafe { (functions.SSL_shutdown)(self.ssl.as_ptr()) };
                Ok(0)
            }
            error => {
                // SAFETY: it clears this thread's queue of errors. An error that stays there would be taken for one of
                // the next session.
                unsafe { (functions.ERR_clear_error)() };
                Err(io::Error::other(format!("TLS error {error}")))
            }
        }
    }
}

impl Read for Session {
    /// At most one record.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = c_int::try_from(buffer.len()).unwrap_or(c_int::MAX);
        // SAFETY: a live `SSL`; OpenSSL writes at most `room` bytes.
        let result =
            unsafe { (self.context.functions.SSL_read)(self.ssl.as_ptr(), buffer.as_mut_ptr().cast(), room) };
        self.outcome(result)
    }
}

impl Write for Session {
    /// At most one record. After `WouldBlock` the same bytes must come again.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = c_int::try_from(bytes.len()).unwrap_or(c_int::MAX);
        // SAFETY: a live `SSL`; OpenSSL reads at most `count` bytes.
        let result =
            unsafe { (self.context.functions.SSL_write)(self.ssl.as_ptr(), bytes.as_ptr().cast(), count) };
        self.outcome(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the only reference. The descriptor is closed after this, by its owner.
        unsafe { (self.context.functions.SSL_free)(self.ssl.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_loaded_is_an_error() {
        let Err(error) = Context::new("/nonexistent/libssl.so.3", "chain.pem") else {
            panic!("it was loaded")
        };
        assert!(error.to_string().contains("/nonexistent/libssl.so.3"), "{error}");
        // A library, but not this one.
        let Err(error) = Context::new("libc.so.6", "chain.pem") else { panic!("it was loaded") };
        assert!(error.to_string().contains("TLS_server_method"), "{error}");
    }
}
