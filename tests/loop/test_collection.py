"""Garbage collections while rloop makes its own objects. What a collection frees is tested in the other files."""

import gc

import pytest


@pytest.fixture
def eager_collector():
    """Makes the collector run at nearly every allocation of an object that it tracks."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)


def test_while_a_loop_is_made(loop_factory, eager_collector):
    """Python 3.11 makes the instance's dictionary before the native part exists, and may start a collection there."""
    for _ in range(50):
        loop = loop_factory()
        assert not loop.is_closed()
        loop.close()


def test_while_callbacks_are_scheduled_and_run(loop, eager_collector):
    ran = []
    for number in range(200):
        loop.call_soon(ran.append, number)
        loop.call_later(3600, ran.append, None).cancel()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == list(range(200))
