"""What a native transport says that it is.

asyncio's transport classes have slots and cannot be bases of a native class. Programs ask
`isinstance(transport, asyncio.Transport)`; the `__class__` of a native transport is the class here, which makes the
answer true. The classes are never instantiated and have no behaviour.
"""

from __future__ import annotations

from asyncio import transports


class StreamTransport(transports._FlowControlMixin, transports.Transport):
    """A connected stream socket and its protocol."""


class SSLTransport(transports._FlowControlMixin, transports.Transport):
    """A TLS connection on another transport. asyncio has `ssl` in the name of its class, too."""


class DatagramTransport(transports._FlowControlMixin, transports.DatagramTransport):
    """A datagram socket and its protocol."""


class ReadPipeTransport(transports.ReadTransport):
    """The reading end of a pipe and its protocol."""


class WritePipeTransport(transports._FlowControlMixin, transports.WriteTransport):
    """The writing end of a pipe and its protocol."""
