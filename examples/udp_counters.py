"""A UDP server that counts: each datagram is `NAME:NUMBER`, and `?NAME` is answered with the sum so far.

rloop takes many datagrams from the kernel by one system call and calls `datagram_received` for each of them. So this
server only collects in `datagram_received`, and does its work once for all that came together. Answers that are sent
in the same turn of the loop leave by one system call, too.

Run `python examples/udp_counters.py [PORT]` and then
`python -c "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('127.0.0.1', 8125));
s.send(b'apples:3'); s.send(b'?apples'); print(s.recv(99))"`.
"""

import asyncio
import collections
import signal
import sys

import rloop

MOST = 10_000  # datagrams that wait to be counted; more than that are dropped, as the network does


class Counters(asyncio.DatagramProtocol):
    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.sums: collections.Counter[bytes] = collections.Counter()
        self.batch = []
        self.dropped = 0
        self.paused = False

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        if len(self.batch) >= MOST:
            self.dropped += 1
            return
        if not self.batch:
            # This runs once, after every datagram that the loop has found together with the first.
            self.loop.call_soon(self.work)
        self.batch.append((data, addr))

    def work(self):
        batch, self.batch = self.batch, []
        for data, addr in batch:
            if data.startswith(b"?"):
                # While the kernel takes nothing, an answer would only wait in our memory.
                if not self.paused:
                    self.transport.sendto(b"%d" % self.sums[data[1:]], addr)
                continue
            name, _, number = data.partition(b":")
            if number.isdigit():
                self.sums[name] += int(number)
            else:
                self.dropped += 1

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False

    def error_received(self, exc):
        """A peer has refused an answer (ICMP). There is nobody to tell, and the next datagram is not concerned."""


async def main(port):
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    transport, counters = await loop.create_datagram_endpoint(Counters, ("127.0.0.1", port))
    print(f"counting on port {transport.get_extra_info('sockname')[1]}; Ctrl+C stops", flush=True)
    await stop.wait()
    transport.close()
    print(f"{counters.sums.total()} in {len(counters.sums)} names, {counters.dropped} datagrams dropped")


if __name__ == "__main__":
    rloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8125))
