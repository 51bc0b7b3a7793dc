"""A client of HTTP for tests that start a server: one request for each connection, and nothing of asyncio.

No test lives here.
"""

import contextlib
import http.client
import time
from collections.abc import Iterator

# So many seconds a server may take for an answer.
LIMIT = 25


@contextlib.contextmanager
def request(port: int, path: str = "/") -> Iterator[http.client.HTTPResponse]:
    """The response to a GET of a server on 127.0.0.1, whose body has not been read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Connection": "close"})
        yield connection.getresponse()


def get(port: int, path: str = "/") -> str:
    """The body of the answer to a GET. Raises an OSError or an HTTPException if there is none."""
    with request(port, path) as response:
        return response.read().decode()


def get_when_ready(port: int, path: str = "/") -> str:
    """As `get`, of a server that is still starting."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            return get(port, path)
        except (OSError, http.client.HTTPException):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
