"""What an installed wheel has to do: the first program of README.md, and a conversation over TLS.

    python -P tools/wheel_try.py README.md tests

It is run by the Python that the wheel is for, in an environment that holds nothing else, so it uses the standard
library and rloop only. The certificate is made by the helpers in the folder that is given last, which need nothing
else either. How wheels are built is in wheels.py.
"""

from __future__ import annotations

import asyncio
import importlib
import platform
import re
import ssl
import sys
from pathlib import Path
from typing import Any

import rloop

LIMIT = 60.0


def first_program(page: str) -> str:
    """The first block of Python code of a page, as a program for this version of Python."""
    block = re.search(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert block, "the page has no block of Python code"
    source = block[1].replace("    ...\n", "    print(asyncio.get_running_loop())\n")
    if sys.version_info < (3, 12):
        # asyncio.run() has no loop_factory there, and the page says what to call instead.
        source = re.sub(r"^asyncio\.run\((.*), loop_factory=.*$", r"rloop.run(\1)", source, flags=re.MULTILINE)
    return source


def watch_reads() -> list[bool]:
    """A list that is no longer empty once data went through `ssl.SSLObject.read`. Where rloop calls OpenSSL's own
    functions, it never does."""
    seen: list[bool] = []
    read = ssl.SSLObject.read

    def watched(self: ssl.SSLObject, *arguments: Any) -> Any:
        seen.append(True)
        return read(self, *arguments)

    ssl.SSLObject.read = watched  # type: ignore[assignment,method-assign]
    return seen


async def talk_over_tls() -> bytes:
    """Send 100,000 bytes to a server of our own over TLS; return what it sends back."""
    certificates = importlib.import_module("support.certificates")

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(100_000))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=certificates.server_context())
    async with server:
        port = server.sockets[0].getsockname()[1]
        trust = certificates.client_context()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname="localhost")
        writer.write(b"x" * 100_000)
        answer = await reader.read(-1)
        writer.close()
        await writer.wait_closed()
    return answer


def main(page: str, helpers: str) -> None:
    exec(compile(first_program(Path(page).read_text()), page, "exec"), {"__name__": "__main__"})
    sys.path.append(helpers)
    reads = watch_reads()
    answer = rloop.run(asyncio.wait_for(talk_over_tls(), LIMIT))
    assert answer == b"x" * 100_000, f"{len(answer)} bytes came back over TLS"
    engine = "by the methods of ssl.SSLObject" if reads else "by OpenSSL's functions"
    where = f"Python {platform.python_version()} on {platform.machine()}"
    print(f"rloop {rloop.__version__} works on {where}, over TLS too ({engine})")


if __name__ == "__main__":
    main(*sys.argv[1:])
