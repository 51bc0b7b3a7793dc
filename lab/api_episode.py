"""Plays episodes of `api.py` in a process that may crash: `api_episode.py SEED SECONDS EPISODES TRACE`.

The trace is a file with the number of each episode and a line for each call, written before it is made. "done" is its
last line if nothing failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import faulthandler
import gc
import inspect
import logging
import os
import pickle
import random
import signal
import sys
import threading
import time
import types
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

LAB = Path(__file__).resolve().parent
sys.path.append(str(LAB.parent / "tests"))

from program_connections import KINDS  # noqa: E402
from program_world import World  # noqa: E402

import rloop  # noqa: E402
from rloop import _policy, _rloop  # noqa: E402

CALLS = 80
# A call that takes longer is interrupted, as by Ctrl-C.
PATIENCE = 0.5
CLASSES = [value for value in vars(_rloop).values() if isinstance(value, type)] + [rloop.Loop]
# These wait for events that nobody will cause, or end the process by right.
LEFT_OUT = {"run_forever", "run_until_complete", "_run_once", "next", "subprocess_shell", "subprocess_exec"}
OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "repr": repr,
    "hash": hash,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "iter": iter,
    "len": len,
    "bool": bool,
    "weakref": weakref.ref,
    "dir": dir,
    "vars": vars,
    "size": sys.getsizeof,
    "referents": gc.get_referents,
    "equal": lambda thing: thing == thing,
    "less": lambda thing: thing < thing,
    "next": next,
    "call": lambda thing: thing(),
    "new": lambda thing: half_made(type(thing)),
    "init": lambda thing: thing.__init__(),
    "init with junk": lambda thing: thing.__init__(1, 2, 3),
    "del dict": lambda thing: thing.__dict__.clear(),
}


class Late(BaseException):
    """Raised by the alarm in a call that takes too long."""


class Episode:
    """One loop, what is made on it, and the calls of them."""

    def __init__(self, number: int, trace: TextIO) -> None:
        self.random = random.Random(number)
        self.trace = trace
        self.depth = 0
        factory = self.random.choice([rloop.new_event_loop, rloop.Loop, Subclass])
        self.loop = factory()
        self.world = World(self.loop)
        self.loop.set_exception_handler(lambda loop, context: self.check(context.get("exception")))
        # What can be called, by its type. A type is chosen first, so that each has the same share of the calls.
        self.things: dict[str, list[Any]] = {}
        for thing in [self.loop, _policy.EventLoopPolicy(), *map(half_made, CLASSES)]:
            self.made(thing)
        # Methods of protocols, and the callbacks of the loop, make a call each.
        self.world.call = lambda on, method: self.inner()  # type: ignore[method-assign]

    # --- what a call gets ---

    def junk(self) -> Any:
        choice = self.random.randrange(12)
        if choice < 5:
            return self.random.choice(VALUES)
        if choice < 7:
            return Evil(self)
        if choice < 8:
            return self.inner
        if choice < 9:
            return [self.random.choice(VALUES) for _ in range(self.random.randrange(3))]
        return self.thing()

    def thing(self) -> Any:
        return self.random.choice(self.things[self.random.choice(list(self.things))])

    def arguments(self, method: Any) -> tuple[list[Any], dict[str, Any]]:
        """Junk for a call, mostly as many values as the method wants."""
        count = self.random.choice([0, 1, 1, 2, 3, 4])
        if self.random.random() < 0.7:
            with contextlib.suppress(Exception):
                parameters = inspect.signature(method).parameters.values()
                count = sum(parameter.default is parameter.empty for parameter in parameters)
        args = [self.junk() for _ in range(count)]
        names = ["context", "when", "sock", "ssl", "flags", "high", "low", "nothing", "server_side", "backlog"]
        keywords = {self.random.choice(names): self.junk()} if self.random.random() < 0.15 else {}
        return args, keywords

    # --- calls ---

    def step(self) -> None:
        """One random call."""
        thing = self.thing()
        kind = self.random.randrange(20)
        if kind < 10:
            self.call_method(thing, type(thing) if kind < 2 else thing)
        elif kind < 13:
            name = self.random.choice(list(OPERATIONS))
            if not (name == "call" and isinstance(thing, type)):
                self.attempt(f"{name} of {kind_of(thing)}", OPERATIONS[name], thing)
        elif kind < 15:
            self.attribute(thing)
        elif kind < 16:
            self.made(self.attempt("call_soon", rloop.Loop.call_soon, self.loop, self.inner))
        elif kind < 17:
            self.made(
                self.attempt("call_later", rloop.Loop.call_later, self.loop, self.random.random() / 1000, self.inner)
            )
        elif kind < 18:
            self.attempt("gc", gc.collect)
        elif kind < 19:
            self.in_a_thread()
        else:
            made = self.attempt("class", self.random.choice(CLASSES), *self.arguments(None)[0])
            self.made(made)

    def call_method(self, thing: Any, owner: Any) -> None:
        names = [name for name in names_of(owner) if name not in LEFT_OUT]
        if not names:
            return
        name = self.random.choice(names)
        method = self.attempt(f"get {kind_of(thing)}.{name}", getattr, owner, name, None)
        args, keywords = self.arguments(method)
        if owner is not thing:
            # The method of the class, with anything as its `self`.
            args[:1] = [self.random.choice([self.thing(), self.thing(), *VALUES])]
        if callable(method):
            said = ", ".join(kind_of(value) for value in args)
            self.made(self.attempt(f"{kind_of(thing)}.{name}({said}) {list(keywords)}", method, *args, **keywords))

    def attribute(self, thing: Any) -> None:
        names = names_of(thing)
        if not names or isinstance(thing, type):
            return
        name = self.random.choice(names)
        if self.random.random() < 0.5:
            self.attempt(f"get {kind_of(thing)}.{name}", getattr, thing, name)
        elif self.random.random() < 0.5:
            value = self.junk()
            self.attempt(f"set {kind_of(thing)}.{name} = {kind_of(value)}", setattr, thing, name, value)
        else:
            self.attempt(f"del {kind_of(thing)}.{name}", delattr, thing, name)

    def in_a_thread(self) -> None:
        """A call from another thread, while this one waits or goes on."""
        thread = threading.Thread(target=self.inner, daemon=True)
        self.note("thread")
        thread.start()
        if self.random.random() < 0.7:
            thread.join(PATIENCE)

    def inner(self, *args: Any, **keywords: Any) -> Any:
        """A call inside another one."""
        if self.depth >= 4:
            return None
        self.depth += 1
        try:
            self.step()
        finally:
            self.depth -= 1
        if self.random.random() < 0.2:
            raise ZeroDivisionError("raised in a callback")
        return self.random.choice([None, True, 7, b"bytes", "text"])

    def made(self, thing: Any) -> None:
        """Keeps what a call has made, for later calls."""
        if isinstance(thing, types.CoroutineType):
            with contextlib.suppress(Exception):
                self.world.tasks["api"].append(self.loop.create_task(thing))
        elif type(thing).__module__.startswith(("rloop", "asyncio", "_asyncio")) or any(
            thing is cls for cls in CLASSES
        ):
            of_its_kind = self.things.setdefault(kind_of(thing), [])
            if len(of_its_kind) > 6:
                of_its_kind.pop(self.random.randrange(7))
            of_its_kind.append(thing)

    def attempt(self, said: str, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        """Makes a call that may raise anything but what no call may raise."""
        self.note(said)
        if threading.current_thread() is threading.main_thread():
            # Again and again, because what a call makes of the loop may be that its next turn never ends.
            signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)
        try:
            return function(*args, **keywords)
        except BaseException as exc:
            self.check(exc)
            return None

    def note(self, said: str) -> None:
        self.trace.write(f"{'  ' * self.depth}{said}\n")
        self.trace.flush()

    def check(self, exc: BaseException | None) -> None:
        if exc is not None and is_bad(exc):
            # At once, so that the last line of the trace is the call that is wrong.
            self.note("that was wrong")
            os.write(2, f"{type(exc).__name__}: {exc}\n".encode())
            os._exit(1)

    # --- the course ---

    async def open_some(self) -> None:
        self.world.begin_looking()
        for name in "abc"[: self.random.randrange(4)]:
            self.world.do_open(name, self.random.choice(KINDS), self.random.random() < 0.3)
        for _ in range(10):
            self.world.pump()
            await asyncio.sleep(0)
        for transport in self.world.transports.values():
            self.made(transport)
        self.made(await self.loop.create_server(lambda: asyncio.Protocol(), "127.0.0.1", 0))

    async def play(self) -> None:
        await self.open_some()
        for _ in range(CALLS):
            self.step()
            if self.random.random() < 0.2:
                with contextlib.suppress(Exception):
                    self.world.pump()
                await asyncio.sleep(0)

    def run(self) -> None:
        """Calls inside the running loop, then outside of it, then after its end."""
        self.turns(self.play(), 60)
        for _ in range(10):
            self.step()
        self.attempt("close", rloop.Loop.close, self.loop)
        for _ in range(20):
            self.step()
        for connection in self.world.connections.values():
            with contextlib.suppress(Exception):
                connection.peer.close()
                connection.near.close()

    def turns(self, coroutine: Any, most: int) -> None:
        """Runs the loop until the coroutine is over; whatever the calls do to the loop, not for ever."""
        try:
            task = self.loop.create_task(coroutine)
        except BaseException as exc:
            self.check(exc)
            coroutine.close()
            return
        for _ in range(most):
            # Not the loop's attribute: a call may have replaced that by junk.
            if task.done() or rloop.Loop.is_closed(self.loop):
                break
            self.attempt("a turn", self.one_turn)
        if not task.done() and not coroutine.cr_running:
            coroutine.close()

    def one_turn(self) -> None:
        rloop.Loop.call_later(self.loop, 0.01, rloop.Loop.stop, self.loop)
        rloop.Loop.run_forever(self.loop)


class Subclass(rloop.Loop):
    """A loop of a program's own."""


