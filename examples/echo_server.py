"""A TCP echo server on rloop, by asyncio.Protocol and asyncio.Runner. Only the loop is rloop's.

Run `python examples/echo_server.py [PORT]` and then, in another terminal, `nc 127.0.0.1 8888`.
"""

import asyncio
import sys

import rloop


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    # A client may send without ever reading the echo. Then we stop reading from it, so that it cannot fill our memory.
    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


async def main(port):
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
    async with server:
        print(f"echoing on {server.sockets[0].getsockname()}; Ctrl+C stops", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=rloop.new_event_loop) as runner:
        try:
            runner.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8888))
        except KeyboardInterrupt:
            pass
