"""Strings of JSON documents as bytes: decoding of escapes, and patterns with ``*`` and ``?``.

Source: gjson's unescape; github.com/tidwall/match. Bytes that are no UTF-8 stay unchanged.
"""

from __future__ import annotations

import codecs
import re

from native_handlers.query.lexing import BACKSLASH, find

_ESCAPE_OR_CONTROL = re.compile(rb"[\\\x00-\x1f]")
_HEX4 = re.compile(rb"[0-9a-fA-F]{4}")
_SIMPLE = {ord(letter): letter.encode() for letter in '"\\/'} | {
    ord("b"): b"\b",
    ord("f"): b"\f",
    ord("n"): b"\n",
    ord("r"): b"\r",
    ord("t"): b"\t",
}
_UNIT_BYTES = len("\\uXXXX")
_HIGH, _LOW, _ABOVE = 0xD800, 0xDC00, 0xE000
_UNKNOWN = "\ufffd".encode()
_ANY = None
PIECE_BYTES = 256 * 1024
"""As much of a text is decoded or searched in one call of the interpreter, which lets other threads go on between two
calls. Bytes that are no UTF-8 take the longest: a few milliseconds."""
MAX_TRIES = 1_000_000
"""Positions of a text that are compared with a pattern at most: about a second."""


class PatternTooCostly(ValueError):
    """Matching a text with a pattern takes too long: the pattern has many ``?`` and the text is long."""

    def __init__(self) -> None:
        super().__init__(f"a pattern with ? takes more than {MAX_TRIES} comparisons with one text")


def string_bytes(raw: bytes) -> bytes:
    """Decodes the string `raw`, given without its quotes. The result ends before a bad escape, and before a control
    character in a string with escapes, as upstream's does. Half a surrogate pair becomes U+FFFD.
    """
    if BACKSLASH not in raw:
        return raw
    said = bytearray()
    start = 0
    while (at := find(_ESCAPE_OR_CONTROL, raw, start)) >= 0:
        said += raw[start:at]
        letter = raw[at + 1] if raw[at] == BACKSLASH and at + 1 < len(raw) else -1
        if letter in _SIMPLE:
            said += _SIMPLE[letter]
            start = at + 2
        elif letter == ord("u") and at + _UNIT_BYTES <= len(raw):
            character, start = _character(raw, at)
            said += character
        else:
            return bytes(said)
    return bytes(said + raw[start:])


def _character(raw: bytes, at: int) -> tuple[bytes, int]:
    """Decodes the escape at `at` and returns the character and the position after it. A pair of escapes may be one
    character.
    """
    code = _unit(raw, at)
    at += _UNIT_BYTES
    if not _HIGH <= code < _ABOVE:
        return chr(code).encode(), at
    if raw[at : at + 2] != b"\\u" or at + _UNIT_BYTES > len(raw):
        return _UNKNOWN, at
    low = _unit(raw, at)
    at += _UNIT_BYTES
    if code < _LOW <= low < _ABOVE:
        return chr(0x10000 + (code - _HIGH << 10) + low - _LOW).encode(), at
    return _UNKNOWN, at


def _unit(raw: bytes, at: int) -> int:
    digits = raw[at + 2 : at + _UNIT_BYTES]
    return int(digits, 16) if _HEX4.fullmatch(digits) else 0


def _decoded(text: bytes) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    pieces = (text[start : start + PIECE_BYTES] for start in range(0, len(text), PIECE_BYTES))
    return "".join([*map(decoder.decode, pieces), decoder.decode(b"", final=True)])


def _find_in_pieces(text: str, part: str, start: int, end: int) -> int:
    """As `text.find(part, start, end)`."""
    while start + len(part) <= end:
        found = text.find(part, start, min(start + PIECE_BYTES + len(part), end))
        if found >= 0:
            return found
        start += PIECE_BYTES
    return -1


class Pattern:
    r"""A pattern: ``*`` is any run of characters, ``?`` one, ``\`` takes the next one for itself."""

    def __init__(self, text: bytes) -> None:
        runs: list[list[str | None]] = [[]]
        characters = iter(text.decode("utf-8", "surrogateescape"))
        self._is_broken = False
        for character in characters:
            if character == "*":
                runs.append([])
            elif character == "?":
                runs[-1].append(_ANY)
            elif character == "\\":
                escaped = next(characters, None)
                self._is_broken = escaped is None
                runs[-1].append(escaped or "")
            else:
                runs[-1].append(character)
        self._first, *rest = (_Run(run) for run in runs)
        self._last = rest.pop() if rest else None
        self._middle = [run for run in rest if run.length]

    def matches(self, text: bytes) -> bool:
        """Whether the whole of `text` matches. A pattern that ends in a lone backslash matches nothing.

        Raises:
            PatternTooCostly: the comparison takes too long.
        """
        characters = _decoded(text)
        if self._is_broken or not self._first.is_at(characters, 0):
            return False
        at, end = self._first.length, len(characters)
        if self._last is None:
            return at == end
        end -= self._last.length
        # Taking the leftmost place for each run leaves the most room for later runs.
        for run in self._middle:
            at = run.find(characters, at, end)
            if at < 0:
                return False
            at += run.length
        return at <= end and self._last.is_at(characters, end)


class _Run:
    """The part of a pattern between two stars: its literal parts with their positions, and its length."""

    def __init__(self, characters: list[str | None]) -> None:
        self.length = len(characters)
        self._parts: list[tuple[int, str]] = []
        for place, character in enumerate(characters):
            if character is _ANY:
                continue
            if place and characters[place - 1] is not _ANY:
                begin, text = self._parts.pop()
                self._parts.append((begin, text + character))
            else:
                self._parts.append((place, character))

    def is_at(self, text: str, at: int) -> bool:
        return at + self.length <= len(text) and all(text.startswith(part, at + place) for place, part in self._parts)

    def find(self, text: str, at: int, end: int) -> int:
        """The first position from `at` on where this run matches and ends by `end`; -1 where there is none."""
        if not self._parts:
            return at if at + self.length <= end else -1
        place, part = self._parts[0]
        tries = 0
        while at + self.length <= end:
            found = _find_in_pieces(text, part, at + place, end)
            if found < 0 or found - place + self.length > end:
                return -1
            at = found - place
            if self.is_at(text, at):
                return at
            at += 1
            tries += len(self._parts)
            if tries > MAX_TRIES:
                raise PatternTooCostly
        return -1
