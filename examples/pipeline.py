"""A pipeline of child processes, `sort | uniq -c`, that this program feeds and reads at the same time.

    python examples/pipeline.py FILE...      the ten most frequent words of these files

The two children are connected by a pipe of the system, so what goes from one to the other never passes through this
program. What it writes is held back by `drain()` while `sort` reads slowly, so a large file needs little memory here.
"""

import asyncio
import heapq
import os
import re
import sys

import rloop


async def feed(writer, paths):
    """Write each word of the files as a line."""
    try:
        for path in paths:
            with open(path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    words = re.findall(r"\w+", line.lower())
                    writer.write("".join(f"{word}\n" for word in words).encode())
                    await writer.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the child has ended before it has read everything; its exit status says why
    finally:
        writer.close()


async def counts(reader):
    """Read lines of `uniq -c`: a number and a word."""
    async for line in reader:
        number, _, word = line.decode().strip().partition(" ")
        yield int(number), word


async def main(paths):
    environment = {**os.environ, "LC_ALL": "C"}
    pipe = asyncio.subprocess.PIPE
    reading, writing = os.pipe()
    try:
        sort = await asyncio.create_subprocess_exec("sort", stdin=pipe, stdout=writing, env=environment)
        uniq = await asyncio.create_subprocess_exec("uniq", "-c", stdin=reading, stdout=pipe, env=environment)
    finally:
        # The children have the pipe. While we had its writing end too, `uniq` would never see an end of file.
        os.close(reading)
        os.close(writing)

    feeding = asyncio.create_task(feed(sort.stdin, paths))
    top = heapq.nlargest(10, [pair async for pair in counts(uniq.stdout)])
    await feeding
    for name, child in (("sort", sort), ("uniq", uniq)):
        if status := await child.wait():
            sys.exit(f"{name} has failed with status {status}")
    for number, word in top:
        print(f"{number:8} {word}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    rloop.run(main(sys.argv[1:]))
