"""getaddrinfo compared with `socket.getaddrinfo` over a grid of thousands of combinations, in which addresses
may be answered without libc, and everything else must be the same all the same.

Nothing here leaves the machine: hosts that are no address are asked for with AI_NUMERICHOST. The few
questions that have an answer to explain are in test_dns.py.
"""

import asyncio
import itertools
import random
import socket

import pytest

HOSTS = [
    # Addresses, in every way of writing them.
    None,
    "0.0.0.0",
    "127.0.0.1",
    "1.2.3.4",
    "255.255.255.255",
    "127.1",
    "127.0.1",
    "127.65535",
    "1.16777215",
    "2130706433",
    "4294967295",
    "0x7f.1",
    "0x7f.0.0.1",
    "0X7F000001",
    "0177.0.0.1",
    "127.0.0.01",
    "127.0.0.0x1",
    "0",
    "::",
    "::1",
    "0:0:0:0:0:0:0:1",
    "0000:0000:0000:0000:0000:0000:0000:0001",
    "1:2:3:4:5:6:7:8",
    "1:2:3:4:5:6:7::",
    "::2:3:4:5:6:7:8",
    "2001:db8::1",
    "2001:DB8::ABCD:EF",
    "1:0:0:2:0:0:0:3",
    "fe80::1",
    "fe80::1%lo",
    "fe80::1%1",
    "fe80::1%0",
    "FE80::1%LO",
    "ff02::1%lo",
    "::1%lo",
    "::1%1",
    "2001:db8::1%1",
    "::ffff:127.0.0.1",
    "::FFFF:127.0.0.1",
    "::ffff:7f00:1",
    "::127.0.0.1",
    "::1.2",
    "64:ff9b::1.2.3.4",
    "1:2:3:4:5:6:1.2.3.4",
    b"127.0.0.1",
    b"::1",
    b"::FFFF:1.2.3.4",
    b"127.1",
    b"fe80::1%lo",
    bytearray(b"127.0.0.1"),
    # Nearly addresses, and not at all.
    "",
    b"",
    "127.0.0.256",
    "127.0.0.08",
    "127.0.0.0xg",
    "1.16777216",
    "4294967296",
    "0x100000000",
    "1.2.3.4.5",
    "1.2.3.",
    ".1.2.3",
    "1..2.3",
    " 127.0.0.1",
    "127.0.0.1 ",
    "127.0.0.1\n",
    "127.0.0.1.",
    "127.0.0.1\0",
    "+127.0.0.1",
    "-1",
    "0x",
    "1e3",
    "127.0.0.1:80",
    "127.0.0.1/8",
    "127.0.0.1%lo",
    "[::1]",
    ":",
    ":::",
    "::1::",
    "1::2::3",
    "12345::",
    "::g",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    ":1:2:3:4:5:6:7:8",
    "::1.2.3.256",
    "::1.2.3.4:5",
    "::01.2.3.4",
    "::1 ",
    " ::1",
    "::1%",
    "::1%nothing",
    "fe80::1%",
    "fe80::1%nothing",
    "fe80::1%99999",
    "fe80::1%4294967296",
    "fe80::1%-1",
    "fe80::1% 1",
    "fe80::1%lo%lo",
    "fe80::1%\u00e9",
    "%lo",
    "*",
    "localhost",
    "name",
    "name.invalid",
    "under_score",
    "a..b",
    "a" * 64,
    "a" * 300,
    "\u00fcber",
    "\uff11\uff12\uff17.0.0.1",
    "127\u30020\u30020\u30021",
    "\u0661\u0662\u0667.0.0.1",
    "\udc80",
    b"name",
    b"\xff",
    b"127.0.0.1\0",
    42,
    1.5,
    ("127.0.0.1",),
    memoryview(b"127.0.0.1"),
]


def is_address(host):
    """Whether libc answers without asking anybody."""
    try:
        return bool(socket.getaddrinfo(host, 80, flags=socket.AI_NUMERICHOST))
    except (OSError, TypeError, ValueError):
        return False


ADDRESSES = [host for host in HOSTS if is_address(host)]
OTHERS = [host for host in HOSTS if not is_address(host)]

