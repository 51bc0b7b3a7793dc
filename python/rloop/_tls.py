"""What happens once in a TLS connection: making it, handshake, shutdown, timeouts, errors and `get_extra_info`.

`TlsProtocol` is the class of every TLS layer. Its base, the native `_rloop.TlsLayer`, does what happens per packet:
nothing here is called for a packet once the handshake is done. The model is asyncio's `sslproto.SSLProtocol`, method by
method, and the attributes that programs are known to read have the names that they have there.
"""

from __future__ import annotations

import asyncio
import os
from asyncio import constants, exceptions, protocols
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

from . import _rloop
from ._base import LoopBase

try:
    import ssl
except ImportError:  # an interpreter without OpenSSL
    ssl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import contextvars
    import socket
    from collections.abc import Callable
    from typing import Self, TypedDict, Unpack

    class _Options(TypedDict, total=False):
        """The keywords of `TlsProtocol`."""

        server_side: bool
        server_hostname: str | None
        call_connection_made: bool
        ssl_handshake_timeout: float | None
        ssl_shutdown_timeout: float | None

    # What the listener of a TLS server passes on for each connection: context, and timeouts of handshake and shutdown.
    _Details = tuple[ssl.SSLContext, float | None, float | None]

# The phases of a connection, as in `Phase` of src/transports/tls/mod.rs.
UNWRAPPED, HANDSHAKE, WRAPPED, FLUSHING, SHUTDOWN = range(5)

# Whether the native layer may call OpenSSL's own functions. RLOOP_TLS_ENGINE=portable says no: for tests, and for
# whoever has trouble with them.
DIRECT = os.environ.get("RLOOP_TLS_ENGINE", "direct") != "portable"


