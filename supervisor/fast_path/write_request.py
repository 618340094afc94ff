"""Recognises a small write or delete of a plain file id, whole in one piece of bytes.

One pattern splits the head. Each header line is looked up among the lines seen before, because clients send mostly the
same lines. A line that could change the answer in a way that is not known here, and every body but a raw one and a form
of one part, is declined: `parse` gives None, and the request goes the ordinary way.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.content.multipart import Part
from native_handlers.http.holders import HOLDER_HEADER
from native_handlers.http.upload_body import SentFile, file_name, is_urlencoded
from native_handlers.http_model.errors import BadMediaType
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.query import NO_QUERY, Query, parse_query
from native_handlers.http_model.target import SIMPLE_PATH
from supervisor.fast_path.ignored_fields import IGNORED_FIELDS

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_HEAD_BYTES = 3 * 1024
MAX_BODY_BYTES = 32 * 1024
"""Checksum, compression and copies of so much take some tenths of a millisecond on the event loop."""

_HEAD = re.compile(
    rb"(POST|PUT|DELETE) " + SIMPLE_PATH.encode() + rb"(?:\?([!-~]*+))? HTTP/1\.1\r\n((?:[^\r\n]++\r\n)++)\r\n"
)
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)")
_LENGTH = re.compile(rb"[Cc]ontent-[Ll]ength: (0|[1-9][0-9]{0,5})")
_FORM_TYPE = re.compile(rb"[Cc]ontent-[Tt]ype: (multipart/form-data; boundary=([0-9A-Za-z_\-]{1,70}))")
_MAX_LINES = 512
_MAX_LINE_BYTES = 512

_IGNORED_PART_LINE = re.compile(rb"^Idempotency-Key: [!-~]*+\r\n", re.MULTILINE)
"""Upstream's uploads have this line. It differs for each file, and means nothing to a volume server."""
_PART_HEAD = re.compile(rb"(?:[^\r\n]++\r\n)++\r\n")
_FIELD_NAME = re.compile(rb"[A-Za-z0-9\-]+")
_DECLINED_OPTIONS = frozenset({"fsync", "pretty"})
"""Options whose effect the fast path does not have: a sync, and indented JSON."""
_HOLDER = HOLDER_HEADER.lower()
"""Matters for an upload only where the volume is not here."""
_DECLINED_PART_FIELDS = frozenset({"content-transfer-encoding"})


class _LineFacts(NamedTuple):
    """A header line: its name in lower case, and what is to be done with it."""

    name: str
    pair: tuple[str, str]
    is_ignored: bool = False
    is_kept: bool = False
    """Whether `make_upload` gets the field: a pair that is stored, or the MD5."""


_DECLINED = _LineFacts("", ("", ""))


class Change(NamedTuple):
    """A request to store or to delete a needle. `file` is None for a deletion."""

    method: str
    volume_id: int
    needle_id: int
    cookie: int
    form: Query
    file: SentFile | None
    headers: Headers


