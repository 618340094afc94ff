r"""Paths to a field of a JSON document, in the subset of gjson's syntax that names fields.

    name.first      the field `first` of the object in the field `name`
    children.0      the first item of a list
    children.#      how many items a list has
    friends.#.age   a list of the `age` of each item that has one
    fav\.movie      the field ``fav.movie``: a backslash makes ., *, ?, | an ordinary character
    child*.2        the first field whose name matches and in which the rest of the path is found; ? is one character

    @this           the whole document; within a path it is not understood

If a document has a field twice, the first one counts. These parts of gjson's syntax find nothing: pipes (``|``),
queries (``#(last=="x")``), modifiers (``@reverse`` and others), literals (``!true``), several paths in one (``[a,b]``,
``{a,b}``), lines (``..``), and more than 16 times ``#``. If the document is JSON, the values are those that gjson
finds, to the byte. If it is broken, the values of some paths with ``#`` differ. Source: gjson 1.18, SYNTAX.md, Get.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from native_handlers.query.lexing import (
    CONTAINER_START,
    ITEM_OR_CLOSE,
    KEY_OR_CLOSE,
    VALUE_START,
    find,
    string_end,
    usual_member,
    value_end,
)
from native_handlers.query.strings import Pattern, string_bytes
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MAPS = 16
"""How often a path may have ``#``: each goes over the same bytes once more."""
_OBJECT, _LIST = frozenset(b"{"), frozenset(b"[")
_CONTAINERS = _OBJECT | _LIST
_CLOSERS = frozenset(b"]}")
_WHOLE = b"@this"
_MODIFIERS = frozenset(
    b"dig flatten fromstr group join keys pretty reverse this tostr ugly valid values".split(),
)
_MODIFIER = re.compile(rb"@([^.|:]*)")
_LITERAL = re.compile(rb'!(?:[{\["+\-0-9]|(?:true|false|null|nan|inf)(?:[.|]|\Z))', re.IGNORECASE)
_SPECIAL_IN_KEY = re.compile(rb"[.|*?\\]")
_LIST_PART = re.compile(rb"([^.|]*)([.|]?)")
_INDEX = re.compile(rb"[0-9]{1,18}")


class _NoValue(Exception):
    """The path uses syntax that this module does not evaluate, or the document is broken at the path."""


@dataclass(frozen=True, slots=True)
class _Key:
    """The part of a path that names a field. `after` is where the rest begins, None where there is no rest."""

    name: bytes
    pattern: Pattern | None
    after: int | None

    def fits(self, raw: bytes) -> bool:
        said = string_bytes(raw)
        return said == self.name if self.pattern is None else self.pattern.matches(said)


@dataclass(slots=True)
class _Frame:
    """An object or list that is being scanned: `key` of an object, `index` of a list (-1 is none)."""

    key: _Key | None
    index: int
    after: int | None
    seen: int = 0


