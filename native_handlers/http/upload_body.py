"""Reads the body of an upload: the bytes of the file, and its name, type and other labels.

A declared length is never trusted: bodies are read in pieces and refused as soon as they exceed the limit. Source:
weed/storage/needle/needle_parse_upload.go parseUpload; Go's Request.ParseForm.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

from native_handlers.content.mime_types import mime_of_extension
from native_handlers.content.multipart import MultipartReader, Part
from native_handlers.http_model.errors import BadMediaType, BadUpload
from native_handlers.http_model.go_numbers import parse_bool
from native_handlers.http_model.media_type import parse_media_type
from native_handlers.http_model.message import PassedOnBody
from native_handlers.http_model.query import NO_QUERY, Query, parse_form
from native_handlers.http_model.target import base_name
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from native_handlers.http_model.headers import Headers
    from native_handlers.http_model.message import Request, RequestBody
    from native_handlers.runtime.content_threads import ContentThreads

MAX_FORM_BYTES = 10 << 20
"""Go's limit for a form body that has no other limit."""
MAX_FORM_FIELD_BYTES = 256
"""The greatest length of a field beside the file; a longer one is skipped."""
MAX_DRAIN_BYTES = 1 << 30
"""So much of a refused body is read, so that the client can read the answer. A longer body is cut off."""

_SHORT_FORM_BYTES = 16 * 1024
_PIECEWISE_BYTES = 64 * 1024
"""A shorter body arrives in one or two pieces; joining them costs less than a buffer."""
_FIRST_BUFFER_BYTES = 4 << 20
_GROWTH_BYTES = 32 << 20
"""Growing a buffer clears the new part, and other requests wait meanwhile: some milliseconds for this much."""

_OCTETS = "application/octet-stream"
_FORM = "application/x-www-form-urlencoded"
_FIELDS = frozenset({"ts", "ttl"})
"""The fields of a multipart form that are used. Upstream's Go server tries to read them and cannot (its form parser
finds the body consumed); its Rust server reads them. In both, the query takes precedence."""
_KEPT_CHARS = 256
"""Characters of a Content-Type whose result is cached: clients send the same few."""


class ConsumedBody(PassedOnBody):
    """A body after all of it was read."""

    def __init__(self, sent: RequestBody) -> None:
        super().__init__(sent)
        self.length_bytes = 0

    async def receive_some(self) -> bytes:
        """Returns b"", the end."""
        return b""

    async def receive_into(self, buffer: memoryview) -> int:
        """Returns 0, the end."""
        return 0


@dataclass(frozen=True, slots=True)
class UploadBody:
    """One file as sent. `name`, `mime` and `content_md5` are wire text; `data` is compressed if `is_gzipped`.

    `fields` holds the form fields beside the file.
    """

    name: str
    mime: str
    data: bytes
    is_gzipped: bool
    is_manifest: bool
    content_md5: str
    fields: Query = NO_QUERY


@dataclass(frozen=True, slots=True)
class SentFile:
    """One file as sent. `content_type` is that of its part, or of the whole body. `mime` is what a raw body stores in
    any case.
    """

    name: str
    content_type: str
    mime: str
    data: bytes
    is_gzipped: bool
    content_md5: str
    fields: Query = NO_QUERY


async def read_form(request: Request, threads: ContentThreads) -> tuple[Query, Request]:
    """Returns the form fields and the query together, fields first, and the request with the rest of its body. A
    urlencoded body is read to its end: it is no file any more.

    `threads` parse a long form.

    Raises:
        BadUpload: the query or the form is malformed, the form is too long, or Content-Type cannot be parsed.
        BodyError: the body cannot be read.
    """
    query = request.parsed.query if request.parsed.raw_query else NO_QUERY
    fields = NO_QUERY
    content_type = request.headers.get("Content-Type")
    if content_type:
        try:
            is_form = is_urlencoded(content_type)
        except BadMediaType as failure:
            raise BadUpload(str(failure)) from failure
        if is_form:
            body = await read_limited(request.body, MAX_FORM_BYTES)
            if body is None:
                raise BadUpload("http: POST too large")
            fields = await threads.run(parse_form(body.decode("latin-1")), is_long=len(body) > _SHORT_FORM_BYTES)
            request = replace(request, body=ConsumedBody(request.body))
    error = fields.error or query.error
    if error is not None:
        raise BadUpload(error)
    if not fields.pairs:
        return query, request
    return Query((*fields.pairs, *query.pairs)), request


