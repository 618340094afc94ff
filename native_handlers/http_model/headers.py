"""HTTP header fields: the list as it was received, and the map that a handler fills for its answer.

Latin-1 maps every byte to one character, so a received field can be sent on unchanged.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_NAME = re.compile(r"[!#$%&'*+\-.0-9A-Z^_`a-z|~]+")
_CACHED_CHARS = 64
"""The longest name whose result is cached. A client may send names of 60,000 characters."""


def canonical_name(name: str) -> str:
    """`name` with each word capitalised (``Content-Md5``). A text that is no header name is returned unchanged.

    Upstream sends its own names in this case. Source: Go's textproto CanonicalMIMEHeaderKey.
    """
    return _canonical(name) or name


def _canonical(name: str) -> str:
    """As `canonical_name`, but "" for a text that is no header name."""
    return _cached_form(name) if len(name) <= _CACHED_CHARS else _form_of(name)


def _form_of(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        return ""
    return "-".join([word.capitalize() for word in name.split("-")])


_cached_form = lru_cache(maxsize=512)(_form_of)
"""Answers use the same ten names."""


class FieldLines(NamedTuple):
    """Fields in the form in which they are sent.

    `names` has the name of each field in lower case. `block` has the lines, each with its CR LF. `content_length` is
    the first value under Content-Length, or None.
    """

    names: Collection[str]
    block: str
    content_length: str | None


class HeaderFields(ABC):
    """Fields in the order of sending. Look-ups ignore case. Iterating gives (name, value) pairs."""

    __slots__ = ()

    @abstractmethod
    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value under `name`, or `default`."""

    @abstractmethod
    def get_all(self, name: str) -> list[str]:
        """Every value under `name`, in order; empty when there is none."""

    @abstractmethod
    def plus(self, *pairs: tuple[str, str]) -> Self:
        """A copy with `pairs` added."""

    @abstractmethod
    def without(self, names: Iterable[str]) -> Self:
        """A copy that lacks every field in `names`."""

    @abstractmethod
    def encoded(self) -> FieldLines:
        """The fields as lines."""

    @abstractmethod
    def __contains__(self, name: str) -> bool: ...

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[str, str]]: ...

    @abstractmethod
    def __len__(self) -> int: ...

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeaderFields) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"


class Headers(HeaderFields):
    """An immutable list of (name, value) pairs, both latin-1 text, in wire order with the sender's case.

    Attributes:
        pairs: the fields.
        lower_names: their names in lower case, in the same order.
    """

    __slots__ = ("lower_names", "pairs")

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self.pairs = tuple(pairs)
        self.lower_names = tuple([name.lower() for name, _ in self.pairs])

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value under `name`, or `default`."""
        wanted = name.lower()
        if wanted not in self.lower_names:
            return default
        return self.pairs[self.lower_names.index(wanted)][1]

    def get_all(self, name: str) -> list[str]:
        """Every value under `name`, in wire order; empty when there is none."""
        wanted = name.lower()
        return [pair[1] for pair, lower in zip(self.pairs, self.lower_names, strict=True) if lower == wanted]

    def without(self, names: Iterable[str]) -> Headers:
        """A copy that lacks every header in `names`."""
        dropped = {name.lower() for name in names}
        return Headers([pair for pair, low in zip(self.pairs, self.lower_names, strict=True) if low not in dropped])

    def plus(self, *pairs: tuple[str, str]) -> Headers:
        """A copy with `pairs` appended."""
        return Headers((*self.pairs, *pairs))

    def encoded(self) -> FieldLines:
        """The fields as lines."""
        length = self.get("Content-Length") if "content-length" in self.lower_names else None
        return FieldLines(self.lower_names, "".join([f"{name}: {value}\r\n" for name, value in self.pairs]), length)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self.lower_names

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)


class HeaderMap(HeaderFields):
    """The headers of an answer while a handler decides them. Each name has one value; the last one set wins.

    Attributes:
        fields: canonical names to values. The server's own names and values may be put here directly, where `set` would
            not change them.
    """

    __slots__ = ("fields",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self.fields = dict(fields)

    def set(self, name: str, value: str) -> None:
        """Sets a field. A text that is no header name sets nothing; line breaks in the value become spaces."""
        canonical = _canonical(name)
        if canonical:
            # `translate` takes milliseconds for a long value of odd bytes.
            self.fields[canonical] = value.replace("\r", " ").replace("\n", " ").replace("\0", " ").strip(" \t")

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value under `name`, or `default`."""
        return self.fields.get(canonical_name(name), default)

    def get_all(self, name: str) -> list[str]:
        """The value under `name`, if there is one, as a list."""
        value = self.fields.get(canonical_name(name))
        return [] if value is None else [value]

    def drop(self, *names: str) -> None:
        """Removes the fields with these names."""
        for name in names:
            self.fields.pop(canonical_name(name), None)

    def without(self, names: Iterable[str]) -> HeaderMap:
        """A copy that lacks every header in `names`."""
        kept = HeaderMap(self)
        kept.drop(*names)
        return kept

    def plus(self, *pairs: tuple[str, str]) -> HeaderMap:
        """A copy with `pairs` set."""
        more = HeaderMap(self)
        for name, value in pairs:
            more.set(name, value)
        return more

    def to_headers(self) -> Headers:
        """The fields as a list."""
        return Headers(self.fields.items())

    def encoded(self) -> FieldLines:
        """The fields as lines."""
        fields = self.fields
        block = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
        return FieldLines([name.lower() for name in fields], block, fields.get("Content-Length"))

    def __contains__(self, name: str) -> bool:
        """Whether the field is set, also to ""."""
        return canonical_name(name) in self.fields

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.fields.items())

    def __len__(self) -> int:
        return len(self.fields)


class CommonHeaders(Enum):
    """Which of the common headers a route's answers carry.

    NONE: static files, as upstream's file server. PLAIN: Server and the request id. CORS: those, and the CORS headers.
    """

    NONE = "none"
    PLAIN = "plain"
    CORS = "cors"
