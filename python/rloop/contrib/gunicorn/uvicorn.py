"""uvicorn's worker for gunicorn on rloop's loop: `gunicorn -k egg:rloop#uvicorn`.

The worker is in the package `uvicorn-worker`. Where that is not installed, it is uvicorn's deprecated copy.
"""

from __future__ import annotations

from typing import Any

try:
    from uvicorn_worker import UvicornWorker as _UvicornWorker
except ModuleNotFoundError:
    from uvicorn.workers import UvicornWorker as _UvicornWorker


class UvicornWorker(_UvicornWorker):
    """The worker `uvicorn_worker.UvicornWorker`. It needs uvicorn 0.36 or newer."""

    CONFIG_KWARGS: dict[str, Any] = {**_UvicornWorker.CONFIG_KWARGS, "loop": "rloop:new_event_loop"}
