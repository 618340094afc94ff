"""Reading a multipart body part by part while it arrives, in bounded memory.

Accepted and refused as upstream's library does: a preamble is skipped, bare LF line ends are taken when the first
boundary line has one, the end may lack its line break. Source: RFC 2046; Go's mime/multipart.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import trio

from native_handlers.http.errors import BadMediaType, BadUpload, quote
from native_handlers.http.headers import Headers
from native_handlers.http.media_type import parse_media_type
from native_handlers.http.paths import base_name
from native_handlers.http.quoted_printable import decode_quoted_printable

if TYPE_CHECKING:
    from native_handlers.http.message import RequestBody

_BLANKS = " \t"
_NAME = re.compile(r"[!#$%&'*+\-.0-9A-Z^_`a-z|~ ]+")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
MAX_LINE_BYTES = 4096
"""A line between parts that is longer is no boundary and no preamble that anyone sends."""
_ENCODED_TIMES = 4
"""How much longer quoted-printable content may be than what it stands for: three times, and line ends."""
MAX_HEADER_BYTES = 64 * 1024
"""Of one part, as of a request. Upstream takes 10 MiB; what is parsed here keeps all other requests waiting."""
_UNYIELDING_STEPS = 256
"""Lines, and looks for a boundary, until others get a turn: below a millisecond, and no small upload gets there."""


class Part:
    """One part. Its headers are read; its content is taken by `MultipartReader.read_content` or passed over."""

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
    """The parts of one body, each to be read or passed over before the next."""

    def __init__(self, body: RequestBody, boundary: str) -> None:
        if not boundary:
            raise BadUpload("multipart: boundary is empty")
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
        """The next part, or None after the last.

        Raises:
            BadUpload: the body is no multipart body, or it ends before its last boundary.
            BodyError: the body cannot be read.
        """
        while self._is_in_part:
            await self._take_content()
        expects_boundary = False
        while True:
            line = await self._read_line()
            if self._is_delimiter(line):
                self._parts_read += 1
                headers = await self._read_headers()
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
        """The content of the part that `next_part` returned last.

        Raises:
            BadUpload: it is longer than `limit_bytes` (decoded), not ended by a boundary, or badly encoded.
            BodyError: the body cannot be read.
        """
        is_encoded = part.is_quoted_printable
        most = _ENCODED_TIMES * limit_bytes + MAX_LINE_BYTES if is_encoded else limit_bytes
        pieces, size = [], 0
        while self._is_in_part:
            piece = await self._take_content()
            size += len(piece)
            if size > most:
                raise BadUpload(f"file over the limited {limit_bytes} bytes")
            pieces.append(piece)
        content = b"".join(pieces)
        if is_encoded:
            content = decode_quoted_printable(content)
            if len(content) > limit_bytes:
                raise BadUpload(f"file over the limited {limit_bytes} bytes")
        return content

    async def _take_content(self) -> bytes:
        """Some content of the current part, maybe none; ends the part at its boundary."""
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
            if await self._is_boundary_end(found + len(mark)):
                self._is_in_part = False
                return self._take(found)
            found = self._buffer.find(mark, found + 1)
        if self._has_ended:
            raise BadUpload("unexpected EOF")
        # What may be the beginning of a boundary stays until more has come.
        content = self._take(max(len(self._buffer) - len(mark) + 1, 0))
        await self._fill_to(len(self._buffer) + 1)
        return content

    async def _is_boundary_end(self, index: int) -> bool:
        """Whether what stands at `index` ends a boundary: `--ab` is none in front of `c`."""
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
        """One line with its end; the last one may lack it where it is the final boundary."""
        await self._breathe()
        size = 0
        while (size := self._buffer.find(b"\n", size)) < 0:
            size = len(self._buffer)
            if size >= MAX_LINE_BYTES:
                raise BadUpload("multipart: NextPart: bufio: buffer full")
            if self._has_ended:
                line = self._take(size)
                if self._is_final(line):
                    return line
                raise BadUpload("multipart: NextPart: EOF")
            await self._fill_to(size + 1)
        return self._take(size + 1)

    async def _read_headers(self) -> Headers:
        pairs: list[tuple[str, list[str]]] = []
        size = 0
        while line := (await self._read_header_line()).decode("latin-1").rstrip("\r\n"):
            size += len(line) + len(self._line_end)
            if size > MAX_HEADER_BYTES:
                raise BadUpload("multipart: message too large")
            if line[0] in _BLANKS and pairs:
                pairs[-1][1].append(line.strip(_BLANKS))
                continue
            name, colon, value = line.partition(":")
            if not colon:
                raise BadUpload(f"malformed MIME header: missing colon: {quote(line)}")
            if not _NAME.fullmatch(name) or _CONTROLS.search(value):
                raise BadUpload(f"malformed MIME header line: {quote(line)}")
            pairs.append((name.strip(_BLANKS), [value.strip(_BLANKS)]))
        return Headers((name, " ".join(lines)) for name, lines in pairs)

    async def _read_header_line(self) -> bytes:
        """As `_read_line`, but the last line of the body may lack its end. Nothing but the end is an error."""
        while b"\n" not in self._buffer and not self._has_ended and len(self._buffer) <= MAX_LINE_BYTES:
            await self._fill_to(len(self._buffer) + 1)
        if self._has_ended and b"\n" not in self._buffer:
            if not self._buffer:
                raise BadUpload("EOF")
            return self._take(len(self._buffer))
        return await self._read_line()

    async def _fill_to(self, size: int) -> None:
        """Receives until `size` bytes are buffered or the body has ended."""
        while len(self._buffer) < size and not self._has_ended:
            received = await self._body.receive_some()
            self._buffer += received
            self._has_ended = not received

    async def _breathe(self) -> None:
        self._steps += 1
        if self._steps % _UNYIELDING_STEPS == 0:
            await trio.lowlevel.checkpoint()

    def _take(self, size: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return taken
