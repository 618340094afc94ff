"""Chunked bodies: a strict decoder, and the encoder.

A client chooses how many chunks a body has. So the decoder takes few steps for each small chunk, joins the content of
many chunks into one piece, and stops after `MAX_CHUNKS_AT_ONCE` chunks, so that other tasks can run. h11 is not used
here: h11 makes an event of each chunk, and accepts anything behind the `;` of a chunk size, blanks after the size, and
trailers with folded lines or a bare LF. A test holds this decoder and h11 to the same content. Source of the grammar:
RFC 9112 section 7.1.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING

from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.http1_head import HeadLimits, split_trailers

if TYPE_CHECKING:
    from supervisor.wire.http1_head import Fields

MAX_SIZE_LINE_BYTES = 256
"""Room for a size of 15 digits and short extensions. No known client sends more."""

MAX_CHUNKS_AT_ONCE = 512
"""The most chunks that one call decodes: a quarter of a millisecond of work."""

MAX_EXCESS_BYTES = 16 * 1024
"""How much framing a body may have beyond the usual. Source: Go net/http/internal/chunked.go (beginChunk)."""

_USUAL_BYTES = 16
"""The usual framing of a chunk, in addition to two bytes for each byte of its content. The same source."""

_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*+)?\r\n")


class _State(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILERS = auto()
    DONE = auto()


class ChunkDecoder:
    """Decodes the bytes of one chunked body. After an error, and at the end, it decodes nothing more.

    Attributes:
        trailers: the fields after the last chunk; complete when `is_done`.
    """

    __slots__ = ("_excess", "_left", "_limits", "_state", "trailers")

    def __init__(self, limits: HeadLimits) -> None:
        self._limits = limits
        self._state = _State.SIZE
        self._left = 0
        self._excess = 0
        self.trailers: Fields = []

    @property
    def is_done(self) -> bool:
        """Whether the last line of the body has been decoded."""
        return self._state is _State.DONE

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Decodes as much of `data` as is complete, at most `MAX_CHUNKS_AT_ONCE` chunks.

        Args:
            data: the rest that the last call returned, followed by what was received since.

        Returns:
            The content, and the rest of `data`. Without content, either the body is over or more must be received.

        Raises:
            RemoteProtocolError: bad framing. The connection cannot be used any more.
        """
        # Inside a large chunk all of `data` is content, and no copy is made.
        pieces: list[bytes] = []
        at = self._pass_whole_chunks(data, 0, pieces)
        while len(pieces) < MAX_CHUNKS_AT_ONCE and (passed := self._step(data, at, pieces)) is not None:
            at = self._pass_whole_chunks(data, at + passed, pieces)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), data[at:]

    def _pass_whole_chunks(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Where the run of well-formed, complete chunks that begins at `at` ends.

        `_step` handles what stops the run.
        """
        if self._state is not _State.SIZE:
            return at
        excess = self._excess
        line_at = _SIZE_LINE.match
        for _ in range(MAX_CHUNKS_AT_ONCE - len(pieces)):
            if (match := line_at(data, at)) is None:
                break
            start = match.end()
            size = int(match[1], 16)
            end = start + size
            more = excess + start - at - _USUAL_BYTES - 2 * size
            if not size or data[end : end + 2] != b"\r\n":
                break
            if start - at > MAX_SIZE_LINE_BYTES or more > MAX_EXCESS_BYTES:
                break
            excess = max(0, more)
            pieces.append(data[start:end])
            at = end + 2
        self._excess = excess
        return at

    def _step(self, data: bytes, at: int, pieces: list[bytes]) -> int | None:
        """How many bytes are consumed from `at` on; None when more are needed or the body is over."""
        match self._state:
            case _State.SIZE:
                return self._step_size(data, at)
            case _State.DATA:
                return self._step_data(data, at, pieces)
            case _State.DATA_END:
                return self._step_data_end(data, at)
            case _State.TRAILERS:
                return self._step_trailers(data, at)
            case _State.DONE:
                return None

    def _step_size(self, data: bytes, at: int) -> int | None:
        end = data.find(b"\n", at, at + MAX_SIZE_LINE_BYTES)
        if end < 0:
            if len(data) - at >= MAX_SIZE_LINE_BYTES:
                raise RemoteProtocolError(400, f"a chunk size line is longer than {MAX_SIZE_LINE_BYTES} bytes")
            return None
        match = _SIZE_LINE.fullmatch(data, at, end + 1)
        if match is None:
            raise RemoteProtocolError(400, "malformed chunk size")
        length = end + 1 - at
        self._left = int(match[1], 16)
        self._excess = max(0, self._excess + length - _USUAL_BYTES - 2 * self._left)
        if self._excess > MAX_EXCESS_BYTES:
            raise RemoteProtocolError(400, "the chunks have too much framing for their content")
        self._state = _State.DATA if self._left else _State.TRAILERS
        return length

    def _step_data(self, data: bytes, at: int, pieces: list[bytes]) -> int | None:
        count = min(self._left, len(data) - at)
        if count == 0:
            return None
        pieces.append(data[at : at + count])
        self._left -= count
        if self._left == 0:
            self._state = _State.DATA_END
        return count

    def _step_data_end(self, data: bytes, at: int) -> int | None:
        end = data[at : at + 2]
        if not b"\r\n".startswith(end):
            raise RemoteProtocolError(400, "a chunk is longer than its size says")
        if len(end) < 2:
            return None
        self._state = _State.SIZE
        return 2

    def _step_trailers(self, data: bytes, at: int) -> int | None:
        if data[at : at + 2] == b"\r\n":
            self._state = _State.DONE
            return 2
        end = data.find(b"\r\n\r\n", at)
        length = (len(data) if end < 0 else end + 4) - at
        if length > self._limits.max_bytes:
            raise RemoteProtocolError(431, f"the trailers are longer than {self._limits.max_bytes} bytes")
        if end < 0:
            return None
        self.trailers = split_trailers(data[at : end + 4].decode("latin-1"), self._limits)
        self._state = _State.DONE
        return length


def encode_chunk(data: bytes) -> bytes:
    """`data` as one chunk. Nothing for no data, because an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