class Evil:
    """Makes a call whenever it is used, also when it is destroyed."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode

    def act(self, *args: Any, **keywords: Any) -> Any:
        return self.episode.inner()

    def __del__(self) -> None:
        with contextlib.suppress(ZeroDivisionError):
            self.episode.inner()

    __call__ = __eq__ = __lt__ = __bool__ = __index__ = __float__ = __int__ = __len__ = act  # type: ignore[assignment]
    __iter__ = __getattr__ = __bytes__ = __await__ = __add__ = __radd__ = fileno = act

    def __hash__(self) -> int:
        self.act()
        return 1


def function(*args: Any, **keywords: Any) -> None:
    """A callback that does nothing."""


VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 1000, 2**31, 2**64, -(2**64), 1.5, float("nan"), float("inf"), 0.001),
    *("", "text", "127.0.0.1", b"", b"bytes", bytearray(10), memoryview(b"x"), memoryview(bytes(8))[::2]),
    *((), [], {}, ("127.0.0.1", 1), object(), function, int, asyncio.Protocol, asyncio.Protocol()),
    *(asyncio.BufferedProtocol(), asyncio.DatagramProtocol(), sys, ValueError, ValueError("x"), KeyError),
]


def half_made(cls: Any) -> Any:
    """An object of the class whose `__init__` was not called, or the class where it refuses that."""
    try:
        return cls.__new__(cls)
    except TypeError:
        return cls


def kind_of(thing: Any) -> str:
    return thing.__name__ if isinstance(thing, type) else type(thing).__name__


def names_of(thing: Any) -> list[str]:
    """The attributes of something, private ones included."""
    names = [name for kind in type.mro(thing if isinstance(thing, type) else type(thing)) for name in vars(kind)]
    return sorted({name for name in names if not name.startswith("__")})


def is_bad(exc: BaseException) -> bool:
    """What no call may raise: a panic, what CPython raises for a broken extension, and a second borrow."""
    texts = ("already borrowed", "already mutably borrowed", "internal error")
    return "Panic" in type(exc).__name__ or isinstance(exc, SystemError) or any(text in str(exc) for text in texts)


def main() -> None:
    first, seconds, most, path = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    warnings.simplefilter("ignore")
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)

    def late(*args: Any) -> None:
        raise Late

    signal.signal(signal.SIGALRM, late)
    # Before `api.py` ends a process that hangs, it shows where.
    faulthandler.dump_traceback_later(seconds + 30, exit=True)
    deadline = time.monotonic() + seconds
    with open(path, "w", encoding="utf-8", errors="replace") as trace:
        for number in range(first, first + min(most, 1000)):
            if time.monotonic() > deadline:
                break
            trace.write(f"episode {number}\n")
            play(number, trace)
        trace.write("done\n")
        trace.flush()
        os._exit(0)


def play(number: int, trace: TextIO) -> None:
    episode = Episode(number, trace)

    def watch(args: Any) -> None:
        episode.check(args.exc_value)

    sys.unraisablehook = threading.excepthook = watch
    with contextlib.suppress(Late):
        episode.run()
    signal.setitimer(signal.ITIMER_REAL, 0)
    asyncio._set_running_loop(None)
    gc.collect()


if __name__ == "__main__":
    main()
