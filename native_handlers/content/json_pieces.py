"""Parses JSON step by step, with Go's grammar: for long texts of clients.

`json.loads` parses a text in one call, which keeps every other thread waiting. Here one call into C reads ten thousand
characters or so at most, and parsing is a job of short steps (content_threads). The grammar is that of Go's
encoding/json: at most 10,000 levels deep, no NaN, no byte order mark. Source: Go's encoding/json scanner.go.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.runtime.content_threads import Job

T = TypeVar("T")

MAX_DEPTH = 10_000
_RUN = 1 << 14
"""Characters that one call of the regular expression engine reads at most: about 0.1 ms."""
_STEP_CHARS = 512
"""A step ends after so many characters: the slowest texts take a microsecond for each."""
_SPACE = re.compile(rf"[ \t\r\n]{{0,{_RUN}}}")
_PLAIN = re.compile(rf'[^"\\\x00-\x1f]{{0,{_RUN}}}')
_DIGITS = re.compile(rf"[0-9]{{0,{_RUN}}}")
_ESCAPE = re.compile(r'\\(?:(["\\/bfnrt])|u([0-9a-fA-F]{4}))')
_TEXT = r'"[^",\[{\\\x00-\x1f]{0,32}+"'
_NUMBER = r"-?(?:0|[1-9][0-9]{0,31}+)(?:\.[0-9]{1,31}+)?(?:[eE][+-]?[0-9]{1,8}+)?(?![0-9.eE])"
_SCALAR = rf"(?:{_TEXT}|{_NUMBER}|true|false|null)"
_GAP = r"[ \t\r\n]{0,16}+"
_MEMBER = rf"{_GAP}{_TEXT}{_GAP}:{_GAP}{_SCALAR}{_GAP}"
_MEMBERS = rf"\{{{_GAP}(?:{_MEMBER}(?:,{_MEMBER}){{0,7}})?\}}"
_VALUES = rf"\[{_GAP}(?:{_SCALAR}{_GAP}(?:,{_GAP}{_SCALAR}{_GAP}){{0,7}})?\]"
_PLAIN_ITEMS = re.compile(rf"(?:{_GAP},{_GAP}(?:{_SCALAR}|{_MEMBERS}|{_VALUES})){{1,24}}")
_PLAIN_MEMBERS = re.compile(rf"(?:{_GAP},{_MEMBER}){{1,24}}")
"""Items of a list, and of an object, as most are: short, without escapes, one level deep at most. Many are passed over
in one call. No text in them has a comma or an opening bracket, so that these count the values.
"""
_ESCAPES = re.compile(r'(?:[^"\\\x00-\x1f]{0,16}+\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})){1,64}')
_SIMPLE = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_CLOSERS = {"{": "}", "[": "]"}
_WORDS = {"n": "null", "t": "true", "f": "false"}
_UNKNOWN = "\ufffd"
_MAX_FOLDED_CHARS = 64


def _forget(_piece: str) -> None:
    """Drops a piece of a value that is skipped."""


class BadJson(ValueError):
    """The text is no JSON by Go's grammar."""


def field_of(key: str, names: frozenset[str]) -> str:
    """The name in `names` (lower case) that Go matches with the key of an object; "" where none matches.

    Letters are compared without regard to case, one for one: U+017F is an s and U+212A a k.
    """
    if key in names:
        return key
    folded = key.casefold() if len(key) <= _MAX_FOLDED_CHARS else ""
    return folded if len(folded) == len(key) and folded in names else ""


class TooManyParts(BadJson):
    """The text has more values and escapes than the reader accepts."""


