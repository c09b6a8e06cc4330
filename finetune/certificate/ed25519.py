"""Checks of Ed25519 signatures in plain Python, for machines that have only Python and numpy.

Source: RFC 8032, sections 5.1.1 to 5.1.7. A check uses no secret, so its time may depend on its input.
Signatures are made by the package cryptography, in `issuing.py`.

Points are (X, Y, Z, T) with x = X/Z, y = Y/Z and xy = T/Z, on -x² + y² = 1 + d·x²y² modulo p.
"""

import hashlib

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)

Point = tuple[int, int, int, int]
ZERO: Point = (0, 1, 1, 0)


def is_valid(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether the signature (64 bytes) of the message was made with the key (32 bytes)."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    key, scalar = _decoded(public_key), int.from_bytes(signature[32:], "little")
    if key is None or scalar >= ORDER:  # a larger scalar would be a second signature of the message
        return False
    digest = hashlib.sha512(signature[:32] + public_key + message).digest()
    challenge = int.from_bytes(digest, "little") % ORDER
    x, y, z, t = key
    minus_key = (P - x, y, z, P - t)
    return _encoded(_sum(_times(scalar, BASE), _times(challenge, minus_key))) == signature[:32]


def _sum(a: Point, b: Point) -> Point:
    low, high = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    product, twice = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = high - low, twice - product, twice + product, high + low
    return e * f % P, g * h % P, f * g % P, e * h % P


def _times(scalar: int, point: Point) -> Point:
    total = ZERO
    while scalar:
        if scalar & 1:
            total = _sum(total, point)
        point, scalar = _sum(point, point), scalar >> 1
    return total


def _encoded(point: Point) -> bytes:
    x, y, z, _ = point
    inverse = pow(z, -1, P)
    x, y = x * inverse % P, y * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decoded(text: bytes) -> Point | None:
    """Return the point of 32 bytes, or None if they are not the encoding of a point."""
    number = int.from_bytes(text, "little")
    y, odd = number & ((1 << 255) - 1), number >> 255
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * ROOT_OF_MINUS_ONE % P
    if x * x % P != square or (x == 0 and odd):
        return None
    if x & 1 != odd:
        x = P - x
    return x, y, 1, x * y % P


def _base() -> Point:
    point = _decoded((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
    assert point is not None
    return point


BASE = _base()
