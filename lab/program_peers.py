"""The other ends of a program's connections: sockets that do not block and that no loop touches.

A peer does only what the program asks of it, and a peer with TLS also makes its handshake. It is given a chance to go
on by `pump()`, between two turns of the loop. What it finds, it notes for `program_world.py`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

RECEIVE = 1 << 18
# What the kernel keeps of a connection, at most. A large write is larger by far, the small ones are smaller by far.
BUFFERS = 65536


def stream_pair(family: str) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets, of TCP or UNIX."""
    if family == "unix":
        pair = socket.socketpair()
    else:
        with socket.socket() as listener:
            limit(listener)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            near = socket.create_connection(listener.getsockname())
            pair = near, listener.accept()[0]
            pair[1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for sock in pair:
        limit(sock)
        sock.setblocking(False)
    return pair


def limit(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFERS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFERS)


class Peer:
    """A stream socket. `note(what, ...)` is called with what it finds."""

    def __init__(self, sock: socket.socket, note: Callable[..., None]) -> None:
        self.sock: socket.socket | None = sock
        self.note = note
        self.unsent = bytearray()
        self.ending = False  # the end is to be sent behind what is unsent
        self.reads = False
        self.read_all = False  # nothing more will come

    def send(self, data: bytes) -> None:
        self.unsent += data
        self.flush()

    def eof(self) -> None:
        self.ending = True
        self.flush()

    def read(self) -> None:
        self.reads = True

    def reset(self) -> None:
        if self.sock is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close()

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def flush(self) -> bool:
        """Sends what the kernel takes. True if that was something."""
        sent = 0
        if self.sock is not None:
            try:
                while self.unsent and (count := self.sock.send(self.unsent)):
                    del self.unsent[:count]
                    sent += count
                if self.ending and not self.unsent:
                    self.ending = False
                    self.sock.shutdown(socket.SHUT_WR)
            except BlockingIOError:
                pass
            except OSError as exc:
                self.unsent.clear()
                self.note("send failed", type(exc).__name__)
        return sent > 0

    def pump(self) -> bool:
        """Goes on. True if something has happened."""
        moved = self.flush()
        if self.reads:
            moved |= self.receive(self.took)
        return moved

    def receive(self, take: Callable[[bytes], None]) -> bool:
        moved = False
        while self.sock is not None and not self.read_all:
            try:
                data = self.sock.recv(RECEIVE)
            except BlockingIOError:
                break
            except OSError as exc:
                self.note("reset", type(exc).__name__)
                self.read_all = moved = True
                break
            moved = True
            if not data:
                self.read_all = True
            take(data)
        return moved

    def took(self, data: bytes) -> None:
        self.note("data", data) if data else self.note("eof")


class TlsPeer(Peer):
    """A stream socket with TLS. It receives, and so makes its handshake, unless `holds` is set."""

    def __init__(
        self, sock: socket.socket, note: Callable[..., None], context: ssl.SSLContext, *, server_side: bool
    ) -> None:
        super().__init__(sock, note)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side, server_hostname=name)
        self.shaken = self.failed = False
        self.waiting: list[bytes] = []

    def send(self, data: bytes) -> None:
        if not self.shaken:
            self.waiting.append(data)
            return
        with contextlib.suppress(ssl.SSLError):
            self.tls.write(data)
        self.out()

    def garbage(self, data: bytes) -> None:
        """Sends bytes that are no TLS."""
        self.unsent += data
        self.flush()

    def close_notify(self) -> None:
        if self.shaken:
            with contextlib.suppress(ssl.SSLError):
                self.tls.unwrap()
            self.out()

    def out(self) -> bool:
        self.unsent += self.outgoing.read()
        return self.flush()

    def pump(self) -> bool:
        moved = self.out()
        if self.shaken and not self.reads:
            return moved
        moved |= self.receive(self.took_records)
        if not self.shaken and not self.failed:
            self.shake()
        if self.shaken and self.reads:
            self.decrypt()
        return self.out() or moved

    def took_records(self, records: bytes) -> None:
        if records:
            self.incoming.write(records)
        else:
            self.incoming.write_eof()

    def shake(self) -> None:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as exc:
            self.failed = True
            self.note("handshake failed", type(exc).__name__)
            return
        self.shaken = True
        waiting, self.waiting = self.waiting, []
        for data in waiting:
            self.send(data)

    def decrypt(self) -> None:
        while not self.failed:
            try:
                data = self.tls.read(RECEIVE)
            except ssl.SSLWantReadError:
                return
            except (ssl.SSLError, ssl.SSLZeroReturnError) as exc:
                self.failed = True
                self.note("ended", type(exc).__name__)
                return
            self.note("data", data) if data else self.note("close_notify")
            self.failed = not data


class PipePeer(Peer):
    """The other end of a pipe, which reads or writes."""

    def __init__(self, fd: int, note: Callable[..., None]) -> None:
        self.fd = fd
        os.set_blocking(fd, False)
        super().__init__(FdSocket(fd), note)  # type: ignore[arg-type]


class FdSocket:
    """A file descriptor with those methods of a socket that a peer needs."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def send(self, data: Any) -> int:
        return os.write(self.fd, data)

    def recv(self, count: int) -> bytes:
        return os.read(self.fd, count)

    def shutdown(self, how: int) -> None:
        self.close()

    def setsockopt(self, *args: Any) -> None:
        """A pipe knows no reset."""

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class DatagramPeer(Peer):
    """A datagram socket, which sends and receives whole datagrams."""

    def send(self, data: bytes) -> None:
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.send(data)

    def eof(self) -> None:
        """There is no end of datagrams."""

    def receive(self, take: Callable[[bytes], None]) -> bool:
        moved = False
        while self.sock is not None:
            try:
                data = self.sock.recv(RECEIVE)
            except BlockingIOError:
                break
            except OSError as exc:
                self.note("error", type(exc).__name__)
                break
            moved = True
            self.note("datagram", data)
        return moved