PORTS = [
    None,
    0,
    1,
    80,
    65535,
    65536,
    70000,
    -1,
    2**31,
    2**63,
    2**70,
    True,
    80.0,
    "",
    "0",
    "80",
    "080",
    "65535",
    "65536",
    "99999999999",
    "-1",
    "+80",
    " 80",
    "80 ",
    "0x50",
    "8_0",
    "80\0",
    "\uff18\uff10",
    "\udc80",
    "http",
    "HTTP",
    "domain",
    "tftp",
    "nosuch",
    b"",
    b"80",
    b"http",
    b"nosuch",
    b"80\0",
    bytearray(b"80"),
    (80,),
]

FAMILIES = [socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 9999, -1]

KINDS = [
    0,
    socket.SOCK_STREAM,
    socket.SOCK_DGRAM,
    socket.SOCK_RAW,
    socket.SOCK_SEQPACKET,
    socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0),
    99,
    -1,
]

PROTOCOLS = [0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP, socket.IPPROTO_SCTP, 250, -1]

SINGLE_FLAGS = [
    0,
    socket.AI_PASSIVE,
    socket.AI_CANONNAME,
    socket.AI_NUMERICHOST,
    socket.AI_NUMERICSERV,
    socket.AI_V4MAPPED,
    socket.AI_ALL,
    socket.AI_ADDRCONFIG,
    1 << 20,
    -1,
]
FLAGS = SINGLE_FLAGS + [
    socket.AI_PASSIVE | socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    socket.AI_CANONNAME | socket.AI_NUMERICHOST,
    socket.AI_CANONNAME | socket.AI_PASSIVE,
    socket.AI_V4MAPPED | socket.AI_ALL,
    socket.AI_V4MAPPED | socket.AI_ADDRCONFIG,
    socket.AI_V4MAPPED | socket.AI_NUMERICHOST,
    socket.AI_V4MAPPED | socket.AI_CANONNAME,
]


def explain(outcome):
    """As text, so that a number in the place of an enum's member is a difference."""
    if isinstance(outcome, Exception):
        return f"{type(outcome).__qualname__} {outcome.args!r} {getattr(outcome, 'errno', None)!r}"
    return repr(outcome)


async def differences(questions):
    """What the loop answers to (host, port, family, type, proto, flags) and the socket module does not."""
    loop = asyncio.get_running_loop()
    found = []
    for host, port, family, kind, proto, flags in questions:
        # By identity, because bytes equal other buffers of the same content.
        if any(host is other for other in OTHERS):
            flags |= socket.AI_NUMERICHOST
        try:
            expected = socket.getaddrinfo(host, port, family, kind, proto, flags)
        except Exception as error:
            expected = error
        try:
            answer = await loop.getaddrinfo(host, port, family=family, type=kind, proto=proto, flags=flags)
        except Exception as error:
            answer = error
        if explain(answer) != explain(expected):
            question = f"{host!r}, {port!r}, family={family}, type={kind}, proto={proto}, flags={flags:#x}"
            found.append(f"{question}:\n    {explain(answer)}\n    instead of\n    {explain(expected)}")
    return found


async def check(questions):
    questions = list(questions)
    found = await differences(questions)
    text = "\n".join(found[:5])
    assert not found, f"{len(found)} of {len(questions)} answers differ, such as\n{text}"


STREAM, DGRAM, TCP = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.IPPROTO_TCP


async def test_hosts_and_ports():
    """As create_connection asks."""
    await check(itertools.product(HOSTS, PORTS, [0], [STREAM], [0], [0]))


@pytest.mark.parametrize("kind", [0, STREAM, DGRAM])
async def test_hosts_and_families(kind):
    await check(itertools.product(HOSTS, [80, "http"], FAMILIES, [kind], [0], [0]))


@pytest.mark.parametrize("kind", [0, STREAM])
async def test_hosts_and_flags(kind):
    families = [socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6]
    await check(itertools.product(ADDRESSES, [80], families, [kind], [0], FLAGS))
    await check(itertools.product(OTHERS, [80], [socket.AF_UNSPEC], [kind], [0], SINGLE_FLAGS))


