"""Response headers while they are being decided: one value for each name, the last one set wins.

Names are put into canonical case (``Content-Md5``), in which upstream sends them. Source: Go's textproto.
"""

from __future__ import annotations

import re
from functools import lru_cache

from native_handlers.http.headers import Headers

_NAME = re.compile(r"[!#$%&'*+\-.0-9A-Z^_`a-z|~]+")
_LINE_BREAKS = str.maketrans("\r\n\0", "   ")


def canonical_name(name: str) -> str:
    """`name` with each word capitalised; unchanged where it is no header name."""
    return _canonical(name) or name


@lru_cache(maxsize=512)
def _canonical(name: str) -> str:
    """As `canonical_name`, with "" for what is no header name. Cached: an answer asks for the same ten names."""
    if _NAME.fullmatch(name) is None:
        return ""
    return "-".join(word.capitalize() for word in name.split("-"))


class HeaderMap:
    """Canonical names to wire text values. What is no header name is left out, line breaks become spaces."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def set(self, name: str, value: str) -> None:
        canonical = _canonical(name)
        if canonical:
            self._values[canonical] = value.translate(_LINE_BREAKS).strip(" \t")

    def get(self, name: str) -> str:
        """The value, "" when there is none."""
        return self._values.get(canonical_name(name), "")

    def __contains__(self, name: str) -> bool:
        """Whether it is set, if only to ""."""
        return canonical_name(name) in self._values

    def drop(self, name: str) -> None:
        self._values.pop(canonical_name(name), None)

    def to_headers(self) -> Headers:
        return Headers(self._values.items())