def is_urlencoded(content_type: str) -> bool:
    """Whether a body of this type is a urlencoded form. Raises BadMediaType."""
    return _is_form(content_type) if len(content_type) <= _KEPT_CHARS else _says_form(content_type)


def _says_form(content_type: str) -> bool:
    """Whether a body is a urlencoded form. Raises BadMediaType."""
    return parse_media_type(content_type)[0] == _FORM


_is_form = lru_cache(maxsize=256)(_says_form)


async def read_upload(request: Request, form: Query, limit_bytes: int, threads: ContentThreads) -> UploadBody:
    """Reads the file in the request: a part of a multipart POST, decoded in `threads`, or the whole body of any other
    request.

    Raises:
        BadUpload: a multipart body has no file, or the file is longer than `limit_bytes`.
        BodyError: the body cannot be read.
    """
    content_type = request.headers.get("Content-Type") or ""
    if request.method == "POST" and (not content_type or "form-data" in content_type):
        file = await _read_multipart(request, content_type, limit_bytes, threads)
    else:
        file = await _read_raw(request, content_type, limit_bytes)
    return upload_body(file, form)


def upload_body(file: SentFile, form: Query) -> UploadBody:
    """The file as it is to be stored: `form` says whether it is a manifest, its name may imply its type."""
    is_manifest = bool(form.pairs) and parse_bool(form.get("cm"))
    mime = file.mime if is_manifest else _stored_mime(file)
    return UploadBody(file.name, mime, file.data, file.is_gzipped, is_manifest, file.content_md5, file.fields)


async def read_limited(body: RequestBody, limit_bytes: int) -> bytes | None:
    """Returns the whole body, or None as soon as it exceeds `limit_bytes`; the rest is then unread."""
    length = body.length_bytes
    if length is not None and length > limit_bytes:
        return None
    first = await body.receive_some()
    if len(first) == length and body.is_over:
        return first
    if length is not None and length - len(first) > _PIECEWISE_BYTES:
        return await _read_declared(body, first, length)
    if not (piece := await body.receive_some()):
        return first if len(first) <= limit_bytes else None
    gathered = BytesIO()
    gathered.write(first)
    while piece and gathered.tell() <= limit_bytes:
        gathered.write(piece)
        piece = await body.receive_some()
    # `getvalue` returns the buffer itself, not a copy.
    return gathered.getvalue() if gathered.tell() <= limit_bytes else None


async def _read_declared(body: RequestBody, first: bytes, length_bytes: int) -> bytes:
    """Receives a body of a declared length directly into its buffer. `first` has been received.

    The buffer is at most twice the received length, or `_FIRST_BUFFER_BYTES`, because the declared length may be false.
    """
    buffer = BytesIO(bytes(min(length_bytes, max(_FIRST_BUFFER_BYTES, 2 * len(first)))))
    buffer.write(first)
    at = len(first)
    while at < length_bytes:
        with buffer.getbuffer() as room:
            while at < len(room):
                with room[at:] as rest:
                    count = await body.receive_into(rest)
                assert count, "a body of a declared length ends before it, and nobody says so"
                at += count
        if at < length_bytes:
            buffer.seek(min(length_bytes, at + min(at, _GROWTH_BYTES)) - 1)
            buffer.write(b"\0")
    after = await body.receive_some()
    assert not after, "a body of a declared length goes on after it"
    # `getvalue` returns the buffer itself, not a copy.
    return buffer.getvalue()


async def drain(body: RequestBody) -> bool:
    """Reads the rest of a refused body. Returns False when there is more than `MAX_DRAIN_BYTES`."""
    size = 0
    while piece := await body.receive_some():
        size += len(piece)
        if size > MAX_DRAIN_BYTES:
            return False
    return True


