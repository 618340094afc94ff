"""Query strings and form bodies, which have the same grammar.

Keys and values are wire text: each character is one byte. Source of the rules: Go's net/url ParseQuery, which drops a
bad pair, goes on, and reports an error. Reads ignore that error, uploads fail with it.
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from native_handlers.http_model.errors import quote
from native_handlers.http_model.percent import unescape
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

MAX_PAIRS = 10_000
"""Go's default. A query with more pairs is refused whole."""
SHORT_CHARACTERS = 512
"""A query up to this length is parsed at once: some tenths of a millisecond. A job parses a longer one; see
`RequestTarget.parse_long_query`."""
_STEP_PAIRS = 256
_PAIR_CHARACTERS = 128
"""A pair takes as long as so many characters, in addition to its own."""
_SCANNED_PAIRS = 16
"""Up to so many pairs a look-up goes over them. More get an index at the first look-up."""
STEP_CHARACTERS = 1 << 15
_ESCAPE_CHARACTERS = 3
_BAD_ESCAPE = re.compile("%(?![0-9a-fA-F]{2}).{0,2}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Query:
    """Parsed pairs in order. `error` is the text of a parse error, or None."""

    pairs: tuple[tuple[str, str], ...] = ()
    error: str | None = None
    _first: dict[str, str] | None = field(default=None, init=False, repr=False, compare=False)

    def get(self, name: str) -> str:
        """The first value under `name`, or ""."""
        if len(self.pairs) > _SCANNED_PAIRS:
            return self._indexed().get(name, "")
        for key, value in self.pairs:
            if key == name:
                return value
        return ""

    def is_true(self, name: str) -> bool:
        """Whether the value is exactly "true"."""
        return self.get(name) == "true"

    def _indexed(self) -> dict[str, str]:
        first = self._first
        if first is None:
            first = dict(reversed(self.pairs))
            object.__setattr__(self, "_first", first)
        return first


NO_QUERY = Query()
"""The query of a target without one."""


def parse_query(raw: str) -> Query:
    """Parses `raw`. Pairs that cannot be decoded are left out, and `error` names the fault."""
    return _whole(parse_form(raw))


def _whole(steps: Generator[None, None, Query]) -> Query:
    try:
        while True:
            next(steps)
    except StopIteration as done:
        query: Query = done.value
        return query


def parse_form(raw: str) -> Generator[None, None, Query]:
    """As `parse_query`, in steps, for text that may be long."""
    if len(raw) > STEP_CHARACTERS:
        yield
    if raw.count("&") >= MAX_PAIRS:
        return Query(error="number of URL query parameters exceeded limit")
    texts = raw.split("&")
    if not _has_marks(raw):
        return Query(tuple(_plain_pairs(texts) if len(texts) <= _STEP_PAIRS else (yield from _many_plain_pairs(texts))))
    pairs, error, passed = [], None, 0
    for pair in texts:
        passed += _PAIR_CHARACTERS + len(pair)
        if passed > STEP_CHARACTERS:
            passed = 0
            yield
        if ";" in pair:
            error = "invalid semicolon separator in query"
            continue
        key, _, value = pair.partition("=")
        bad = None
        if _has_marks(pair):
            is_long = len(pair) > STEP_CHARACTERS
            key, value, bad = (yield from _decoded_in_steps(key, value)) if is_long else _decoded(key, value)
        if bad is not None:
            error = error or f"invalid URL escape {quote(bad)}"
        elif pair:
            pairs.append((key, value))
    return Query(tuple(pairs), error)


def _has_marks(text: str) -> bool:
    """Whether something in `text` is encoded, or bad.

    A regular expression takes twenty times as long for a long text.
    """
    return "%" in text or "+" in text or ";" in text


def _plain_pairs(texts: Sequence[str]) -> Iterable[tuple[str, str]]:
    """The pairs of `texts`, in which nothing is encoded."""
    return [(key, value) for key, _, value in [text.partition("=") for text in texts if text]]


def _many_plain_pairs(texts: Sequence[str]) -> Generator[None, None, Iterable[tuple[str, str]]]:
    """As `_plain_pairs`, in steps."""
    pairs: list[tuple[str, str]] = []
    for start in range(0, len(texts), _STEP_PAIRS):
        pairs += _plain_pairs(texts[start : start + _STEP_PAIRS])
        yield
    return pairs


def _decoded(key: str, value: str) -> tuple[str, str, str | None]:
    """The pair decoded, and None; or the first bad escape."""
    bad = _bad_escape(key) or _bad_escape(value)
    return (_decode(key), _decode(value), None) if bad is None else ("", "", bad)


def _decoded_in_steps(key: str, value: str) -> Generator[None, None, tuple[str, str, str | None]]:
    """As `_decoded`, for a long pair."""
    key, bad = yield from _unescaped(key)
    if bad is None:
        value, bad = yield from _unescaped(value)
    return key, value, bad


def _bad_escape(text: str) -> str | None:
    found = _BAD_ESCAPE.search(text)
    return None if found is None else found[0]


def _unescaped(text: str) -> Generator[None, None, tuple[str, str | None]]:
    """Decodes a long text in steps. Returns the text and None, or "" and the first bad escape."""
    pieces, start = [], 0
    while start < len(text):
        end = start + STEP_CHARACTERS
        # A piece must not end within an escape.
        end -= 1 if text[end - 1 : end] == "%" else 2 if text[end - 2 : end - 1] == "%" else 0
        bad = _BAD_ESCAPE.search(text[start:end])
        if bad:
            return "", text[start + bad.start() :][:_ESCAPE_CHARACTERS]
        pieces.append(_decode(text[start:end]))
        start = end
        yield
    return "".join(pieces), None


def encode_query(values: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    """Encodes `values` as a query string sorted by key. Equal keys keep their order."""
    pairs = sorted(dict(values).items()) if not isinstance(values, (list, tuple)) else sorted(values, key=_key)
    return "&".join(f"{_encode(key)}={_encode(value)}" for key, value in pairs)


def encode_form(values: Sequence[tuple[str, str]]) -> Generator[None, None, str]:
    """As `encode_query`, in steps, for pairs of a client."""
    pairs, texts = sorted(values, key=_key), []
    for number, (key, value) in enumerate(pairs, 1):
        texts.append(f"{_encode(key)}={_encode(value)}")
        if number % _STEP_PAIRS == 0 or len(key) + len(value) > STEP_CHARACTERS:
            yield
    return "&".join(texts)


def _key(pair: tuple[str, str]) -> str:
    return pair[0]


def _decode(text: str) -> str:
    return unescape(text.replace("+", " ").encode("latin-1")).decode("latin-1")


def _encode(text: str) -> str:
    return quote_plus(text.encode("latin-1"))
