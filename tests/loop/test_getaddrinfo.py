"""getaddrinfo compared with `socket.getaddrinfo` over a grid of thousands of combinations, in which addresses
may be answered without libc, and everything else must be the same all the same.

Nothing here leaves the machine: hosts that are no address are asked for with AI_NUMERICHOST. The few
questions that have an answer to explain are in test_dns.py.
"""

import asyncio
import concurrent.futures
import itertools
import logging
import random
import socket
from typing import Any

import pytest

from support.peers import on_asyncio

HOSTS = [
    # Addresses, in every notation.
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
    # Hosts that are nearly addresses, and some that are nothing like one.
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
    """Whether it is an address for libc, which then answers without asking a server."""
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
    """The answer as text, in which an enum member and a plain number differ."""
    if isinstance(outcome, Exception):
        return f"{type(outcome).__qualname__} {outcome.args!r} {getattr(outcome, 'errno', None)!r}"
    return repr(outcome)


async def differences(questions):
    """The questions (host, port, family, type, proto, flags) that the loop and the socket module answer differently."""
    loop = asyncio.get_running_loop()
    found = []
    for host, port, family, kind, proto, flags in questions:
        # Compared by identity, because bytes are equal to other buffers with the same content.
        if any(host is other for other in OTHERS):
            flags |= socket.AI_NUMERICHOST
        expected: Any
        answer: Any
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
    """These are the questions of create_connection."""
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
    """Each notation of a number, in each place of an IPv4 address and in each group of an IPv6 address."""
    numbers = ["0", "00", "1", "01", "10", "99", "100", "199", "200", "249", "250", "255", "256", "260", "300", "1000"]
    hosts = [".".join(["1"] * place + [number] + ["2"] * (3 - place)) for number in numbers for place in range(4)]
    groups = ["0", "00", "0000", "00000", "1", "a", "A", "f0", "fFfF", "10000", "g"]
    hosts += [":".join(["1"] * place + [group] + ["2"] * (7 - place)) for group in groups for place in range(8)]
    hosts += [f"{'1:' * before}:{':1' * after}" for before in range(1, 9) for after in range(1, 9)]
    hosts += [f"{'1:' * before}:1.2.3.4" for before in range(9)]
    numeric = socket.AI_NUMERICHOST
    await check(itertools.product(hosts, [80], [0, socket.AF_INET, socket.AF_INET6], [STREAM], [TCP], [numeric]))


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
    """The text consists of the characters of addresses, so that some of it is an address."""
    rng = random.Random(8)
    hosts = ["".join(rng.choices("0123456789afAFxg.:%::.. ", k=rng.randrange(1, 20))) for _ in range(2000)]
    await check(itertools.product(hosts, [80], [0], [STREAM], [0], [socket.AI_NUMERICHOST]))


async def test_answers_are_new():
    """Each answer is a new list, which a program may change."""
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
    await check([(text("::1"), text("80"), 0, number(1), 0, 0), (text("name"), 80, 0, 0, 0, socket.AI_NUMERICHOST)])


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


# --- who answers ---


class Counting(concurrent.futures.ThreadPoolExecutor):
    def __init__(self):
        super().__init__(1)
        self.submitted = 0

    def submit(self, *args, **kwargs):
        self.submitted += 1
        return super().submit(*args, **kwargs)


async def submissions(questions):
    """How many of the questions went to the default executor. Their answers do not matter."""
    loop = asyncio.get_running_loop()
    executor = Counting()
    loop.set_default_executor(executor)
    await asyncio.gather(
        *(
            loop.getaddrinfo(host, port, family=family, type=kind, proto=proto, flags=flags)
            for host, port, family, kind, proto, flags in questions
        ),
        return_exceptions=True,
    )
    await loop.shutdown_default_executor()
    return executor.submitted


LITERALS = [
    ("0.0.0.0", socket.AF_INET),
    ("127.0.0.1", socket.AF_INET),
    ("255.255.255.255", socket.AF_INET),
    ("::", socket.AF_INET6),
    ("::1", socket.AF_INET6),
    ("2001:DB8::ABCD:EF", socket.AF_INET6),
    ("fe80::1", socket.AF_INET6),
    ("::ffff:7f00:1", socket.AF_INET6),
    ("64:ff9b::1.2.3.4", socket.AF_INET6),
]
USUAL = [(STREAM, 0), (STREAM, TCP), (DGRAM, 0), (DGRAM, socket.IPPROTO_UDP)]
NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


async def test_addresses_need_no_thread():
    axes = itertools.product(LITERALS, [0, 80, 65535], [True, False], USUAL, [0, socket.AI_PASSIVE, NUMERIC])
    questions = [
        (host, port, family if named else 0, kind, proto, flags)
        for (host, family), port, named, (kind, proto), flags in axes
    ]
    await check(questions)
    assert await submissions(questions) == (len(questions) if on_asyncio() else 0)


async def test_answer_at_once():
    """The answer is there without another turn of the loop."""
    if on_asyncio():
        pytest.skip("asyncio asks a thread")
    coroutine = asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80, type=STREAM)
    with pytest.raises(StopIteration) as end:
        coroutine.send(None)
    assert end.value.value == socket.getaddrinfo("127.0.0.1", 80, type=STREAM)


