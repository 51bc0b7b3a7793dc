"""gunicorn's own ASGI worker on rloop's loop: `gunicorn -k egg:rloop#asgi`. gunicorn has it since version 24."""

from __future__ import annotations

from gunicorn.workers.gasgi import ASGIWorker

from . import WorkerWithLoop


class AsgiWorker(WorkerWithLoop, ASGIWorker):
    """The worker that gunicorn calls `asgi`. It does not read the setting `asgi_loop`."""
