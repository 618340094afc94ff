"""Recognises a small write or delete of a plain file id, whole in one piece of bytes.

One pattern splits the head, and `head_fields` parses the fields. A field that could change the answer in a way that is
not known here, and every body but a raw one and a form of one part, is declined: `parse` gives None, and the request
goes the ordinary way.
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
from native_handlers.http_model.query import NO_QUERY, SHORT_CHARACTERS, Query, parse_query
from native_handlers.http_model.target import SIMPLE_PATH
from supervisor.fast_path.head_fields import TOKEN_FIELDS, FieldParser

if TYPE_CHECKING:
    from supervisor.fast_path.head_fields import HeadFields

MAX_HEAD_BYTES = 3 * 1024
MAX_BODY_BYTES = 32 * 1024
"""Checksum, compression and copies of so much take some tenths of a millisecond on the event loop."""

_HEAD = re.compile(
    rb"(POST|PUT|DELETE) " + SIMPLE_PATH.encode() + rb"(?:\?([!-~]*+))? HTTP/1\.1\r\n((?:[^\r\n]++\r\n)++)\r\n"
)
_PART_FIELD = re.compile(rb"([A-Za-z0-9\-]++):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)")
_LENGTH = re.compile(r"0|[1-9][0-9]{0,5}")
_FORM_TYPE = re.compile(
    r"multipart/form-data; ?boundary=(?:([0-9A-Za-z'+_.\-]{1,70})|\"([0-9A-Za-z'()+_,./:=?\-]{1,70})\")"
)
"""With the boundary as a token, or in quotes, as libraries of Java and .NET send it."""

_IGNORED_PART_LINE = re.compile(rb"^Idempotency-Key: [!-~]*+\r\n", re.MULTILINE)
"""Upstream's uploads have this line. It differs for each file, and means nothing to a volume server."""
_PART_HEAD = re.compile(rb"(?:[^\r\n]++\r\n)++\r\n")
_MAX_PART_HEAD_BYTES = 2048
"""Longer headers of a part are declined: parsing them takes milliseconds, and results are remembered."""
_DECLINED_OPTION = "pretty"
"""The option whose effect the fast path does not have: indented JSON."""
_DELETE_FIELDS = frozenset({"host", "accept-encoding", "content-length"}) | TOKEN_FIELDS
_UPLOAD_FIELDS = _DELETE_FIELDS | {"content-type", "content-encoding", HOLDER_HEADER.lower()}
"""The holder's field matters for an upload only where the volume is not here, and Accept-Encoding for none."""


class Change(NamedTuple):
    """A request to store or to delete a needle. `file` is None for a deletion."""

    method: str
    volume_id: int
    needle_id: int
    cookie: int
    form: Query
    file: SentFile | None
    headers: Headers
    fields: HeadFields
    body_bytes: int

    @property
    def token(self) -> str:
        """The token of the request, "" where there is none."""
        return self.fields.token(self.form.get("jwt"))


class ChangeMatcher:
    """Recognises changes. Its memory is bounded; all connections of a listener may share it."""

    __slots__ = ("_fields",)

    def __init__(self) -> None:
        self._fields = FieldParser()

    def parse(self, data: bytes) -> Change | None:
        """The change, if `data` is exactly one simple request; else None."""
        head = _HEAD.match(data, 0, MAX_HEAD_BYTES)
        if head is None:
            return None
        raw_method, raw_volume, raw_needle, raw_cookie, raw_query, block = head.groups()
        method = raw_method.decode()
        fields = self._fields.parse(block, _DELETE_FIELDS if method == "DELETE" else _UPLOAD_FIELDS)
        form = None if fields is None else _form_of(raw_query)
        if fields is None or form is None:
            return None
        body_bytes, file, headers = len(data) - head.end(), None, _NO_HEADERS
        if body_bytes > MAX_BODY_BYTES or body_bytes != _length_of(fields, is_upload=method != "DELETE"):
            return None
        if method != "DELETE":
            file = _file_in(method, data, head.end(), fields, default_name=data[len(raw_method) + 2 : head.end(4)])
            if file is None:
                return None
            if fields.stored:
                headers = Headers(fields.stored)
        numbers = int(raw_volume), int(raw_needle, 16), int(raw_cookie, 16)
        return Change(method, *numbers, form, file, headers, fields, body_bytes)


_NO_HEADERS = Headers()


def _length_of(fields: HeadFields, *, is_upload: bool) -> int | None:
    """The length of the body that the head declares; None where it declines the request."""
    length = fields.values.get("content-length")
    if is_upload:
        return int(length) if length is not None and _LENGTH.fullmatch(length) else None
    return 0 if length in {None, "0"} and not fields.stored else None


@lru_cache(maxsize=256)
def _is_known_type(value: str) -> bool:
    try:
        return bool(value) and not is_urlencoded(value)
    except BadMediaType:
        return False


@lru_cache(maxsize=256)
def _form_of(raw_query: bytes | None) -> Query | None:
    """The query; None for one that is long, has an error, or has an option that is not for the fast path."""
    if not raw_query:
        return NO_QUERY
    if len(raw_query) > SHORT_CHARACTERS:
        return None
    query = parse_query(raw_query.decode())
    is_declined = query.error is not None or any(name == _DECLINED_OPTION for name, _ in query.pairs)
    return None if is_declined else query


def _file_in(method: str, data: bytes, start: int, fields: HeadFields, *, default_name: bytes) -> SentFile | None:
    encoding, content_type = fields.values.get("content-encoding"), fields.values.get("content-type", "")
    if encoding not in {None, "gzip"}:
        return None
    form_type = _FORM_TYPE.fullmatch(content_type)
    if form_type is None and "content-type" in fields.values and not _is_known_type(content_type):
        return None
    if method == "PUT" or (content_type and "form-data" not in content_type):
        return SentFile(default_name.decode(), content_type, content_type, data[start:], encoding is not None, "")
    return None if form_type is None else _part_in(data, start, b"--" + (form_type[1] or form_type[2]).encode())


def _part_in(data: bytes, start: int, dashes: bytes) -> SentFile | None:
    """The file in a form of exactly one part."""
    start += len(dashes) + 2
    if data[start - len(dashes) - 2 : start] != dashes + b"\r\n":
        return None
    head = _PART_HEAD.match(data, start)
    if head is None or head.end() - start > _MAX_PART_HEAD_BYTES or data.startswith(dashes, head.end()):
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
        match = _PART_FIELD.fullmatch(raw)
        if match is None:
            return None
        pairs.append((match[1].decode(), match[2].decode("latin-1").strip(" \t")))
    headers = Headers(pairs)
    part = Part(headers)
    if part.is_quoted_printable:
        return None
    is_gzipped = headers.get("Content-Encoding") == "gzip"
    name = file_name(part.filename)
    return name, headers.get("Content-Type") or "", is_gzipped, headers.get("Content-MD5") or ""
