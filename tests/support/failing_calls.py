"""Makes system calls fail as in a sandbox: by a seccomp filter, which this process can never take off again.

For programs that a test starts. No test lives here.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Sequence

# Calls since Linux 5.1 have the same number on every architecture.
NEWER = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "pidfd_open": 434,
    "close_range": 436,
    "epoll_pwait2": 441,
}
NUMBERS = {
    "x86_64": {**NEWER, "accept4": 288, "recvmmsg": 299, "sendmmsg": 307, "waitid": 247, "setsockopt": 54},
    "aarch64": {**NEWER, "accept4": 242, "recvmmsg": 243, "sendmmsg": 269, "waitid": 95, "setsockopt": 208},
}.get(platform.machine(), {})

AVAILABLE = sys.platform == "linux" and bool(NUMBERS)

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD_WORD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARGUMENTS = 0, 16


def refuse(call: str, error: str, arguments: Sequence[tuple[int, int]] = ()) -> None:
    """From here on `call` fails with `error`. With `arguments`, only calls fail that have these (position, value)
    pairs.
    """
    checks = [(_NUMBER, NUMBERS[call]), *((_ARGUMENTS + 8 * at, value) for at, value in arguments)]
    code = []
    for left, (offset, value) in zip(range(len(checks), 0, -1), checks, strict=True):
        code.append((_LOAD_WORD, 0, 0, offset))
        # If it is not equal, jump to the last instruction.
        code.append((_JUMP_IF_EQUAL, 0, 2 * (left - 1) + 1, value))
    _install([*code, (_RETURN, 0, 0, _ERRNO | getattr(errno, error)), (_RETURN, 0, 0, _ALLOW)])


def refuse_what_is_newer_than_linux_4_18() -> None:
    """From here on every call that came with Linux 5.0 or later fails with ENOSYS: these are the numbers from 424."""
    refused = _ERRNO | errno.ENOSYS
    _install(
        [(_LOAD_WORD, 0, 0, _NUMBER), (_JUMP_IF_AT_LEAST, 0, 1, 424), (_RETURN, 0, 0, refused), (_RETURN, 0, 0, _ALLOW)]
    )


def _install(code: Sequence[tuple[int, int, int, int]]) -> None:
    """Give this process, and those that it starts, a filter: instructions of classic BPF."""
    raw = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in code))
    program = struct.pack("H6xP", len(code), ctypes.addressof(raw))
    libc = ctypes.CDLL(None, use_errno=True)
    for option in [(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0)]:
        if libc.prctl(*option) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
