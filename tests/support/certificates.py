"""Certificates made at test time: keys, X.509 certificates, and the ssl contexts that hold them.

Made once per process from the standard library alone, so that no test depends on files that expire, on the openssl
command, or on a network. The keys are for tests only: nothing here runs in constant time.

DER is X.690, certificates are RFC 5280, keys RFC 5915 (EC) and RFC 8017 (RSA), ECDSA SEC 1 version 2.
No test lives here.
"""

import base64
import datetime
import functools
import hashlib
import ipaddress
import pathlib
import secrets
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

HOSTNAME = "localhost"

Point = tuple[int, int]

# --- DER ---


def tlv(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + length.to_bytes(size, "big") + content


def integer(value: int) -> bytes:
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def bit_string(data: bytes, unused: int = 0) -> bytes:
    return tlv(0x03, bytes([unused]), data)


def octet_string(data: bytes) -> bytes:
    return tlv(0x04, data)


def sequence(*items: bytes) -> bytes:
    return tlv(0x30, *items)


def explicit(number: int, *items: bytes) -> bytes:
    return tlv(0xA0 | number, *items)


def identifier(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    content = bytes([first * 40 + second])
    for arc in rest:
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(0x80 | (arc & 0x7F))
        content += bytes(reversed(digits))
    return tlv(0x06, content)


def name(common_name: str) -> bytes:
    attribute = sequence(identifier("2.5.4.3"), tlv(0x0C, common_name.encode()))
    return sequence(tlv(0x31, attribute))


def moment(when: datetime.datetime) -> bytes:
    return tlv(0x18, when.strftime("%Y%m%d%H%M%SZ").encode())


def pem(label: str, der: bytes) -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n"


# --- keys ---

# NIST P-256 (SEC 2, 2.4.2).
P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)


def add(left: Point | None, right: Point | None) -> Point | None:
    """The sum of two points of P-256; None is the point at infinity."""
    if left is None or right is None:
        return left or right
    (x1, y1), (x2, y2) = left, right
    if x1 == x2:
        if (y1 + y2) % P == 0:
            return None
        slope = 3 * (x1 * x1 - 1) * pow(2 * y1, -1, P)  # the curve's a is -3
    else:
        slope = (y2 - y1) * pow(x2 - x1, -1, P)
    x = (slope * slope - x1 - x2) % P
    return x, (slope * (x1 - x) - y1) % P


def multiply(scalar: int, point: Point) -> Point:
    result: Point | None = None
    doubled: Point | None = point
    while scalar:
        if scalar & 1:
            result = add(result, doubled)
        doubled = add(doubled, doubled)
        scalar >>= 1
    assert result is not None  # the scalar is neither zero nor the order of the point
    return result


class EcKey:
    """A key of P-256."""

    algorithm = sequence(identifier("1.2.840.10045.4.3.2"))  # ecdsa-with-SHA256

    def __init__(self) -> None:
        self.secret = secrets.randbelow(N - 1) + 1
        x, y = multiply(self.secret, G)
        self.point = b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big")

    def public(self) -> bytes:
        curve = identifier("1.2.840.10045.3.1.7")
        return sequence(sequence(identifier("1.2.840.10045.2.1"), curve), bit_string(self.point))

    def private_pem(self) -> str:
        curve = explicit(0, identifier("1.2.840.10045.3.1.7"))
        secret = octet_string(self.secret.to_bytes(32, "big"))
        return pem("EC PRIVATE KEY", sequence(integer(1), secret, curve, explicit(1, bit_string(self.point))))

    def sign(self, data: bytes) -> bytes:
        digest = int.from_bytes(hashlib.sha256(data).digest(), "big")
        while True:
            nonce = secrets.randbelow(N - 1) + 1
            r = multiply(nonce, G)[0] % N
            s = pow(nonce, -1, N) * (digest + r * self.secret) % N
            if r and s:
                return sequence(integer(r), integer(s))


class RsaKey:
    """An RSA key of 2048 bits."""

    algorithm = sequence(identifier("1.2.840.113549.1.1.11"), b"\x05\x00")  # sha256WithRSAEncryption
    exponent = 65537

    def __init__(self) -> None:
        self.p, self.q = prime(1024), prime(1024)
        self.modulus = self.p * self.q
        self.secret = pow(self.exponent, -1, (self.p - 1) * (self.q - 1))

    def public(self) -> bytes:
        key = sequence(integer(self.modulus), integer(self.exponent))
        return sequence(sequence(identifier("1.2.840.113549.1.1.1"), b"\x05\x00"), bit_string(key))

    def private_pem(self) -> str:
        p, q, d = self.p, self.q, self.secret
        numbers = (0, self.modulus, self.exponent, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p))
        return pem("RSA PRIVATE KEY", sequence(*map(integer, numbers)))

    def sign(self, data: bytes) -> bytes:
        sha256 = sequence(identifier("2.16.840.1.101.3.4.2.1"), b"\x05\x00")
        info = sequence(sha256, octet_string(hashlib.sha256(data).digest()))
        padded = b"\x00\x01" + b"\xff" * (256 - 3 - len(info)) + b"\x00" + info
        return pow(int.from_bytes(padded, "big"), self.secret, self.modulus).to_bytes(256, "big")


@functools.cache
def small_primes() -> list[int]:
    return [n for n in range(3, 2000, 2) if all(n % d for d in range(3, int(n**0.5) + 1, 2))]


