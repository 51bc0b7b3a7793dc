"""The ends of connections over named UNIX sockets: names, servers of the loop, and plain blocking sockets.

No test lives here, and no assertion about a loop.
"""

import asyncio
import contextlib
import socket
from typing import Any

from support.peers import Echo, Peer


def abstract_name() -> bytes:
    """A name that the kernel finds, as nobody else has it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("")
        return bytes(sock.getsockname() + b" and more")


def bound(path: Any) -> socket.socket:
    """A socket that is bound and does not listen."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    return sock


def connect(path: Any) -> Peer:
    """The peer's end of a new connection."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.connect(path)
        stack.pop_all()
    return Peer(sock)


async def serve(*args: Any, **kwargs: Any) -> asyncio.Server:
    """A server of the running loop that answers what it receives."""
    return await asyncio.get_running_loop().create_unix_server(Echo, *args, **kwargs)
