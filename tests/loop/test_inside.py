"""What programs find that look inside a loop: `_ready`, `_scheduled`, `_thread_id`, `_run_once`, `_selector`."""

import asyncio
import gc
import heapq
import selectors
import socket
import threading
import time
import weakref
from typing import Any

import pytest

from support.turns import turn


def times(handles):
    return [handle.when() for handle in handles]


# --- timers ---


def test_timers_that_wait(loop):
    assert not loop._scheduled and len(loop._scheduled) == 0 and list(loop._scheduled) == []
    start = loop.time()
    late, early = loop.call_later(2000, print), loop.call_at(start + 1000, print)
    scheduled = loop._scheduled
    assert scheduled and len(scheduled) == 2
    assert scheduled[0] is early
    assert set(scheduled) == {early, late} and early in scheduled
    assert sorted(times(scheduled)) == [start + 1000, late.when()]
    assert all(isinstance(timer, asyncio.TimerHandle) for timer in scheduled)
    middle = loop.call_later(1500, print)
    assert len(scheduled) == 3 and middle in scheduled, "it is not a copy"
    assert isinstance(scheduled, list)


def test_timers_are_cancelled_by_whoever_finds_them(loop):
    """Home Assistant does this when it stops."""
    fired = []
    for delay in 0, 0.001, 0.002:
        loop.call_later(delay, fired.append, delay)
    keep = loop.call_later(0.003, fired.append, "kept")
    for timer in loop._scheduled:
        if timer is not keep:
            timer.cancel()
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == [keep]
    loop.run_until_complete(asyncio.sleep(0.01))
    assert fired == ["kept"]
    assert not loop._scheduled


def test_timers_are_run_early_by_whoever_finds_them(loop):
    """The tests of Home Assistant do this to move the time."""
    fired = []
    loop.call_later(1000, fired.append, "due")
    loop.call_later(5000, fired.append, "later")
    now = loop.time() + 2000
    for timer in list(loop._scheduled):
        if not timer.cancelled() and timer.when() <= now:
            timer._run()
            timer.cancel()
    assert fired == ["due"]
    turn(loop)
    assert fired == ["due"]


def test_timers_taken_out_of_the_heap(loop):
    fired = []
    timers = [loop.call_later(delay, fired.append, delay) for delay in (0.003, 0.001, 0.002)]
    first = heapq.heappop(loop._scheduled)
    assert first is timers[1] and not loop.is_closed()
    assert loop._scheduled[0] is timers[2]
    assert first not in loop._scheduled
    loop.run_until_complete(asyncio.sleep(0.01))
    assert fired == [0.002, 0.003]
    del loop._scheduled[:]
    timer = loop.call_later(0.001, fired.append, "removed")
    loop._scheduled.remove(timer)
    with pytest.raises(ValueError):
        loop._scheduled.remove(timer)
    loop.run_until_complete(asyncio.sleep(0.01))
    assert fired == [0.002, 0.003]
    heapq.heappush(loop._scheduled, timer)
    assert list(loop._scheduled) == [timer]
    loop._scheduled.clear()
    assert not loop._scheduled


def test_timers_replaced(loop):
    fired = []
    timers = [loop.call_later(0.001 * n, fired.append, n) for n in range(4)]
    loop._scheduled = [timer for timer in loop._scheduled if timer is not timers[2]]
    heapq.heapify(loop._scheduled)
    loop.run_until_complete(asyncio.sleep(0.02))
    assert fired == [0, 1, 3]


# --- what is ready ---


def test_handles_that_are_ready(loop):
    assert not loop._ready and len(loop._ready) == 0
    ran = []
    handles = [loop.call_soon(ran.append, n) for n in range(3)]
    assert len(loop._ready) == 3 and loop._ready
    assert list(loop._ready) == handles and handles[1] in loop._ready and loop._ready[-1] is handles[2]
    assert all(isinstance(handle, asyncio.Handle) for handle in loop._ready)
    assert loop._ready.popleft() is handles[0]
    assert loop._ready.pop() is handles[2]
    loop._ready.append(handles[0])
    loop._ready.appendleft(handles[2])
    assert list(loop._ready) == [handles[2], handles[1], handles[0]]
    turn(loop)
    assert ran == [2, 1, 0]
    with pytest.raises(IndexError):
        loop._ready.popleft()


