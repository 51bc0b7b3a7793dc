"""What a TLS connection tells its program, written down so that two loops can be compared.

A scenario is a coroutine function that takes a `Setting` and plays one connection. `outcome` plays it on a new loop
of the given module and gives all that the program was told: the protocol's calls, the exceptions with all their
attributes, what reached the exception handler and the log. No test lives here.
"""

import asyncio
import contextlib
import functools
import inspect
import logging
import re
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from support import certificates
from support.loops import new_loop
from support.peers import PATIENCE, Recorder, noting, once_each, result_or_error, socket_pair
from support.tls_peers import BufferedRecorder, TlsPeer, connect, gone, tls_connection

# A short timeout, for closing when the peer does not answer. No outcome says how long anything took.
BRIEF = 0.05

# Everything that the program was told, by names that the scenario chooses.
Told = dict[str, Any]
Scenario = Callable[["Setting", Told], Coroutine[Any, Any, None]]


def described(exc: BaseException | None) -> dict[str, object] | None:
    """Everything that a program can know of an exception, except the line of C code that raised it."""
    if exc is None:
        return None
    seen = {"type": type(exc), "text": re.sub(r" ?\(_ssl\.c:\d+\)", "", str(exc))}
    for attribute in ("errno", "library", "reason", "verify_code", "verify_message"):
        if hasattr(exc, attribute):
            seen[attribute] = getattr(exc, attribute)
    return seen


class LogHandler(logging.Handler):
    """Keeps what asyncio logs. In debug mode it also warns of slow callbacks, which depend on the machine."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not str(record.msg).startswith("Executing "):
            self.lines.append((record.levelname, record.getMessage()))


@dataclass(frozen=True)
class Setting:
    """How to play a scenario: which side the loop is on, with which protocol class and which version of TLS."""

    server_side: bool
    version: ssl.TLSVersion
    base: type = Recorder

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """The loop's context and the peer's."""
        own = certificates.server_context if self.server_side else certificates.client_context
        other = certificates.client_context if self.server_side else certificates.server_context
        return own(version=self.version), other(version=self.version)

    @contextlib.asynccontextmanager
    async def connection(
        self,
        told: Told,
        base: Any = None,
        *,
        context: ssl.SSLContext | None = None,
        peer_context: ssl.SSLContext | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[tuple[Any, Any, TlsPeer]]:
        """A connection as (transport, protocol, peer). Afterwards `told` has what its protocol was told."""
        own, other = self.contexts()
        async with tls_connection(
            base or self.base,
            server_side=self.server_side,
            context=context or own,
            peer_context=peer_context or other,
            **kwargs,
        ) as (transport, protocol, peer):
            yield transport, protocol, peer
            lost = await protocol.lost
        told["calls"] = once_each(protocol.calls)
        told["data"] = bytes(protocol.data)
        told["lost"] = described(lost)


def outcome(loop_name: str, scenario: Scenario, setting: Setting) -> Told:
    """Everything that the program was told on a new loop of that module. Two such dicts can be compared."""
    told: Told = {}
    reports: list[dict[str, object]] = []
    log = LogHandler()

    def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        seen = {"message": context["message"], "exception": described(context.get("exception"))}
        if "handle" in context:  # "Exception in callback ..." names the loop's own functions
            seen["message"] = context["message"].split(" callback ")[0]
        reports.append(seen)

    loop = new_loop(loop_name)
    loop.set_exception_handler(report)
    logger = logging.getLogger("asyncio")
    logger.addHandler(log)
    try:
        loop.run_until_complete(scenario(setting, told))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        logger.removeHandler(log)
        loop.close()
    return {**told, "reports": reports, "log": log.lines}


SETTINGS = [
    pytest.param(Setting(side == "server", version, base), id=f"{side}-{kind}-{version.name[-3:]}")
    for side in ("client", "server")
    for kind, base, version in (
        ("plain", Recorder, certificates.TLS_1_2),
        ("plain", Recorder, certificates.TLS_1_3),
        ("buffered", BufferedRecorder, certificates.TLS_1_3),
    )
]


def scenarios_of(module: str) -> list[Any]:
    """The coroutine functions of a test module that are scenarios, as parameters."""
    values = list(vars(sys.modules[module]).values())
    return [
        pytest.param(value, id=value.__name__)
        for value in values
        if inspect.iscoroutinefunction(value)
        and value.__module__ == module
        and list(inspect.signature(value).parameters) == ["setting", "told"]
    ]


@functools.cache
def asyncio_outcome(scenario: Scenario, setting: Any) -> Told:
    return outcome("asyncio", scenario, setting)


def same_as_asyncio(loop_name: str, scenario: Scenario, setting: Setting, whole_data: bytes | None = None) -> Told:
    """Plays the scenario, and returns what was told: what is told on asyncio.

    Where asyncio itself is under test, it is compared with itself: what differs from one run to the next could not
    be asked of another loop. `whole_data`: what rloop delivers, where asyncio loses whole records that came together
    with a bad one.
    """
    seen, expected = outcome(loop_name, scenario, setting), dict(asyncio_outcome(scenario, setting))
    if loop_name != "asyncio":
        # asyncio's TLS does not count what it has given to the transport below, so that it pauses nobody for that.
        flow = ("pause_writing", "resume_writing")
        for told in (seen, expected):
            if "calls" in told:
                told["calls"] = [call for call in told["calls"] if call not in flow]
        if whole_data is not None:
            assert seen["data"] == whole_data
            received = ("data_received", "get_buffer", "buffer_updated")
            calls = [[call for call in told["calls"] if call not in received] for told in (seen, expected)]
            assert calls[0] == calls[1]
            expected = {**expected, "data": whole_data, "calls": seen["calls"]}
    assert seen == expected
    return seen


async def connect_error(setting: Any, told: Told, play: Callable[[TlsPeer], object], **kwargs: Any) -> None:
    """A handshake in which the peer does `play(peer)`, blocking and in a thread; what connecting raises is told."""
    own, other = setting.contexts()
    own, other = kwargs.pop("context", own), kwargs.pop("peer_context", other)
    kwargs.setdefault("ssl_handshake_timeout", PATIENCE)
    made: list[Any] = []

    near, far = socket_pair()
    with TlsPeer(far, other, server_side=not setting.server_side) as peer:
        task = asyncio.create_task(
            connect(noting(made, setting.base), near, server_side=setting.server_side, context=own, **kwargs)
        )
        await asyncio.to_thread(without_errors, play, peer)
        result = await result_or_error(task)
        if isinstance(result, BaseException):
            told["error"] = described(result)
        else:
            transport, protocol = result
            told["lost"] = described(await protocol.lost)
        await gone(near)
        told["calls"] = [once_each(protocol.calls) for protocol in made]


def without_errors(play: Callable[[TlsPeer], object], peer: TlsPeer) -> None:
    """Errors of the peer are left out, because a loop may send an alert where asyncio closes without one."""
    with contextlib.suppress(OSError):
        play(peer)
