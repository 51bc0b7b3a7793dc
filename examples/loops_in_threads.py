"""Several loops, each in a thread of its own, that serve the same port. All of them stop when the main thread says so.

    python examples/loops_in_threads.py [PORT [THREADS]]      and then `nc 127.0.0.1 8889`

Each loop has a listening socket of its own with SO_REUSEPORT, and the kernel shares new connections out among them. A
connection stays with its loop. All threads share the interpreter's lock (the GIL), so this helps where callbacks wait
for code that releases it, such as compression, hashing and database drivers. It adds no speed to pure Python code.

The rule for threads is asyncio's: from outside, only `call_soon_threadsafe` and `run_coroutine_threadsafe` may be used.
"""

import asyncio
import signal
import socket
import sys
import threading

import rloop


def listening_socket(port):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


class Worker:
    """One thread with one loop and one server."""

    def __init__(self, name, sock):
        self.sock = sock
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.run, name=name)

    def run(self):
        with asyncio.Runner(loop_factory=rloop.new_event_loop) as runner:
            try:
                runner.run(self.main())
            finally:
                self.ready.set()  # also after a failure, so that nobody waits for ever

    async def main(self):
        self.loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()
        server = await asyncio.start_server(self.connected, sock=self.sock)
        async with server:
            self.ready.set()
            await self.stopping.wait()

    async def connected(self, reader, writer):
        name = threading.current_thread().name
        try:
            while line := await reader.readline():
                writer.write(f"{name}: ".encode() + line)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    def stop(self):
        """Called by the main thread."""
        self.loop.call_soon_threadsafe(self.stopping.set)


def main(port, threads):
    first = listening_socket(port)
    port = first.getsockname()[1]
    socks = [first, *(listening_socket(port) for _ in range(threads - 1))]
    workers = [Worker(f"loop {number}", sock) for number, sock in enumerate(socks, 1)]
    # Threads inherit the mask. With SIGINT and SIGTERM blocked, the main thread takes them when it waits for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    for worker in workers:
        worker.thread.start()
    for worker in workers:
        worker.ready.wait()
    print(f"{threads} loops on port {port}; Ctrl+C stops", flush=True)
    signal.sigwait((signal.SIGINT, signal.SIGTERM))
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.thread.join()
    print("all loops have ended")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    main(*numbers, *(8889, 4)[len(numbers) :])