def test_ready_handles_removed(loop):
    ran = []
    for n in range(4):
        loop.call_soon(ran.append, n)
    loop._ready.remove(loop._ready[1])
    turn(loop)
    assert ran == [0, 2, 3]
    loop.call_soon(ran.append, "dropped")
    loop._ready.clear()
    handles = [asyncio.Handle(ran.append, (n,), loop) for n in range(4)]
    handles[1].cancel()
    loop._ready.extend(handles[:2])
    loop._ready.extendleft(handles[2:])
    turn(loop)
    assert ran == [0, 2, 3, 3, 2, 0], "asyncio's own handles run as well"
    loop._add_callback(asyncio.Handle(ran.append, ("added",), loop))
    turn(loop)
    assert ran[-1] == "added"


def test_ready_from_another_thread(loop):
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(loop.stop,))
    thread.start()
    thread.join()
    assert len(loop._ready) == 1
    loop.run_forever()


@pytest.mark.parametrize("loop_name", ["rloop"], indirect=True)
def test_an_event_taken_out_of_the_queue(loop):
    """Within a turn, events of the poll wait in the queue beside the handles. asyncio then misses the handle."""
    left, right = socket.socketpair()
    left.setblocking(False)
    seen = []

    def look():
        seen.append(len(loop._ready))
        handles = [loop._ready.popleft() for _ in range(len(loop._ready))]
        for handle in handles:
            handle._run()

    with left, right:
        right.send(b"x")
        loop.add_reader(left, lambda: seen.append(left.recv(10)))  # type: ignore[arg-type]
        loop._ready.append(asyncio.Handle(look, (), loop))
        turn(loop)
        turn(loop)
        loop.remove_reader(left)
    assert seen == [1, b"x"]


@pytest.mark.parametrize("loop_name", ["rloop"], indirect=True)
@pytest.mark.parametrize("drop", ["popped", "cancelled", "cleared"])
def test_an_event_that_is_dropped_comes_again(loop, drop):
    """asyncio's selector would find the event again as well, but there the turn misses the handle."""
    left, right = socket.socketpair()
    received = []

    class Protocol(asyncio.Protocol):
        data_received = received.append  # type: ignore[assignment]

    def look():
        if drop == "cleared":
            loop._ready.clear()
        elif drop == "popped":
            loop._ready.popleft()
        else:
            loop._ready[0].cancel()

    with right:
        transport, _ = loop.run_until_complete(loop.create_connection(Protocol, sock=left))
        turn(loop)
        right.send(b"x")
        loop.call_soon(look)
        turn(loop)
        turn(loop)
        turn(loop)
        assert received == [b"x"]
        transport.close()
        turn(loop)


# --- turns ---


def test_turns_one_by_one(loop):
    """A program runs turns of a loop by itself, until nothing is left."""
    ran = []
    loop.call_soon(ran.append, "soon")
    loop.call_soon(loop.call_soon, ran.append, "next turn")
    loop.call_later(0.01, ran.append, "timer")
    loop._run_once()
    assert ran == ["soon"]
    while loop._ready or loop._scheduled:
        loop._run_once()
    assert ran == ["soon", "next turn", "timer"]


def test_turns_of_a_subclass(loop_factory, loop):
    """If a subclass or one loop has a `_run_once` of its own, it is called for each turn."""
    turns = []

    base: Any = type(loop)

    class Loop(base):
        def _run_once(self):
            turns.append(1)
            super()._run_once()

    other = Loop()
    other.run_until_complete(asyncio.sleep(0.001))
    other.close()
    assert len(turns) >= 3
    own = loop._run_once
    loop._run_once = lambda: (turns.append(2), own())
    turn(loop)
    turn(loop)
    assert turns[-2:] == [2, 2]


def test_turns_within_a_callback(loop):
    ran = []

    def callback():
        loop.call_soon(ran.append, "inner")
        loop._run_once()
        ran.append("outer")

    loop.call_soon(callback)
    turn(loop)
    assert ran == ["inner", "outer"]


@pytest.mark.parametrize("loop_name", ["rloop"], indirect=True)
def test_a_turn_within_a_turn_takes_what_that_had_counted(loop):
    """On asyncio the outer turn ends with an IndexError."""
    ran = []

    def callback():
        loop._run_once()
        ran.append("outer")

    loop.call_soon(callback)
    loop.call_soon(ran.append, "counted")
    turn(loop)
    assert ran == ["counted", "outer"]


def test_thread_of_a_running_loop(loop):
    def look():
        return loop.__dict__.get("_thread_id"), loop._thread_id

    async def main():
        return look(), await asyncio.to_thread(look)

    own = threading.get_ident()
    assert look() == (None, None)
    assert loop.run_until_complete(main()) == ((own, own), (own, own))
    assert look() == (None, None)


# --- the selector ---


