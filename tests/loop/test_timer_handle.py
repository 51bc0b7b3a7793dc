"""TimerHandle, and when timers run: call_later and call_at."""

import asyncio
import math
import operator
import os
import random
import weakref
from decimal import Decimal
from fractions import Fraction

import pytest

from support.turns import turn, turn_until


class Thing:
    """Can be weakly referenced, which an object() cannot."""


def function(*args):
    pass


# --- the handle ---


def test_class(loop):
    for timer in loop.call_later(3600, function), loop.call_at(loop.time(), function):
        assert isinstance(timer, asyncio.TimerHandle)
        assert isinstance(timer, asyncio.Handle)


@pytest.mark.parametrize("when", [12345.678, 12345, Fraction(1, 3), 0, -1.5, 1e300, math.inf])
def test_when(loop, when):
    assert loop.call_at(when, function).when() == when


def test_when_of_call_later(loop):
    before = loop.time()
    timer = loop.call_later(3600, function)
    assert before + 3600 <= timer.when() <= loop.time() + 3600


COMPARISONS = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]


@pytest.mark.parametrize("compare", COMPARISONS)
@pytest.mark.parametrize("left, right", [(1000, 2000), (2000, 1000), (1000, 1000), (1000, 1000.0)])
def test_comparison_is_that_of_when(loop, compare, left, right):
    timers = loop.call_at(left, function, "argument"), loop.call_at(right, function, "argument")
    assert compare(*timers) is compare(left, right)


@pytest.mark.parametrize("call", [(print, "argument"), (function,)], ids=["callback", "arguments"])
def test_timers_of_one_time_differ_by_what_they_call(loop, call):
    first, second = loop.call_at(1000, function, "argument"), loop.call_at(1000, *call)
    results = {compare.__name__: compare(first, second) for compare in COMPARISONS}
    assert results == {"lt": False, "le": False, "gt": False, "ge": False, "eq": False, "ne": True}


def test_cancelled_timers_compare_by_when(loop):
    timers = [loop.call_at(when, function, when) for when in (1000, 1000, 2000)]
    timers[0].cancel()
    assert timers[0] != timers[1]
    timers[1].cancel()
    timers[2].cancel()
    assert timers[0] == timers[1]
    assert timers[0] < timers[2]


@pytest.mark.parametrize("other", [1000, "1000", None])
@pytest.mark.parametrize("name", ["__lt__", "__le__", "__gt__", "__ge__", "__eq__"])
def test_comparison_with_other_types(loop, name, other):
    timer = loop.call_at(1000, function)
    assert getattr(timer, name)(other) is NotImplemented
    assert timer != other
    with pytest.raises(TypeError, match="not supported between instances of"):
        timer < other  # noqa: B015


def test_comparison_with_a_plain_handle(loop):
    timer, handle = loop.call_at(1000, function), loop.call_soon(function)
    assert timer != handle
    with pytest.raises(TypeError):
        timer < handle  # noqa: B015


@pytest.mark.parametrize("when", [12345.678, 12345, Fraction(1, 3)])
def test_hash_is_that_of_when(loop, when):
    assert hash(loop.call_at(when, function)) == hash(when)


@pytest.mark.parametrize("when", [12345.678, 12345, Fraction(1, 3), 1e300])
def test_repr_is_that_of_asyncio(loop, when):
    # On one line, which the text names in debug mode.
    timer, reference = loop.call_at(when, function, 1), asyncio.TimerHandle(when, function, (1,), loop)
    assert repr(timer) == repr(reference)
    assert f"when={when}" in repr(timer)


@pytest.mark.parametrize("debug", [False, True])
def test_repr_of_cancelled(loop, debug):
    loop.set_debug(debug)
    timer = loop.call_at(12345.5, function)
    timer.cancel()
    assert repr(timer).startswith("<TimerHandle cancelled when=12345.5" + (" function()" if debug else ">"))


# --- when it runs ---


def test_order_is_that_of_the_deadlines(loop):
    ran = []
    for delay in (-1, -3, -2, 0, -2.5):
        loop.call_later(delay, ran.append, delay)
    turn(loop)
    assert ran == [-3, -2.5, -2, -1, 0]


