"""The common read in few steps: a plain needle that memory holds, whole, one range of it, or its head alone.

This answers exactly as `read.handle_read` does, or not at all. A read that needs a disk, a transform, a thread or an
error text is left to `handle_read`. A test holds both to the same bytes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.content.sniff import sniff
from native_handlers.http.failures import STORE_FAILURES
from native_handlers.http.send_content import disposition_of, labels_of
from native_handlers.http_model.conditional import format_http_date, is_not_modified_since, is_same_etag
from native_handlers.http_model.errors import BadRange
from native_handlers.http_model.headers import HeaderMap
from native_handlers.http_model.message import REQUEST_ID_HEADER, new_request_id
from native_handlers.http_model.ranges import parse_ranges
from native_handlers.storage.volume.record_reader import WHOLE_READ_LIMIT_BYTES
from supervisor.fast_path.read_request import PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.format.cached_needle import CachedNeedle
    from native_handlers.storage.store import Store
    from native_handlers.storage.system.buffer_pool import BufferPool, PooledBuffer
    from supervisor.fast_path.read_request import Read, ReadFields

_new_tuple = tuple.__new__
_SAFE_LINES = re.compile(r"(?:[A-Za-z-]+: [\t\x20-\x7e\x80-\xff]*\r\n)*")


class ReadAnswer(NamedTuple):
    """A whole answer. `body` is a view of lent memory where `release` is set; the caller then calls `release`, once."""

    status: int
    head: bytes
    body: bytes | memoryview
    release: Callable[[], None] | None


def try_answer(store: Store, read: Read, buffers: BufferPool, *, version: str, date: str) -> ReadAnswer | None:
    """The answer to a read over HTTP/1.1. None leaves the request, also a failing one, to `handle_read`.

    Args:
        buffers: lends memory for large needles.
        version: as in `HttpSettings`.
        date: the value of the Date header.
    """
    method, volume_id, needle_id, cookie, fields, _ = read
    is_head = method == "HEAD"
    place = _Place(buffers, fields is PLAIN and not is_head)
    answer = None
    try:
        volume = store.find_volume(volume_id)
        if volume is None or volume_id in store.settling.volume_ids:
            return None
        needle = volume.try_read_cached(needle_id, cookie, place.of)
        if needle is not None:
            answer = _answer_with(needle, fields, is_head, version, date, place.release)
    except STORE_FAILURES:
        return None
    finally:
        if answer is None or answer[3] is None:
            place.release()
    return answer


class _Place:
    """Lends memory for a needle, if the needle is a large one.

    A large needle is read and checked whole. Where only a part of it is sent, the ordinary way leaves the rest on disk.
    """

    __slots__ = ("_buffer", "_buffers", "_is_whole")

    def __init__(self, buffers: BufferPool, is_whole: bool) -> None:  # noqa: FBT001
        self._buffers = buffers
        self._buffer: PooledBuffer | None = None
        self._is_whole = is_whole

    def of(self, length_bytes: int) -> memoryview | None:
        if length_bytes > WHOLE_READ_LIMIT_BYTES and not self._is_whole:
            return None
        self._buffer = buffer = self._buffers.acquire(length_bytes)
        return None if buffer is None else buffer.view

    def release(self) -> None:
        if self._buffer is not None:
            self._buffer.release()


def _answer_with(  # noqa: PLR0913, PLR0917  a part of `try_answer`
    needle: CachedNeedle, fields: ReadFields, is_head: bool, version: str, date: str, release: Callable[[], None]
) -> ReadAnswer | None:
    """The answer to the read that has found `needle`."""
    _, data, name, mime, last_modified_s, _, checksum = needle
    labels = _label_lines(name, mime)
    if labels is None:
        return None
    disposition, content_type = labels
    modified = f"Last-Modified: {format_http_date(last_modified_s)}\r\n" if last_modified_s else ""
    ending = f"Server: SeaweedFS Volume {version}\r\n{REQUEST_ID_HEADER}: {new_request_id()}\r\nDate: {date}\r\n\r\n"
    status, reason, part, body = 200, "OK", "", data
    size = length = len(data)
    if is_head or fields is not PLAIN:
        if _is_known(fields, last_modified_s, checksum):
            return ReadAnswer(304, f"HTTP/1.1 304 Not Modified\r\n{modified}{ending}".encode("latin-1"), b"", None)
        if is_head:
            body = b""
        elif fields.range:
            start, length = _range_in(fields.range, size)
            if not length:
                return None
            status, reason, body = 206, "Partial Content", data[start : start + length]
            part = f"Content-Range: bytes {start}-{start + length - 1}/{size}\r\n"
    if body and not content_type:
        content_type = f"Content-Type: {sniff(body)}\r\n"
    head = (
        f"HTTP/1.1 {status} {reason}\r\nAccept-Ranges: bytes\r\n{disposition}Content-Length: {length}\r\n{part}"
        f'{content_type}Etag: "{checksum:08x}"\r\n{modified}{ending}'
    )
    # `ReadAnswer(...)` takes twice the time, because it goes through a function in Python.
    is_lent = not isinstance(body, bytes)
    return _new_tuple(ReadAnswer, (status, head.encode("latin-1"), body, release if is_lent else None))


def _is_known(fields: ReadFields, last_modified_s: int, checksum: int) -> bool:
    """Whether the client has the needle already; as in `read.handle_read`."""
    if last_modified_s and is_not_modified_since(fields.if_modified_since, last_modified_s):
        return True
    return is_same_etag(fields.if_none_match, f"{checksum:08x}")


def _range_in(header: str, size_bytes: int) -> tuple[int, int]:
    """Start and length of the one range in `header`; the length is 0 for a range that the ordinary way answers."""
    try:
        ranges = parse_ranges(header, size_bytes) if "," not in header else None
    except BadRange:
        return 0, 0
    return (ranges[0].start, ranges[0].length) if ranges else (0, 0)


@lru_cache(maxsize=1024)
def _label_lines(name: bytes, mime: bytes) -> tuple[str, str] | None:
    """The lines Content-Disposition and Content-Type, "" for an absent one. None for a value that no line can hold."""
    labels, headers = labels_of("", name, mime), HeaderMap()
    if labels.filename:
        headers.set("Content-Disposition", disposition_of(labels.filename, is_download=False))
    disposition = _line("Content-Disposition", headers)
    if content_type := labels.mime or labels.deduced_type:
        headers.set("Content-Type", content_type)
    content_type = _line("Content-Type", headers)
    is_safe = _SAFE_LINES.fullmatch(disposition) and _SAFE_LINES.fullmatch(content_type)
    return (disposition, content_type) if is_safe else None


def _line(name: str, headers: HeaderMap) -> str:
    return f"{name}: {headers.get(name)}\r\n" if name in headers else ""
