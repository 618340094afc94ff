"""The common read in few steps: all of a plain needle that memory holds, answered at once.

This answers exactly as `read.handle_read` does, or not at all. A read that needs a disk, a transform, a thread or an
error text is left to `handle_read`. A test holds both to the same bytes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from native_handlers.content.sniff import sniff
from native_handlers.http.failures import STORE_FAILURES
from native_handlers.http.send_content import disposition_of, labels_of
from native_handlers.http_model.conditional import format_http_date
from native_handlers.http_model.headers import HeaderMap
from native_handlers.http_model.message import REQUEST_ID_HEADER, HeldAnswer, new_request_id

if TYPE_CHECKING:
    from native_handlers.format.cached_needle import CachedNeedle
    from native_handlers.http_model.message import Answer
    from native_handlers.storage.store import Store
    from native_handlers.storage.system.buffer_pool import BufferPool, PooledBuffer

_SAFE_LINES = re.compile(r"(?:[A-Za-z-]+: [\t\x20-\x7e\x80-\xff]*\r\n)*")


def try_answer(
    store: Store, file_id: tuple[int, int, int], buffers: BufferPool, *, version: str, date: str
) -> Answer | None:
    """Head and body of the answer to an HTTP/1.1 GET of a needle, without conditions or options.

    None leaves the request, also a failing one, to `handle_read`.

    Args:
        file_id: volume id, needle id, cookie.
        buffers: lends memory for large needles.
        version: as in `HttpSettings`.
        date: the value of the Date header.
    """
    place = _Place(buffers)
    head = None
    try:
        needle = _cached(store, *file_id, place)
        head = None if needle is None else _head_of(needle, version, date)
    except STORE_FAILURES:
        return None
    finally:
        if head is None:
            place.release()
    if needle is None or head is None:
        return None
    return head + needle.data if isinstance(needle.data, bytes) else HeldAnswer(head, needle.data, place.release)


def _cached(store: Store, volume_id: int, needle_id: int, cookie: int, place: _Place) -> CachedNeedle | None:
    volume = store.find_volume(volume_id)
    if volume is None or volume_id in store.settling.volume_ids:
        return None
    return volume.try_read_cached(needle_id, cookie, place.of)


class _Place:
    """Lends memory for a needle, if the needle is a large one."""

    __slots__ = ("_buffer", "_buffers")

    def __init__(self, buffers: BufferPool) -> None:
        self._buffers = buffers
        self._buffer: PooledBuffer | None = None

    def of(self, length_bytes: int) -> memoryview | None:
        self._buffer = buffer = self._buffers.acquire(length_bytes)
        return None if buffer is None else buffer.view

    def release(self) -> None:
        if self._buffer is not None:
            self._buffer.release()


def _head_of(needle: CachedNeedle, version: str, date: str) -> bytes | None:
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
