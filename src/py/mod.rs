//! What the rest of the crate needs of Python itself: interned names and imports, calls, contexts, buffers and
//! addresses. Everything here is made of PyO3 and std (addresses and OpenSSL also of `reactor::sys`). There is no mio,
//! and nothing that knows an event loop.

pub mod addrinfo;
pub mod audit;
pub mod bytes;
pub mod calls;
pub mod cell;
pub mod context;
pub mod exception_handler;
pub mod fastcall;
pub mod file_fd;
pub mod frames;
pub mod interpreter;
pub mod made;
pub mod memory_stack;
pub mod names;
pub mod new;
pub mod openssl;
pub mod profiling;
pub mod references;
pub mod sockaddr;
pub mod stack_dump;
pub mod streams;
pub mod thread_end;
