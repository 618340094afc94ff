"""The header fields that the fast paths know: one parser for the heads of reads, writes and deletes.

Each line is looked up among the lines seen before, because clients send mostly the same lines. A line that is malformed
or has an unknown name declines the head, and so does a field that comes twice: the request then goes the ordinary way.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.http.holders import HOLDER_HEADER
from native_handlers.http.tokens import choose_token

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")
_VALUE = re.compile(rb"[ \t]*+([\t\x20-\x7e\x80-\xff]*+)")
_MAX_LINES = 512
_MAX_LINE_BYTES = 512
_MAX_NAMES = 256
_MAX_FIELDS = 256
"""As `HeadLimits.max_fields`: a head with more fields is refused by the ordinary way."""

_IGNORED = frozenset(
    {"accept", "accept-language", "cache-control", "pragma", "user-agent"}
    | {"traceparent", "x-amz-request-id", "x-forwarded-for"}
)
"""Fields that change no answer to a request of the fast path."""
_VALUED = frozenset(
    {"host", "accept-encoding", "range", "if-none-match", "if-modified-since", "authorization", "cookie"}
    | {"content-length", "content-type", "content-encoding", HOLDER_HEADER.lower()}
)
_VARYING = frozenset(
    {"traceparent", "x-amz-request-id", "range", "if-none-match", "if-modified-since", "authorization", "cookie"}
    | {"content-md5"}
)
"""Fields whose values mostly differ from request to request, so their lines are not remembered."""


class HeadFields(NamedTuple):
    """The fields of a head that may matter.

    Attributes:
        values: by name in lower case.
        stored: the fields of an upload that are stored with the file, and its MD5.
        is_usual: whether other requests are likely to have the same head.
    """

    values: Mapping[str, str]
    stored: Sequence[tuple[str, str]]
    is_usual: bool

    def token(self, in_query: str) -> str:
        """The token of the request, "" where there is none. `in_query` is that of its query."""
        cookie = self.values.get("cookie")
        return choose_token(in_query, self.values.get("authorization", ""), () if cookie is None else (cookie,))


TOKEN_FIELDS = frozenset({"authorization", "cookie"})
"""The fields that may carry a token. Without a key they change nothing."""


class _Name(NamedTuple):
    """A field's name, as it was sent and in lower case, and what is done with the field."""

    sent: str
    lower: str
    is_ignored: bool
    is_stored: bool
    is_varying: bool


class _FieldLine(NamedTuple):
    """A header line for which no head is declined. `name` is "" where the line is ignored."""

    name: str
    value: str
    stored: tuple[str, str] | None
    """The field as it was sent, where an upload stores it."""
    is_varying: bool


_new_tuple = tuple.__new__


class FieldParser:
    """Parses the fields of heads. Its memory is bounded; all connections of a listener may share it."""

    __slots__ = ("_lines", "_names")

    def __init__(self) -> None:
        self._lines: dict[bytes, _FieldLine] = {}
        self._names: dict[bytes, _Name] = {}

    def parse(self, block: bytes, known: Collection[str]) -> HeadFields | None:
        """The fields in `block`: whole lines with their line ends, without the empty line. None declines the head.

        There is exactly one Host. Any `block` may be given.

        Args:
            known: the names that `values` may have. Another one declines the head.
        """
        lines, values, is_usual = self._lines, {}, True
        stored: list[tuple[str, str]] = []
        raws = block.split(b"\r\n")
        if len(raws) > _MAX_FIELDS or raws.pop():
            return None
        for raw in raws:
            line = lines.get(raw) or self._learn(raw)
            if line is None:
                return None
            name, value, pair, is_varying = line
            if is_varying:
                is_usual = False
            if pair is not None:
                stored.append(pair)
            elif name:
                if name in values or name not in known:
                    return None
                values[name] = value
        # `HeadFields(...)` takes twice the time, because it goes through a function in Python.
        return _new_tuple(HeadFields, (values, stored, is_usual)) if "host" in values else None

    def _learn(self, raw: bytes) -> _FieldLine | None:
        colon = raw.find(b":")
        if colon <= 0:
            return None
        name = self._names.get(raw[:colon]) or self._learn_name(raw[:colon])
        match = _VALUE.fullmatch(raw, colon + 1)
        if name is None or match is None:
            return None
        value = match[1].decode("latin-1").rstrip(" \t")
        sent, lower, is_ignored, is_stored, is_varying = name
        if lower == "connection" and value.lower() != "keep-alive":
            return None
        is_varying = is_varying or "boundary=" in value
        pair = (sent, value) if is_stored else None
        line: _FieldLine = _new_tuple(_FieldLine, ("" if is_ignored else lower, value, pair, is_varying))
        if not is_varying and len(raw) <= _MAX_LINE_BYTES:
            if len(self._lines) >= _MAX_LINES:
                self._lines.clear()
            self._lines[raw] = line
        return line

    def _learn_name(self, raw: bytes) -> _Name | None:
        """The treatment of fields of that name; None where they decline the head."""
        sent = raw.decode("latin-1")
        lower = sent.lower()
        is_stored = lower.startswith("seaweed-") or lower == "content-md5"
        is_ignored = lower in _IGNORED or lower == "connection"
        if not (is_stored or is_ignored or lower in _VALUED) or not _NAME.fullmatch(raw):
            return None
        if len(self._names) >= _MAX_NAMES:
            self._names.clear()
        name = self._names[raw] = _Name(sent, lower, is_ignored, is_stored, lower in _VARYING)
        return name


_TARGET = re.compile(rb"[A-Z]++ (/([^? ]++)[^ ]*+) ")


def target_of(data: bytes) -> str:
    """The target of the request in `data`, whose request line was matched before."""
    return _parts_of(data)[0].decode()


def file_id_of(data: bytes) -> str:
    """The file id that the simple path of the request in `data` names."""
    return _parts_of(data)[1].decode()


def _parts_of(data: bytes) -> tuple[bytes, bytes]:
    match = _TARGET.match(data)
    assert match is not None, "the request line was matched before"
    return match[1], match[2]