def test_order_of_deadlines_to_come(loop):
    ran = []
    now = loop.time()
    for delay in (0.003, 0.001, 0.002, 0.0015):
        loop.call_at(now + delay, ran.append, delay)
    loop.call_at(now + 0.004, loop.stop)
    loop.run_forever()
    assert ran == [0.001, 0.0015, 0.002, 0.003]


def test_equal_deadlines_run_in_order_of_creation(loop, loop_name):
    if loop_name == "asyncio":
        pytest.skip("asyncio leaves this order undefined")
    ran = []
    when = loop.time()
    for number in range(1000):
        loop.call_at(when, ran.append, number)
    turn(loop)
    assert ran == list(range(1000))


@pytest.mark.parametrize("delay", [0, 1e-9, 1e-6, 0.0002, 0.0005, 0.001, 0.0011, 0.005, Fraction(1, 300)])
def test_never_early(loop, delay):
    early = []

    def check():
        if loop.time() < timer.when():
            early.append(timer.when() - loop.time())
        loop.stop()

    for _ in range(5):
        timer = loop.call_later(delay, check)
        loop.run_forever()
    assert early == []


@pytest.mark.parametrize("delay", [0, -5, -math.inf, False, math.nan, Fraction(-1, 2), -1e300])
def test_what_is_due_at_once_runs_in_the_next_turn(loop, delay):
    ran = []
    loop.call_later(delay, ran.append, 1)
    assert ran == []
    turn(loop)
    assert ran == [1]


@pytest.mark.parametrize("delay", [math.inf, 1e300, 10**12])
def test_far_deadlines_do_not_disturb_near_ones(loop, delay):
    ran = []
    timer = loop.call_later(delay, ran.append, "far")
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert ran == []
    timer.cancel()


def test_timer_created_by_a_timer_waits_for_the_next_turn(loop):
    ran = []
    loop.call_later(0, loop.call_later, -1, ran.append, 1)
    turn(loop)
    assert ran == []
    turn(loop)
    assert ran == [1]


def test_due_timers_run_after_what_was_ready(loop):
    ran = []
    loop.call_later(-1, ran.append, "timer")
    loop.call_soon(ran.append, "ready")
    turn(loop)
    assert ran == ["ready", "timer"]


def test_timers_survive_between_runs(loop):
    ran = []
    loop.call_later(0.001, ran.append, 1)
    loop.call_later(3600, ran.append, 2)
    turn(loop)
    loop.call_later(0.002, loop.stop)
    loop.run_forever()
    assert ran == [1]


@pytest.mark.parametrize(
    "schedule, error, message",
    [
        (lambda loop: loop.call_later(None, function), TypeError, "delay must not be None"),
        (lambda loop: loop.call_at(None, function), TypeError, "when cannot be None"),
        (lambda loop: loop.call_later("1", function), TypeError, "unsupported operand type"),
        (lambda loop: loop.call_later(Decimal(1), function), TypeError, "unsupported operand type"),
        (lambda loop: loop.call_later(10**400, function), OverflowError, "int too large to convert to float"),
        (lambda loop: loop.call_later(), TypeError, "delay"),
        (lambda loop: loop.call_later(1), TypeError, "callback"),
        (lambda loop: loop.call_at(), TypeError, "when"),
        (lambda loop: loop.call_at(1), TypeError, "callback"),
        (lambda loop: loop.call_later(1, function, key=2), TypeError, "key"),
        (lambda loop: loop.call_at(1, function, key=2), TypeError, "key"),
    ],
)
def test_misuse(loop, schedule, error, message):
    with pytest.raises(error, match=message):
        schedule(loop)


def test_arguments_by_keyword(loop):
    ran = []
    loop.call_later(delay=0, callback=lambda: ran.append("later"))
    loop.call_at(when=loop.time(), callback=lambda: ran.append("at"))
    turn(loop)
    assert ran == ["later", "at"]


@pytest.mark.parametrize("method", ["call_later", "call_at"])
def test_closed_loop(loop, method):
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        getattr(loop, method)(1, function)


# --- cancel ---


def test_cancel(loop):
    ran = []
    timers = [loop.call_later(-1, ran.append, number) for number in range(3)]
    timers[1].cancel()
    timers[1].cancel()
    turn(loop)
    assert ran == [0, 2]
    assert [timer.cancelled() for timer in timers] == [False, True, False]


