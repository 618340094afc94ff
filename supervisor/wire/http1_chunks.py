"""Chunked bodies: the gate that every chunked byte passes before h11 parses it, and the encoder.

h11 takes anything behind the `;` of a chunk size, blanks after it, and trailers with folded lines or a bare LF. The
gate does not; it lets through only what it has seen to be well formed. Source: RFC 9112 section 7.1.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.http1_head import HeadLimits, split_trailers

MAX_SIZE_LINE_BYTES = 256
"""A size of 16 digits and short extensions; nobody sends more."""

_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*+)?\r\n")


class _State(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILERS = auto()
    DONE = auto()


class ChunkGate:
    """Passes on the bytes of one chunked body as far as they are well formed, keeps what is not complete yet.

    After an error, or at the end, it passes nothing more.
    """

    __slots__ = ("_held", "_left", "_limits", "_state")

    def __init__(self, limits: HeadLimits) -> None:
        self._limits = limits
        self._state = _State.SIZE
        self._left = 0
        self._held = b""

    @property
    def is_done(self) -> bool:
        """Whether the last line of the body has passed."""
        return self._state is _State.DONE

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Takes the next received bytes.

        Returns:
            What may be parsed now, and what came after the end of the body (empty before the end).

        Raises:
            RemoteProtocolError: bad framing; the connection cannot be used any more.
        """
        # No copy is made where all of `data` passes, which is what happens inside large chunks.
        held = self._held + data if self._held else data
        self._held = held
        passed = 0
        while (step := self._step(passed)) is not None:
            passed += step
        rest = held[passed:]
        if self._state is not _State.DONE:
            self._held = rest
            return held[:passed], b""
        self._held = b""
        return held[:passed], rest

    def _step(self, start: int) -> int | None:
        """How many bytes from `start` on pass next; None when more are needed or the body is over."""
        match self._state:
            case _State.SIZE:
                return self._step_size(start)
            case _State.DATA:
                return self._step_data(start)
            case _State.DATA_END:
                return self._step_data_end(start)
            case _State.TRAILERS:
                return self._step_trailers(start)
            case _State.DONE:
                return None

    def _step_size(self, start: int) -> int | None:
        end = self._held.find(b"\n", start, start + MAX_SIZE_LINE_BYTES)
        if end < 0:
            if len(self._held) - start >= MAX_SIZE_LINE_BYTES:
                raise RemoteProtocolError(400, f"a chunk size line is longer than {MAX_SIZE_LINE_BYTES} bytes")
            return None
        match = _SIZE_LINE.fullmatch(self._held, start, end + 1)
        if match is None:
            raise RemoteProtocolError(400, "malformed chunk size")
        self._left = int(match[1], 16)
        self._state = _State.DATA if self._left else _State.TRAILERS
        return end + 1 - start

    def _step_data(self, start: int) -> int | None:
        count = min(self._left, len(self._held) - start)
        if count == 0:
            return None
        self._left -= count
        if self._left == 0:
            self._state = _State.DATA_END
        return count

    def _step_data_end(self, start: int) -> int | None:
        end = self._held[start : start + 2]
        if not b"\r\n".startswith(end):
            raise RemoteProtocolError(400, "a chunk is longer than its size says")
        if len(end) < 2:
            return None
        self._state = _State.SIZE
        return 2

    def _step_trailers(self, start: int) -> int | None:
        if self._held[start : start + 2] == b"\r\n":
            self._state = _State.DONE
            return 2
        end = self._held.find(b"\r\n\r\n", start)
        length = (len(self._held) if end < 0 else end + 4) - start
        if length > self._limits.max_bytes:
            raise RemoteProtocolError(431, f"the trailers are longer than {self._limits.max_bytes} bytes")
        if end < 0:
            return None
        split_trailers(self._held[start : end + 4].decode("latin-1"), self._limits)
        self._state = _State.DONE
        return length


def encode_chunk(data: bytes) -> bytes:
    """`data` as one chunk; nothing for no data, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
