"""Every public method of every kind of transport, also those that a kind has only to refuse: what asyncio's transport
of the running version has, rloop's has, with the same parameters, and a call ends in the same way. rloop only.
"""

import asyncio
import contextlib
import re
from asyncio import selector_events, sslproto
from typing import Any

import pytest

from support.datagrams import pair
from support.peers import connection
from support.pipe_peers import read_pipe, write_pipe
from support.signatures import differences, public
from support.tls_peers import tls_connection

rloop: Any = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

KINDS: dict[str, Any] = {
    "stream": connection,
    "TLS": tls_connection,
    "datagram": pair,
    "read pipe": read_pipe,
    "write pipe": write_pipe,
}
STATES = ["open", "paused", "closing", "closed"]

# The arguments of each method. Methods that are not here get none.
ARGUMENTS: dict[str, list[Any]] = {
    "get_extra_info": [("nothing",), ("nothing", 1), ("pipe",), ("socket",), (None,), ([],), ()],
    "sendto": [
        (b"data",),
        (b"data", None),
        ("text",),
        (None,),
        (1, None),
        (b"data", ("127.0.0.1", 1)),
        (b"1", None, 2),
        (),
    ],
    "set_protocol": [(asyncio.Protocol(),), ()],
    "set_read_buffer_limits": [(), (10,), (10, 5), (5, 10), (-1,), ("text",), (None, "text")],
    "set_write_buffer_limits": [(), (10,), (10, 5), (5, 10), (-1,), (None, 10), ("text",), (None, "text"), (1.5,)],
    "write": [
        (b"data",),
        (bytearray(b"data"),),
        (b"",),
        (memoryview(b"1234"),),
        ("text",),
        (1,),
        (None,),
        (b"1", 2),
        (),
    ],
    "writelines": [([b"1", b"2"],), ([],), ([b"1", "text"],), (["text"],), ("text",), (b"bytes",), (1,), (None,), ()],
}
# Writing a large piece of data that ends a TLS connection.
FATAL = [([b"1", "text"],), (["text"],), ("text",)]


@pytest.fixture
def loops():
    """A loop of rloop, and one of asyncio."""
    made = rloop.new_event_loop(), asyncio.SelectorEventLoop()
    yield made
    for loop in made:
        loop.close()


def on_both(loops, function, *args):
    """What `function(*args)` returns on rloop, and on asyncio."""
    return [loop.run_until_complete(function(*args)) for loop in loops]


async def with_transport(kind, function):
    async with KINDS[kind]() as (transport, *_):
        return function(transport)


@pytest.mark.parametrize("kind", KINDS)
def test_names(loops, kind):
    ours, theirs = on_both(loops, with_transport, kind, public)
    assert ours == theirs


@pytest.mark.parametrize("kind", KINDS)
def test_signatures(loops, kind):
    assert differences(*on_both(loops, with_transport, kind, type)) == []


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", KINDS)
def test_calls(loops, kind, state):
    names = loops[1].run_until_complete(with_transport(kind, methods))
    calls = [(name, args) for name in names for args in ARGUMENTS.get(name, [()])]
    calls = [call for call in calls if not asyncio_fails(kind, state, *call)]
    ours, theirs = on_both(loops, outcomes, kind, state, calls)
    assert [(*call, mine, its) for call, mine, its in zip(calls, ours, theirs, strict=True) if mine != its] == []


def methods(transport):
    return [name for name in public(transport) if callable(getattr(transport, name))]


def asyncio_fails(kind, state, name, args):
    """Whether asyncio's transport fails at this call because of a bug in the running version."""
    ended = state in ("closing", "closed")
    match kind, name:
        case "stream", "writelines":
            # Methods that do not ask whether the connection is lost, in 3.12 and 3.13.
            method = selector_events._SelectorSocketTransport.__dict__.get(name)  # type: ignore[attr-defined]
            return ended and method is not None and "_conn_lost" not in method.__code__.co_names
        case "TLS", "writelines":
            # In older versions a connection that has failed is not closing.
            return not hasattr(sslproto.SSLProtocol, "_is_transport_closing") and args in FATAL
        case "TLS", "close":
            # A second call loses the connection.
            return ended
        case "write pipe", "abort":
            # Uses its loop, which it has given up by then.
            return state == "closed"
        case "datagram", "sendto":
            # Uses its socket, which it has given up by then.
            return state == "closed" and args[:1] == (b"data",)
    return False


async def outcomes(kind, state, calls):
    """How a call of each method ends. Each call has a transport of its own."""
    return [await outcome(kind, state, name, args) for name, args in calls]


async def outcome(kind, state, name, args):
    async with KINDS[kind]() as (transport, *_):
        await bring(transport, state)
        result: Any
        try:
            returned = getattr(transport, name)(*args)
        except Exception as exc:
            # The text for too many or too few arguments depends on whether the method is native.
            result = type(exc), re.sub(r".*argument.*", "arguments", str(exc))
        else:
            result = returned if returned is None or isinstance(returned, (bool, int, tuple)) else type(returned)
        readings = []
        for question in ("is_closing", "is_reading"):
            if hasattr(transport, question):
                with contextlib.suppress(NotImplementedError):
                    readings.append(getattr(transport, question)())
        # Private attributes that programs read.
        readings += [getattr(transport, name, None) for name in ("_closing", "_paused")]
        return result, *readings


async def bring(transport, state):
    """Bring an open transport into another state."""
    if state == "paused":
        with contextlib.suppress(NotImplementedError):
            transport.pause_reading()
    elif state != "open":
        getattr(transport, "abort" if state == "closed" and hasattr(transport, "abort") else "close")()
    if state == "closed":
        for _ in range(5):
            await asyncio.sleep(0)
