"""Ranges of an S3 object, each checked to be the bytes that were asked for.

boto3's own download takes what comes: the whole object in answer to a range (RFC 9110 section 14.2 allows a service to
ignore Range), and nothing for a part that the service refuses with 416. Either makes a file of other bytes, sometimes
of the right length.
"""

from __future__ import annotations

import os
import re
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from native_handlers.storage.remote.tiers import TierFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PART_BYTES = 64 << 20
CONCURRENCY = 5
_ATTEMPTS = 5
"""How often a part is asked for whose bytes stop coming. boto3 alone repeats requests that get no answer."""
_PIECE_BYTES = 1 << 20
_OK = 200
_PARTIAL = 206
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)", re.ASCII)


class S3Object(NamedTuple):
    """An object, and the client that reads it. `etag`: of the content that is wanted; "" for any."""

    client: Any
    bucket: str
    key: str
    etag: str = ""


class _ObjectRange(NamedTuple):
    start_bytes: int
    length_bytes: int
    total_bytes: int


def read_range(found: S3Object, offset_bytes: int, length_bytes: int) -> bytes:
    """The bytes at `offset_bytes`; fewer only where the object ends.

    Raises:
        TierFailed: the answer has other bytes than those that were asked for.
        BotoCoreError, ClientError: from the client.
    """
    with _open_range(found, offset_bytes, length_bytes) as (body, part):
        data: bytes = body.read(part.length_bytes + 1)
    if len(data) != part.length_bytes:
        raise TierFailed(f"{len(data)} bytes came at {offset_bytes}, {part.length_bytes} were announced")
    return data


def download_in_parts(found: S3Object, size_bytes: int, path: Path, moved: Callable[[int], None]) -> None:
    """Writes all `size_bytes` of the object into a new file, in parts, several at a time.

    Args:
        moved: gets the number of bytes that were written, from several threads; negative for bytes that must be
            fetched again. May raise to end the download.

    Raises:
        TierFailed: an answer has other bytes than those that were asked for. The file stays.
        BotoCoreError, ClientError, OSError: from the client, or from the disk.
    """
    is_over = threading.Event()
    starts = range(0, size_bytes, PART_BYTES)
    parts = [_ObjectRange(start, min(PART_BYTES, size_bytes - start), size_bytes) for start in starts]
    with path.open("wb") as file, ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="tier-download") as threads:
        copy = _PartCopy(found, file.fileno(), moved, is_over)
        futures = [threads.submit(copy.run, part) for part in parts]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failure = next((failed for future in done if (failed := future.exception()) is not None), None)
        finally:
            is_over.set()
            for future in futures:
                future.cancel()
    if failure is not None:
        raise failure


@contextmanager
def _open_range(found: S3Object, offset_bytes: int, length_bytes: int) -> Iterator[tuple[Any, _ObjectRange]]:
    """The body of an answer that begins at `offset_bytes`, and what the answer says of itself. A whole object is taken
    for a range where the range holds all of it.
    """
    named = {"IfMatch": found.etag} if found.etag else {}
    wanted = f"bytes={offset_bytes}-{offset_bytes + length_bytes - 1}"
    answer = found.client.get_object(Bucket=found.bucket, Key=found.key, Range=wanted, **named)
    body = answer["Body"]
    try:
        status, said = answer["ResponseMetadata"]["HTTPStatusCode"], answer.get("ContentRange", "")
        part = _whole(answer) if status == _OK else _parse_content_range(said) if status == _PARTIAL else None
        if part is None or part.start_bytes != offset_bytes or not 0 < part.length_bytes <= length_bytes:
            length = answer.get("ContentLength")
            raise TierFailed(f"{wanted} was answered with status {status}, range '{said}' and {length} bytes")
        yield body, part
    finally:
        # Closes the connection where bytes are left in it.
        body.close()


def _whole(answer: Any) -> _ObjectRange | None:  # noqa: ANN401
    length = answer.get("ContentLength")
    return None if length is None else _ObjectRange(0, length, length)


def _parse_content_range(text: str) -> _ObjectRange | None:
    """RFC 9110 section 14.4."""
    found = _CONTENT_RANGE.fullmatch(text)
    if found is None:
        return None
    first, last, total = map(int, found.groups())
    return _ObjectRange(first, last - first + 1, total)


class _Ended(Exception):
    """The download is over, and this part is not."""


class _PartCopy:
    """Writes parts of one object into a file."""

    def __init__(self, found: S3Object, fd: int, moved: Callable[[int], None], is_over: threading.Event) -> None:
        self._found, self._fd, self._moved, self._is_over = found, fd, moved, is_over

    def run(self, part: _ObjectRange) -> None:
        from botocore.exceptions import HTTPClientError, IncompleteReadError  # noqa: PLC0415

        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._once(part)
            except (HTTPClientError, IncompleteReadError):
                if attempt == _ATTEMPTS or self._is_over.is_set():
                    raise
            else:
                return

    def _once(self, part: _ObjectRange) -> None:
        written_bytes = 0
        try:
            with _open_range(self._found, part.start_bytes, part.length_bytes) as (body, got):
                if got != part:
                    said = f"{got.length_bytes} bytes at {got.start_bytes} of an object of {got.total_bytes}"
                    raise TierFailed(f"{said} came, {part.length_bytes} of {part.total_bytes} were asked for")
                while piece := body.read(min(_PIECE_BYTES, part.length_bytes - written_bytes + 1)):
                    if self._is_over.is_set():
                        raise _Ended
                    if written_bytes + len(piece) > part.length_bytes:
                        raise TierFailed(f"more than {part.length_bytes} bytes came at {part.start_bytes}")
                    self._write(piece, part.start_bytes + written_bytes)
                    written_bytes += len(piece)
            if written_bytes != part.length_bytes:
                raise TierFailed(f"{written_bytes} of {part.length_bytes} bytes came at {part.start_bytes}")
        except BaseException:
            if written_bytes:
                self._moved(-written_bytes)
            raise

    def _write(self, piece: bytes, offset_bytes: int) -> None:
        rest = memoryview(piece)
        while rest:
            written = os.pwrite(self._fd, rest, offset_bytes)
            rest, offset_bytes = rest[written:], offset_bytes + written
        self._moved(len(piece))
