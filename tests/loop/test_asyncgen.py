"""Asynchronous generators: the loop closes them when they are dropped, and in shutdown_asyncgens."""

import asyncio
import gc
import sys

import pytest

from support.turns import turn, turn_until


async def generate(ended, name="generator"):
    try:
        yield 1
        yield 2
    finally:
        await asyncio.sleep(0)
        ended.append(name)


async def first(generator):
    # A generator uses the hooks that are set when anext is called, so that a running loop must call this.
    return await anext(generator)


def test_hooks_are_set_while_the_loop_runs(loop):
    hooks = []
    before = sys.get_asyncgen_hooks()
    loop.call_soon(lambda: hooks.append(sys.get_asyncgen_hooks()))
    turn(loop)
    assert None not in hooks[0]
    assert sys.get_asyncgen_hooks() == before


def test_hooks_are_put_back(loop):
    def firstiter(generator):
        pass

    def finalizer(generator):
        pass

    def interrupt():
        raise KeyboardInterrupt

    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter, finalizer)
    try:
        turn(loop)
        assert sys.get_asyncgen_hooks() == (firstiter, finalizer)
        loop.call_soon(interrupt)
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        assert sys.get_asyncgen_hooks() == (firstiter, finalizer)
    finally:
        sys.set_asyncgen_hooks(*before)


async def test_dropped_generator_is_closed():
    ended = []
    generator = generate(ended)
    assert await anext(generator) == 1
    del generator
    gc.collect()
    while not ended:
        await asyncio.sleep(0)
    assert ended == ["generator"]


async def test_generator_dropped_by_another_thread():
    ended = []
    generators = [generate(ended)]
    await anext(generators[0])
    await asyncio.to_thread(generators.clear)
    while not ended:
        await asyncio.sleep(0)


async def test_loop_left_by_break():
    ended = []
    async for _ in generate(ended):
        break
    while not ended:
        await asyncio.sleep(0)


def test_generator_dropped_while_the_loop_does_not_run(loop):
    ended = []
    generator = generate(ended)
    loop.run_until_complete(first(generator))
    del generator
    gc.collect()
    turn_until(loop, lambda: ended)


def test_shutdown_closes_all(loop):
    ended = []

    async def main():
        for number in range(3):
            generators.append(generate(ended, number))
            await anext(generators[-1])

    generators = []
    loop.run_until_complete(main())
    assert loop.run_until_complete(loop.shutdown_asyncgens()) is None
    assert sorted(ended) == [0, 1, 2]
    loop.run_until_complete(loop.shutdown_asyncgens())
    with pytest.raises(StopAsyncIteration):
        loop.run_until_complete(anext(generators[0]))


def test_error_during_shutdown(loop, loop_errors):
    async def generate():
        try:
            yield 1
        finally:
            raise ZeroDivisionError

    generator = generate()
    loop.run_until_complete(first(generator))
    loop.run_until_complete(loop.shutdown_asyncgens())
    context = loop_errors.pop()
    assert context["message"] == f"an error occurred during closing of asynchronous generator {generator!r}"
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["asyncgen"] is generator


def test_generator_started_after_shutdown(loop):
    ended = []
    loop.run_until_complete(loop.shutdown_asyncgens())
    generator = generate(ended)
    with pytest.warns(ResourceWarning, match="was scheduled after loop.shutdown_asyncgens\\(\\) call"):
        loop.run_until_complete(first(generator))
    loop.run_until_complete(generator.aclose())
    assert ended == ["generator"]


def test_generator_dropped_after_close(loop):
    async def generate():
        yield 1

    generator = generate()
    loop.run_until_complete(first(generator))
    loop.close()
    del generator
    gc.collect()


def test_exhausted_generator(loop):
    ended = []

    async def main():
        return [number async for number in generate(ended)]

    assert loop.run_until_complete(main()) == [1, 2]
    assert ended == ["generator"]
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert ended == ["generator"]
