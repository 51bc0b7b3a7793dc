"""Workers of gunicorn whose loop is rloop's: `gunicorn -k egg:rloop#asgi`, `#uvicorn` or `#aiohttp`.

Here is what the workers share that make their loop themselves. Each worker has a file of its own, because each needs
another package. The names behind `#` are entry points in `pyproject.toml`. gunicorn imports this, rloop never does.
"""

from __future__ import annotations

import asyncio

from gunicorn.workers.base import Worker

import rloop


class WorkerWithLoop(Worker):
    """The part of a worker that makes its loop, for a worker that runs what is in its attribute `loop`."""

    def init_process(self) -> None:
        """Make the loop, then run the worker. gunicorn calls this in the new process."""
        self.loop: asyncio.AbstractEventLoop = rloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        # Not by super(): that would be the worker's own method, which does the same with a loop of asyncio.
        Worker.init_process(self)
