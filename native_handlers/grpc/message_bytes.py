"""Serializes messages around a large field without a message object, and splits long serialized messages.

protobuf copies the field into the object and the object into the bytes, and holds the interpreter lock meanwhile: 128
MiB kept every other call waiting for 0.2 s. ``bytes.join`` copies once, and lets other threads run while it copies, if
all its parts are bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.runtime.give_way import give_way

if TYPE_CHECKING:
    from collections.abc import Iterator

_LENGTH_DELIMITED = 2
_TAG_TYPE_BITS = 3
_SCANNED_FIELDS = 4096
"""Fields that are scanned without releasing the lock: below a millisecond."""
_VARINT_BITS = 70


def pieces_of(message: bytes, least_bytes: int) -> Iterator[bytes]:
    """Yields `message` in pieces, cut between fields; each piece but the last has at least `least_bytes`. Each piece is
    a message of the same type, and merging all pieces gives the whole.

    From the first byte on that is no field, the rest is one piece, which the decoder then refuses.
    """
    start = at = fields = depth = 0
    while at < len(message):
        try:
            at, depth = _end_of_field(message, at, depth)
        except (IndexError, ValueError):
            break
        fields += 1
        if fields % _SCANNED_FIELDS == 0:
            give_way()
        if at - start >= least_bytes and not depth:
            yield message[start:at]
            start = at
    if start < len(message):
        yield message[start:]


def _end_of_field(message: bytes, at: int, depth: int) -> tuple[int, int]:
    """The position after the field at `at`, and the number of groups that are open there. Raises IndexError, ValueError
    where there is no field.
    """
    tag, at = _varint_at(message, at)
    match tag & ((1 << _TAG_TYPE_BITS) - 1):
        case 0:
            _, at = _varint_at(message, at)
        case 1:
            at += 8
        case 2:
            length, at = _varint_at(message, at)
            at += length
        case 3:
            depth += 1
        case 4 if depth:
            depth -= 1
        case 5:
            at += 4
        case _:
            raise ValueError("no type of a field")
    return at, depth


def _varint_at(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := message[at]) > 0x7F:
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if shift >= _VARINT_BITS:
            raise ValueError("a number of more than 64 bits")
    return value | byte << shift, at + 1


def message_around(number: int, content: bytes, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """A message whose field `number`, of protobuf's type bytes, is `content`. Empty content is left out, as protobuf
    does.

    Args:
        before: the serialized fields with lower numbers.
        after: the serialized fields with higher numbers.
    """
    if not content:
        return before + after
    tag = varint(number << _TAG_TYPE_BITS | _LENGTH_DELIMITED)
    return b"".join((before, tag, varint(len(content)), content, after))


def varint(value: int) -> bytes:
    """`value` as a protobuf varint: 7 bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
