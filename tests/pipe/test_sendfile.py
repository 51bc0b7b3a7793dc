"""loop.sendfile over transports that cannot do it. What they do otherwise is tested where they belong."""

import asyncio

import pytest

from support.peers import HOST, released
from support.pipe_peers import WriteRecorder, write_pipe


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small"
    path.write_bytes(b"some bytes")
    with open(path, "rb") as file:
        yield file


async def test_other_transports(small):
    async with write_pipe(factory=WriteRecorder) as (transport, _, _):
        with pytest.raises(RuntimeError) as info:
            await asyncio.get_running_loop().sendfile(transport, small)
        assert str(info.value) == f"sendfile is not supported for transport {transport!r}"
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, (HOST, 0))
    with pytest.raises(RuntimeError) as info:
        await asyncio.get_running_loop().sendfile(transport, small)  # type: ignore[arg-type]
    assert str(info.value) == f"sendfile is not supported for transport {transport!r}"
    transport.close()
    await released(transport)
