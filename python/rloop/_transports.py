"""What a native transport says that it is.

asyncio's transport classes have slots and cannot be bases of a native class. Programs ask
`isinstance(transport, asyncio.Transport)`; the `__class__` of a native transport is the class here, which makes the
answer true. The classes are never instantiated and have no behaviour; `dir(transport)` shows their names, which are
those of the native class, too.
"""

from __future__ import annotations

from asyncio import transports

from . import _rloop


class StreamTransport(transports._FlowControlMixin, transports.Transport):
    """A connected stream socket and its protocol."""

    max_size = _rloop.StreamTransport.max_size


class SSLTransport(transports._FlowControlMixin, transports.Transport):
    """A TLS connection on another transport. asyncio has `ssl` in the name of its class, too."""

    set_read_buffer_limits = _rloop.TlsTransport.set_read_buffer_limits
    get_read_buffer_limits = _rloop.TlsTransport.get_read_buffer_limits
    get_read_buffer_size = _rloop.TlsTransport.get_read_buffer_size


class DatagramTransport(transports._FlowControlMixin, transports.DatagramTransport):
    """A datagram socket and its protocol."""

    max_size = _rloop.DatagramTransport.max_size


class ReadPipeTransport(transports.ReadTransport):
    """The reading end of a pipe and its protocol."""

    max_size = _rloop.ReadPipeTransport.max_size


class WritePipeTransport(transports._FlowControlMixin, transports.WriteTransport):
    """The writing end of a pipe and its protocol."""
