"""getaddrinfo and getnameinfo give what the socket module gives, whether or not the loop asks libc.

Only addresses and localhost are looked up here: no question leaves the machine.
"""

import asyncio
import logging
import socket

import pytest


async def outcome(function, *args, **kwargs):
    """The result, or the exception's type and arguments."""
    try:
        result = function(*args, **kwargs)
        return await result if asyncio.iscoroutine(result) or asyncio.isfuture(result) else result
    except Exception as error:
        return type(error), error.args


async def assert_same_addrinfo(*args, **kwargs):
    loop = asyncio.get_running_loop()
    expected = await outcome(socket.getaddrinfo, *args, **kwargs)
    assert await outcome(loop.getaddrinfo, *args, **kwargs) == expected
    return expected


HOSTS = [
    "127.0.0.1",
    "::1",
    "0.0.0.0",
    "::",
    "255.255.255.255",
    "::ffff:127.0.0.1",
    "fe80::1",
    "fe80::1%lo",
    "fe80::1%nothing",
    "127.1",
    "127.0.0.01",
    "0x7f.0.0.1",
    "2130706433",
    "127.0.0.256",
    "127.0.0.1 ",
    "::1::",
    "[::1]",
    "localhost",
    "",
    None,
    b"127.0.0.1",
    b"::1",
    bytearray(b"127.0.0.1"),
]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("kind", [0, socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_hosts(host, kind):
    # No host here is a name that a DNS server would be asked for.
    numeric = 0 if host in ("localhost", "", None) else socket.AI_NUMERICHOST
    await assert_same_addrinfo(host, 80, type=kind, flags=numeric)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", None])
@pytest.mark.parametrize("family", [socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 9999])
async def test_families(host, family):
    await assert_same_addrinfo(host, 80, family=family, type=socket.SOCK_STREAM)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("proto", [0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, 250])
@pytest.mark.parametrize("kind", [0, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, 99])
async def test_kinds_and_protocols(host, proto, kind):
    await assert_same_addrinfo(host, 80, type=kind, proto=proto)


PORTS = [0, 80, 65535, 65536, -1, 2**40, "80", "http", "no such service", "", b"80", b"http", None, "80 "]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", None])
@pytest.mark.parametrize("port", PORTS)
async def test_ports(host, port):
    await assert_same_addrinfo(host, port, type=socket.SOCK_STREAM)


FLAGS = [
    0,
    socket.AI_PASSIVE,
    socket.AI_CANONNAME,
    socket.AI_NUMERICHOST,
    socket.AI_NUMERICSERV,
    socket.AI_V4MAPPED,
    socket.AI_ADDRCONFIG,
    1 << 20,
]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", None])
@pytest.mark.parametrize("flags", FLAGS)
async def test_flags(host, flags):
    await assert_same_addrinfo(host, "80", type=socket.SOCK_STREAM, flags=flags)


@pytest.mark.parametrize("args", [(42, 80), (1.5, 80), ("127.0.0.1", 1.5), ("127.0.0.1", []), ("\udc80", 80)], ids=repr)
async def test_wrong_types(args):
    error, _ = await assert_same_addrinfo(*args)
    assert error is not None


async def test_types_of_the_result():
    loop = asyncio.get_running_loop()
    [info] = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    family, kind, proto, name, address = info
    assert (family, kind, proto) == (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    assert isinstance(family, socket.AddressFamily)
    assert isinstance(kind, socket.SocketKind)
    assert name == ""
    assert address == ("127.0.0.1", 80)


async def test_localhost():
    infos = await assert_same_addrinfo("localhost", 80, type=socket.SOCK_STREAM)
    assert infos


async def test_keywords_only():
    loop = asyncio.get_running_loop()
    with pytest.raises(TypeError):
        await loop.getaddrinfo("127.0.0.1", 80, socket.AF_INET)  # type: ignore[call-arg]


async def test_patched_resolver(monkeypatch):
    """Programs replace the socket module's functions to answer for names. The loop must call the replacement."""
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answer)
    assert await asyncio.get_running_loop().getaddrinfo("name.invalid", 80) == answer


async def test_many_at_a_time():
    loop = asyncio.get_running_loop()
    hosts = ["127.0.0.1", "::1", "localhost"] * 20
    results = await asyncio.gather(*(loop.getaddrinfo(host, 80, type=socket.SOCK_STREAM) for host in hosts))
    assert results == [socket.getaddrinfo(host, 80, type=socket.SOCK_STREAM) for host in hosts]


async def test_lookups_are_logged_in_debug_mode(caplog):
    caplog.set_level(logging.DEBUG, "asyncio")
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    texts = [record.getMessage() for record in caplog.records]
    kind = repr(socket.SOCK_STREAM)
    assert f"Get address info localhost:80, type={kind}" in texts
    assert any(text.startswith(f"Getting address info localhost:80, type={kind} took ") for text in texts)


NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


@pytest.mark.parametrize(
    "address, flags",
    [
        (("127.0.0.1", 80), NUMERIC),
        (("::1", 80), NUMERIC),
        (("::1", 80, 0, 0), NUMERIC),
        (("fe80::1", 80, 0, 1), NUMERIC),
        (("127.0.0.1", 80), socket.NI_NUMERICHOST),
        (("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_DGRAM),
        (("127.0.0.1", 65535), NUMERIC),
        (("127.0.0.1", 65536), NUMERIC),
        (("127.0.0.1", "80"), NUMERIC),
        (("127.0.0.256", 80), NUMERIC),
        (("127.0.0.1",), NUMERIC),
        ("127.0.0.1", NUMERIC),
        (None, NUMERIC),
        (("127.0.0.1", 80), "flags"),
    ],
    ids=repr,
)
async def test_getnameinfo(address, flags):
    loop = asyncio.get_running_loop()
    expected = await outcome(socket.getnameinfo, address, flags)
    assert await outcome(loop.getnameinfo, address, flags) == expected


async def test_getnameinfo_flags_default_to_none():
    loop = asyncio.get_running_loop()
    assert await loop.getnameinfo(("127.0.0.1", 80)) == socket.getnameinfo(("127.0.0.1", 80), 0)


def test_closed_loop(loop):
    loop.close()
    for coroutine in loop.getaddrinfo("localhost", 80), loop.getnameinfo(("127.0.0.1", 80)):
        with pytest.raises(RuntimeError, match="^Event loop is closed$"):
            coroutine.send(None)
