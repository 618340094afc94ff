"""The everyday read in few steps: all of a plain needle that memory holds, answered in one go.

It answers exactly as `read.handle_read` does, or not at all: whatever needs a disk, a transform, a thread or an error
text is left to that one. A test holds the two to the same bytes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from native_handlers.http.conditional import format_http_date
from native_handlers.http.content import labels_of
from native_handlers.http.disposition import set_disposition
from native_handlers.http.failures import STORE_FAILURES
from native_handlers.http.header_map import HeaderMap
from native_handlers.http.message import HeldAnswer
from native_handlers.http.query import Query
from native_handlers.http.request_id import REQUEST_ID_HEADER, new_request_id
from native_handlers.http.sniff import sniff

if TYPE_CHECKING:
    from native_handlers.format.plain_needle import PlainNeedle
    from native_handlers.http.message import Answer
    from native_handlers.storage.payload_buffers import PayloadBuffer, PayloadBuffers
    from native_handlers.storage.store import Store

_SAFE_LINES = re.compile(r"(?:[A-Za-z-]+: [\t\x20-\x7e\x80-\xff]*\r\n)*")
_NO_QUERY = Query()


def quick_answer(
    store: Store, file_id: tuple[int, int, int], buffers: PayloadBuffers, *, version: str, date: str
) -> Answer | None:
    """Head and body of the answer to an HTTP/1.1 GET of a needle that asks for nothing in particular.

    None leaves the request to `handle_read`, failures included.

    Args:
        file_id: volume id, needle id, cookie.
        buffers: where large needles are read into.
        version: as in `HttpSettings`.
        date: for the Date header.
    """
    place = _Place(buffers)
    head = None
    try:
        needle = store.read_plain(*file_id, place.of)
        head = None if needle is None else _head_of(needle, version, date)
    except STORE_FAILURES:
        return None
    finally:
        if head is None:
            place.release()
    if needle is None or head is None:
        return None
    return head + needle.data if isinstance(needle.data, bytes) else HeldAnswer(head, needle.data, place.release)


class _Place:
    """Where a needle that is large is read into, if it turns out to be."""

    __slots__ = ("_buffer", "_buffers")

    def __init__(self, buffers: PayloadBuffers) -> None:
        self._buffers = buffers
        self._buffer: PayloadBuffer | None = None

    def of(self, length_bytes: int) -> memoryview | None:
        self._buffer = buffer = self._buffers.lend(length_bytes)
        return None if buffer is None else buffer.view

    def release(self) -> None:
        if self._buffer is not None:
            self._buffer.release()


def _head_of(needle: PlainNeedle, version: str, date: str) -> bytes | None:
    _, data, name, mime, last_modified_s, _, checksum = needle
    labels = _label_lines(name, mime)
    if labels is None:
        return None
    disposition, content_type = labels
    modified = f"Last-Modified: {format_http_date(last_modified_s)}\r\n" if last_modified_s else ""
    head = (
        f"HTTP/1.1 200 OK\r\nAccept-Ranges: bytes\r\n{disposition}Content-Length: {len(data)}\r\n"
        f'{content_type or _sniffed(data)}Etag: "{checksum:08x}"\r\n{modified}'
        f"Server: SeaweedFS Volume {version}\r\n{REQUEST_ID_HEADER}: {new_request_id()}\r\nDate: {date}\r\n\r\n"
    )
    return head.encode("latin-1")


def _sniffed(data: bytes | memoryview) -> str:
    return f"Content-Type: {sniff(data)}\r\n"


@lru_cache(maxsize=1024)
def _label_lines(name: bytes, mime: bytes) -> tuple[str, str] | None:
    """The lines Content-Disposition and Content-Type, "" for an absent one; None for what a line cannot hold."""
    labels, headers = labels_of("", name, mime), HeaderMap()
    set_disposition(headers, _NO_QUERY, labels.filename)
    disposition = _line("Content-Disposition", headers)
    if content_type := labels.content_type:
        headers.set("Content-Type", content_type)
    content_type = _line("Content-Type", headers)
    is_safe = _SAFE_LINES.fullmatch(disposition) and _SAFE_LINES.fullmatch(content_type)
    return (disposition, content_type) if is_safe else None


def _line(name: str, headers: HeaderMap) -> str:
    return f"{name}: {headers.get(name)}\r\n" if name in headers else ""
