"""Prints what `python -m rloop top` shows of three processes, for docs/metrics.md: a server, its client, and one that
blocks its loop. It takes some seconds.

    python tools/screen_of_top.py
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import tempfile
import time

PROGRAMS = {
    "server.py": """
        import asyncio, rloop
        async def serve(reader, writer):
            while data := await reader.read(65536):
                writer.write(data)
        async def main():
            server = await asyncio.start_unix_server(serve, "socket")
            print(flush=True)
            await server.serve_forever()
        rloop.run(main())
    """,
    "client.py": """
        import asyncio, rloop
        async def ask():
            reader, writer = await asyncio.open_unix_connection("socket")
            while True:
                writer.write(bytes(1000))
                await reader.readexactly(1000)
                await asyncio.sleep(0.005)
        async def main():
            asks = [asyncio.ensure_future(ask()) for _ in range(20)]
            await asyncio.sleep(0)
            print(flush=True)
            await asyncio.gather(*asks)
        rloop.run(main())
    """,
    "blocked.py": """
        import asyncio, logging, time, rloop
        logging.getLogger("rloop").addHandler(logging.NullHandler())
        async def main():
            print(flush=True)
            while True:
                await asyncio.sleep(2)
                time.sleep(3)
        rloop.watch()
        rloop.run(main())
    """,
}
# How many times the view is drawn, and the seconds between.
TIMES, INTERVAL = 16, 0.5


def main() -> None:
    """Start the processes, look at them for some seconds, and print the last view."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"XDG_RUNTIME_DIR": folder, "RLOOP_PUBLISH": "1"}
        started = []
        try:
            for name, source in PROGRAMS.items():
                pathlib.Path(folder, name).write_text("if True:\n" + source)
                program = subprocess.Popen(["python", name], cwd=folder, stdout=subprocess.PIPE)
                started.append(program)
                if program.stdout is not None:
                    program.stdout.readline()
            look()
        finally:
            for program in started:
                program.kill()
                program.communicate()


def look() -> None:
    from rloop._published import all_published
    from rloop._top_screen import View

    view = View(all_published)
    for _ in range(TIMES):
        view.renew()
        time.sleep(INTERVAL)
    print(*view.texts(None, None), sep="\n")


if __name__ == "__main__":
    main()
