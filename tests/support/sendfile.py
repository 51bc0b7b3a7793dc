"""Files for the tests of sendfile, with and without a transport. The fixtures that make them are in conftest.py.

No test lives here, and no assertion about a loop.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from support.peers import settle

DATA = bytes(range(256)) * 8192  # 2 MiB, more than the kernel keeps of a connection with these buffers
BUFFERS = 65536
SMALL = b"0123456789"
PLENTY = DATA[: 1 << 20][::-1]


def sendfile(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, int]:
    return asyncio.get_running_loop().sendfile(*args, **kwargs)


async def sending(*args: Any, **kwargs: Any) -> asyncio.Task[int]:
    """The task that sends, which has begun and has to wait."""
    task = asyncio.create_task(sendfile(*args, **kwargs))
    await settle()
    if task.done():
        raise AssertionError(f"it did not wait: {task}")
    return task
