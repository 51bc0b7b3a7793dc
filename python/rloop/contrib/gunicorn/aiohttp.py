"""aiohttp's worker for gunicorn on rloop's loop: `gunicorn -k egg:rloop#aiohttp`."""

from __future__ import annotations

from aiohttp.worker import GunicornWebWorker

from . import WorkerWithLoop


class AiohttpWorker(WorkerWithLoop, GunicornWebWorker):
    """The worker `aiohttp.GunicornWebWorker`, for an `aiohttp.web.Application` or a coroutine that makes one."""
