"""Recognises the everyday request: a whole GET of a file id, of which nothing but the file id matters.

The fields of such a request are the same bytes time after time, so a block of them is parsed once, by the parser of
record, and then known. Bytes that are not known to be such a request are for `ServerConnection`, whatever they are.
"""

from __future__ import annotations

import re

from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.http1_events import RequestHead
from supervisor.wire.http1_server import ServerConnection

_LINE = re.compile(rb"GET /([0-9]{1,9}),([0-9a-fA-F]{1,16})([0-9a-fA-F]{8}) HTTP/1\.1\r\n")
_IDLE_FIELDS = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "connection",
        "host",
        "pragma",
        "traceparent",
        "user-agent",
        "x-amz-request-id",
        "x-forwarded-for",
    }
)
"""Fields that do not change the answer to a GET of a plain needle (Accept-Encoding does where it is compressed)."""
_MAX_BLOCK_BYTES = 2048
_MAX_BLOCKS = 256


class PlainGets:
    """Tells the plain GETs among what clients send. Bounded; may be shared by all connections of a listener."""

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks: dict[bytes, bool] = {}

    def file_id_in(self, data: bytes) -> tuple[int, int, int] | None:
        """Volume id, needle id and cookie where `data` is one such request and nothing else; None for all else."""
        match = _LINE.match(data)
        if match is None:
            return None
        block = data[match.end() :]
        is_plain = self._blocks.get(block)
        if is_plain is None:
            is_plain = self._learn(block)
        if not is_plain:
            return None
        volume_id, needle_id, cookie = match.groups()
        return int(volume_id), int(needle_id, 16), int(cookie, 16)

    def _learn(self, block: bytes) -> bool:
        if len(block) > _MAX_BLOCK_BYTES:
            return False
        if len(self._blocks) >= _MAX_BLOCKS:
            self._blocks.clear()
        self._blocks[block] = is_plain = _is_plain(block)
        return is_plain


def _is_plain(block: bytes) -> bool:
    connection = ServerConnection()
    connection.receive_data(b"GET / HTTP/1.1\r\n" + block)
    try:
        head = connection.next_event()
    except RemoteProtocolError:
        return False
    if not isinstance(head, RequestHead) or connection.buffered_bytes:
        return False
    names = {name.lower() for name, _ in head.headers}
    return head.keep_alive and head.body_length_bytes == 0 and not head.expects_continue and names <= _IDLE_FIELDS
