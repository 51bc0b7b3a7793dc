"""Context variables in the callbacks of datagram protocols: what they see, and that other contexts stay as they are.

Contexts of stream protocols are in stream/test_context.py.
"""

import contextvars

from support.datagrams import Datagrams, pair

var = contextvars.ContextVar("var", default="default")


async def test_context_of_the_callbacks():
    """The callbacks run in the context of create_datagram_endpoint."""
    seen = {}

    class Seeing(Datagrams):
        def _tell(self, name):
            seen[name] = var.get()
            super()._tell(name)

    token = var.set("mine")
    async with pair(Seeing) as (_, protocol, far):
        var.reset(token)
        far.send(b"x")
        await protocol.read(1)
        assert seen == dict.fromkeys(["connection_made", "datagram_received"], "mine")


async def test_what_a_callback_sets_is_its_endpoint_s():
    class Remembering(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received((data, var.get()), addr)  # type: ignore[arg-type]
            var.set(data)

    async with pair(Remembering) as (_, one, far), pair(Remembering) as (_, two, other):
        for count, data in enumerate([b"a", b"b", b"c"], 1):
            far.send(data)
            await one.read(count)
            other.send(data.upper())
            await two.read(count)
        assert one.data == [(b"a", "default"), (b"b", b"a"), (b"c", b"b")]
        assert two.data == [(b"A", "default"), (b"B", b"A"), (b"C", b"B")]
        assert var.get() == "default"
