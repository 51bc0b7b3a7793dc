"""Plays a program on one loop, and writes down what its protocols, callbacks, peers and calls were told.

Only what both loops promise is written down: the order of calls for each connection, bytes but not in which pieces they
came, results and exceptions by type and text, what the exception handler and the logger got. What is compared, and what
may differ, is in `programs.py`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import itertools
import logging
import os
import re
import signal
import ssl
import threading
from typing import Any

from program_connections import Connections
from program_steps import Do, Program, When

# A program that takes longer than this counts as hanging.
LIMIT = 10
# After so many rounds something happens for ever.
MOST_ROUNDS = 300

Outcome = dict[str, list[tuple[Any, ...]]]


class Hangs(SystemExit):
    """Raised by the alarm. A SystemExit leaves the loop."""


ERRORS: dict[str, Any] = {
    "ValueError": ValueError,
    "OSError": lambda text: OSError(5, text),
    "ConnectionResetError": lambda text: ConnectionResetError(104, text),
    "BrokenPipeError": lambda text: BrokenPipeError(32, text),
    "BlockingIOError": lambda text: BlockingIOError(11, text),
    "InterruptedError": lambda text: InterruptedError(4, text),
    "SSLError": lambda text: ssl.SSLError(1, text),
    "SSLWantReadError": lambda text: ssl.SSLWantReadError(2, text),
    "TimeoutError": TimeoutError,
    "CancelledError": asyncio.CancelledError,
    "StopIteration": StopIteration,
    "BaseException": BaseException,
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
}


def said(value: Any) -> str:
    """A result or an exception in a form that is the same on every loop."""
    if isinstance(value, BaseException):
        text = re.sub(r"<.*>", "<...>", f"{type(value).__name__}: {value}")
        return re.sub(r"\bfd[= ]\d+|descriptor \d+|0x[0-9a-f]+", "N", text)
    if value is None or isinstance(value, (bool, int, str)):
        return repr(value)
    if isinstance(value, (bytes, bytearray)):
        return short(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(said, value))})"
    return "a transport" if isinstance(value, asyncio.BaseTransport) else type(value).__name__


def short(data: bytes | bytearray) -> str:
    """Data as letters with how often each comes in a row. Records of TLS, which are never the same, are not shown."""
    if not re.fullmatch(rb"[A-Z]*", data):
        return "records"
    return " ".join(f"{chr(byte)}*{len(list(run))}" for byte, run in itertools.groupby(data))


class World(Connections):
    """One loop, its connections, and what was told."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.told: collections.defaultdict[str, list[tuple[Any, ...]]] = collections.defaultdict(list)
        self.scripts: collections.defaultdict[tuple[str, str], collections.deque[When]] = collections.defaultdict(
            collections.deque
        )
        self.handles: dict[str, Any] = {}
        self.tasks: dict[str, list[asyncio.Task[Any]]] = collections.defaultdict(list)
        self.timers = 0  # that are still to run
        # The loop's time in seconds, if the program has taken the clock over.
        self.now: float | None = None
        self.count = 0
        self.letters = itertools.cycle(range(65, 91))
        self.depth = 0

    # --- what was told ---

    def note(self, name: str, what: str, *details: Any) -> None:
        self.count += 1
        notes = self.told[name]
        if what == "data":
            if notes and notes[-1][0] == "data":
                notes[-1][1].extend(details[0])
            else:
                notes.append(("data", bytearray(details[0])))
            return
        notes.append((what, *(said(detail) for detail in details)))

    def outcome(self) -> Outcome:
        """Everything that was told, by name."""
        return {
            name: [("data", short(note[1])) if note[0] == "data" else note for note in notes]
            for name, notes in self.told.items()
        }

    def handle_exception(self, loop: Any, context: dict[str, Any]) -> None:
        message = re.sub(r"<.*>|0x[0-9a-f]+", "<...>", context["message"])
        keys = ",".join(sorted(set(context) - {"source_traceback"}))
        if message.startswith("Exception in callback"):
            # Which callback of its own a loop names is its own affair.
            message, keys = "Exception in callback", ""
        self.note("reports", message, said(context.get("exception")), keys)

    def log(self, record: logging.LogRecord) -> bool:
        self.note("log", record.levelname, re.sub(r"<.*>", "<...>", record.getMessage()))
        return False

    # --- calls ---

    def data(self, count: int) -> bytes:
        return bytes([next(self.letters)]) * count

    def call(self, on: str, method: str) -> Any:
        """What a protocol's method or a callback does when it is called."""
        scripts = self.scripts[on, method]
        if not scripts:
            return None
        script = scripts.popleft()
        self.depth += 1
        try:
            for step in script.does:
                # A script that calls what runs it would go on for ever.
                if self.depth < 5:
                    self.do(step)
        finally:
            self.depth -= 1
        if script.raises is not None:
            raise ERRORS[script.raises](f"raised in {method}")
        return script.returns

    def do(self, step: Do) -> None:
        """Make a call, and note how it ends."""
        try:
            result = self.method(step)(step.on, *step.args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            result = exc
        self.note(step.on, step.what, result)

    def do_from_outside(self, step: Do) -> None:
        """The same, by the program itself. The call may call a protocol, whose `pause_writing` for instance raises an
        exit. That leaves the call, and must not end the program.
        """
        try:
            self.do(step)
        except Hangs:
            raise
        except (SystemExit, KeyboardInterrupt) as exc:
            self.note(step.on, step.what, exc)

    def method(self, step: Do) -> Any:
        return getattr(self, f"do_{step.what}")

    # --- calls of the loop ---

    def do_take_clock(self, on: str) -> None:
        """From here on, time passes while the program waits until all is quiet, and not otherwise."""
        self.now = self.loop.time()
        self.loop.time = lambda: self.now  # type: ignore[method-assign,assignment,return-value]

    def callback(self, tag: str) -> None:
        self.note("loop", f"callback {tag}")
        self.call("loop", "callback")

    def timer(self, tag: str) -> None:
        self.timers -= 1
        self.handles.pop(tag, None)
        self.callback(tag)

    def do_call_soon(self, on: str, tag: str) -> None:
        self.handles[tag] = self.loop.call_soon(self.callback, tag)

    def do_call_later(self, on: str, tag: str, milliseconds: int) -> None:
        self.handles[tag] = self.loop.call_later(milliseconds / 1000, self.timer, tag)
        self.timers += 1

    def do_call_soon_threadsafe(self, on: str, tag: str) -> None:
        def post() -> None:
            self.handles[tag] = self.loop.call_soon_threadsafe(self.callback, tag)

        thread = threading.Thread(target=post)
        thread.start()
        thread.join()

    def do_cancel(self, on: str, tag: str) -> Any:
        handle = self.handles.get(tag)
        if handle is None:
            return "none"
        if isinstance(handle, asyncio.TimerHandle) and not handle.cancelled():
            self.timers -= 1
        handle.cancel()
        return handle.cancelled()

    def do_stop(self, on: str) -> None:
        self.loop.stop()

    def do_cancel_task(self, on: str) -> Any:
        return [task.cancel() for task in self.tasks[on]].count(True)

    def spawn(self, name: str, what: str, coroutine: Any) -> str:
        """Await something in a task; note what it gives."""

        async def run() -> None:
            try:
                result = await coroutine
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                result = exc
            self.note(name, f"{what} gives", result)

        self.tasks[name].append(self.loop.create_task(run()))
        return "begun"

    # --- playing ---

    async def play(self, program: Program) -> None:
        self.begin_looking()
        for step in program:
            if isinstance(step, When):
                self.scripts[step.on, step.method].append(step)
            elif isinstance(step, Do):
                self.do_from_outside(step)
            elif step.until == "turn":
                await asyncio.sleep(0)
            else:
                await self.quiet()
        await self.quiet()
        await self.finish()

    async def finish(self) -> None:
        """Ends what is left, and waits for it."""
        self.scripts.clear()
        for name in self.names():
            self.end(name)
        await self.quiet()
        for name in self.names():
            self.close_peer(name)
        await self.quiet()
        tasks = [task for tasks in self.tasks.values() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.quiet()
        for name in self.names():
            self.release(name)
        self.end_looking()

    async def quiet(self) -> None:
        """Waits until nothing happens any more: two rounds in which nobody was told anything."""
        quiet = rounds = 0
        while quiet < 2 or self.timers > 0:
            before = self.count
            moved = self.pump()
            await self.look()
            if self.timers > 0 and self.now is not None:
                self.now += 0.001
            elif self.timers > 0:
                await asyncio.sleep(0.001)
            quiet = 0 if moved or self.count != before else quiet + 1
            rounds += 1
            if rounds > MOST_ROUNDS:
                self.note("loop", "never quiet")
                return

    def begin_looking(self) -> None:
        self.bell = os.pipe()
        os.set_blocking(self.bell[0], False)

    def end_looking(self) -> None:
        for fd in self.bell:
            os.close(fd)

    async def look(self) -> None:
        """Returns when the loop has asked the kernel for all its files, and has called whoever was to hear of them."""
        heard = asyncio.Event()
        self.loop.add_reader(self.bell[0], heard.set)
        os.write(self.bell[1], b".")
        await heard.wait()
        self.loop.remove_reader(self.bell[0])
        os.read(self.bell[0], 100)
        await asyncio.sleep(0)


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def play(program: Program, factory: Any) -> Outcome:
    """Plays a program on a new loop."""
    loop = factory()
    world = World(loop)
    loop.set_exception_handler(world.handle_exception)
    logger = logging.getLogger("asyncio")
    logger.addFilter(world.log)

    def expire(signum: int, frame: Any) -> None:
        raise Hangs("hangs")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        task = loop.create_task(world.play(program))
        run(loop, task, world)
    except Hangs:
        world.note("loop", "hangs")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        logger.removeFilter(world.log)
        with contextlib.suppress(Exception):
            loop.close()
    return world.outcome()


def run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], world: World) -> None:
    """Runs the loop until the program is over. `stop()` and an exit end a run, and the next one goes on."""
    while not task.done():
        task.add_done_callback(lambda task: loop.stop())
        try:
            loop.run_forever()
        except Hangs:
            raise
        except (SystemExit, KeyboardInterrupt) as exc:
            world.note("loop", "left by", exc)
    task.result()


def still_open(program: Program, factory: Any) -> set[str]:
    """The files that a program leaves open on a loop."""
    gc.collect()
    before = open_files()
    play(program, factory)
    gc.collect()
    return open_files() - before
