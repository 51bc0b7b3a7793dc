"""Beside OpenSSL's own client and server, where the `openssl` command is there: another program at the other end, and
what Python's ssl module cannot be asked for, such as new keys in the middle of a connection (RFC 8446, 4.6.3).
"""

import asyncio
import contextlib
import fcntl
import shutil
import ssl
import subprocess
import termios

import pytest

from support import certificates
from support.certificates import TLS_1_2, TLS_1_3
from support.peers import HOST, PATIENCE, Recorder

OPENSSL = shutil.which("openssl")

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="no openssl command")
VERSIONS = pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])
FLAGS = {TLS_1_2: "-tls1_2", TLS_1_3: "-tls1_3"}


@contextlib.asynccontextmanager
async def running(*arguments):
    """Runs the openssl command, with pipes that no loop touches. It is killed after the block."""
    process = await asyncio.to_thread(start, arguments)
    try:
        yield Talker(process)
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
        process.stdin.close()
        process.stdout.close()


def start(arguments):
    return subprocess.Popen(
        [OPENSSL, *map(str, arguments)],  # type: ignore[list-item]
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    )


class Talker:
    def __init__(self, process):
        self.process = process
        self.said = b""

    def tell(self, line):
        self.process.stdin.write(line)

    async def command(self, letter):
        """Sends a command to openssl. A command must come alone, so this waits until it has been read."""
        self.tell(letter)
        async with asyncio.timeout(PATIENCE):
            while any(fcntl.ioctl(self.process.stdin, termios.FIONREAD, bytes(4))):
                await asyncio.sleep(0.001)

    async def until(self, text):
        """Waits for this text in the output, behind the text that was waited for before."""
        async with asyncio.timeout(PATIENCE):
            while text not in self.said:
                data = await asyncio.to_thread(self.process.stdout.read, 65536)
                assert data, self.said
                self.said += data
        self.said = self.said.split(text, 1)[1]


@contextlib.asynccontextmanager
async def client(version, *options):
    """An openssl s_client that connects to a server of the loop."""
    made = []

    def make():
        made.append(Recorder())
        return made[-1]

    authority = certificates.folder().name + "/authority.pem"
    with open(authority, "w") as file:
        file.write(certificates.authority().pem)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, HOST, 0, ssl=certificates.server_context(version=version))
    target = "{}:{}".format(*server.sockets[0].getsockname())
    arguments = ["s_client", "-connect", target, "-CAfile", authority, "-servername", "localhost", *options]
    async with running(*arguments) as talker:
        await talker.until(b"Verify return code: 0 (ok)")
        yield talker, made
        made[0].transport.abort()
        await made[0].lost
    server.close()


@VERSIONS
async def test_client(version):
    async with client(version, FLAGS[version]) as (talker, made):
        talker.tell(b"hello from the command\n")
        assert await made[0].read(23) == b"hello from the command\n"
        made[0].transport.write(b"hello from the loop\n")
        await talker.until(b"hello from the loop\n")


async def test_client_that_quits():
    """On Q openssl sends close_notify and quits."""
    async with client(TLS_1_3) as (talker, made):
        talker.tell(b"Q\n")
        assert await made[0].lost is None
        assert made[0].calls == ["connection_made", "eof_received", "connection_lost"]


@pytest.mark.parametrize("command", [b"k\n", b"K\n"])
async def test_new_keys_of_a_client(command):
    """k renews the client's keys, K those of both sides. The program sees nothing of it, and data goes on both ways."""
    async with client(TLS_1_3) as (talker, made):
        for number in range(5):
            talker.tell(b"line %d\n" % number)
            assert (await made[0].read(7 * (number + 1))).endswith(b"line %d\n" % number)
            await talker.command(command)
            await talker.until(b"KEYUPDATE")
            made[0].transport.write(b"answer %d\n" % number)
            await talker.until(b"answer %d\n" % number)


async def test_renegotiation_of_a_client_is_refused():
    """TLS 1.2: R asks for a new handshake in the middle, which Python's OpenSSL does not do by default for clients."""
    async with client(TLS_1_2, "-tls1_2") as (talker, made):
        talker.tell(b"before\n")
        assert await made[0].read(7) == b"before\n"
        talker.tell(b"R\n")
        await talker.until(b"RENEGOTIATING")
        await asyncio.wait_for(asyncio.shield(made[0].lost), PATIENCE)
        assert bytes(made[0].data) == b"before\n"


@contextlib.asynccontextmanager
async def serving(chain, *options):
    """An openssl s_server and the port that it has chosen."""
    arguments = ["s_server", "-accept", f"{HOST}:0", "-cert", chain, "-key", chain, *options]
    async with running(*arguments) as talker:
        await talker.until(b"ACCEPT " + HOST.encode() + b":")
        while b"\n" not in talker.said:
            talker.said += await asyncio.to_thread(talker.process.stdout.read, 100)
        yield talker, int(talker.said.split()[0])


@VERSIONS
async def test_server(version):
    loop = asyncio.get_running_loop()
    async with serving(certificates.server().chain, FLAGS[version]) as (talker, port):
        transport, protocol = await loop.create_connection(
            Recorder, HOST, port, ssl=certificates.client_context(), server_hostname="localhost"
        )
        transport.write(b"hello from the loop\n")
        await talker.until(b"hello from the loop\n")
        talker.tell(b"hello from the command\n")
        assert await protocol.read(23) == b"hello from the command\n"
        await talker.command(b"Q\n")
        assert await protocol.lost is None


@pytest.mark.parametrize("command", [b"k\n", b"K\n"])
async def test_new_keys_of_a_server(command):
    loop = asyncio.get_running_loop()
    async with serving(certificates.server().chain, "-tls1_3") as (talker, port):
        transport, protocol = await loop.create_connection(
            Recorder, HOST, port, ssl=certificates.client_context(), server_hostname="localhost"
        )
        for number in range(5):
            await talker.command(command)
            talker.tell(b"line %d\n" % number)
            assert (await protocol.read(7 * (number + 1))).endswith(b"line %d\n" % number)
            transport.write(b"answer %d\n" % number)
            await talker.until(b"answer %d\n" % number)
        transport.abort()
        assert await protocol.lost is None


@pytest.mark.parametrize("certificate", ["expired", "other_host", "self_signed"])
async def test_server_that_is_refused(certificate):
    async with serving(getattr(certificates, certificate)().chain) as (_, port):
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.get_running_loop().create_connection(
                Recorder, HOST, port, ssl=certificates.client_context(), server_hostname="localhost"
            )