class ChangeMatcher:
    """Recognises changes. Its memory is bounded; all connections of a listener may share it."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[bytes, _LineFacts] = {}

    def parse(self, data: bytes) -> Change | None:
        """The change, if `data` is exactly one simple request; else None."""
        head = _HEAD.match(data, 0, MAX_HEAD_BYTES)
        if head is None:
            return None
        raw_method, raw_volume, raw_needle, raw_cookie, raw_query, block = head.groups()
        method = raw_method.decode()
        fields = self._fields(block, is_upload=method != "DELETE")
        body_bytes = len(data) - head.end()
        if fields is None or fields.length_bytes != body_bytes or body_bytes > MAX_BODY_BYTES:
            return None
        form = _form_of(raw_query)
        if form is None:
            return None
        file = None
        if method != "DELETE":
            file = _file_in(method, data, head.end(), fields, default_name=data[len(raw_method) + 2 : head.end(4)])
            if file is None:
                return None
        elif body_bytes:
            return None
        headers = Headers(fields.kept) if fields.kept else _NO_HEADERS
        return Change(method, int(raw_volume), int(raw_needle, 16), int(raw_cookie, 16), form, file, headers)

    def _fields(self, block: bytes, *, is_upload: bool) -> _FieldFacts | None:
        length_bytes, content_type, boundary = -1, None, b""
        is_gzipped = has_host = False
        kept: list[tuple[str, str]] = []
        for raw in block[:-2].split(b"\r\n"):
            if (length := _LENGTH.fullmatch(raw)) is not None:
                if length_bytes >= 0:
                    return None
                length_bytes = int(length[1])
                continue
            if (form_type := _FORM_TYPE.fullmatch(raw)) is not None:
                if content_type is not None:
                    return None
                content_type, boundary = form_type[1].decode(), form_type[2]
                continue
            line = self._lines.get(raw) or self._learn(raw)
            if line.is_ignored or (is_upload and line.name == _HOLDER):
                continue
            if line.is_kept and is_upload:
                kept.append(line.pair)
            elif line.name == "host" and not has_host:
                has_host = True
            elif line.name == "content-type" and content_type is None and is_upload:
                content_type = line.pair[1]
            elif line.name == "content-encoding" and not is_gzipped and is_upload:
                is_gzipped = True
            else:
                return None
        if not has_host or (is_upload and length_bytes < 0):
            return None
        return _FieldFacts(max(length_bytes, 0), content_type or "", boundary, is_gzipped, kept)

    def _learn(self, raw: bytes) -> _LineFacts:
        if len(raw) > _MAX_LINE_BYTES:
            return _DECLINED
        if len(self._lines) >= _MAX_LINES:
            self._lines.clear()
        line = self._lines[raw] = _line_of(raw)
        return line


class _FieldFacts(NamedTuple):
    length_bytes: int
    content_type: str
    boundary: bytes
    """Of a form; b"" for any other type."""
    is_gzipped: bool
    kept: Sequence[tuple[str, str]]


_NO_HEADERS = Headers()


def _line_of(raw: bytes) -> _LineFacts:
    match = _FIELD.fullmatch(raw)
    if match is None:
        return _DECLINED
    pair = match[1].decode(), match[2].decode("latin-1").rstrip(" \t")
    name, value = pair[0].lower(), pair[1]
    if name == "connection":
        return _LineFacts(name, pair, is_ignored=value.lower() == "keep-alive")
    if name in IGNORED_FIELDS and name != "host":
        return _LineFacts(name, pair, is_ignored=True)
    if name.startswith("seaweed-") or name == "content-md5":
        return _LineFacts(name, pair, is_kept=True)
    is_known = name in {"host", _HOLDER} or (name == "content-encoding" and value == "gzip")
    if name == "content-type":
        is_known = bool(value) and _is_known_type(value)
    return _LineFacts(name, pair) if is_known else _DECLINED


def _is_known_type(value: str) -> bool:
    try:
        return not is_urlencoded(value)
    except BadMediaType:
        return False


@lru_cache(maxsize=256)
def _form_of(raw_query: bytes | None) -> Query | None:
    """The query; None for one that has an error, or an option that is not for the fast path."""
    if not raw_query:
        return NO_QUERY
    query = parse_query(raw_query.decode())
    is_declined = query.error is not None or any(name in _DECLINED_OPTIONS for name, _ in query.pairs)
    return None if is_declined else query


def _file_in(method: str, data: bytes, start: int, fields: _FieldFacts, *, default_name: bytes) -> SentFile | None:
    content_type = fields.content_type
    if method == "PUT" or (content_type and "form-data" not in content_type):
        name = default_name.decode()
        return SentFile(name, content_type, content_type, data[start:], fields.is_gzipped, "")
    if not fields.boundary:
        return None
    return _part_in(data, start, b"--" + fields.boundary)


def _part_in(data: bytes, start: int, dashes: bytes) -> SentFile | None:
    """The file in a form of exactly one part."""
    start += len(dashes) + 2
    if data[start - len(dashes) - 2 : start] != dashes + b"\r\n":
        return None
    head = _PART_HEAD.match(data, start)
    if head is None or data.startswith(dashes, head.end()):
        return None
    end = data.find(b"\r\n" + dashes, head.end())
    if end < 0 or data[end + 2 + len(dashes) :] not in {b"--\r\n", b"--"}:
        return None
    facts = _facts_of_part(_IGNORED_PART_LINE.sub(b"", head[0]))
    if facts is None:
        return None
    name, content_type, is_gzipped, content_md5 = facts
    return SentFile(name, content_type, "", data[head.end() : end], is_gzipped, content_md5)


@lru_cache(maxsize=512)
def _facts_of_part(block: bytes) -> tuple[str, str, bool, str] | None:
    """File name, type, whether the content is compressed, and MD5; None for a part that is declined."""
    pairs: list[tuple[str, str]] = []
    for raw in block[:-4].split(b"\r\n"):
        match = _FIELD.fullmatch(raw)
        if match is None or not _FIELD_NAME.fullmatch(match[1]):
            return None
        pairs.append((match[1].decode(), match[2].decode("latin-1").strip(" \t")))
    headers = Headers(pairs)
    if not _DECLINED_PART_FIELDS.isdisjoint(headers.lower_names):
        return None
    is_gzipped = headers.get("Content-Encoding") == "gzip"
    name = file_name(Part(headers).filename)
    return name, headers.get("Content-Type") or "", is_gzipped, headers.get("Content-MD5") or ""
