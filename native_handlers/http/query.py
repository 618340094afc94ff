"""Query strings, and form bodies, which have the same grammar.

Keys and values are wire text: each character is one byte. Source of the rules: Go's net/url ParseQuery, which
drops a bad pair, goes on, and reports an error that reads ignore and uploads refuse.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote_plus, unquote_to_bytes

from native_handlers.http.errors import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_PAIRS = 10_000
"""Go's default; more is refused whole."""

_BAD_ESCAPE = re.compile("%(?![0-9a-fA-F]{2}).{0,2}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Query:
    """Parsed pairs in order. `error` is the text of what was wrong with the string, if anything was."""

    pairs: tuple[tuple[str, str], ...] = ()
    error: str | None = None

    def get(self, name: str) -> str:
        """The first value under `name`, or ""."""
        for key, value in self.pairs:
            if key == name:
                return value
        return ""

    def is_true(self, name: str) -> bool:
        """Whether the value is exactly "true"."""
        return self.get(name) == "true"


def parse_query(raw: str) -> Query:
    """The pairs of `raw`; pairs that cannot be decoded are left out and named in `error`."""
    if raw.count("&") >= MAX_PAIRS:
        return Query(error="number of URL query parameters exceeded limit")
    pairs, error = [], None
    for pair in raw.split("&"):
        if ";" in pair:
            error = "invalid semicolon separator in query"
            continue
        key, _, value = pair.partition("=")
        bad = _BAD_ESCAPE.search(key) or _BAD_ESCAPE.search(value)
        if bad is not None:
            error = error or f"invalid URL escape {quote(bad.group())}"
        elif pair:
            pairs.append((_decode(key), _decode(value)))
    return Query(tuple(pairs), error)


def encode_query(values: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    """`values` as a query string sorted by key, the order of equal keys kept."""
    pairs = sorted(dict(values).items()) if not isinstance(values, (list, tuple)) else sorted(values, key=_key)
    return "&".join(f"{_encode(key)}={_encode(value)}" for key, value in pairs)


def _key(pair: tuple[str, str]) -> str:
    return pair[0]


def _decode(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ").encode("latin-1")).decode("latin-1")


def _encode(text: str) -> str:
    return quote_plus(text.encode("latin-1"))
