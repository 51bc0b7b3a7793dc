"""STARTTLS: a conversation that begins in plain text and goes on under TLS, on the same connection.

    python examples/starttls.py serve CERT KEY [PORT]     PEM files of the certificate and its key
    python examples/starttls.py ask CA [PORT]             CA: the PEM file of the certificate's issuer

For a try, make a certificate that is its own issuer:

    openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
        -keyout key.pem -out cert.pem
"""

import asyncio
import ssl
import sys

import rloop

LIMIT = 10  # seconds for the handshake, and that the client waits for each line
LONGEST = 1000  # bytes of a line


class Conversation(asyncio.Protocol):
    """The server's side of one connection. After the handshake the same protocol goes on, with another transport."""

    def __init__(self, context):
        self.context = context
        self.buffer = bytearray()
        self.upgrading = False

    def connection_made(self, transport):
        # This is called once, with the transport in plain text.
        self.transport = transport
        transport.write(b"220 ready\n")

    def data_received(self, data):
        self.buffer += data
        if not self.upgrading:
            self.read_lines()
        if len(self.buffer) > LONGEST:
            self.transport.abort()

    def read_lines(self):
        while (end := self.buffer.find(b"\n")) >= 0:
            line = self.buffer[:end].decode("ascii", "replace").strip()
            del self.buffer[: end + 1]
            self.command(line)

    def command(self, line):
        tls = self.transport.get_extra_info("ssl_object")
        if line == "STARTTLS" and tls is None:
            if self.buffer:
                # The peer has to wait for our answer. What it has sent before is not encrypted, and may come from
                # somebody on the way. It must never be read as if it had come under TLS.
                self.buffer.clear()
                self.transport.abort()
                return
            # From here on what arrives belongs to the handshake.
            self.transport.pause_reading()
            self.transport.write(b"220 go ahead\n")
            self.upgrading = True
            self.task = asyncio.create_task(self.upgrade())
        elif line == "SECRET":
            self.transport.write(f"250 {tls.version()}\n".encode() if tls else b"530 only under TLS\n")
        else:
            self.transport.write(b"500 unknown\n")

    async def upgrade(self):
        loop = asyncio.get_running_loop()
        try:
            self.transport = await loop.start_tls(
                self.transport, self, self.context, server_side=True, ssl_handshake_timeout=LIMIT
            )
        except OSError as error:  # a handshake that fails, or takes too long, has closed the connection
            print(f"no TLS: {error!r}", flush=True)
            return
        # The first encrypted lines can arrive together with the end of the handshake, which is before start_tls() has
        # returned the transport to answer them with.
        self.upgrading = False
        self.read_lines()


async def serve(certificate, key, port):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = await asyncio.get_running_loop().create_server(lambda: Conversation(context), "127.0.0.1", port)
    async with server:
        print(f"listening on port {server.sockets[0].getsockname()[1]}; Ctrl+C stops", flush=True)
        await server.serve_forever()


async def read_line(reader):
    line = await asyncio.wait_for(reader.readline(), LIMIT)
    return line.decode().strip()


async def ask(ca, port):
    context = ssl.create_default_context(cafile=ca)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    print(await read_line(reader))
    for command in ("SECRET", "STARTTLS", "SECRET"):
        writer.write(f"{command}\n".encode())
        print(f"{command}: {await read_line(reader)}")
        if command == "STARTTLS":
            await writer.start_tls(context, server_hostname="localhost", ssl_handshake_timeout=LIMIT)
    writer.close()
    await writer.wait_closed()


def main(what, *arguments):
    port = int(arguments[-1]) if arguments[-1].isdigit() else 8025
    if what == "serve":
        rloop.run(serve(arguments[0], arguments[1], port))
    else:
        rloop.run(ask(arguments[0], port))


if __name__ == "__main__":
    if len(sys.argv) < {"serve": 4, "ask": 3}.get(sys.argv[1] if sys.argv[1:] else "", sys.maxsize):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        pass
