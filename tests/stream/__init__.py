"""Tests of stream transports over TCP, of asyncio's streams, and of what concerns transports of several kinds."""