async def test_what_could_differ_is_left_to_libc():
    """The loop leaves to libc zone ids, unusual notations, every error, and questions with more than one answer."""
    odd = [host for host in HOSTS if type(host) is not str or not is_usual(host)]
    questions: list[Any] = [(host, 80, 0, STREAM, 0, socket.AI_NUMERICHOST) for host in odd]
    ports = [port for port in PORTS if type(port) is not int or not 0 <= port <= 65535]
    questions += [("127.0.0.1", port, 0, STREAM, 0, 0) for port in ports]
    questions += [("::1", 80, family, STREAM, 0, 0) for family in FAMILIES if family not in (0, socket.AF_INET6)]
    questions += [("127.0.0.1", 80, 0, kind, 0, 0) for kind in KINDS if kind not in (STREAM, DGRAM)]
    questions += [("127.0.0.1", 80, 0, STREAM, proto, 0) for proto in PROTOCOLS if proto not in (0, TCP)]
    harmless = NUMERIC | socket.AI_PASSIVE
    questions += [("127.0.0.1", 80, 0, STREAM, 0, flags) for flags in FLAGS if flags & ~harmless]
    assert await submissions(questions) == len(questions)


def is_usual(host):
    """Whether inet_pton takes it: four decimal numbers, or an IPv6 address without a zone."""
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except (OSError, ValueError):
        return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_addresses_are_logged_in_debug_mode(host, caplog):
    caplog.set_level(logging.DEBUG, "asyncio")
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    await check([(host, 80, 0, STREAM, 0, 0)])
    texts = [record.getMessage() for record in caplog.records]
    assert any(text.startswith(f"Get address info {host}:80, type=") for text in texts)


async def test_patched_function_is_asked_for_addresses(monkeypatch):
    answer = [(socket.AF_INET, STREAM, TCP, "", ("192.0.2.1", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answer)
    assert await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80, type=STREAM) == answer


async def test_executor_that_was_shut_down():
    loop = asyncio.get_running_loop()
    await loop.shutdown_default_executor()
    with pytest.raises(RuntimeError, match="^Executor shutdown has been called$"):
        await loop.getaddrinfo("127.0.0.1", 80, type=STREAM)


def test_closed_loop(loop):
    coroutine = loop.getaddrinfo("127.0.0.1", 80, type=STREAM)
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        coroutine.send(None)


def test_audit_hooks(child):
    """Audit hooks see every question, and can refuse it (PEP 578)."""
    result = child(
        """
        import socket, sys

        def hook(event, args):
            if event == "socket.getaddrinfo":
                print(*args)
                if args[0] == "::1":
                    raise PermissionError("refused")

        async def main():
            loop = asyncio.get_running_loop()
            await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
            try:
                await loop.getaddrinfo("::1", 80, family=socket.AF_INET6, type=socket.SOCK_DGRAM)
            except PermissionError as error:
                print(error)

        sys.addaudithook(hook)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
        """
    )
    kinds = socket.SOCK_STREAM.value, socket.SOCK_DGRAM.value
    assert result.stdout == f"127.0.0.1 80 0 {kinds[0]} 0\n::1 80 {socket.AF_INET6.value} {kinds[1]} 0\nrefused\n"
    assert (result.stderr, result.returncode) == ("", 0)
