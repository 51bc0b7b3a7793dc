"""Which errors each system call can have: every errno of its manual page, Linux man-pages 6. No case is run here.

A page is named where it is not that of the call itself. Errors that a page describes but that cannot happen with the
arguments that rloop gives are tried all the same: a sandbox, an emulation of Linux or a faulty driver may return them.
"""

from __future__ import annotations

# tcp(7), ip(7), udp(7): what any call on a connected socket may report.
NETWORK = "ECONNRESET ETIMEDOUT EHOSTUNREACH ENETUNREACH ENETDOWN EPIPE"
# recv(2)
RECEIVING = f"EAGAIN EBADF ECONNREFUSED EFAULT EINTR EINVAL ENOMEM ENOTCONN ENOTSOCK {NETWORK}"
# send(2)
SENDING = (
    "EACCES EAGAIN EALREADY EBADF EDESTADDRREQ EFAULT EINTR EINVAL EISCONN EMSGSIZE ENOBUFS ENOMEM ENOTCONN ENOTSOCK "
    f"EOPNOTSUPP EPERM ECONNREFUSED {NETWORK}"
)

ERRORS: dict[str, str] = {
    # accept(2); the second line has the network's errors that it passes on.
    "accept4": "EAGAIN EBADF ECONNABORTED EFAULT EINTR EINVAL EMFILE ENFILE ENOBUFS ENOMEM ENOTSOCK EOPNOTSUPP EPERM "
    "EPROTO ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH ENETUNREACH ENOSYS ESOCKTNOSUPPORT EPROTONOSUPPORT "
    "ETIMEDOUT",
    "connect": "EACCES EPERM EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EALREADY EBADF ECONNREFUSED EFAULT EISCONN "
    "ENETUNREACH ENOTSOCK EPROTOTYPE ETIMEDOUT EHOSTUNREACH",
    # fcntl(2), F_DUPFD_CLOEXEC
    "dup": "EBADF EINVAL EMFILE",
    # epoll_create(2)
    "epoll_create1": "EINVAL EMFILE ENFILE ENOMEM",
    "epoll_ctl": "EBADF EEXIST EINVAL ELOOP ENOENT ENOMEM ENOSPC EPERM",
    # epoll_wait(2). An older kernel answers ENOSYS, and a sandbox may answer EPERM.
    "epoll_pwait2": "EBADF EFAULT EINTR EINVAL ENOSYS EPERM",
    "epoll_wait": "EBADF EFAULT EINTR EINVAL",
    "eventfd": "EINVAL EMFILE ENFILE ENODEV ENOMEM",
    # fcntl(2), F_GETPIPE_SZ and F_SETPIPE_SZ
    "fcntl": "EBADF EBUSY EINVAL EINTR ENOMEM EPERM",
    "getpeername": "EBADF EFAULT EINVAL ENOBUFS ENOTCONN ENOTSOCK",
    "getsockname": "EBADF EFAULT EINVAL ENOBUFS ENOTSOCK",
    "getsockopt": "EBADF EFAULT EINVAL ENOPROTOOPT ENOTSOCK",
    # ioctl(2), FIONREAD
    "ioctl": "EBADF EFAULT EINVAL ENOTTY",
    "poll": "EFAULT EINTR EINVAL ENOMEM",
    "read": "EAGAIN EBADF EFAULT EINTR EINVAL EIO EISDIR",
    "recv": RECEIVING,
    # recv(2)
    "recvfrom": RECEIVING,
    "recvmsg": RECEIVING,
    "recvmmsg": f"{RECEIVING} ENOSYS EPERM",
    "send": SENDING,
    # send(2)
    "sendmsg": SENDING,
    "sendto": SENDING,
    "sendmmsg": f"{SENDING} ENOSYS",
    "setsockopt": "EBADF EFAULT EINVAL ENOPROTOOPT ENOTSOCK ENOMEM",
    "shutdown": "EBADF EINVAL ENOTCONN ENOTSOCK ENOBUFS",
    "socket": "EACCES EAFNOSUPPORT EINVAL EMFILE ENFILE ENOBUFS ENOMEM EPROTONOSUPPORT",
    "write": "EAGAIN EBADF EDESTADDRREQ EDQUOT EFAULT EFBIG EINTR EINVAL EIO ENOSPC EPERM EPIPE",
    # write(2), writev(2)
    "writev": "EAGAIN EBADF EDESTADDRREQ EDQUOT EFAULT EFBIG EINTR EINVAL EIO ENOSPC EPERM EPIPE",
}

# Errors with which the call goes on all the same: connect(2).
AFTER: dict[str, str] = {"connect": "EINPROGRESS EINTR"}

# Calls that may do a part of what they are asked, and how much.
SHORT: dict[str, tuple[int, ...]] = {
    "read": (1, 7),
    "recv": (1, 7),
    "recvmsg": (1, 7),
    "recvmmsg": (1,),
    "send": (1, 7),
    "sendmsg": (1,),
    "sendmmsg": (1,),
    "write": (1, 7),
    "writev": (1,),
}

# Errors of the moment. Every other error may stay, and is also tried on every call from the first on.
PASSING = {"EAGAIN", "EINTR", "EINPROGRESS"}
# How many calls fail in a row where an error of the moment is tried more than once.
IN_A_ROW = 5
# The last call of a name that fails.
LAST = 20
FOR_EVER = 1 << 40

# (scenario, call) whose errors do not stay for ever: a loop that no thread can wake sleeps until its next timer, as
# asyncio's does whose self-pipe cannot be written to.
NEVER_FOR_EVER = {("threads", "write")}
