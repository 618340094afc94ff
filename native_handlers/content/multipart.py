"""Reads a multipart body part by part while it arrives, in bounded memory.

The grammar is that of upstream's library: a preamble is skipped, bare LF line ends are accepted when the first boundary
line has one, the last line may lack its line break. Source: RFC 2046; Go's mime/multipart.
"""

from __future__ import annotations

import re
from contextlib import aclosing
from io import BytesIO
from typing import TYPE_CHECKING

import trio

from native_handlers.content.quoted_printable import QuotedPrintableDecoder
from native_handlers.http_model.errors import BadMediaType, BadUpload, quote
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.media_type import parse_media_type
from native_handlers.http_model.target import base_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from native_handlers.http_model.message import RequestBody
    from native_handlers.runtime.content_threads import ContentThreads

_BLANKS = " \t"
_NAME = re.compile(r"[!#$%&'*+\-.0-9A-Z^_`a-z|~ ]+")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
MAX_LINE_BYTES = 4096
"""A longer line between parts is neither a boundary nor a usual preamble: Go's buffer."""
_DECODED_BYTES = 1 << 18
"""Encoded content that is decoded in one call: enough to be worth a change of threads, and little memory."""
MAX_HEADER_BYTES = 64 * 1024
"""Header bytes of one part, as of a request. Upstream accepts 10 MiB; here parsing keeps all other requests waiting."""
MAX_HEADER_FIELDS = 256
"""Headers of one part, as of a request. Upstream accepts 10,000."""
_UNYIELDING_STEPS = 256
"""Steps between two checkpoints: below a millisecond. A line is a step, and so is a search for a boundary. No small
upload has so many."""
_STEPS_OF_PART = 8
_BYTES_OF_STEP = 4
"""Header bytes of a part that count as one step, for they are parsed once more: the shortest parameter has four."""


class Part:
    """One part. Its headers are parsed. `MultipartReader.read_content` reads its content, or the next `next_part` skips
    it.
    """

    __slots__ = ("_disposition", "headers")

    def __init__(self, headers: Headers) -> None:
        self.headers = headers
        try:
            self._disposition = parse_media_type(headers.get("Content-Disposition", "") or "")[1]
        except BadMediaType:
            self._disposition = {}

    @property
    def name(self) -> str:
        """The name of the form field (wire text), or ""."""
        return self._disposition.get("name", "")

    @property
    def filename(self) -> str:
        """The last segment of the filename parameter (wire text), or ""."""
        name = self._disposition.get("filename", "")
        return base_name(name) if name else ""

    @property
    def is_quoted_printable(self) -> bool:
        return (self.headers.get("Content-Transfer-Encoding") or "").lower() == "quoted-printable"


