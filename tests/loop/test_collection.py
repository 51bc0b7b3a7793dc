"""Garbage collections at awkward moments. rloop's objects only; what is collected is tested where it belongs."""

import gc

import pytest


@pytest.fixture
def eager_collector():
    """A collection at nearly every allocation of an object that the collector tracks."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)


def test_while_a_loop_is_made(loop_factory, eager_collector):
    """On Python 3.11 the instance's dictionary is made, and may start a collection, before the native part is."""
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