def _positive(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if value <= 0:
        raise ValueError(f"{name} should be a positive number, got {value}")
    return value


def _client_context(server_side: bool, server_hostname: str | None) -> ssl.SSLContext:
    """What `ssl=True` stands for."""
    if server_side:
        raise ValueError("Server side SSL needs a valid SSLContext")
    context = ssl.create_default_context()
    if not server_hostname:
        context.check_hostname = False
    return context


def _check_upgrade(transport: asyncio.BaseTransport, sslcontext: ssl.SSLContext) -> None:
    """Raise what `start_tls()` raises before it does anything."""
    if ssl is None:
        raise RuntimeError("Python ssl module is not available")
    if not isinstance(sslcontext, ssl.SSLContext):
        raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
    if not getattr(transport, "_start_tls_compatible", False):
        raise TypeError(f"transport {transport!r} is not supported by start_tls()")
    if transport.is_closing() and transport.get_protocol() is None:
        # Nothing more will come of it. asyncio waits for the handshake until that takes too long.
        raise ConnectionAbortedError("start_tls() on a connection that is lost")


def _move_unread(protocol: asyncio.BaseProtocol, layer: TlsProtocol) -> None:
    """Give the layer what a StreamReader has received and the program has not read.

    These bytes came right behind the peer's last message in clear. As TLS they are the beginning of the handshake, or
    an error. If they stayed in the reader, the program would take them for bytes that had come encrypted. asyncio moves
    them too, for servers since 3.13.12 or so (CPython gh-142352), but not for clients.
    """
    if isinstance(protocol, asyncio.StreamReaderProtocol):
        reader = protocol._stream_reader  # type: ignore[attr-defined]
        if reader is not None and reader._buffer:
            layer._feed(bytes(reader._buffer))
            reader._buffer.clear()


class TlsProtocol(_rloop.TlsLayer, protocols.Protocol):
    """A TLS layer: the protocol of the transport below, which tells the application's protocol what has happened."""

    def __new__(cls, loop: asyncio.AbstractEventLoop, *_args: object, **_kwargs: object) -> Self:
        """Make the native part, which needs the loop only."""
        return super().__new__(cls, loop)

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        app_protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext | None,
        waiter: asyncio.Future[None] | None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        call_connection_made: bool = True,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        if ssl is None:
            raise RuntimeError("stdlib ssl module not available")
        self._handshake_timeout = _positive(
            "ssl_handshake_timeout", ssl_handshake_timeout, constants.SSL_HANDSHAKE_TIMEOUT
        )
        self._shutdown_timeout = _positive("ssl_shutdown_timeout", ssl_shutdown_timeout, constants.SSL_SHUTDOWN_TIMEOUT)
        self._loop = loop
        self._waiter = waiter
        self._sslcontext = sslcontext or _client_context(server_side, server_hostname)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._sslobj = self._sslcontext.wrap_bio(
            incoming,
            outgoing,
            server_side=server_side,
            server_hostname=None if server_side else server_hostname or None,
        )
        self._open((self._sslobj, self._sslcontext, incoming, outgoing), DIRECT)
        self._extra: dict[str, Any] = {"sslcontext": self._sslcontext}
        self._app_protocol = app_protocol
        # Is the application's `connection_made` still to be called? Has it been, and not yet its `connection_lost`?
        self._announce = call_connection_made
        self._made = not call_connection_made
        self._handshaken = False
        # Was the connection closed before the transport below was there?
        self._given_up = False
        # Has the application been told of the end? Has the transport below told us?
        self._eof_told = False
        self._eof_received = False
        # Of the handshake, later of the shutdown.
        self._timer: asyncio.TimerHandle | None = None
        self._started = 0.0
        # (low, high), in bytes. Nothing looks at these marks but the program.
        self._read_limits = (64 * 1024, 256 * 1024)
        self._app_transport: _rloop.TlsTransport | None = _rloop.TlsTransport(self)

    # ---------------------------------------------------------------------------------------- the transport below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake."""
        if self._app_transport is None:
            # `start_tls()` was called for a transport that was closing, and `connection_lost` came first.
            return
        self._transport = transport
        if self._given_up:
            self._abort(None)
            return
        if self._loop.get_debug():
            logger.debug("%r starts SSL handshake", self)
            self._started = self._loop.time()
        self._state = HANDSHAKE
        self._timer = self._loop.call_later(self._handshake_timeout, self._check_handshake_timeout)
        self._do_handshake()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the application, in the next turn."""
        self._drop_queued()
        if self._app_transport is not None:
            self._app_transport._set_closed()
        if self._state != HANDSHAKE and self._made:
            self._made = False
            self._loop.call_soon(self._app_protocol.connection_lost, exc)  # type: ignore[union-attr, arg-type]
        self._state = UNWRAPPED
        self._transport = None
        self._app_transport = None
        self._app_protocol = None
        self._wake_waiter(exc)
        self._stop_timer()

    def eof_received(self) -> bool | None:
        """The peer has closed the connection, with or without close_notify before."""
        self._eof_received = True
        try:
            if self._loop.get_debug():
                logger.debug("%r received EOF", self)
            if self._state == HANDSHAKE:
                self._handshake_done(ConnectionResetError())
            elif self._state in (WRAPPED, FLUSHING):
                # In FLUSHING this is the second call: an exception that left the loop has ended the first one.
                if self._state == WRAPPED:
                    self._state = FLUSHING
                if self._app_reading_paused:
                    return True
                self._do_flush()
            elif self._state == SHUTDOWN:
                self._do_shutdown()
        except Exception:
            if self._transport is not None:
                self._transport.close()
            raise
        return None

    def _proceed(self) -> None:
        """Called natively when more has been received, or may be read, in any state but WRAPPED."""
        if self._state == HANDSHAKE:
            self._do_handshake()
        elif self._state == WRAPPED:
            self._read_on()
        elif self._state == FLUSHING and not self._app_reading_paused:
            self._do_flush()
        elif self._state == SHUTDOWN:
            self._do_shutdown()

    # ---------------------------------------------------------------------------------------- handshake

    def _do_handshake(self) -> None:
        try:
            self._sslobj.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLSyscallError):
            self._send_output()
        except ssl.SSLError as exc:
            self._handshake_done(exc)
        else:
            # A callback of the program's SSLContext may have ended the connection.
            if self._state == HANDSHAKE:
                self._handshake_done(None)

    def _check_handshake_timeout(self) -> None:
        if self._state == HANDSHAKE:
            message = f"SSL handshake is taking longer than {self._handshake_timeout} seconds: aborting the connection"
            self._fatal_error(ConnectionAbortedError(message))

    def _handshake_done(self, error: Exception | None) -> None:
        self._stop_timer()
        self._loop._count_handshake(error is None)  # type: ignore[attr-defined]
        if error is not None:
            self._state = UNWRAPPED
            if isinstance(error, ssl.CertificateError):
                message = "SSL handshake failed on verifying the certificate"
            else:
                message = "SSL handshake failed"
            self._fatal_error(error, message)
            self._wake_waiter(error)
            return
        self._state = WRAPPED
        self._handshaken = True
        self._extra["ssl_object"] = self._sslobj
        if self._loop.get_debug():
            logger.debug("%r: SSL handshake took %.1f ms", self, (self._loop.time() - self._started) * 1e3)
        if self._announce:
            self._announce = False
            self._made = True
            try:
                self._app_protocol.connection_made(self._app_transport)  # type: ignore[union-attr, arg-type]
            except (KeyboardInterrupt, SystemExit):
                # The connection is made all the same, and goes on when the loop does.
                self._loop.call_soon(self._begin)
                raise
        self._begin()

    def _begin(self) -> None:
        """Wake who waits for the connection, and deliver what has come behind the handshake."""
        self._wake_waiter(None)
        self._read_on()

    def _wake_waiter(self, exc: BaseException | None) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.cancelled():
            return
        if exc is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(exc)

    # ---------------------------------------------------------------------------------------- shutdown

    def _start_shutdown(self) -> None:
        """Begin to end the connection, after `close()` or after the peer's close_notify."""
        if self._state in (FLUSHING, SHUTDOWN, UNWRAPPED):
            # If `connection_made` was not called yet, it ends the connection. asyncio would begin with the handshake.
            self._given_up = self._transport is None
            return
        if self._app_transport is not None:
            self._app_transport._set_closed()
        if self._state == HANDSHAKE:
            self._abort(None)
            return
        self._state = FLUSHING
        self._start_shutdown_timer()
        self._do_flush()
        self._receive_the_end()

    def _receive_the_end(self) -> None:
        """Read again if reading is paused: otherwise the peer's close_notify would not be received."""
        if self._app_reading_paused and self._transport is not None:
            self._transport.resume_reading()

    def _start_shutdown_timer(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._shutdown_timeout, self._check_shutdown_timeout)

    def _check_shutdown_timeout(self) -> None:
        if self._state in (FLUSHING, SHUTDOWN) and self._transport is not None:
            self._transport._force_close(  # type: ignore[attr-defined]
                exceptions.TimeoutError("SSL shutdown timed out")
            )

    def _do_flush(self) -> None:
        self._read_on()
        if self._state == FLUSHING:  # reading may have ended the connection
            try:
                self._send_all()
            except (KeyboardInterrupt, SystemExit):
                self._loop.call_soon(self._proceed)
                raise
        if self._state == FLUSHING:
            self._state = SHUTDOWN
            self._do_shutdown()

    def _do_shutdown(self) -> None:
        try:
            if not self._eof_received:
                self._sslobj.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLSyscallError):
            self._send_output()
        except ssl.SSLError as exc:
            self._stop_timer()
            self._fatal_error(exc)
        else:
            self._send_output()
            try:
                self._call_eof_received()
            finally:
                # `close` waits until everything is sent. A peer that does not read could delay that for ever.
                self._start_shutdown_timer()
                if self._transport is not None:
                    self._loop.call_soon(self._transport.close)

    def _call_eof_received(self) -> None:
        if not self._made or self._eof_told:
            return
        self._eof_told = True
        try:
            keep_open = self._app_protocol.eof_received()  # type: ignore[union-attr]
            if keep_open:
                logger.warning("returning true from eof_received() has no effect when using ssl")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Error calling eof_received()")

    # ---------------------------------------------------------------------------------------- errors and the rest

    def _abort(self, exc: BaseException | None) -> None:
        self._state = UNWRAPPED
        if self._transport is not None:
            self._transport._force_close(exc)  # type: ignore[attr-defined]

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        if self._transport is not None:
            self._transport._force_close(exc)  # type: ignore[attr-defined]
        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=exc)
        elif not isinstance(exc, exceptions.CancelledError):
            self._loop.call_exception_handler(
                {"message": message, "exception": exc, "transport": self._transport, "protocol": self}
            )

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _get_extra_info(self, name: str, default: Any = None) -> Any:
        if name in self._extra:
            return self._extra[name]
        if self._handshaken and name in ("peercert", "cipher", "compression"):
            # These are made when first asked for, which few programs do.
            method = {"peercert": "getpeercert"}.get(name, name)
            value = self._extra[name] = getattr(self._sslobj, method)()
            return value
        if self._transport is not None:
            return self._transport.get_extra_info(name, default)
        return default