def prime(bits: int) -> int:
    """A prime whose two highest bits are set, so that the product of two has twice the bits."""
    while True:
        candidate = secrets.randbits(bits) | (0b11 << (bits - 2)) | 1
        if candidate % RsaKey.exponent != 1 and is_prime(candidate):
            return candidate


def is_prime(candidate: int) -> bool:
    """Trial division, then Miller and Rabin's test."""
    if any(candidate % small == 0 for small in small_primes()):
        return False
    odd = candidate - 1
    twos = (odd & -odd).bit_length() - 1
    odd >>= twos
    for _ in range(8):
        x = pow(secrets.randbelow(candidate - 3) + 2, odd, candidate)
        if x in (1, candidate - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % candidate
            if x == candidate - 1:
                break
        else:
            return False
    return True


# --- certificates ---


@dataclass(frozen=True, eq=False)
class Certificate:
    """A certificate and its key. `chain` is a file with both, as `SSLContext.load_cert_chain` takes it."""

    common_name: str
    key: EcKey | RsaKey
    der: bytes
    chain: pathlib.Path

    @property
    def pem(self) -> str:
        return pem("CERTIFICATE", self.der)


@functools.cache
def folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that is removed when the process ends. Until then the object must live."""
    return tempfile.TemporaryDirectory(prefix="rloop-certificates-")


def extension(dotted: str, value: bytes, critical: bool = False) -> bytes:
    return sequence(identifier(dotted), *([b"\x01\x01\xff"] if critical else []), octet_string(value))


def key_id(key: EcKey | RsaKey) -> bytes:
    return hashlib.sha1(key.public()).digest()


def issue(
    common_name: str,
    issuer: Certificate | None = None,
    *,
    key: EcKey | RsaKey | None = None,
    names: Sequence[str] = (),
    addresses: Sequence[str] = (),
    authority: bool = False,
    days: tuple[int, int] = (-1, 3650),
) -> Certificate:
    """A certificate signed by `issuer`, or by itself. `days` says from when to when it is valid, counted from now."""
    key = key or EcKey()
    signer = issuer.key if issuer else key
    now = datetime.datetime.now(datetime.UTC)
    alternatives = [tlv(0x82, host.encode()) for host in names]
    alternatives += [tlv(0x87, ipaddress.ip_address(address).packed) for address in addresses]
    extensions = [
        extension("2.5.29.19", sequence(*([b"\x01\x01\xff"] if authority else [])), critical=True),
        # keyCertSign and cRLSign, or digitalSignature
        extension("2.5.29.15", bit_string(b"\x06", 1) if authority else bit_string(b"\x80", 7), critical=True),
        extension("2.5.29.14", octet_string(key_id(key))),
        extension("2.5.29.35", sequence(tlv(0x80, key_id(signer)))),
    ]
    if alternatives:
        extensions.append(extension("2.5.29.17", sequence(*alternatives)))
    body = sequence(
        explicit(0, integer(2)),
        integer(secrets.randbits(64) | 1),
        signer.algorithm,
        name(issuer.common_name if issuer else common_name),
        sequence(*(moment(now + datetime.timedelta(day)) for day in days)),
        name(common_name),
        key.public(),
        explicit(3, sequence(*extensions)),
    )
    der = sequence(body, signer.algorithm, bit_string(signer.sign(body)))
    chain = pathlib.Path(folder().name, f"{secrets.token_hex(8)}.pem")
    chain.write_text(key.private_pem() + pem("CERTIFICATE", der))
    return Certificate(common_name, key, der, chain)


LOCAL: dict[str, Any] = {"names": (HOSTNAME,), "addresses": ("127.0.0.1", "::1")}


@functools.cache
def authority() -> Certificate:
    return issue("rloop test authority", authority=True)


@functools.cache
def server() -> Certificate:
    """A certificate for localhost, 127.0.0.1 and ::1."""
    return issue(HOSTNAME, authority(), **LOCAL)


@functools.cache
def rsa_server() -> Certificate:
    return issue(HOSTNAME, authority(), key=RsaKey(), **LOCAL)


@functools.cache
def other_host() -> Certificate:
    return issue("elsewhere.test", authority(), names=("elsewhere.test",))


@functools.cache
def client() -> Certificate:
    return issue("rloop test client", authority())


@functools.cache
def expired() -> Certificate:
    return issue(HOSTNAME, authority(), days=(-30, -1), **LOCAL)


@functools.cache
def self_signed() -> Certificate:
    return issue(HOSTNAME, **LOCAL)


# --- contexts ---

TLS_1_2 = ssl.TLSVersion.TLSv1_2
TLS_1_3 = ssl.TLSVersion.TLSv1_3


def server_context(
    certificate: Certificate | None = None,
    *,
    version: ssl.TLSVersion | None = None,
    verify: bool = False,
    alpn: list[str] | None = None,
) -> ssl.SSLContext:
    """A server's context. With `verify` it requires a certificate of the client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain((certificate or server()).chain)
    if verify:
        context.load_verify_locations(cadata=authority().pem)
        context.verify_mode = ssl.CERT_REQUIRED
    return limited(context, version, alpn)


def client_context(
    certificate: Certificate | None = None, *, version: ssl.TLSVersion | None = None, alpn: list[str] | None = None
) -> ssl.SSLContext:
    """A client's context, which trusts the authority and checks the host's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority().pem)
    if certificate is not None:
        context.load_cert_chain(certificate.chain)
    return limited(context, version, alpn)


def blind_context() -> ssl.SSLContext:
    """A client's context that checks nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def limited(context: ssl.SSLContext, version: ssl.TLSVersion | None, alpn: list[str] | None) -> ssl.SSLContext:
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    return context
