"""The classes that native transports pass for, and asyncio's private attributes on native transports.

Programs ask `isinstance(transport, asyncio.Transport)`. asyncio's transport classes have slots, and so cannot be bases
of a native class. Instead, the `__class__` of a native transport is one of the classes here, which makes `isinstance`
true. The classes are never instantiated. `dir(transport)` shows their names, too.

Programs also read private attributes of asyncio's transports. Those that cost the transports nothing are added to the
native classes here.
"""

from __future__ import annotations

import inspect
import socket
import sys
from asyncio import constants, sslproto, transports
from collections import deque
from collections.abc import Callable
from typing import Any

from . import _rloop


class StreamTransport(transports._FlowControlMixin, transports.Transport):
    """A connected stream socket and its protocol."""

    max_size = _rloop.StreamTransport.max_size


class SSLTransport(transports._FlowControlMixin, transports.Transport):
    """A TLS connection on another transport. asyncio has `ssl` in the name of its class, too."""

    get_read_buffer_size = _rloop.TlsTransport.get_read_buffer_size

    def set_read_buffer_limits(self: Any, high: int | None = None, low: int | None = None) -> None:
        """Set the marks of the read buffer. It is small whatever they are: a paused transport receives nothing."""
        if self._ssl_protocol is not None:
            marks = sslproto.add_flowcontrol_defaults(high, low, constants.FLOW_CONTROL_HIGH_WATER_SSL_READ)
            self._ssl_protocol._read_limits = marks[::-1]

    def get_read_buffer_limits(self: Any) -> tuple[int, int]:
        """(low, high), in bytes."""
        return (0, 0) if self._ssl_protocol is None else self._ssl_protocol._read_limits

    def can_write_eof(self) -> bool:
        """False: TLS cannot end one direction alone."""
        return False

    def abort(self: Any) -> None:
        """End the connection at once; what is queued is lost."""
        self._force_close(None)

    def _force_close(self: Any, exc: BaseException | None) -> None:
        self._set_closed()
        if self._ssl_protocol is not None:
            self._ssl_protocol._abort(exc)

    def get_extra_info(self: Any, name: str, default: Any = None) -> Any:
        """Information about the connection: that of TLS, then that of the transport below."""
        layer = self._ssl_protocol
        if layer is None:
            return default
        self.get_write_buffer_size()  # This sends what was kept back.
        return layer._get_extra_info(name, default)

    def __repr__(self: Any) -> str:
        layer = self._ssl_protocol
        lower = None if layer is None else layer._transport
        over = self._closed or layer is None or (lower is not None and lower.is_closing())
        return f"<TlsTransport{' closing' if over else ''} over {'nothing' if lower is None else lower!r}>"


class DatagramTransport(transports._FlowControlMixin, transports.DatagramTransport):
    """A datagram socket and its protocol."""

    max_size = _rloop.DatagramTransport.max_size


class ReadPipeTransport(transports.ReadTransport):
    """The reading end of a pipe and its protocol."""

    max_size = _rloop.ReadPipeTransport.max_size


class WritePipeTransport(transports._FlowControlMixin, transports.WriteTransport):
    """The writing end of a pipe and its protocol."""


# ------------------------------------------------------------------------------------------ private attributes

# Indices into the tuple that the native `_inside()` returns.
_FD, _CLOSED, _LOST, _EXTRA, _QUEUED = range(5)


def _sock(transport: Any) -> socket.socket | None:
    """The socket itself; None once `connection_lost` was called."""
    if transport._inside()[_CLOSED]:
        return None
    return transport.get_extra_info("socket")._sock  # type: ignore[no-any-return]


def _sock_fd(transport: Any) -> int:
    """The number of the socket's fd, even after it is closed."""
    return transport._inside()[_FD]  # type: ignore[no-any-return]


def _conn_lost(transport: Any) -> int:
    """0 until the connection is lost. After that 1 and the number of writes since; for a pipe only that number."""
    return transport._inside()[_LOST]  # type: ignore[no-any-return]


