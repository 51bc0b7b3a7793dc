"""`python -m rloop`: what is in use and why, for bug reports, and whether the installed rloop is this project.

On PyPI the name belongs to another project, with the same import name. The exit status is 1 if that one is installed,
or if the files are of another version than their metadata. Nothing of the process is changed here.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import importlib.metadata
import os
import pathlib
import platform
import resource
import ssl
import sys

import rloop

# `description` in pyproject.toml, by which the metadata of this project's wheels is known.
SUMMARY = "An asyncio event loop written in Rust"


def complaints() -> list[str]:
    """What is wrong with the installation; an empty list if nothing is."""
    try:
        installed = importlib.metadata.metadata("rloop")
    except importlib.metadata.PackageNotFoundError:
        # A program that hosts Python has the package compiled into it, without metadata.
        return []
    if installed["Summary"] != SUMMARY:
        return [f"the package installed as rloop {installed['Version']} is another project: {installed['Summary']}"]
    if installed["Version"] != rloop.__version__:
        return [f"the files are of {rloop.__version__}, but {installed['Version']} is installed"]
    return []


async def running_loop() -> str:
    await asyncio.sleep(0)
    return repr(asyncio.get_running_loop())


async def in_debug_mode() -> bool:
    return asyncio.get_running_loop().get_debug()


def loop_of_asyncio() -> str:
    """The class of the loop that `asyncio.run` makes in this process when nobody names one."""
    with asyncio.Runner() as runner:
        made = type(runner.get_loop())
    return f"{made.__module__}.{made.__qualname__}"


def engine() -> str:
    """Which engine of TLS a connection gets: see `RLOOP_TLS_ENGINE` in docs/configuration.md."""
    from . import _rloop, _tls

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    loop = rloop.new_event_loop()
    try:
        layer = _rloop.TlsLayer(loop)
        direct = layer._open((context.wrap_bio(incoming, outgoing), context, incoming, outgoing), _tls.DIRECT)
    finally:
        loop.close()
    why = "" if direct else ", by RLOOP_TLS_ENGINE" if not _tls.DIRECT else ", because this OpenSSL is not known"
    return f"{'direct' if direct else 'portable'}{why}; {ssl.OPENSSL_VERSION}"


def epoll_pwait2() -> str:
    """Whether timeouts are exact. The call is made with an invalid file, which an existing call refuses as such."""
    if not sys.platform.startswith("linux"):
        return "no, this is not Linux"
    libc = ctypes.CDLL(None, use_errno=True)
    # The number is the same on every architecture.
    libc.syscall(441, -1, None, 0, None, None, 0)
    error = ctypes.get_errno()
    lacking = error in (errno.ENOSYS, errno.EPERM)
    return f"no ({os.strerror(error)}): timeouts are whole milliseconds" if lacking else "yes"


def pidfd() -> str:
    """Whether child processes can be waited for by a file."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as exc:
        return f"no ({exc}): a thread waits for each child process"
    return "yes"


def limits() -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        used = f", {len(os.listdir('/proc/self/fd')) - 1} open now"
    except OSError:
        used = ""
    return f"{soft} files, at most {hard}{used}"


def variables() -> str:
    """The environment variables that change what rloop does."""
    names = sorted(name for name in os.environ if name.startswith("RLOOP_") or name == "PYTHONASYNCIODEBUG")
    return ", ".join(f"{name}={os.environ[name]}" for name in names) or "none"


def main() -> int:
    wrong = complaints()
    lines = {
        "rloop": f"{rloop.__version__}, {SUMMARY[0].lower()}{SUMMARY[1:]} on mio and PyO3",
        "package": str(pathlib.Path(rloop.__file__).parent),
        "Python": f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}",
        "platform": platform.platform(),
        "loop": rloop.run(running_loop()),
        "asyncio": f"{loop_of_asyncio()} is the loop of asyncio.run",
        "TLS": engine(),
        "epoll_pwait2": epoll_pwait2(),
        "pidfd": pidfd(),
        "limits": limits(),
        "debug": "yes" if rloop.run(in_debug_mode()) else "no",
        "environment": variables(),
        "project": "; ".join(wrong) or "this is the one: not PyPI's rloop, another project of the same name",
    }
    for what, text in lines.items():
        print(f"{what + ':':<14}{text}")
    return 1 if wrong else 0