class TlsMethods(LoopBase):
    """The part of `Loop` that makes TLS connections."""

    def _make_ssl_transport(
        self,
        rawsock: socket.socket | _rloop.BareSocket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext | None,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: asyncio.Server | None = None,
        context: contextvars.Context | None = None,
        **options: Unpack[_Options],
    ) -> asyncio.Transport:
        """The hook of `BaseEventLoop` for a new TLS connection."""
        layer = TlsProtocol(self, protocol, sslcontext, waiter, **options)
        try:
            self._make_socket_transport(rawsock, layer, extra=extra, server=server, context=context)
        except BaseException:
            # The server was closed a moment ago, for instance. The program has no transport that it could close.
            layer._app_transport._set_closed()  # type: ignore[union-attr]
            raise
        return layer._app_transport  # type: ignore[return-value]

    async def start_tls(
        self,
        transport: asyncio.BaseTransport,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> asyncio.Transport:
        """Upgrade `transport` to TLS; return the transport that `protocol` is to use from here on.

        Raises TypeError for a context that is none and for a transport that cannot be upgraded, and what goes wrong in
        the handshake. Returns None if the connection is closed meanwhile.
        """
        _check_upgrade(transport, sslcontext)
        waiter = self.create_future()
        layer = TlsProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side=server_side,
            server_hostname=server_hostname,
            call_connection_made=False,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        # Nothing may be received before `connection_made` has been called.
        transport.pause_reading()  # type: ignore[attr-defined]
        _move_unread(protocol, layer)
        transport.set_protocol(layer)
        made = self.call_soon(layer.connection_made, transport)
        resumed = self.call_soon(transport.resume_reading)  # type: ignore[attr-defined]
        try:
            await waiter
        except BaseException:
            transport.close()
            made.cancel()
            resumed.cancel()
            raise
        finally:
            # If it holds an exception, that has this frame in its traceback: a cycle, which would have to be collected.
            del waiter
        # As from asyncio, None if the connection is lost already: the program has closed the transport meanwhile, or
        # the peer has closed the connection right after the handshake.
        return layer._app_transport  # type: ignore[return-value]

    def _accept_tls(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        conn: _rloop.BareSocket,
        server: asyncio.Server | None,
        tls: _Details,
        context: contextvars.Context | None,
    ) -> None:
        """Called by a listener for a connection of a TLS server."""
        self.create_task(self._accept(protocol_factory, conn, server, tls, context), context=context)

    async def _accept(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        conn: _rloop.BareSocket,
        server: asyncio.Server | None,
        tls: _Details,
        context: contextvars.Context | None,
    ) -> None:
        sslcontext, handshake_timeout, shutdown_timeout = tls
        details: dict[str, Any] = {"message": "Error on transport creation for incoming connection"}
        transport: asyncio.Transport | None = None
        waiter: asyncio.Future[None] | None = None
        try:
            details["protocol"] = protocol = protocol_factory()
            waiter = self.create_future()
            details["transport"] = transport = self._make_ssl_transport(
                conn,
                protocol,
                sslcontext,
                waiter,
                server_side=True,
                server=server,
                ssl_handshake_timeout=handshake_timeout,
                ssl_shutdown_timeout=shutdown_timeout,
                context=context,
            )
            await waiter
        except BaseException as exc:
            if transport is None:
                conn.close()
            else:
                transport.close()
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
            if self.get_debug():
                self.call_exception_handler({**details, "exception": exc})
        finally:
            # As in `start_tls`. A server under attack must not have to wait for the garbage collector.
            waiter = None
