"""The common read in few steps: a needle that memory holds, whole, one range of it, or its head alone.

Compressed data goes out as it is stored to a client that takes gzip. To another client it goes out decompressed where
that is little work. This answers exactly as `read.handle_read` does, or not at all. A read that needs a disk, another
transform, a thread or an error text is left to `handle_read`. A test holds both to the same bytes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.content.gzip_data import BadGzip, is_gzip, measure
from native_handlers.content.sniff import sniff
from native_handlers.http.clear_content import KEPT_BYTES
from native_handlers.http.failures import STORE_FAILURES
from native_handlers.http.send_content import disposition_of, labels_of
from native_handlers.http_model.conditional import format_http_date, is_not_modified_since, is_same_etag
from native_handlers.http_model.errors import BadRange
from native_handlers.http_model.headers import HeaderMap
from native_handlers.http_model.message import REQUEST_ID_HEADER
from native_handlers.http_model.ranges import parse_ranges
from native_handlers.runtime.content_threads import finish_within
from native_handlers.storage.volume.record_reader import WHOLE_READ_LIMIT_BYTES
from supervisor.fast_path.read_request import PLAIN
from supervisor.net.http_send import new_request_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.format.cached_needle import CachedNeedle
    from native_handlers.http.context import ReadableVolumes
    from native_handlers.http.settings import HttpSettings
    from native_handlers.storage.system.buffer_pool import BufferPool, PooledBuffer
    from supervisor.fast_path.read_request import Read, ReadFields

_UNPACKED_BYTES = 4 * 1024
"""Compressed data up to this length may be decompressed on the event loop."""
_UNPACKING_STEPS = 2
"""Steps of that, each of at most 64 KiB of content: some tenths of a millisecond."""
_new_tuple = tuple.__new__
_SAFE_LINES = re.compile(r"(?:[A-Za-z-]+: [\t\x20-\x7e\x80-\xff]*\r\n)*")


class ReadAnswer(NamedTuple):
    """A whole answer. Where `release` is set, `body` is a view of a pooled buffer, which the caller releases once."""

    status: int
    head: bytes
    body: bytes | memoryview
    release: Callable[[], None] | None


class ReadAnswers:
    """Makes the answers of one listener. Only the tasks of one event loop use it.

    Args:
        buffers: memory for large needles.
        settings: those of the server.
    """

    def __init__(self, buffers: BufferPool, settings: HttpSettings) -> None:
        self._buffers = buffers
        self._version = settings.version
        self._most_clear_bytes = min(KEPT_BYTES, settings.file_size_limit_bytes)
        self._is_whole = True
        self._buffer: PooledBuffer | None = None  # by `_acquire` for the read that is being answered
        self._place = self._acquire

    def try_answer(self, volumes: ReadableVolumes, read: Read, date: str) -> ReadAnswer | None:
        """The answer to a read over HTTP/1.1. None leaves the request, also a failing one, to `handle_read`.

        Args:
            date: the value of the Date header.
        """
        method, volume_id, needle_id, cookie, fields, takes_gzip, _ = read
        is_head = method == "HEAD"
        self._is_whole = fields is PLAIN and not is_head
        answer = None
        try:
            volume = volumes.find_volume(volume_id)
            if volume is None or volume_id in volumes.settling.volume_ids:
                return None
            needle = volume.try_read_cached(needle_id, cookie, self._place)
            if needle is not None:
                answer = self._answer_with(needle, fields, takes_gzip, is_head, date)
        except STORE_FAILURES:
            return None
        finally:
            buffer = self._buffer
            if buffer is not None:
                self._buffer = None
                if answer is None or answer.release is None:
                    buffer.release()
        return answer

    def _acquire(self, length_bytes: int) -> memoryview | None:
        """Memory for a large needle, which is read and checked whole.

        None where a large needle would be read for a part of it: the ordinary way leaves the rest on disk.
        """
        if length_bytes > WHOLE_READ_LIMIT_BYTES and not self._is_whole:
            return None
        self._buffer = buffer = self._buffers.acquire(length_bytes)
        return None if buffer is None else buffer.view

    def _answer_with(  # noqa: PLR0913, PLR0917  a part of `try_answer`
        self,
        needle: CachedNeedle,
        fields: ReadFields,
        takes_gzip: bool,  # noqa: FBT001
        is_head: bool,  # noqa: FBT001
        date: str,
    ) -> ReadAnswer | None:
        """The answer to the read that has found `needle`."""
        _, data, name, mime, last_modified_s, _, checksum, is_compressed = needle
        labels = _label_lines(name, mime)
        if labels is None:
            return None
        disposition, content_type = labels
        modified = f"Last-Modified: {format_http_date(last_modified_s)}\r\n" if last_modified_s else ""
        server = f"Server: SeaweedFS Volume {self._version}\r\n{REQUEST_ID_HEADER}: {new_request_id()}\r\n"
        if not self._is_whole and _is_known(fields, last_modified_s, checksum):
            head = f"HTTP/1.1 304 Not Modified\r\n{modified}{server}Date: {date}\r\n\r\n"
            return ReadAnswer(304, head.encode("latin-1"), b"", None)
        encoding = ""
        if is_compressed and is_gzip(data):
            if takes_gzip:
                encoding = "Content-Encoding: gzip\r\n"
            elif (clear := _unpacked(data, self._most_clear_bytes)) is None:
                return None
            else:
                data = clear
        status, line, part, body = 200, "200 OK", "", data
        size = length = len(data)
        if not self._is_whole:
            if is_head:
                body = b""
            elif fields.range:
                start, length = _range_in(fields.range, size)
                if not length:
                    return None
                status, line, body = 206, "206 Partial Content", data[start : start + length]
                part = f"Content-Range: bytes {start}-{start + length - 1}/{size}\r\n"
        if body and not content_type and not encoding:
            content_type = f"Content-Type: {sniff(body)}\r\n"
        head = (
            f"HTTP/1.1 {line}\r\nAccept-Ranges: bytes\r\n{disposition}{encoding}Content-Length: {length}\r\n"
            f'{part}{content_type}Etag: "{checksum:08x}"\r\n{modified}{server}Date: {date}\r\n\r\n'
        )
        release = None if self._buffer is None or not body else self._buffer.release
        # `ReadAnswer(...)` takes twice the time, because it goes through a function in Python.
        return _new_tuple(ReadAnswer, (status, head.encode("latin-1"), body, release))


def _unpacked(data: bytes | memoryview, most_bytes: int) -> bytes | None:
    """The content of gzip data; None where that is much work, or longer than `most_bytes`, or the data is damaged."""
    if len(data) > _UNPACKED_BYTES:
        return None
    try:
        facts = finish_within(measure(data, most_bytes, keep_bytes=most_bytes), _UNPACKING_STEPS)
    except BadGzip:
        return None
    return None if facts is None else facts.data


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
