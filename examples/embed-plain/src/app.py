"""The Python side of the example: decides what to answer."""

import asyncio

requests = 0


async def answer(line: str, lookup) -> str:
    """Answer one line. `lookup` is Rust's: it returns an awaitable."""
    global requests
    requests += 1
    number = requests
    # Rust looks it up on a thread of its own, while this loop goes on.
    length = await lookup(line)
    await asyncio.sleep(0.001)
    return f"{number}: {line.upper()} ({length} characters)"