def test_wait_by_the_selector(loop):
    left, right = socket.socketpair()
    left.setblocking(False)
    read = []
    with left, right:
        loop.add_reader(left, lambda: read.append(left.recv(10)))
        assert loop._selector.select(0) == []
        start = time.monotonic()
        assert loop._selector.select(0.05) == []
        assert time.monotonic() - start >= 0.05
        right.send(b"x")
        events = loop._selector.select(5)
        assert [(key.fd, mask) for key, mask in events] == [(left.fileno(), selectors.EVENT_READ)]
        loop._process_events(events)
        assert len(loop._ready) == 1
        loop._ready.popleft()._run()
        assert read == [b"x"]
        key = loop._selector.get_key(left)
        assert (key.fd, key.events, key.data[1]) == (left.fileno(), selectors.EVENT_READ, None)
        assert isinstance(key.data[0], asyncio.Handle)
        assert left.fileno() in loop._selector.get_map()
        loop.remove_reader(left)
        with pytest.raises(KeyError):
            loop._selector.get_key(left)


def test_select_in_the_place_of_the_loops(loop):
    """looptime does this: every turn of the loop waits in the program's function, until the program removes it."""
    original, timeouts = loop._selector.select, []

    def select(timeout=None):
        timeouts.append(timeout)
        return original(0)

    async def main():
        loop._selector.select = select
        ready = loop.create_future()
        loop.call_later(0.02, ready.set_result, None)
        await ready
        await asyncio.sleep(0)
        loop._selector.select = original
        await asyncio.sleep(0.01)

    loop.run_until_complete(main())
    assert timeouts.count(0) >= 1
    assert any(timeout and 0 < timeout <= 0.02 for timeout in timeouts)
    assert all(timeout is not None for timeout in timeouts)
    count = len(timeouts)
    loop.run_until_complete(asyncio.sleep(0.001))
    assert len(timeouts) == count


def test_selector_wakes_for_another_thread(loop):
    timer = threading.Timer(0.05, loop.call_soon_threadsafe, (print,))
    timer.start()
    assert loop._selector.select(10)
    timer.join()
    assert loop._process_events([]) is None
    loop._ready.clear()


def test_a_loop_that_was_looked_into_is_collected(loop_factory):
    loop = loop_factory()
    loop._selector.get_map()
    loop.call_later(1000, print)
    assert len(loop._scheduled) == 1 and not loop._ready
    loop.close()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None


# --- a time of the program's own ---


def test_time_replaced_on_one_loop(loop, loop_factory):
    fired, real = [], loop.time
    loop.call_later(100, fired.append, "before")
    turn(loop)
    assert fired == []
    loop.time = lambda: real() + 200
    loop.call_later(100, fired.append, "after")
    before = real()
    handle = loop.call_later(100, fired.append, "never")
    assert before + 300 <= handle.when() <= real() + 300
    turn(loop)
    assert fired == ["before"]
    loop.time = lambda: real() + 350
    handle.cancel()
    turn(loop)
    assert fired == ["before", "after"]
    del loop.time
    before = real()
    assert before + 100 <= loop.call_later(100, print).when() <= real() + 100
    other = loop_factory()
    before = real()
    assert before <= other.time() <= real()
    other.close()


async def test_time_replaced_while_the_loop_runs():
    loop = asyncio.get_running_loop()
    real, fired = loop.time, loop.create_future()
    loop.call_later(100, fired.set_result, "fired")
    loop.time = lambda: real() + 200  # type: ignore[method-assign]
    try:
        assert await asyncio.wait_for(fired, 100) == "fired"
    finally:
        del loop.time


def test_call_at_replaced_on_one_loop(loop):
    calls, original = [], loop.call_at
    loop.call_at = lambda when, *args, **kwargs: (calls.append(args), original(when, *args, **kwargs))[1]
    loop.call_later(0, calls.append, "fired")
    loop.run_until_complete(asyncio.sleep(0.01))
    assert "fired" in calls and (calls.append, "fired") in calls
    del loop.call_at


def test_class_replaced(loop):
    """looptime replaces the class of a loop by its own."""

    base: Any = type(loop)

    class Later(base):
        def time(self):
            return super().time() + 200

    fired = []
    loop.call_later(100, fired.append, "fired")
    turn(loop)
    assert fired == []
    loop.__class__ = Later
    turn(loop)
    assert fired == ["fired"]
    before = time.monotonic()
    assert before + 200 <= loop.call_later(0, print).when() <= time.monotonic() + 200


# asyncio's loop asks `time.monotonic`: there the sleep does not end.
@pytest.mark.parametrize("loop_name", ["rloop"], indirect=True)
def test_frozen_clock_of_python_stops_no_timer(loop, monkeypatch):
    """freezegun freezes the clock like this."""
    frozen = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: frozen)
    start = loop.time()
    loop.run_until_complete(asyncio.sleep(0.05))
    assert loop.time() - start >= 0.05
