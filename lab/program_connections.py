"""The connections of a program: how each kind is opened, its protocols, and every call of a transport or a peer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass
from typing import Any

from program_peers import DatagramPeer, Peer, PipePeer, TlsPeer, stream_pair

from support import certificates

STREAMS = ("tcp", "unix", "tls-client", "tls-server", "accepted")
KINDS = (*STREAMS, "udp", "udp-free", "unix-datagram", "read-pipe", "write-pipe", "raw")


class Told:
    """A protocol's methods: each notes its call, and then does what the program wants."""

    def __init__(self, world: Connections, name: str) -> None:
        self.world = world
        self.name = name

    def tell(self, method: str, *details: Any) -> Any:
        self.world.note(self.name, method, *details)
        return self.world.call(self.name, method)

    def connection_made(self, transport: Any) -> None:
        self.world.transports[self.name] = transport
        self.tell("connection_made")

    def connection_lost(self, exc: Exception | None) -> None:
        self.tell("connection_lost", exc)

    def pause_writing(self) -> None:
        self.tell("pause_writing")

    def resume_writing(self) -> None:
        self.tell("resume_writing")

    def eof_received(self) -> Any:
        return self.tell("eof_received")


class Plain(Told, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.world.note(self.name, "data", data)
        self.world.call(self.name, "data_received")


class Buffered(Told, asyncio.BufferedProtocol):
    """Receives into one buffer, whose size the program may change."""

    buffer: Any = None

    def get_buffer(self, sizehint: int) -> Any:
        size = self.world.call(self.name, "get_buffer")
        if size is not None:
            return bytearray(size) if size >= 0 else size
        if self.buffer is None:
            # A view: asyncio fills what is behind a record into a slice, and that of a bytearray is a copy.
            self.buffer = memoryview(bytearray(1 << 18))
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.world.note(self.name, "data", bytes(self.buffer[:nbytes]) if self.buffer is not None else b"")
        self.world.call(self.name, "data_received")


class Datagrams(Told, asyncio.DatagramProtocol):
    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.tell("datagram", data)

    def error_received(self, exc: Exception) -> None:
        self.tell("error_received", exc)


@dataclass
class Connection:
    kind: str
    peer: Any
    near: Any  # what the transport was given


class Connections:
    """What opens connections and calls their transports. `World` notes what comes of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.transports: dict[str, Any] = {}
        self.protocols: dict[str, Any] = {}
        self.connections: dict[str, Connection] = {}

    # What `World` has.
    def note(self, name: str, what: str, *details: Any) -> None:
        raise NotImplementedError

    def call(self, on: str, method: str) -> Any:
        raise NotImplementedError

    def spawn(self, name: str, what: str, coroutine: Any) -> str:
        raise NotImplementedError

    def data(self, count: int) -> bytes:
        raise NotImplementedError

    # --- opening ---

    def do_open(self, name: str, kind: str, buffered: bool = False) -> Any:
        def noted(what: str, *details: Any) -> None:
            self.note(f"{name}'s peer", what, *details)

        def factory() -> Any:
            self.call(name, "factory")
            # A pipe has no buffered protocols.
            self.protocols[name] = (Buffered if buffered and not kind.endswith("pipe") else Plain)(self, name)
            return self.protocols[name]

        if kind == "raw":
            near, far = stream_pair("unix")
            self.connections[name] = Connection(kind, Peer(far, noted), near)
            return "opened"
        if kind in ("udp", "udp-free", "unix-datagram"):
            opening = self.open_datagrams(name, kind, noted)
        elif kind.endswith("pipe"):
            opening = self.open_pipe(name, kind, noted, factory)
        else:
            opening = self.open_stream(name, kind, noted, factory)
        return self.spawn(name, "open", opening)

    def open_stream(self, name: str, kind: str, noted: Any, factory: Any) -> Any:
        loop = self.loop
        near, far = stream_pair("unix" if kind == "unix" else "tcp")
        peer = Peer(far, noted)
        opening: Any
        if kind == "unix":
            opening = loop.create_unix_connection(factory, sock=near)
        elif kind == "accepted":
            opening = loop.connect_accepted_socket(factory, near)
        elif kind == "tcp":
            opening = loop.create_connection(factory, sock=near)
        elif kind == "tls-client":
            peer = TlsPeer(far, noted, certificates.server_context(), server_side=True)
            context = certificates.blind_context()
            opening = loop.create_connection(factory, sock=near, ssl=context, server_hostname="localhost")
        else:
            peer = TlsPeer(far, noted, certificates.blind_context(), server_side=False)
            opening = loop.connect_accepted_socket(factory, near, ssl=certificates.server_context())
        self.connections[name] = Connection(kind, peer, near)
        return opening

    def open_datagrams(self, name: str, kind: str, noted: Any) -> Any:
        if kind == "unix-datagram":
            near, far = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
            for sock in (near, far):
                sock.bind("")  # to a name that the kernel chooses
            far.connect(near.getsockname())
            near.connect(far.getsockname())
        else:
            near, far = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
            for sock in (near, far):
                sock.bind(("127.0.0.1", 0))
            far.connect(near.getsockname())
            if kind == "udp":
                near.connect(far.getsockname())
        for sock in (near, far):
            sock.setblocking(False)

        def factory() -> Any:
            self.protocols[name] = Datagrams(self, name)
            return self.protocols[name]

        self.connections[name] = Connection(kind, DatagramPeer(far, noted), near)
        return self.loop.create_datagram_endpoint(factory, sock=near)

    def open_pipe(self, name: str, kind: str, noted: Any, factory: Any) -> Any:
        reading, writing = os.pipe()
        near: Any
        if kind == "read-pipe":
            near, far = open(reading, "rb", 0), writing
            opening: Any = self.loop.connect_read_pipe(factory, near)
        else:
            near, far = open(writing, "wb", 0), reading
            opening = self.loop.connect_write_pipe(factory, near)
        self.connections[name] = Connection(kind, PipePeer(far, noted), near)
        return opening

    # --- ending ---

    def names(self) -> list[str]:
        return list(self.connections)

    def end(self, name: str) -> None:
        connection = self.connections[name]
        if connection.kind == "raw":
            if connection.near.fileno() >= 0:
                self.loop.remove_reader(connection.near)
                self.loop.remove_writer(connection.near)
        elif name in self.transports:
            transport = self.transports[name]
            with contextlib.suppress(Exception):
                transport.abort() if hasattr(transport, "abort") else transport.close()

    def close_peer(self, name: str) -> None:
        self.connections[name].peer.close()

    def release(self, name: str) -> None:
        """Closes what no transport has closed: the socket of a connection that was not made."""
        with contextlib.suppress(OSError):
            self.connections[name].near.close()

    def pump(self) -> bool:
        moved = [connection.peer.pump() for connection in self.connections.values()]
        return any(moved)

    # --- peers ---

    def peer(self, name: str) -> Any:
        return self.connections[name].peer

    def do_peer_send(self, name: str, count: int) -> None:
        self.peer(name).send(self.data(count))

    def do_peer_eof(self, name: str) -> None:
        self.peer(name).eof()

    def do_peer_read(self, name: str) -> None:
        self.peer(name).read()

    def do_peer_close(self, name: str) -> None:
        self.peer(name).close()

    def do_peer_reset(self, name: str) -> None:
        self.peer(name).reset()

    def do_peer_garbage(self, name: str, count: int) -> None:
        self.peer(name).garbage(self.data(count))

    def do_peer_close_notify(self, name: str) -> None:
        self.peer(name).close_notify()

    # --- transports ---

    def do_write(self, name: str, count: int) -> Any:
        return self.transports[name].write(self.data(count))

    def do_write_junk(self, name: str, junk: Any) -> Any:
        return self.transports[name].write(junk)

    def do_writelines(self, name: str, *counts: int) -> Any:
        return self.transports[name].writelines([self.data(count) for count in counts])

    def do_sendto(self, name: str, count: int, whom: str = "peer") -> Any:
        connection = self.connections[name]
        address = None
        if connection.kind == "udp-free":
            sock = connection.peer.sock
            address = sock.getsockname() if whom == "peer" and sock is not None else ("127.0.0.1", 1)
        elif whom == "wrong":
            address = ("127.0.0.1", 1)
        return self.transports[name].sendto(self.data(count), address)

    def do_get_write_buffer_size(self, name: str) -> Any:
        # How much the kernel takes is not the loop's to say.
        return self.transports[name].get_write_buffer_size() > 0

    def do_set_protocol(self, name: str, buffered: bool) -> Any:
        self.protocols[name] = (Buffered if buffered else Plain)(self, name)
        return self.transports[name].set_protocol(self.protocols[name])

    def do_get_protocol(self, name: str) -> Any:
        return self.transports[name].get_protocol() is self.protocols[name]

    def do_get_extra_info(self, name: str, key: str) -> Any:
        return type(self.transports[name].get_extra_info(key)).__name__

    def do_start_tls(self, name: str, server_side: bool) -> Any:
        """The peer begins TLS at the same moment."""
        connection = self.connections[name]
        transport, protocol = self.transports[name], self.protocols[name]
        if not isinstance(connection.peer, TlsPeer) and connection.peer.sock is not None:
            noted, far = connection.peer.note, connection.peer.sock
            context = certificates.blind_context() if server_side else certificates.server_context()
            connection.peer = TlsPeer(far, noted, context, server_side=not server_side)
        own = certificates.server_context() if server_side else certificates.blind_context()
        hostname = None if server_side else "localhost"

        async def start() -> Any:
            made = await self.loop.start_tls(
                transport, protocol, own, server_side=server_side, server_hostname=hostname, ssl_handshake_timeout=5
            )
            if made is not None:
                self.transports[name] = made
            return made

        return self.spawn(name, "start_tls", start())

    def __getattr__(self, name: str) -> Any:
        """Every other `do_METHOD` calls that method of the transport."""
        if not name.startswith("do_"):
            raise AttributeError(name)
        return lambda on, *args: getattr(self.transports[on], name[3:])(*args)

    # --- raw sockets ---

    def near(self, name: str) -> Any:
        return self.connections[name].near

    def do_add_reader(self, name: str) -> Any:
        sock = self.near(name)

        def readable() -> None:
            try:
                data = sock.recv(1 << 18)
            except OSError as exc:
                self.note(name, "recv", exc)
                data = b""
            self.note(name, "data", data)
            if not data:
                self.note(name, "reader's end", self.loop.remove_reader(sock))
            self.call(name, "reader")

        return self.loop.add_reader(sock, readable)

    def do_remove_reader(self, name: str) -> Any:
        return self.loop.remove_reader(self.near(name))

    def do_add_writer(self, name: str) -> Any:
        sock = self.near(name)

        def writable() -> None:
            self.note(name, "writable", self.loop.remove_writer(sock))
            self.call(name, "writer")

        return self.loop.add_writer(sock, writable)

    def do_remove_writer(self, name: str) -> Any:
        return self.loop.remove_writer(self.near(name))

    def do_sock_recv(self, name: str, count: int) -> Any:
        return self.spawn(name, "sock_recv", self.loop.sock_recv(self.near(name), count))

    def do_sock_recv_into(self, name: str, count: int) -> Any:
        return self.spawn(name, "sock_recv_into", self.loop.sock_recv_into(self.near(name), bytearray(count)))

    def do_sock_sendall(self, name: str, count: int) -> Any:
        return self.spawn(name, "sock_sendall", self.loop.sock_sendall(self.near(name), self.data(count)))

    def do_sock_close(self, name: str) -> Any:
        self.loop.remove_reader(self.near(name))
        self.loop.remove_writer(self.near(name))
        return self.near(name).close()
