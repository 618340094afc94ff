"""Finds the ends of the values of a JSON text without parsing the values.

The scanner is as lenient as upstream's library: a value ends where its brackets balance, whatever is between them, and
the end of the text ends the value, too. No step recurses, so depth costs nothing. No step reads more than ten thousand
bytes or so, so other threads run meanwhile. Source: gjson's parseSquash, parseString, parseNumber.
"""

from __future__ import annotations

import re

VALUE_START = re.compile(rb'["{\[ntf+\-0-9iIN]')
"""The first bytes of values. Go's numbers may be words: Inf, NaN."""
ITEM_OR_CLOSE = re.compile(rb'["{\[ntf+\-0-9iIN\]]')
KEY_OR_CLOSE = re.compile(rb'["}]')
CONTAINER_START = re.compile(rb"[{\[]")
BRACKET_OR_QUOTE = re.compile(rb'["{}\[\]()]')
QUOTE_OR_ESCAPE = re.compile(rb'["\\]')
AFTER_WORD = re.compile(rb"[^a-z]")
AFTER_NUMBER = re.compile(rb"[\x00-\x20,\]}]")
OPENING, QUOTE, BACKSLASH = frozenset(b"{[("), ord('"'), ord("\\")
_RUN = 1 << 14
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_FLAT = rb'[{\[](?:[^"{}\[\]()]++|' + _STRING + rb")*+[}\]]"
_NESTED = rb'[{\[](?:[^"{}\[\]()]++|' + _STRING + rb"|" + _FLAT + rb")*+[}\]]"
_USUAL_CONTENT = re.compile(rb'(?:[^"{}\[\]()]++|' + _STRING + rb"|" + _NESTED + rb")*+", re.DOTALL)
_USUAL_CONTAINER = re.compile(_NESTED, re.DOTALL)
_USUAL_MEMBER = re.compile(
    rb'[ \t\r\n,]*+"([^"\\]*+)"[ \t\r\n]*+:[ \t\r\n]*+('
    + _STRING
    + rb"|"
    + _NESTED
    + rb"|(?:true|false|null)(?=[ \t\r\n,}])|-?[0-9][0-9.eE+-]*+(?=[ \t\r\n,}]))",
    re.DOTALL,
)
"""The usual content of documents, matched in one step. The quantifiers are possessive, so the engine never backtracks:
text that does not match costs one look at 16 KiB at most."""
_WORDS = frozenset(b"tf")
_N, _U = ord("n"), ord("u")


def find(pattern: re.Pattern[bytes], text: bytes | bytearray, at: int) -> int:
    """The position of the first byte from `at` on that is in the set `pattern`; -1 where there is none."""
    while at < len(text):
        found = pattern.search(text, at, at + _RUN)
        if found is not None:
            return found.start()
        at += _RUN
    return -1


def is_word(text: bytes | bytearray, at: int) -> bool:
    """Whether true, false or null begins at `at`, and not a number: ``nan`` is a number, a lone ``n`` is null."""
    return text[at] in _WORDS or (text[at] == _N and text[at + 1 : at + 2] in (b"", b"u"))


def string_end(text: bytes | bytearray, at: int) -> int:
    """The end of the string whose opening quote is before `at`: the position after its closing quote, or -1 without
    one.
    """
    while (at := find(QUOTE_OR_ESCAPE, text, at)) >= 0:
        if text[at] == QUOTE:
            return at + 1
        at += 2
    return -1


def value_end(text: bytes, at: int) -> int:
    """The end of the value that begins at `at`; -1 for a string without an end."""
    first = text[at]
    if first == QUOTE:
        return string_end(text, at + 1)
    if first in OPENING:
        return _container_end(text, at)
    end = find(AFTER_WORD if is_word(text, at) else AFTER_NUMBER, text, at + 1)
    return len(text) if end < 0 else end


def usual_end(text: bytes | bytearray, at: int) -> int:
    """The end of the object or list at `at`, if it is short and not deep; -1 where that is not known."""
    found = _USUAL_CONTAINER.match(text, at, at + _RUN)
    return found.end() if found is not None else -1


def next_bracket_or_quote(text: bytes | bytearray, at: int) -> int:
    """The position of the next bracket or quote in an object or list, after the members that are whole, short and not
    deep; -1 where there is none.
    """
    found = _USUAL_CONTENT.match(text, at, at + _RUN)
    return find(BRACKET_OR_QUOTE, text, at if found is None else found.end())


def usual_member(text: bytes, at: int) -> tuple[bytes, int, int] | None:
    """The next name in an object and the beginning and end of its value, for a usual member; None where the member is
    not usual.
    """
    found = _USUAL_MEMBER.match(text, at, at + _RUN)
    return None if found is None else (found[1], *found.span(2))


def _container_end(text: bytes, at: int) -> int:
    if (end := usual_end(text, at)) >= 0:
        return end
    depth = 0
    while True:
        byte = text[at]
        if byte == QUOTE:
            at = string_end(text, at + 1)
            if at < 0:
                return len(text)
        else:
            depth += 1 if byte in OPENING else -1
            at += 1
            if not depth:
                return at
        at = next_bracket_or_quote(text, at)
        if at < 0:
            return len(text)