def _extra(transport: Any) -> dict[str, Any]:
    """The dictionary that `get_extra_info` looks into."""
    for name in "socket", "sockname", "peername":
        # These are put into it when they are first asked for.
        transport.get_extra_info(name)
    return transport._inside()[_EXTRA]  # type: ignore[no-any-return]


def _queued(transport: Any) -> list[Any]:
    transport.get_write_buffer_size()  # This sends what was kept back.
    return transport._inside()[_QUEUED]  # type: ignore[no-any-return]


def _buffer_of_stream(transport: Any) -> bytearray | deque[memoryview]:
    """A copy of what is queued."""
    if sys.version_info < (3, 12):
        return _buffer_of_pipe(transport)
    return deque(map(memoryview, _queued(transport)))


def _buffer_of_datagrams(transport: Any) -> deque[tuple[bytes, Any]]:
    """The datagrams that are queued, with their addresses."""
    return deque(_queued(transport))


def _buffer_of_pipe(transport: Any) -> bytearray:
    """A copy of what is queued."""
    return bytearray().join(_queued(transport))


def _pipe(transport: Any) -> Any:
    """The object that the transport was made from; None once `connection_lost` was called."""
    return None if transport._inside()[_CLOSED] else transport.get_extra_info("pipe")


def _low_water(transport: Any) -> int:
    return transport.get_write_buffer_limits()[0]  # type: ignore[no-any-return]


def _high_water(transport: Any) -> int:
    return transport.get_write_buffer_limits()[1]  # type: ignore[no-any-return]


class _Attribute:
    """A property that a program can replace: what it sets goes into the transport's dictionary, which comes first."""

    def __init__(self, getter: Callable[[Any], Any]) -> None:
        self._getter = getter

    def __get__(self, transport: Any, owner: type | None = None) -> Any:
        return self if transport is None else self._getter(transport)


def _add(native: type, **getters: Callable[[Any], Any]) -> None:
    for name, getter in getters.items():
        setattr(native, name, _Attribute(getter))
    # On asyncio this is an attribute, which some programs set.
    native._protocol = property(native.get_protocol, native.set_protocol)  # type: ignore[attr-defined]


def _inherit(native: type, shown: type) -> None:
    for base in shown.__mro__:
        for name, method in vars(base).items():
            if not name.startswith("_") and inspect.isfunction(method) and not hasattr(native, name):
                setattr(native, name, method)


# What is called once in a connection, if at all, is written in Python.
for _name, _method in vars(SSLTransport).items():
    if inspect.isfunction(_method):
        setattr(_rloop.TlsTransport, _name, _method)

# The methods that asyncio's transports have from their bases, and do not support: most raise NotImplementedError.
_inherit(_rloop.TlsTransport, SSLTransport)
_inherit(_rloop.DatagramTransport, DatagramTransport)
_inherit(_rloop.WritePipeTransport, WritePipeTransport)

# Class attributes, by which `loop.sendfile()` and `loop.start_tls()` know what they may do with a transport.
_rloop.StreamTransport._sendfile_compatible = constants._SendfileMode.TRY_NATIVE
_rloop.TlsTransport._sendfile_compatible = constants._SendfileMode.FALLBACK
_rloop.StreamTransport._start_tls_compatible = _rloop.TlsTransport._start_tls_compatible = True

_flow = {"_low_water": _low_water, "_high_water": _high_water}
_socket = {"_sock": _sock, "_sock_fd": _sock_fd, "_conn_lost": _conn_lost, "_extra": _extra}
_end_of_pipe = {"_pipe": _pipe, "_fileno": _sock_fd, "_extra": _extra}

_add(_rloop.StreamTransport, **_socket, **_flow, _buffer=_buffer_of_stream)
_add(_rloop.DatagramTransport, **_socket, **_flow, _buffer=_buffer_of_datagrams)
_add(_rloop.ReadPipeTransport, **_end_of_pipe)
_add(_rloop.WritePipeTransport, **_end_of_pipe, **_flow, _buffer=_buffer_of_pipe, _conn_lost=_conn_lost)