@pytest.mark.parametrize("debug", [False, True])
def test_cancel_drops_callback_and_arguments_at_once(loop, debug):
    loop.set_debug(debug)
    argument, callback = Thing(), lambda argument: None
    gone = weakref.ref(argument), weakref.ref(callback)
    timer = loop.call_later(3600, callback, argument)
    del argument, callback
    timer.cancel()
    assert [ref() for ref in gone] == [None, None]


def test_cancel_by_another_timer_of_the_turn(loop):
    ran = []
    loop.call_later(-2, lambda: timer.cancel())  # type: ignore[has-type]
    timer = loop.call_later(-1, ran.append, 1)
    turn(loop)
    assert ran == []


def test_cancel_in_own_callback(loop):
    ran = []

    def callback():
        timer.cancel()
        ran.append(1)

    timer = loop.call_later(0, callback)
    turn(loop)
    assert ran == [1]
    assert timer.cancelled()


def test_cancel_the_earliest_of_a_waiting_loop(loop):
    timer = loop.call_later(0.001, loop.stop)
    loop.call_soon(timer.cancel)
    ran = []
    loop.call_later(0.002, lambda: (ran.append(1), loop.stop()))
    loop.run_forever()
    assert ran == [1]


def test_many_cancelled_in_any_order(loop):
    choice = random.Random(1)
    ran, timers = [], []
    now = loop.time()
    for when in choice.sample([now * part / 5000 for part in range(5000)], 5000):
        timers.append(loop.call_at(when, ran.append, when))
    choice.shuffle(timers)
    for timer in timers[:4000]:
        timer.cancel()
    turn(loop)
    assert ran == sorted(timer.when() for timer in timers[4000:])


def test_cancelled_timers_leave_nothing_behind(loop):
    refs = []
    for _ in range(100_000):
        timer = loop.call_later(3600, function)
        refs.append(weakref.ref(timer))
        timer.cancel()
    del timer
    turn_until(loop, lambda: not any(ref() for ref in refs))


# --- `when` as an object ---


class When(float):
    """Can be weakly referenced, and have attributes."""


def test_the_finalizer_of_when_may_use_the_loop(loop):
    """There are more timers at once than the loop keeps for use again."""
    left, ran = [], []

    class Scheduling(float):
        def __del__(self):
            left.append(loop.call_soon(ran.append, None))

    for _ in range(9000):
        loop.call_at(Scheduling(loop.time()), function)
    turn_until(loop, lambda: len(ran) == 9000)
    assert len(left) == 9000


@pytest.mark.parametrize("end", ["run", "cancel"])
def test_when_goes_with_the_timer(loop, end):
    when = When(loop.time())
    gone = weakref.ref(when)
    timer = loop.call_at(when, function)
    if end == "cancel":
        timer.cancel()
    assert timer.when() is when
    turn(loop)
    assert timer.when() is when
    del when, timer
    turn(loop)
    assert gone() is None


@pytest.mark.parametrize("end", ["pending", "cancel"])
def test_a_cycle_through_when_and_an_unclosed_loop_is_collected(child, end):
    result = child(f"""
        import gc, warnings, weakref
        warnings.simplefilter("ignore")
        class Loop(type(new_event_loop())): pass
        class When(float): pass
        loop, when = Loop(), When(3600.0)
        when.loop = loop
        timer = loop.call_at(when, print)
        if {end!r} == "cancel":
            timer.cancel()
        gone = weakref.ref(loop)
        del loop, when, timer
        gc.collect()
        print(gone())
    """)
    assert result.stdout == "None\n", result.stderr


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_cancelled_timers_do_not_grow_the_process(child):
    source = """
        import os

        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

        loop = new_event_loop()
        sizes = []
        for _ in range(8):
            for timer in [loop.call_later(3600, print) for _ in range(100_000)]:
                timer.cancel()
            del timer
            loop.stop()
            loop.run_forever()
            sizes.append(resident())
        loop.close()
        print(sizes[-1] - sizes[1])
    """
    result = child(source)
    assert result.returncode == 0, result.stderr
    # 6 rounds of 100,000: 8 bytes left by each would be 4.8 MB.
    assert int(result.stdout) < 4_000_000
