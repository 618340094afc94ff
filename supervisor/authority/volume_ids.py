"""Which volumes an RPC is about, read from the bytes of its request: one field is looked at, the rest is skipped.

The wire format in a sentence: a message is a row of (tag, value), a tag is the field's number and the value's shape.
Source: the encoding guide of protocol buffers.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor, FieldDescriptor

FID_FIELDS = frozenset({"file_ids", "from_file_ids"})
_VARINT, _BYTES = 0, 2
_MAX_VARINT_BYTES = 10
_MASK32 = 0xFFFFFFFF


class BadMessage(Exception):
    """The bytes are no message. Whoever decodes them whole says so in its own words."""


def volume_ids_of(descriptor: Descriptor, field_path: str, message: bytes) -> set[int]:
    """The volumes named in the field at `field_path` (dotted where it is inside a message).

    A single number that is not there is 0, as protobuf has it; a list may be empty. File ids without a volume number
    name none.

    Raises:
        BadMessage: `message` is not one.
    """
    numbers, is_repeated = _field_numbers(descriptor, field_path)
    pieces = [message]
    for number in numbers[:-1]:
        pieces = [value for piece in pieces for value in _values(piece, number) if isinstance(value, bytes)]
    found = [value for piece in pieces for value in _values(piece, numbers[-1])]
    if field_path in FID_FIELDS:
        return {vid for value in found if isinstance(value, bytes) and (vid := _volume_of_fid(value)) is not None}
    ids: list[int] = []
    for value in found:
        ids.extend(_packed(value) if isinstance(value, bytes) else [value])
    if not is_repeated:
        ids = ids[-1:] or [0]
    return {volume_id & _MASK32 for volume_id in ids}


def text_field(descriptor: Descriptor, name: str, message: bytes) -> str:
    """The text of a field, empty where it is not there.

    Raises:
        BadMessage: `message` is not one.
    """
    texts = [value for value in _values(message, descriptor.fields_by_name[name].number) if isinstance(value, bytes)]
    return texts[-1].decode("utf-8", "replace") if texts else ""


@cache
def _field_numbers(descriptor: Descriptor, field_path: str) -> tuple[tuple[int, ...], bool]:
    numbers: list[int] = []
    field: FieldDescriptor | None = None
    for name in field_path.split("."):
        if field is not None:
            assert field.message_type is not None
            descriptor = field.message_type
        field = descriptor.fields_by_name[name]
        numbers.append(field.number)
    assert field is not None
    return tuple(numbers), field.is_repeated


def _volume_of_fid(fid: bytes) -> int | None:
    """A volume id that is no number is volume 0 for some RPCs and an error for others: none is opened for it."""
    text = fid.partition(b",")[0]
    return int(text) & _MASK32 if text.isdigit() and len(text) <= 20 else None


def _values(message: bytes, wanted: int) -> Iterator[int | bytes]:
    """Each value of the field `wanted` in turn."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value: int | bytes = 0
        match tag & 7:
            case 0:
                value, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                length, at = _varint(message, at)
                if at + length > len(message):
                    raise BadMessage
                if tag >> 3 == wanted:
                    value = message[at : at + length]
                at += length
            case 5:
                at += 4
            case _:
                raise BadMessage
        if tag >> 3 == wanted and tag & 7 in {_VARINT, _BYTES}:
            yield value
    if at != len(message):
        raise BadMessage


def _packed(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(_MAX_VARINT_BYTES):
        if at >= len(data):
            raise BadMessage
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at
    raise BadMessage
