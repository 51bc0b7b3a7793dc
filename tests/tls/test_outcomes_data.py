"""Bad records, at both sides and in all versions: rloop tells a program of them what asyncio tells it.

What is compared is in support/tls_outcomes.py. Each ends the connection, with whatever came before it delivered.
"""

import ssl

import pytest

from support.tls_outcomes import SETTINGS, same_as_asyncio, scenarios_of


async def after_good_data(setting, told, records):
    """`records(peer)` are the bytes that the peer sends after a good record has been received."""
    async with setting.connection(told) as (transport, protocol, peer):
        peer.send(b"good")
        await protocol.read(4)
        peer.send_raw(records(peer))
        await protocol.lost
        told["closing"] = transport.is_closing()


async def clear_text(setting, told):
    await after_good_data(setting, told, lambda peer: b"hello, this is nothing that anybody has encrypted")


async def zeros(setting, told):
    await after_good_data(setting, told, lambda peer: bytes(100))


async def tampered_record(setting, told):
    def records(peer):
        record = bytearray(peer.encrypt(b"tampered with"))
        record[-1] ^= 1
        return record

    await after_good_data(setting, told, records)


# The good data that came in one read with the bad record.
BEFORE_A_BAD_RECORD = {
    "replayed_record": b"goodonce",
    "good_and_tampered_in_one_segment": b"good and more",
    "while_paused": b"good",
}


async def replayed_record(setting, told):
    """The record is delivered once; its copy ends the connection."""

    def records(peer):
        return peer.encrypt(b"once") * 2

    await after_good_data(setting, told, records)


async def records_in_the_wrong_order(setting, told):
    def records(peer):
        first, second = peer.encrypt(b"first"), peer.encrypt(b"second")
        return second + first

    await after_good_data(setting, told, records)


async def missing_record(setting, told):
    def records(peer):
        peer.encrypt(b"dropped")
        return peer.encrypt(b"following")

    await after_good_data(setting, told, records)


async def good_and_tampered_in_one_segment(setting, told):
    def records(peer):
        good, bad = peer.encrypt(b" and more"), bytearray(peer.encrypt(b"bad"))
        bad[-1] ^= 1
        return good + bad

    await after_good_data(setting, told, records)


async def impossible_length(setting, told):
    await after_good_data(setting, told, lambda peer: b"\x17\x03\x03\xff\xff" + bytes(1000))


async def length_above_the_limit(setting, told):
    await after_good_data(setting, told, lambda peer: b"\x17\x03\x03\x48\x01" + bytes(0x4801))


async def unknown_record_type(setting, told):
    await after_good_data(setting, told, lambda peer: b"\x63\x03\x03\x00\x20" + bytes(32))


async def other_version(setting, told):
    await after_good_data(setting, told, lambda peer: b"\x17\x09\x09\x00\x20" + bytes(32))


async def empty_record(setting, told):
    await after_good_data(setting, told, lambda peer: b"\x17\x03\x03\x00\x00")


async def alert_in_clear(setting, told):
    """Anybody on the path could send this alert. It is treated like any other record that is not encrypted."""
    await after_good_data(setting, told, lambda peer: b"\x15\x03\x03\x00\x02\x02\x28")


async def close_notify_in_clear(setting, told):
    """A close_notify in clear, which is not the peer's."""
    await after_good_data(setting, told, lambda peer: b"\x15\x03\x03\x00\x02\x01\x00")


async def handshake_in_clear(setting, told):
    await after_good_data(setting, told, lambda peer: b"\x16\x03\x03\x00\x04\x00\x00\x00\x00")


async def change_cipher_spec(setting, told):
    """A change_cipher_spec. OpenSSL 3.6 ignores it in a client of TLS 1.3."""
    async with setting.connection(told) as (_, protocol, peer):
        peer.send_raw(b"\x14\x03\x03\x00\x01\x01" * 2)
        peer.send_eof()
        await protocol.lost


async def while_closing(setting, told):
    """The peer answers a close_notify with bad records."""
    async with setting.connection(told) as (transport, protocol, peer):
        transport.close()
        await peer.read_until_end()
        peer.send_raw(b"x" * 100)
        await protocol.lost


async def while_data_is_queued(setting, told):
    async with setting.connection(told, buffers=65536) as (transport, protocol, peer):
        transport.write(bytes(1 << 20))
        peer.send_raw(b"x" * 100)
        await protocol.lost


async def while_paused(setting, told):
    """The bad record comes while reading is paused, and is noticed when reading goes on."""
    async with setting.connection(told) as (transport, protocol, peer):
        transport.pause_reading()
        peer.send_raw(peer.encrypt(b"good") + b"x" * 100)
        await peer.read(0)
        transport.resume_reading()
        await protocol.lost


async def many_tiny_records(setting, told):
    async with setting.connection(told) as (_, protocol, peer):
        peer.send_raw(b"".join(peer.encrypt(b"%03d " % number) for number in range(500)))
        await protocol.read(2000)
        peer.send_eof()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("scenario", scenarios_of(__name__))
def test_record(loop_name, scenario, setting):
    seen = same_as_asyncio(loop_name, scenario, setting, BEFORE_A_BAD_RECORD.get(scenario.__name__))
    assert seen["calls"].count("connection_lost") == 1
    assert seen["reports"] == []


@pytest.mark.parametrize("setting", SETTINGS)
def test_tampering_is_an_error(loop_name, setting):
    """Changed bytes end the connection with an error, on every loop."""
    seen = same_as_asyncio(loop_name, tampered_record, setting)
    assert seen["data"] == b"good"
    assert seen["lost"]["type"] is ssl.SSLError
    # OpenSSL 3.6 has another text for it.
    assert seen["lost"]["reason"] in ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "RECORD_LAYER_FAILURE")
