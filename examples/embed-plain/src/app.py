"""The Python side of the example: decides what to answer."""

import asyncio

requests = 0


async def answer(line: str, lookup) -> str:
    """Answer one line. `lookup` is a function in Rust that returns an awaitable."""
    global requests
    requests += 1
    number = requests
    # Rust does this on a thread of its own. Meanwhile this loop goes on.
    length = await lookup(line)
    await asyncio.sleep(0.001)
    return f"{number}: {line.upper()} ({length} characters)"
