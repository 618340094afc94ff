"""Encodes and parses CopyFileResponse without a message object.

For a message of 2 MiB, protobuf makes two more copies, each in fresh memory of the kernel: encoding 512 MiB took 1.0 s
of processor time with protobuf, and 0.05 s here.
"""

from __future__ import annotations

from typing import NamedTuple

from native_handlers.grpc.message_bytes import message_around, varint
from native_handlers.pb import volume_server_pb2 as pb

_CONTENT_FIELD = 1
_CONTENT, _MODIFIED = 0x0A, 0x10
"""The tags: field 1, bytes; field 2, a number."""
_MAX_VARINT_BYTES = 10


class CopyPiece(NamedTuple):
    """The fields of a message. `content` is a view of the message; `modified_at_ns` is 0 in all but the first."""

    content: memoryview | bytes
    modified_at_ns: int


def encode_copy_piece(content: bytes, modified_at_ns: int = 0) -> bytes:
    """A CopyFileResponse. Parts that are empty or 0 are left out, as protobuf leaves them out."""
    modified = bytes((_MODIFIED,)) + varint(modified_at_ns) if modified_at_ns else b""
    return message_around(_CONTENT_FIELD, content, after=modified)


def parse_copy_piece(message: bytes) -> CopyPiece:
    """Parses a CopyFileResponse. protobuf parses a message whose fields are not in the usual order.

    Raises:
        google.protobuf.message.DecodeError: the bytes are no such message.
    """
    at, content = 0, memoryview(message)[:0]
    if message[:1] == bytes((_CONTENT,)):
        length, at = _read_varint(message, 1)
        content = memoryview(message)[at : at + length]
        if len(content) != length:
            return _parse_slowly(message)
        at += length
    modified_at_ns = 0
    if message[at : at + 1] == bytes((_MODIFIED,)):
        modified_at_ns, at = _read_varint(message, at + 1)
    if at != len(message) or modified_at_ns >= 1 << 63:
        return _parse_slowly(message)
    return CopyPiece(content, modified_at_ns)


def _parse_slowly(message: bytes) -> CopyPiece:
    parsed = pb.CopyFileResponse.FromString(message)
    return CopyPiece(parsed.file_content, parsed.modified_ts_ns)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The number at `at` and the position after it; a position beyond the message where there is no number."""
    value = 0
    for position, byte in enumerate(message[at : at + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value, at + position + 1
    return 0, len(message) + 1
