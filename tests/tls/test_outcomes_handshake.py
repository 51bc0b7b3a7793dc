"""Handshakes that fail, at both sides and in all versions: connecting raises on rloop what it raises on asyncio.

What is compared is in support/tls_outcomes.py. The server's view of them, with nobody to raise it to, is in
test_server.py; timeouts are in test_timeouts.py.
"""

import ssl

import pytest

from support import certificates
from support.certificates import TLS_1_2, TLS_1_3
from support.peers import read_exactly
from support.tls_outcomes import SETTINGS, connect_error, same_as_asyncio, scenarios_of


def drain(peer):
    """Reads until the other end has finished, in whatever way."""
    while peer.sock.recv(65536):
        pass


async def garbage(setting, told):
    def play(peer):
        peer.send_raw(bytes(range(1, 101)))
        drain(peer)

    await connect_error(setting, told, play)


async def http(setting, told):
    """The peer speaks HTTP in clear, for which OpenSSL's servers have an error of their own."""

    def play(peer):
        peer.send_raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        drain(peer)

    await connect_error(setting, told, play)


async def greeting_in_clear(setting, told):
    def play(peer):
        peer.send_raw(b"220 mail.example.test ESMTP ready\r\n")
        drain(peer)

    await connect_error(setting, told, play)


async def ssl_2(setting, told):
    def play(peer):
        peer.send_raw(b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(64))
        drain(peer)

    await connect_error(setting, told, play)


async def eof(setting, told):
    def play(peer):
        peer.send_eof()
        drain(peer)

    await connect_error(setting, told, play)


async def reset(setting, told):
    def play(peer):
        peer.reset()

    await connect_error(setting, told, play)


async def half_a_hello_and_eof(setting, told):
    def play(peer):
        peer.send_raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50))
        peer.send_eof()
        drain(peer)

    await connect_error(setting, told, play)


async def record_of_an_impossible_length(setting, told):
    def play(peer):
        peer.send_raw(b"\x16\x03\x01\xff\xff" + bytes(1000))
        drain(peer)

    await connect_error(setting, told, play)


async def data_before_the_handshake(setting, told):
    def play(peer):
        peer.send_raw(b"\x17\x03\x03\x00\x20" + bytes(32))
        drain(peer)

    await connect_error(setting, told, play)


async def empty_records(setting, told):
    def play(peer):
        peer.send_raw(b"\x16\x03\x01\x00\x00" * 100)
        drain(peer)

    await connect_error(setting, told, play)


async def alerts(setting, told):
    """A fatal alert in clear, for each code there is: the reason is its name."""
    for code in (
        10,
        20,
        22,
        40,
        42,
        43,
        44,
        45,
        46,
        47,
        48,
        49,
        50,
        51,
        70,
        71,
        80,
        86,
        90,
        109,
        110,
        112,
        115,
        116,
        120,
    ):

        def play(peer, code=code):
            peer.send_raw(bytes([0x15, 3, 3, 0, 2, 2, code]))
            drain(peer)

        step = told[code] = {}
        await connect_error(setting, step, play)


async def close_notify_as_an_answer(setting, told):
    def play(peer):
        peer.send_raw(bytes([0x15, 3, 3, 0, 2, 1, 0]))
        drain(peer)

    await connect_error(setting, told, play)


async def no_common_version(setting, told):
    own, other = setting.contexts()
    own.minimum_version = own.maximum_version = TLS_1_2
    other.minimum_version = other.maximum_version = TLS_1_3
    await connect_error(setting, told, lambda peer: peer.blocking_handshake(), context=own, peer_context=other)


async def no_common_cipher(setting, told):
    if setting.version is TLS_1_3:
        return
    own, other = setting.contexts()
    own.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    other.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    await connect_error(setting, told, lambda peer: peer.blocking_handshake(), context=own, peer_context=other)


async def certificates_that_are_refused(setting, told):
    """The client refuses the certificate: the loop's end if it is the client, and otherwise the peer."""
    for kind in (certificates.other_host, certificates.expired, certificates.self_signed):
        own, other = setting.contexts()
        serving = own if setting.server_side else other
        serving.load_cert_chain(kind().chain)

        def play(peer):
            peer.blocking_handshake()
            peer.blocking_read_until_end()

        step = told[kind.__name__] = {}
        await connect_error(setting, step, play, context=own, peer_context=other)


async def no_certificate_at_the_server(setting, told):
    own, other = setting.contexts()
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own, other = (bare, other) if setting.server_side else (own, bare)
    await connect_error(setting, told, lambda peer: peer.blocking_handshake(), context=own, peer_context=other)


async def tampered_handshake(setting, told):
    """One bit of the peer's handshake messages is wrong."""

    def play(peer):
        if setting.server_side:
            with pytest.raises(ssl.SSLWantReadError):
                peer.tls.do_handshake()
        else:
            while True:
                try:
                    peer.tls.do_handshake()
                except ssl.SSLWantReadError:
                    if records := peer.pending():
                        break
                    peer.receive()
            peer.send_raw(records[:-3] + bytes([records[-3] ^ 1]) + records[-2:])
            drain(peer)
            return
        hello = bytearray(peer.pending())
        hello[5] = 2  # a ServerHello
        peer.send_raw(hello)
        drain(peer)

    await connect_error(setting, told, play)


async def own_record_reflected(setting, told):
    """The peer sends back the first record that it receives."""

    def play(peer):
        if setting.server_side:
            with pytest.raises(ssl.SSLWantReadError):
                peer.tls.do_handshake()
            peer.send_raw(peer.pending())
        header = read_exactly(peer.sock, 5)
        peer.send_raw(header + read_exactly(peer.sock, int.from_bytes(header[3:], "big")))
        drain(peer)

    await connect_error(setting, told, play)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("scenario", scenarios_of(__name__))
def test_handshake(loop_name, scenario, setting):
    seen = same_as_asyncio(loop_name, scenario, setting)
    assert seen["reports"] == [] and seen["log"] == []


@pytest.mark.parametrize("setting", SETTINGS)
def test_client_certificate_that_is_missing(loop_name, setting):
    """TLS 1.2: the handshake fails. TLS 1.3: the client is connected when it hears of it."""
    seen = same_as_asyncio(loop_name, no_client_certificate, setting)
    if setting.server_side:
        assert seen["error"]["reason"] == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    elif setting.version is TLS_1_3:
        assert seen["lost"]["reason"] == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        assert seen["calls"] == [["connection_made", "connection_lost"]]


async def no_client_certificate(setting, told):
    own, other = setting.contexts()
    serving = own if setting.server_side else other
    serving.load_verify_locations(cadata=certificates.authority().pem)
    serving.verify_mode = ssl.CERT_REQUIRED

    def play(peer):
        peer.blocking_handshake()
        peer.blocking_read_until_end()

    await connect_error(setting, told, play, context=own, peer_context=other)