class MultipartReader:
    """Reads the parts of one body in order. `threads` decode encoded content."""

    def __init__(self, body: RequestBody, boundary: str, threads: ContentThreads) -> None:
        if not boundary:
            raise BadUpload("multipart: boundary is empty")
        self._threads = threads
        self._body = body
        self._buffer = bytearray()
        self._has_ended = False
        self._line_end = b"\r\n"
        self._dashes = b"--" + boundary.encode("latin-1")
        self._is_in_part = False
        self._is_at_content_start = False
        self._parts_read = 0
        self._steps = 0

    async def next_part(self) -> Part | None:
        """Skips the rest of the current part and returns the next part, or None after the last.

        Raises:
            BadUpload: the body is no multipart body, or ends before its last boundary.
            BodyError: the body cannot be read.
        """
        while self._is_in_part:
            await self._take_content()
        expects_boundary = False
        while True:
            line = await self._read_line()
            if self._is_delimiter(line):
                self._parts_read += 1
                headers, size = await self._read_headers()
                await self._breathe(_STEPS_OF_PART + size // _BYTES_OF_STEP)
                self._is_in_part = self._is_at_content_start = True
                return Part(headers)
            if self._is_final(line):
                return None
            if expects_boundary:
                raise BadUpload(f"multipart: expecting a new Part; got line {quote(line.decode('latin-1'))}")
            if self._parts_read:
                if line != self._line_end:
                    raise BadUpload(f"multipart: unexpected line in Next(): {quote(line.decode('latin-1'))}")
                expects_boundary = True

    async def read_content(self, part: Part, limit_bytes: int) -> bytes:
        """Reads the content of the part that `next_part` returned last.

        Raises:
            BadUpload: the content is longer than `limit_bytes` (decoded), has no boundary at its end, or is badly
                encoded.
            BodyError: the body cannot be read.
        """
        content = BytesIO()
        pieces = self._decoded_pieces() if part.is_quoted_printable else self._pieces()
        async with aclosing(pieces):
            async for piece in pieces:
                if content.tell() + len(piece) > limit_bytes:
                    raise BadUpload(f"file over the limited {limit_bytes} bytes")
                content.write(piece)
        # `getvalue` returns the buffer itself, not a copy.
        return content.getvalue()

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        while self._is_in_part:
            yield await self._take_content()

    async def _decoded_pieces(self) -> AsyncGenerator[bytes, None]:
        decoder, encoded = QuotedPrintableDecoder(), bytearray()
        while self._is_in_part:
            encoded += await self._take_content()
            if len(encoded) >= _DECODED_BYTES or not self._is_in_part:
                yield await self._threads.run(decoder.feed(bytes(encoded)))
                encoded.clear()
        yield decoder.finish()

    async def _take_content(self) -> bytes:
        """Takes some content of the current part, maybe none. Ends the part at its boundary."""
        mark = self._line_end + self._dashes
        if self._is_at_content_start:
            # The boundary after an empty part may follow its headers directly, without a line break of its own.
            self._is_at_content_start = False
            await self._fill_to(len(self._dashes))
            if self._buffer.startswith(self._dashes) and await self._is_boundary_end(len(self._dashes)):
                self._is_in_part = False
                return b""
        found = self._buffer.find(mark)
        while found >= 0:
            await self._breathe()
            if found and len(self._buffer) < found + len(mark) + 2 and not self._has_ended:
                # Receiving more would keep what is before the mark, and each piece may end with another mark.
                return self._take(found)
            if await self._is_boundary_end(found + len(mark)):
                self._is_in_part = False
                return self._take(found)
            found = self._buffer.find(mark, found + 1)
        if self._has_ended:
            raise BadUpload("unexpected EOF")
        # The end of the buffer may be the beginning of a boundary, so it stays until more bytes have come.
        content = self._take(max(len(self._buffer) - len(mark) + 1, 0))
        await self._fill_to(len(self._buffer) + 1)
        return content

    async def _is_boundary_end(self, index: int) -> bool:
        """Whether the bytes at `index` end a boundary: `--ab` followed by `c` is no boundary `--ab`."""
        await self._fill_to(index + 2)
        after = bytes(self._buffer[index : index + 2])
        return not after or after[:1] in b" \t\r\n" or after == b"--"

    def _is_delimiter(self, line: bytes) -> bool:
        if not line.startswith(self._dashes):
            return False
        rest = line[len(self._dashes) :].lstrip(b" \t")
        if not self._parts_read and rest == b"\n":
            self._line_end = b"\n"
        return rest == self._line_end

    def _is_final(self, line: bytes) -> bool:
        dashes = self._dashes + b"--"
        return line.startswith(dashes) and line[len(dashes) :].lstrip(b" \t") in {b"", self._line_end}

    async def _read_line(self) -> bytes:
        """Reads one line with its end. The last line may lack its end where it is the final boundary."""
        size = await self._line_length(MAX_LINE_BYTES)
        line = self._take(size)
        is_whole = line.endswith(b"\n")
        if size > MAX_LINE_BYTES or (size == MAX_LINE_BYTES and not is_whole):
            raise BadUpload("multipart: NextPart: bufio: buffer full")
        if not is_whole and not self._is_final(line):
            raise BadUpload("multipart: NextPart: EOF")
        return line

    async def _line_length(self, limit_bytes: int) -> int:
        """The length of the next line with its end. Where the line has no end, or is longer than `limit_bytes`, how
        much of it has arrived.
        """
        await self._breathe()
        size = 0
        while (found := self._buffer.find(b"\n", size)) < 0:
            size = len(self._buffer)
            if size >= limit_bytes or self._has_ended:
                return size
            await self._fill_to(size + 1)
        return found + 1

    async def _read_headers(self) -> tuple[Headers, int]:
        """The headers of a part, and how many bytes they have."""
        pairs: list[tuple[str, list[str]]] = []
        size = 0
        while line := (await self._read_header_line()).decode("latin-1").rstrip("\r\n"):
            size += len(line) + len(self._line_end)
            if size > MAX_HEADER_BYTES:
                raise BadUpload("multipart: message too large")
            if line[0] in _BLANKS and pairs:
                pairs[-1][1].append(line.strip(_BLANKS))
                continue
            if len(pairs) == MAX_HEADER_FIELDS:
                raise BadUpload("multipart: message too large")
            name, colon, value = line.partition(":")
            if not colon:
                raise BadUpload(f"malformed MIME header: missing colon: {quote(line)}")
            if not _NAME.fullmatch(name) or _CONTROLS.search(value):
                raise BadUpload(f"malformed MIME header line: {quote(line)}")
            pairs.append((name.strip(_BLANKS), [value.strip(_BLANKS)]))
        return Headers((name, " ".join(lines)) for name, lines in pairs), size

    async def _read_header_line(self) -> bytes:
        """As `_read_line`, but the line may be as long as all headers, and the last line of the body may lack its end.
        Only an empty rest is an error.
        """
        size = await self._line_length(MAX_HEADER_BYTES)
        if not size:
            raise BadUpload("EOF")
        return self._take(size)

    async def _fill_to(self, size: int) -> None:
        """Receives until `size` bytes are buffered or the body has ended."""
        while len(self._buffer) < size and not self._has_ended:
            received = await self._body.receive_some()
            self._buffer += received
            self._has_ended = not received

    async def _breathe(self, steps: int = 1) -> None:
        self._steps += steps
        if self._steps >= _UNYIELDING_STEPS:
            self._steps = 0
            await trio.lowlevel.checkpoint()

    def _take(self, size: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return taken
