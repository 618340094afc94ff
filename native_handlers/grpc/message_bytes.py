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
_TYPE_MASK = 7
_MAX_NUMBER = (1 << 29) - 1
_MAX_GROUPS = 100
"""Groups within one another, as in the decoder."""
_TELLING_BYTES = 32
"""So many bytes of what is no field are enough for the decoder to see it: a tag and a length have 20 at most."""
_MORE_OF_CHARACTER = 3
"""Bytes of a character after its first one, in UTF-8."""
_SCANNED_FIELDS = 4096
"""Fields that are scanned without releasing the lock: below a millisecond."""
_VARINT_BITS = 70


def pieces_of(message: bytes, least_bytes: int, longest_bytes: int) -> Iterator[bytes]:
    """Yields `message` in pieces, cut between fields. Each piece is a message of the same type, and merging all pieces
    gives the whole, but for long fields. A piece has at least `least_bytes`, unless it is the last, or a long field, or
    comes before one.

    A field whose content is longer than `longest_bytes` is never copied whole. Text and bytes lose their end: at least
    `longest_bytes` less 3 remain, and no character is cut. A group is left out; no message here has one.

    Where something is no field, the last piece ends a little after its beginning. The decoder refuses that piece.
    """
    start = begun = 0
    try:
        for content, end in _fields_of(message):
            if end - content > longest_bytes:
                if start < begun:
                    yield message[start:begun]
                if cut := _cut_field(message, begun, content, longest_bytes):
                    yield cut
                start = end
            elif end - start >= least_bytes:
                yield message[start:end]
                start = end
            begun = end
    except (IndexError, ValueError):
        yield message[start : begun + _TELLING_BYTES]
        return
    if start < len(message):
        yield message[start:]


def _cut_field(message: bytes, begun: int, content: int, longest_bytes: int) -> bytes:
    """The field at `begun` with the beginning of its content; nothing of a group."""
    tag, tag_end = _varint_at(message, begun)
    if tag & _TYPE_MASK != _LENGTH_DELIMITED:
        return b""
    end = content + longest_bytes
    for _ in range(_MORE_OF_CHARACTER):
        if message[end] & 0xC0 != 0x80:
            break
        end -= 1
    return b"".join((message[begun:tag_end], varint(end - content), message[content:end]))


def _fields_of(message: bytes) -> Iterator[tuple[int, int]]:
    """Where the content of each field begins, and where the field ends. A group is one field, whatever it holds.

    Raises:
        IndexError, ValueError: what follows the last field is no field.
    """
    at = fields = outermost = 0
    groups: list[int] = []
    while at < len(message):
        tag, content = _varint_at(message, at)
        match tag & _TYPE_MASK:
            case 3:
                at = content
                outermost = outermost if groups else content
                groups.append(tag)
                if len(groups) > _MAX_GROUPS:
                    raise ValueError("too many groups within one another")
            case 4:
                if groups.pop() != tag - 1:
                    raise ValueError("the end of another group")
                at, content = content, outermost
            case kind:
                content, at = _value_at(message, content, kind)
        if not 0 < tag >> _TAG_TYPE_BITS <= _MAX_NUMBER or at > len(message):
            raise ValueError("no number of a field, or half a field")
        fields += 1
        if fields % _SCANNED_FIELDS == 0:
            give_way()
        if not groups:
            yield content, at
    if groups:
        raise ValueError("a group without its end")


def _value_at(message: bytes, at: int, kind: int) -> tuple[int, int]:
    """Where the content of a field begins and ends whose value is at `at`."""
    match kind:
        case 0:
            return at, _varint_at(message, at)[1]
        case 1:
            return at, at + 8
        case 2:
            length, at = _varint_at(message, at)
            return at, at + length
        case 5:
            return at, at + 4
        case _:
            raise ValueError("no type of a field")


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