@pytest.mark.parametrize("host", [None, "127.0.0.1", "::1", "fe80::1%lo", "::ffff:1.2.3.4", b"127.1", "name"])
async def test_families_kinds_protocols_and_flags(host):
    await check(itertools.product([host], [80], FAMILIES, KINDS, PROTOCOLS, SINGLE_FLAGS[:5]))


@pytest.mark.parametrize("host", [None, "127.0.0.1", "::1"])
async def test_ports_kinds_and_protocols(host):
    await check(itertools.product([host], PORTS, [0], KINDS, PROTOCOLS, [0, socket.AI_NUMERICSERV]))


async def test_everything_at_random():
    rng = random.Random(6)
    axes = (HOSTS, PORTS, FAMILIES, KINDS, PROTOCOLS, FLAGS)
    await check([rng.choice(axis) for axis in axes] for _ in range(5000))


async def test_every_byte_of_an_address():
    """Each way of writing a number, in each place of an IPv4 address, and each group of IPv6."""
    numbers = [
        "0",
        "00",
        "1",
        "01",
        "10",
        "99",
        "100",
        "199",
        "200",
        "249",
        "250",
        "255",
        "256",
        "260",
        "300",
        "1000",
    ]
    hosts = [
        ".".join(["1"] * place + [number] + ["2"] * (3 - place)) for number in numbers for place in range(4)
    ]
    groups = ["0", "00", "0000", "00000", "1", "a", "A", "f0", "fFfF", "10000", "g"]
    hosts += [
        ":".join(["1"] * place + [group] + ["2"] * (7 - place)) for group in groups for place in range(8)
    ]
    hosts += [f"{'1:' * before}:{':1' * after}" for before in range(1, 9) for after in range(1, 9)]
    hosts += [f"{'1:' * before}:1.2.3.4" for before in range(9)]
    numeric = socket.AI_NUMERICHOST
    await check(
        itertools.product(hosts, [80], [0, socket.AF_INET, socket.AF_INET6], [STREAM], [TCP], [numeric])
    )


async def test_random_addresses():
    rng = random.Random(7)
    hosts = []
    for _ in range(500):
        hosts.append(socket.inet_ntop(socket.AF_INET, rng.randbytes(4)))
        # With runs of zeros, which are written "::".
        packed = b"".join(rng.choice([b"\0\0", b"\0\0", rng.randbytes(2)]) for _ in range(8))
        hosts.append(socket.inet_ntop(socket.AF_INET6, packed))
    await check(itertools.product(hosts, [80], [0], [STREAM, 0], [0], [0]))


async def test_random_text():
    """Made of what addresses are made of, so that some are."""
    rng = random.Random(8)
    hosts = ["".join(rng.choices("0123456789afAFxg.:%::.. ", k=rng.randrange(1, 20))) for _ in range(2000)]
    await check(itertools.product(hosts, [80], [0], [STREAM], [0], [socket.AI_NUMERICHOST]))


async def test_answers_are_new():
    """Nobody else's, so that a program may change the list."""
    loop = asyncio.get_running_loop()
    first = await loop.getaddrinfo("127.0.0.1", 80, type=STREAM)
    second = await loop.getaddrinfo("127.0.0.1", 80, type=STREAM)
    assert type(first) is list
    assert first == second
    assert first is not second
    first.clear()
    assert await loop.getaddrinfo("127.0.0.1", 80, type=STREAM) == second


async def test_subclasses_of_str_and_int():
    text = type("Text", (str,), {})
    number = type("Number", (int,), {})
    await check([(text("127.0.0.1"), number(80), number(0), number(1), number(0), number(0))])
    await check(
        [(text("::1"), text("80"), 0, number(1), 0, 0), (text("name"), 80, 0, 0, 0, socket.AI_NUMERICHOST)]
    )


@pytest.mark.parametrize(
    "keywords",
    [{"family": "2"}, {"type": None}, {"proto": 1.5}, {"flags": "0"}, {"flags": 2**40}, {"family": 2**70}],
    ids=repr,
)
async def test_arguments_of_a_wrong_type(keywords):
    with pytest.raises((TypeError, OverflowError)) as expected:
        socket.getaddrinfo("127.0.0.1", 80, **keywords)
    with pytest.raises(type(expected.value)) as info:
        await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80, **keywords)
    assert info.value.args == expected.value.args