class JsonSteps:
    """Parses one value from `text`, in order and once, in jobs of short steps. Each job raises BadJson for text that is
    no JSON.

    Use `string`, `number`, `take_null`, `open` (whose items follow) or `skip` for the next value.

    Args:
        max_parts: the number of items, keys and escapes that are accepted, because they take the time. Beyond it,
            TooManyParts is raised.
    """

    def __init__(self, text: str, max_parts: int | None = None) -> None:
        self._text = text
        self._parts_left = len(text) + 1 if max_parts is None else max_parts
        self._step_end = _STEP_CHARS
        self._at = 0
        self._closers: list[str] = []
        self._is_fresh = False

    def peek(self) -> Job[str]:
        """Returns the first character of the next value, "" at the end of the text."""
        yield from self._pass(_SPACE)
        return self._text[self._at : self._at + 1]

    def match_item(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Reads the next item of the open list, if it follows without a space and matches `pattern`. `pattern` matches
        whole values that are never long. Returns None where the item does not match.
        """
        at = self._at
        if not self._is_fresh:
            if not self._text.startswith(",", at):
                return None
            at += 1
        found = pattern.match(self._text, at)
        if found is not None:
            self.count_parts(1)
            self._at, self._is_fresh = found.end(), False
        return found

    def open(self) -> Job[None]:
        """Begins a list or an object. Raises BadJson where the next character begins neither."""
        closer = _CLOSERS.get((yield from self.peek()))
        if closer is None:
            self._fail("a list or an object is wanted")
        self._at += 1
        self._closers.append(closer)
        self._is_fresh = True
        if len(self._closers) > MAX_DEPTH:
            self._fail(f"more than {MAX_DEPTH} levels")

    def next_item(self) -> Job[bool]:
        """Whether another item of the open list follows. At the end the list is closed."""
        char = yield from self.peek()
        if char == self._closers[-1]:
            self._at += 1
            self._closers.pop()
            self._is_fresh = False
            return False
        self.count_parts(1)
        if not self._is_fresh:
            if char != ",":
                self._fail("a comma or the end is wanted")
            self._at += 1
        self._is_fresh = False
        return True

    def next_key(self) -> Job[str | None]:
        """Returns the key of the next value of the open object; None at its end, where the object is closed."""
        if not (yield from self.next_item()):
            return None
        key = yield from self.string()
        if (yield from self.peek()) != ":":
            self._fail("a colon is wanted")
        self._at += 1
        return key

    def take_null(self) -> Job[bool]:
        """Reads null if it follows. Returns whether it did."""
        if (yield from self.peek()) != "n":
            return False
        self._word()
        return True

    def string(self) -> Job[str]:
        """Reads a string. Half a surrogate pair becomes U+FFFD."""
        pieces: list[str] = []
        yield from self._string(pieces.append)
        return "".join(pieces)

    def number(self) -> Job[str]:
        """Reads a number and returns its text."""
        yield from self.peek()
        start = self._at
        if self._text.startswith("-", self._at):
            self._at += 1
        if self._text.startswith("0", self._at):
            self._at += 1
        else:
            yield from self._some_digits()
        if self._text.startswith(".", self._at):
            self._at += 1
            yield from self._some_digits()
        if self._text.startswith(("e", "E"), self._at):
            self._at += 1
            if self._text.startswith(("+", "-"), self._at):
                self._at += 1
            yield from self._some_digits()
        return self._text[start : self._at]

    def skip(self, number: Callable[[str], object] = _forget) -> Job[None]:
        """Skips the next value, whatever it holds. `number` is called with the text of each number."""
        level = len(self._closers)
        while True:
            yield from self._skip_or_open(number)
            if len(self._closers) > level and number is _forget:
                yield from self._skip_plain()
            while len(self._closers) > level and not (yield from self._next_of_either()):
                pass
            if len(self._closers) == level:
                return

    def end(self) -> Job[None]:
        """Raises BadJson where more than spaces follows."""
        if (yield from self.peek()):
            self._fail("more follows")

    def _skip_or_open(self, number: Callable[[str], object]) -> Job[None]:
        char = yield from self.peek()
        if char in _CLOSERS:
            yield from self.open()
        elif char == '"':
            yield from self._string(_forget)
        elif char in _WORDS:
            self._word()
        else:
            number((yield from self.number()))

    def _skip_plain(self) -> Job[None]:
        """Passes over what follows an item of the open list or object, as far as that is plain."""
        if self._is_fresh or len(self._closers) == MAX_DEPTH:
            return
        run = _PLAIN_ITEMS if self._closers[-1] == "]" else _PLAIN_MEMBERS
        while (found := run.match(self._text, self._at)) is not None:
            plain = found.group()
            # Each item comes after a comma, but for the first of an inner list or object.
            self.count_parts(plain.count(",") + plain.count("{") + plain.count("["))
            self._at = found.end()
            if self._at >= self._step_end:
                self._step_end = self._at + _STEP_CHARS
                yield

    def _next_of_either(self) -> Job[bool]:
        if self._closers[-1] == "]":
            return (yield from self.next_item())
        return (yield from self.next_key()) is not None

    def _word(self) -> None:
        word = _WORDS[self._text[self._at]]
        if not self._text.startswith(word, self._at):
            self._fail(f"{word} is wanted")
        self._at += len(word)

    def _string(self, keep: Callable[[str], object]) -> Job[None]:
        if (yield from self.peek()) != '"':
            self._fail("a string is wanted")
        self._at += 1
        while True:
            if self._at >= self._step_end:
                self._step_end = self._at + _STEP_CHARS
                yield
            found = _PLAIN.match(self._text, self._at)
            assert found is not None
            keep(found.group())
            self._at = found.end()
            char = self._text[self._at : self._at + 1]
            if char == '"':
                self._at += 1
                return
            if char == "\\":
                if keep is not _forget or not self._skip_escapes():
                    self.count_parts(1)
                    keep(self._escaped())
            elif found.end() == found.start():
                self._fail("a string does not end")

    def _skip_escapes(self) -> bool:
        """Whether escapes followed; they are passed over, with what stands between them."""
        found = _ESCAPES.match(self._text, self._at)
        if found is None:
            return False
        escapes = found.group()
        # In a row of backslashes each second one is escaped by the one before it.
        self.count_parts(escapes.count("\\") - escapes.count("\\\\"))
        self._at = found.end()
        return True

    def _escaped(self) -> str:
        found = self._escape()
        if found[1]:
            return _SIMPLE[found[1]]
        code = int(found[2], 16)
        if 0xD800 <= code < 0xDC00 and self._text.startswith("\\u", self._at):
            before = self._at
            low = int(self._escape()[2], 16)
            if 0xDC00 <= low < 0xE000:
                return chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00))
            self._at = before
        return _UNKNOWN if 0xD800 <= code < 0xE000 else chr(code)

    def _escape(self) -> re.Match[str]:
        found = _ESCAPE.match(self._text, self._at)
        if found is None:
            self._fail("this escapes nothing")
        self._at = found.end()
        return found

    def _some_digits(self) -> Job[None]:
        start = self._at
        yield from self._pass(_DIGITS)
        if self._at == start:
            self._fail("a value is wanted")

    def _pass(self, run: re.Pattern[str]) -> Job[None]:
        while True:
            if self._at >= self._step_end:
                self._step_end = self._at + _STEP_CHARS
                yield
            start, found = self._at, run.match(self._text, self._at)
            assert found is not None
            self._at = found.end()
            if self._at - start < _RUN:
                return

    def count_parts(self, count: int) -> None:
        """Counts what was read by `match_item`, beyond the item itself. Raises TooManyParts."""
        self._parts_left -= count
        if self._parts_left < 0:
            raise TooManyParts(f"at character {self._at}: there are too many values and escapes before it")

    def _fail(self, why: str) -> NoReturn:
        raise BadJson(f"at character {self._at}: {why}")


class JsonReader:
    """As `JsonSteps`, each value in one call: for text that is known to be short."""

    def __init__(self, text: str) -> None:
        self._steps = JsonSteps(text)

    def peek(self) -> str:
        return _whole(self._steps.peek())

    def open(self) -> None:
        _whole(self._steps.open())

    def next_item(self) -> bool:
        return _whole(self._steps.next_item())

    def next_key(self) -> str | None:
        return _whole(self._steps.next_key())

    def take_null(self) -> bool:
        return _whole(self._steps.take_null())

    def string(self) -> str:
        return _whole(self._steps.string())

    def number(self) -> str:
        return _whole(self._steps.number())

    def skip(self, number: Callable[[str], object] = _forget) -> None:
        _whole(self._steps.skip(number))

    def end(self) -> None:
        _whole(self._steps.end())


def _whole(job: Job[T]) -> T:
    try:
        while True:
            next(job)
    except StopIteration as done:
        result: T = done.value
        return result
