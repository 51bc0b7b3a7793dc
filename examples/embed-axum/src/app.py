"""The Python side of the example: the business logic."""

import asyncio

import prices  # a module in Rust: see main.rs


async def quote(name: str, count: int) -> dict[str, object]:
    """What `count` pieces cost."""
    # Both run at the same time: a future of the tokio runtime, and a timer of this loop.
    price, _ = await asyncio.gather(prices.price(name), asyncio.sleep(0.001))
    return {"name": name, "count": count, "total": price * count}
