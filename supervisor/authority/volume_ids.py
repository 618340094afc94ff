"""Finds the volumes of an RPC in the bytes of its request. One field is read and the rest is skipped.

The wire format: a message is a row of (tag, value), and a tag holds the field's number and the shape of the value.
Source: the encoding guide of protocol buffers.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadFileId
from native_handlers.format.fid import split_rpc_file_id
from native_handlers.runtime.give_way import give_way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from google.protobuf.descriptor import Descriptor, FieldDescriptor

FID_FIELDS = frozenset({"file_ids", "from_file_ids"})
_VARINT, _BYTES = 0, 2
_MAX_VARINT_BYTES = 10
_MASK32 = 0xFFFFFFFF
_FIDS_AT_ONCE = 1000
_LONG_FID_BYTES = 1024
"""Of a longer file id no more is looked at than tells its volume."""


class BadMessage(Exception):
    """The bytes are no message. The engine that decodes them whole answers with its own text."""


def volume_ids_of(descriptor: Descriptor, field_path: str, message: bytes, *, is_first: bool = True) -> set[int]:
    """The volumes in the field at `field_path` (dotted where the field is inside a message).

    A single number that is absent is 0, as in protobuf. A list may be empty. A file id without a comma names no volume,
    and one with another text before the comma than a number names volume 0. With `is_first` False, an absent number
    inside an absent message names no volume either: a later message of a stream may hold something else.

    Raises:
        BadMessage: `message` cannot be parsed.
    """
    numbers, is_repeated = _field_numbers(descriptor, field_path)
    pieces = [message]
    for number in numbers[:-1]:
        pieces = [value for piece in pieces for value in _values(piece, number) if isinstance(value, bytes)]
    if field_path in FID_FIELDS:
        return _volumes_of_fids(value for piece in pieces for value in _values(piece, numbers[-1], _start_of_fid))
    ids: list[int] = []
    for value in (value for piece in pieces for value in _values(piece, numbers[-1])):
        if not isinstance(value, bytes):
            ids.append(value)
        elif is_repeated:
            ids.extend(_packed(value))
        # Bytes where a single number is expected are no value of the field: decoders skip them.
    if not is_repeated:
        ids = ids[-1:] or ([0] if pieces or is_first else [])
    return {volume_id & _MASK32 for volume_id in ids}


def text_field(descriptor: Descriptor, name: str, message: bytes) -> str:
    """The text of a field; empty where the field is absent.

    Raises:
        BadMessage: `message` cannot be parsed.
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


def _volumes_of_fids(fids: Iterable[int | bytes]) -> set[int]:
    """The volumes of file ids. There may be a million, most of one volume, so other threads get turns in between."""
    texts: set[bytes] = set()
    for count, fid in enumerate(fids):
        if isinstance(fid, bytes):
            texts.add(b"".join(fid.partition(b",")[:2]))
        if count % _FIDS_AT_ONCE == _FIDS_AT_ONCE - 1:
            give_way()
    return {volume_id for text in texts if (volume_id := _volume_of_fid(text)) is not None}


def _volume_of_fid(text: bytes) -> int | None:
    """The volume of a file id, of which at least the part up to the comma is given. None for one that the handlers
    refuse because it is of no volume.
    """
    try:
        return split_rpc_file_id(text.decode("latin-1"))[0]
    except BadFileId:
        return None


def _start_of_fid(message: bytes, start: int, end: int) -> bytes:
    """A file id; of a long one its beginning, without all but one of the zeros with which it begins. Both have the same
    volume.
    """
    if end - start <= _LONG_FID_BYTES:
        return message[start:end]
    first = start
    while piece := message[first : min(end, first + _LONG_FID_BYTES)]:
        rest = piece.lstrip(b"0")
        first += len(piece) - len(rest)
        if rest:
            break
    return b"0"[: first - start] + message[first : min(end, first + _LONG_FID_BYTES)]


def _slice(message: bytes, start: int, end: int) -> bytes:
    return message[start:end]


def _values(message: bytes, wanted: int, take: Callable[[bytes, int, int], bytes] = _slice) -> Iterator[int | bytes]:
    """Each value of the field `wanted` in turn; of bytes what `take` takes of them."""
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
                    value = take(message, at, at + length)
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
