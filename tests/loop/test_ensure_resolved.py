"""`_ensure_resolved`, by which asyncio's own code finds out whether an address has to be looked up at all. The answer
is that of asyncio's code, for literals in every form and for what only looks like one.

`getaddrinfo` is in test_getaddrinfo.py.
"""

import asyncio
import itertools
import socket
from asyncio import base_events
from typing import Any

import pytest

HOSTS: list[Any] = [
    None,
    "",
    "0.0.0.0",
    "127.0.0.1",
    "255.255.255.255",
    "127.1",
    "127.0.0.01",
    "127.0.0.256",
    "0x7f.0.0.1",
    "2130706433",
    "1.2.3.4.5",
    " 127.0.0.1",
    "127.0.0.1\n",
    "127.0.0.1\0",
    "\ud800",
    "\u0661.2.3.4",
    "::",
    "::1",
    "0:0:0:0:0:0:0:1",
    "1:2:3:4:5:6:7::",
    "2001:DB8::ABCD:EF",
    "::ffff:127.0.0.1",
    "::1.2.3.4",
    "fe80::1%lo",
    "::1%1",
    "[::1]",
    "12345::",
    "::1::",
    b"127.0.0.1",
    b"::1",
    b"\xff",
    bytearray(b"127.0.0.1"),
    "name.example",
    17,
]
PORTS: list[Any] = [0, 80, 65535, 65536, -1, 2**70, True, 80.5, None, "", b"", "80", b"80", "http", [], object]
FAMILIES = [
    socket.AF_UNSPEC,
    socket.AF_INET,
    socket.AF_INET6,
    int(socket.AF_INET),
    int(socket.AF_INET6),
    socket.AF_UNIX,
]
KINDS = [socket.SOCK_STREAM, socket.SOCK_DGRAM, int(socket.SOCK_STREAM), 0, socket.SOCK_RAW, socket.SOCK_STREAM | 0x800]
PROTOCOLS = [0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP, -1]


class Resolver:
    """Stands for the loop that is asked when an address is no literal."""

    async def getaddrinfo(self, *args, **keywords):
        return ("looked up", args, keywords)


async def answers(address, **keywords):
    """What the running loop answers and what asyncio does, as text in which an enum member and a number differ."""
    loop: Any = asyncio.get_running_loop()
    found = []
    for function in (loop._ensure_resolved, base_events.BaseEventLoop._ensure_resolved.__get__(loop)):  # type: ignore[attr-defined]
        try:
            found.append(repr(await function(address, loop=Resolver(), **keywords)))
        except Exception as error:
            found.append(repr(error))
    return found


async def check(questions):
    wrong = []
    for address, family, kind, proto in questions:
        answer, expected = await answers(address, family=family, type=kind, proto=proto, flags=0)
        if answer != expected:
            wrong.append(f"{address!r}, {family!r}, {kind!r}, {proto!r}: {answer} instead of {expected}")
    assert wrong == []


async def test_hosts_and_ports():
    """These are the questions of `create_connection`."""
    await check(itertools.product(itertools.product(HOSTS, PORTS), [0], [socket.SOCK_STREAM], [0]))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "name.example"])
async def test_families_kinds_and_protocols(host):
    await check(itertools.product([(host, 80)], FAMILIES, KINDS, PROTOCOLS))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_longer_and_other_addresses(host):
    """An address of IPv6 may have a flow label and a scope; an address may be a list."""
    addresses = [(host, 80, 1), (host, 80, 1, 2), [host, 80], (host,), (), (host, 80, 1, 2, 3), f"{host} 80"]
    await check(itertools.product(addresses, [0], [socket.SOCK_STREAM], [0]))


async def test_defaults():
    answer, expected = await answers(("127.0.0.1", 80))
    assert answer == expected
    assert "looked up" not in answer


@pytest.mark.parametrize("where, name", [(socket, "inet_pton"), (base_events, "_ipaddr_info")])
async def test_replaced_functions_are_asked(monkeypatch, where, name):
    """A program may replace the functions by which asyncio knows a literal."""
    original, asked = getattr(where, name), []

    def noting(*args):
        asked.append(args)
        return original(*args)

    monkeypatch.setattr(where, name, noting)
    loop: Any = asyncio.get_running_loop()
    found = await loop._ensure_resolved(("127.0.0.1", 80), loop=Resolver())
    assert len(found) == len(asked) == 1


async def test_list_is_new_each_time():
    loop: Any = asyncio.get_running_loop()
    one, two = [await loop._ensure_resolved(("127.0.0.1", 80), loop=Resolver()) for _ in range(2)]
    assert type(one) is list and one == two and one is not two