class JsonPath:
    """A path that is evaluated on many documents."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._keys: dict[int, _Key] = {}

    def find(self, document: bytes) -> bytes | None:
        """The bytes of the value in `document`, unchanged; None where there is none.

        Raises:
            PatternTooCostly: comparing a name with ``?`` takes too long.
        """
        if self._text == _WHOLE:
            return document
        try:
            return self._find(document, 0, MAX_MAPS)
        except _NoValue:
            return None

    def _find(self, text: bytes, offset: int, maps_left: int) -> bytes | None:
        """The value in `text` at the path that begins at byte `offset` of the path's text."""
        self._check_whole(offset)
        at = find(CONTAINER_START, text, 0)
        if at < 0:
            return None
        frames: list[_Frame] = []
        found, at = self._enter(text, at, offset, frames, maps_left)
        while found is None and frames and at >= 0:
            frame = frames[-1]
            at, end, fits = _next_value(text, at, frame)
            if at < 0:
                break
            if text[at] in _CLOSERS:
                frames.pop()
                at += 1
            elif fits and frame.after is not None and text[at] in _CONTAINERS:
                found, at = self._enter(text, at, frame.after, frames, maps_left)
            else:
                end = value_end(text, at) if end < 0 else end
                if fits and frame.after is None and end >= 0:
                    found = text[at:end]
                at = end
        return found

    def _enter(
        self, text: bytes, at: int, offset: int, frames: list[_Frame], maps_left: int
    ) -> tuple[bytes | None, int]:
        """Opens the object or list at `at`. Returns its value where it is known already, and the position to go on
        from.
        """
        if text[at] in _OBJECT:
            key = self._key_at(offset)
            frames.append(_Frame(key, -1, key.after))
            return None, at + 1
        part, after = self._list_part_at(offset)
        if part != b"#":
            index = int(part) if _INDEX.fullmatch(part) else -1
            frames.append(_Frame(None, index, after))
            return None, at + 1
        if not maps_left:
            raise _NoValue
        end = value_end(text, at)
        items = _items(text, at + 1, end)
        if after is None:
            return b"%d" % sum(1 for _ in items), end
        values = (self._find(text[start:stop], after, maps_left - 1) for start, stop in items)
        return b"[%b]" % b",".join(value for value in values if value is not None), end

    def _check_whole(self, offset: int) -> None:
        """Checks the beginning of a path at `offset`: raises _NoValue for syntax that is special only there."""
        self._check_part(offset)
        rest = self._text[offset : offset + 2]
        if rest == b".." or _LITERAL.match(self._text, offset):
            raise _NoValue

    def _check_part(self, offset: int) -> None:
        begin = self._text[offset : offset + 1]
        if begin in (b"[", b"{") and len(self._text) > 1:
            raise _NoValue
        modifier = _MODIFIER.match(self._text, offset)
        if modifier is not None and modifier[1] in _MODIFIERS:
            raise _NoValue

    def _key_at(self, offset: int) -> _Key:
        if offset not in self._keys:
            self._keys[offset] = self._parse_key(offset)
        return self._keys[offset]

    def _parse_key(self, offset: int) -> _Key:
        name = bytearray()
        is_wild, after, start = False, None, offset
        while (found := _SPECIAL_IN_KEY.search(self._text, start)) is not None:
            name += self._text[start : found.start()]
            start = found.end()
            if found[0] == b"|":
                raise _NoValue
            if found[0] == b".":
                after = start
                self._check_part(after)
                break
            if found[0] == b"\\":
                name += self._text[start : start + 1]
                start += 1
            else:
                is_wild = True
                name += found[0]
        if after is None:
            name += self._text[start:]
        return _Key(bytes(name), Pattern(bytes(name)) if is_wild else None, after)

    def _list_part_at(self, offset: int) -> tuple[bytes, int | None]:
        """The part of the path for a list, in which backslashes have no meaning, and where the rest begins."""
        found = _LIST_PART.match(self._text, offset)
        assert found is not None, "the expression matches the empty text"
        if found[2] == b"|" or found[1].startswith((b"#(", b"#[")):
            raise _NoValue
        if not found[2]:
            return found[1], None
        if b"#" not in found[1]:
            self._check_part(found.end())
        return found[1], found.end()


def _next_value(text: bytes, at: int, frame: _Frame) -> tuple[int, int, bool]:
    """Returns three facts of the next value in the open object or list: its beginning (or that of the closing bracket),
    its end (-1 where not known yet), and whether the path leads to it. The beginning is -1 where the text ends first.
    """
    if frame.key is None:
        at = find(ITEM_OR_CLOSE, text, at)
        fits = frame.index == frame.seen
        frame.seen += 1
        return at, -1, fits
    if (usual := usual_member(text, at)) is not None:
        raw, start, end = usual
        return start, end, frame.key.fits(raw)
    at = find(KEY_OR_CLOSE, text, at)
    if at < 0 or text[at] in _CLOSERS:
        return at, -1, False
    end = string_end(text, at + 1)
    if end < 0:
        return -1, -1, False
    return find(VALUE_START, text, end), -1, frame.key.fits(text[at + 1 : end - 1])


def _items(text: bytes, at: int, end: int) -> Iterator[tuple[int, int]]:
    """Yields beginning and end of each item of a list that ends at `end`. Raises _NoValue at a string without an
    end.
    """
    while 0 <= (at := find(ITEM_OR_CLOSE, text, at)) < end and text[at] not in _CLOSERS:
        stop = value_end(text, at)
        if stop < 0:
            raise _NoValue
        yield at, stop
        at = stop
