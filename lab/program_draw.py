"""How hypothesis draws programs. What is drawn first in a list is what a failing program is shrunk to."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from program_connections import STREAMS
from program_steps import Do, Program, Wait, When

SIZES = (1, 10, 3000, 0, 1_000_000)
JUNK: tuple[Any, ...] = ("text", None, 1, [b"x"])
ERRORS = (
    "ValueError",
    "OSError",
    "ConnectionResetError",
    "BrokenPipeError",
    "BlockingIOError",
    "InterruptedError",
    "SSLError",
    "SSLWantReadError",
    "TimeoutError",
    "CancelledError",
    "BaseException",
)
EXITS = ("SystemExit", "KeyboardInterrupt")

WRITES: list[tuple[Any, ...]] = [
    *(("write", size) for size in SIZES),
    *(("write", size) for size in SIZES),
    ("writelines", 1, 10),
    ("writelines", 1_000_000, 1),
    ("writelines", 0, 5),
    ("writelines",),
    *(("write_junk", junk) for junk in JUNK[:3]),
]
LIMITS: list[tuple[Any, ...]] = [
    ("set_write_buffer_limits", high, low)
    for high, low in ((0, 0), (10, 5), (100, None), (None, 7), (5, 10), (-1, None))
]
ENDS: list[tuple[Any, ...]] = [("close",), ("abort",), ("write_eof",), ("close",)]
QUESTIONS: list[tuple[Any, ...]] = [
    ("is_closing",),
    ("can_write_eof",),
    ("get_write_buffer_size",),
    ("get_write_buffer_limits",),
    ("get_protocol",),
    ("get_extra_info", "peername"),
    ("get_extra_info", "nothing"),
]
READING: list[tuple[Any, ...]] = [("pause_reading",), ("resume_reading",), ("is_reading",)]
PEER: list[tuple[Any, ...]] = [
    ("peer_send", 1),
    ("peer_send", 10),
    ("peer_send", 3000),
    ("peer_send", 40_000),
    ("peer_read",),
    ("peer_read",),
    ("peer_eof",),
    ("peer_close",),
    ("peer_reset",),
]
TLS_PEER: list[tuple[Any, ...]] = [("peer_garbage", 7), ("peer_close_notify",), ("peer_close_notify",)]
PROTOCOL: list[tuple[Any, ...]] = [("set_protocol", False), ("set_protocol", True)]
RAW: list[tuple[Any, ...]] = [
    ("add_reader",),
    ("remove_reader",),
    ("add_writer",),
    ("remove_writer",),
    ("sock_recv", 1),
    ("sock_recv", 100),
    ("sock_recv_into", 5),
    ("sock_sendall", 1),
    ("sock_sendall", 1_000_000),
    ("sock_sendall", 0),
    ("cancel_task",),
]
LOOP: list[tuple[Any, ...]] = [
    *(("call_soon", tag) for tag in "xyz"),
    *(("call_later", tag, time) for tag, time in (("t", 0), ("u", 2), ("v", 4), ("w", 7), ("t", 0))),
    *(("call_soon_threadsafe", tag) for tag in "pq"),
    *(("cancel", tag) for tag in "xytup"),
    ("stop",),
]
# By the real clock, what comes first of a timer and the data of a peer is chance, unless the timer is due at once.
SURE = [call for call in LOOP if call[0] != "call_later" or call[2] == 0]

# What can be called on each kind of connection.
CALLS: dict[str, list[tuple[Any, ...]]] = dict.fromkeys(
    STREAMS, WRITES + LIMITS + ENDS + QUESTIONS + READING + PEER + PROTOCOL
)
for kind in ("tcp", "unix", "accepted"):
    CALLS[kind] = CALLS[kind] + [("start_tls", False), ("start_tls", True)]
for kind in ("tls-client", "tls-server"):
    CALLS[kind] = CALLS[kind] + TLS_PEER
for kind in ("udp", "udp-free", "unix-datagram"):
    sends: list[tuple[Any, ...]] = [("sendto", size) for size in (1, 10, 3000, 0, 70_000)] + [("sendto", 1, "wrong")]
    CALLS[kind] = sends * 2 + LIMITS + [("close",), ("abort",)] + QUESTIONS[:1] + QUESTIONS[2:4] + PEER[:6] + PEER[7:8]
CALLS["read-pipe"] = [("close",), *READING, *QUESTIONS[:1], *PROTOCOL[:1], *PEER[:4], *PEER[6:8]]
CALLS["write-pipe"] = WRITES + LIMITS + ENDS + QUESTIONS[:5] + PROTOCOL[:1] + PEER[4:6] + PEER[7:8]
CALLS["raw"] = RAW + PEER[:8]

STREAM_METHODS = [
    "data_received",
    "connection_made",
    "eof_received",
    "pause_writing",
    "resume_writing",
    "connection_lost",
    "factory",
    "get_buffer",
]
METHODS: dict[str, list[str]] = dict.fromkeys(STREAMS, STREAM_METHODS)
for kind in ("tls-client", "tls-server"):
    # When a layer asks for a buffer is its own affair.
    METHODS[kind] = STREAM_METHODS[:-1]
for kind in ("udp", "udp-free", "unix-datagram"):
    METHODS[kind] = [
        "datagram",
        "connection_made",
        "error_received",
        "pause_writing",
        "resume_writing",
        "connection_lost",
    ]
METHODS["read-pipe"] = STREAM_METHODS[:3] + ["connection_lost"]
METHODS["write-pipe"] = ["connection_made", "pause_writing", "resume_writing", "connection_lost"]
METHODS["raw"] = ["reader", "writer"]

WAITS = st.sampled_from([Wait("quiet"), Wait("turn"), Wait("quiet")])


def calls(kinds: dict[str, str], on_loop: list[tuple[Any, ...]]) -> st.SearchStrategy[Do]:
    """A call on one of these connections, or of the loop."""
    choices = {name: CALLS[kind] for name, kind in kinds.items()}
    on_connections = [st.sampled_from([Do(name, what, tuple(args)) for what, *args in choices[name]]) for name in kinds]
    of_loop = st.sampled_from([Do("loop", what, tuple(args)) for what, *args in on_loop])
    return st.one_of(*on_connections, *on_connections, of_loop)


def scripts(kinds: dict[str, str], inner: st.SearchStrategy[Do], errors: tuple[str, ...]) -> st.SearchStrategy[When]:
    methods = [(name, method) for name, kind in kinds.items() for method in METHODS[kind]] + [("loop", "callback")]

    @st.composite
    def script(draw: Any) -> When:
        name, method = draw(st.sampled_from(methods))
        does = tuple(draw(st.lists(inner, max_size=3)))
        raises = draw(st.one_of(st.none(), st.sampled_from(errors)))
        returns = None
        if method == "eof_received":
            returns = draw(st.sampled_from([None, True, False]))
        elif method == "get_buffer":
            returns = draw(st.sampled_from([None, 0, -1]))
        return When(name, method, does, raises, returns)

    return script()


@st.composite
def programs(draw: Any, kinds: tuple[str, ...], exits: bool = False) -> Program:
    """A program with one connection or two, which are opened first."""
    drawn = {name: draw(st.sampled_from(kinds)) for name in draw(st.sampled_from([["a"], ["a", "b"]]))}
    errors = ERRORS + EXITS * 3 if exits else ERRORS
    takes_clock = draw(st.booleans())
    call = calls(drawn, LOOP if takes_clock else SURE)
    script = scripts(drawn, call, errors)
    steps: list[Any] = [Do("loop", "take_clock")] if takes_clock else []
    # What connection_made does has to be said before.
    steps += draw(st.lists(script, max_size=2))
    for name, kind in drawn.items():
        steps.append(Do(name, "open", (kind, draw(st.booleans()))))
    steps.append(draw(WAITS))
    steps += draw(st.lists(st.one_of(call, call, call, WAITS, script), max_size=16))
    return tuple(steps)
