"""Draws docs/top.svg: what `python -m rloop top` shows, with rich, of three processes. They are a server, its client,
and one that blocks its loop. It takes some seconds, and needs rloop and rich (`make build`).

    target/venvs/dev-*/bin/python tools/screen_of_top.py
"""

from __future__ import annotations

import io
import os
import pathlib
import re
import subprocess
import sys
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
PICTURE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "top.svg"
# In characters.
WIDTH = 146


def main() -> None:
    """Start the processes, look at them for some seconds, and draw the last view."""
    with tempfile.TemporaryDirectory() as folder:
        own = pathlib.Path(sys.executable).parent
        os.environ |= {"XDG_RUNTIME_DIR": folder, "RLOOP_PUBLISH": "1", "PATH": f"{own}:{os.environ['PATH']}"}
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
            # The client before its server.
            for program in reversed(started):
                program.kill()
                program.communicate()


def look() -> None:
    from rich.console import Console

    from rloop._published import all_published
    from rloop._top_screen import View, picture

    view = View(all_published)
    for _ in range(TIMES):
        view.renew()
        time.sleep(INTERVAL)
    screen = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    screen.print(picture(view))
    svg = screen.export_svg(title="python -m rloop top", unique_id="top")
    # Without rich's own fonts, which a reader's browser would fetch from elsewhere.
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}|<!--.*?-->", "", svg, flags=re.DOTALL))
    print("written:", PICTURE)


if __name__ == "__main__":
    main()