async def _read_multipart(request: Request, content_type: str, limit_bytes: int, threads: ContentThreads) -> SentFile:
    """Reads the first part; where that has no file name, the first later part that has one instead."""
    reader = MultipartReader(request.body, _boundary(content_type), threads)
    part = await reader.next_part()
    if part is None:
        raise BadUpload("EOF")
    data = await reader.read_content(part, limit_bytes)
    fields: dict[str, str] = {}
    if not part.filename:
        later = await _pass_fields(reader, fields)
        if later is not None:
            if part.name in _FIELDS:
                fields[part.name] = data[:MAX_FORM_FIELD_BYTES].decode("latin-1")
            part, data = later, await reader.read_content(later, limit_bytes)
    if part.filename:
        while await _pass_fields(reader, fields) is not None:
            pass
    return SentFile(
        name=file_name(part.filename),
        content_type=part.headers.get("Content-Type") or "",
        mime="",
        data=data,
        is_gzipped=part.headers.get("Content-Encoding") == "gzip",
        content_md5=part.headers.get("Content-MD5") or "",
        fields=Query(tuple(fields.items())),
    )


async def _pass_fields(reader: MultipartReader, fields: dict[str, str]) -> Part | None:
    """Returns the next part with a file name; None when there is none, or the rest is no form. Adds the fields before
    it to `fields`: the first of each name, for a form may have any number.
    """
    try:
        while (part := await reader.next_part()) is not None:
            if part.filename:
                return part
            if part.name in _FIELDS and part.name not in fields:
                await _read_field(reader, part, fields)
    except BadUpload:
        pass  # As upstream: what comes behind the file may be anything.
    return None


async def _read_field(reader: MultipartReader, part: Part, fields: dict[str, str]) -> None:
    """Adds one field, unless it is too long. A field without an end fails again at the next part."""
    with suppress(BadUpload):
        fields[part.name] = (await reader.read_content(part, MAX_FORM_FIELD_BYTES)).decode("latin-1")


async def _read_raw(request: Request, content_type: str, limit_bytes: int) -> SentFile:
    data = await read_limited(request.body, limit_bytes)
    if data is None:
        raise BadUpload(f"file over the limited {limit_bytes} bytes")
    return SentFile(
        name=file_name(_disposition_name(request)) or _last_segment(request.parsed.path),
        content_type=content_type,
        mime=content_type,
        data=data,
        is_gzipped=_is_gzipped(request.headers),
        content_md5="",
    )


def _is_gzipped(headers: Headers) -> bool:
    return "content-encoding" in headers.lower_names and headers.get("Content-Encoding") == "gzip"


def _boundary(content_type: str) -> str:
    try:
        media_type, parameters = parse_media_type(content_type)
    except BadMediaType:
        media_type, parameters = "", {}
    if media_type not in {"multipart/form-data", "multipart/mixed"}:
        raise BadUpload("request Content-Type isn't multipart/form-data")
    if "boundary" not in parameters:
        raise BadUpload("no multipart boundary param in Content-Type")
    return parameters["boundary"]


def _disposition_name(request: Request) -> str:
    if "content-disposition" not in request.headers.lower_names:
        return ""
    disposition = request.headers.get("Content-Disposition") or ""
    if "name=" not in disposition:
        return ""
    if not disposition.startswith(("inline", "attachment")):
        disposition = f"attachment; {disposition}"
    try:
        _, parameters = parse_media_type(disposition)
    except BadMediaType:
        return ""
    return parameters.get("filename", parameters.get("name", ""))


def _last_segment(path: str) -> str:
    return path.rpartition("/")[2] or base_name(path)


def file_name(name: str) -> str:
    """The last segment of a path with slashes or backslashes."""
    return base_name(name.replace("\\", "/")) if name else ""


def _stored_mime(file: SentFile) -> str:
    """The MIME type to store: the type as sent unless the name implies the same; the type of a raw body is always
    stored.
    """
    dot = file.name.rfind(".")
    deduced = mime_of_extension(file.name[dot:].lower()) if dot > 0 else ""
    if file.content_type not in {"", _OCTETS, deduced}:
        return file.content_type
    if deduced not in {"", _OCTETS} and not file.mime:
        return deduced
    return file.mime
