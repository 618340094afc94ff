"""The body of an upload: which bytes are the file, and what the request says of them.

Nothing here trusts a declared length: bodies are read in pieces and refused as soon as they exceed the limit.
Source: weed/storage/needle/needle_parse_upload.go parseUpload; Go's Request.ParseForm.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from native_handlers.http.errors import BadMediaType, BadUpload
from native_handlers.http.go_numbers import parse_bool
from native_handlers.http.media_type import parse_media_type
from native_handlers.http.mime_types import mime_of_extension
from native_handlers.http.multipart import MultipartReader, Part
from native_handlers.http.paths import base_name, wire_path
from native_handlers.http.query import Query, parse_query

if TYPE_CHECKING:
    from native_handlers.http.message import Request, RequestBody

MAX_FORM_BYTES = 10 << 20
"""Go's limit for a form body without a limit of its own."""
MAX_FORM_FIELD_BYTES = 256
"""Of a field beside the file; a longer one is passed over."""
MAX_DRAIN_BYTES = 1 << 30
"""What is read of a refused body, so that its sender gets to read the answer; a longer one is cut off."""

_PIECEWISE_BYTES = 64 * 1024
"""A shorter body comes in one or two pieces; joining them costs less than a buffer."""
_FIRST_BUFFER_BYTES = 4 << 20
_GROWTH_BYTES = 32 << 20
"""Growing clears what is new, and everybody waits meanwhile: some milliseconds for this much."""

_OCTETS = "application/octet-stream"
_FORM = "application/x-www-form-urlencoded"
_FIELDS = frozenset({"ts", "ttl"})
"""What a field of a multipart form may say. Upstream's Go server means to read them and cannot (its form parser finds
the body consumed), its Rust server reads them; both let the query win."""
_NO_FIELDS = Query()


@dataclass(frozen=True, slots=True)
class UploadBody:
    """One file as sent. `name`, `mime` and `content_md5` are wire text; `data` is compressed if `is_gzipped`.

    `fields` has what the form says beside the file.
    """

    name: str
    mime: str
    data: bytes
    is_gzipped: bool
    is_manifest: bool
    content_md5: str
    fields: Query = _NO_FIELDS


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    content_type: str
    mime: str
    data: bytes
    is_gzipped: bool
    content_md5: str
    fields: Query = _NO_FIELDS


async def read_form(request: Request) -> Query:
    """Form fields and query together, fields first. A urlencoded body is consumed: it then is no file any more.

    Raises:
        BadUpload: the query or the form is malformed, the form is too long, or Content-Type cannot be parsed.
        BodyError: the body cannot be read.
    """
    query = parse_query(request.raw_query)
    fields = Query()
    content_type = request.headers.get("Content-Type")
    if content_type:
        try:
            media_type, _ = parse_media_type(content_type)
        except BadMediaType as failure:
            raise BadUpload(str(failure)) from failure
        if media_type == _FORM:
            body = await read_limited(request.body, MAX_FORM_BYTES)
            if body is None:
                raise BadUpload("http: POST too large")
            fields = parse_query(body.decode("latin-1"))
    error = fields.error or query.error
    if error is not None:
        raise BadUpload(error)
    return Query((*fields.pairs, *query.pairs))


async def read_upload(request: Request, form: Query, limit_bytes: int) -> UploadBody:
    """The file in the request: a part of a multipart POST, or the whole body of anything else.

    Raises:
        BadUpload: no file where a multipart body should have one, or more than `limit_bytes`.
        BodyError: the body cannot be read.
    """
    content_type = request.headers.get("Content-Type") or ""
    if request.method == "POST" and (not content_type or "form-data" in content_type):
        file = await _read_multipart(request, content_type, limit_bytes)
    else:
        file = await _read_raw(request, content_type, limit_bytes)
    is_manifest = parse_bool(form.get("cm"))
    mime = file.mime if is_manifest else _stored_mime(file)
    return UploadBody(file.name, mime, file.data, file.is_gzipped, is_manifest, file.content_md5, file.fields)


async def read_limited(body: RequestBody, limit_bytes: int) -> bytes | None:
    """The whole body, or None as soon as it exceeds `limit_bytes`; the rest is then unread."""
    length = body.length_bytes
    if length is not None and length > limit_bytes:
        return None
    first = await body.receive_some()
    if length is not None and length - len(first) > _PIECEWISE_BYTES:
        return await _read_declared(body, first, length)
    pieces, size, piece = [first], len(first), first
    while piece and size <= limit_bytes:
        piece = await body.receive_some()
        size += len(piece)
        pieces.append(piece)
    if size > limit_bytes:
        return None
    return first if size == len(first) else b"".join(pieces)


async def _read_declared(body: RequestBody, first: bytes, length_bytes: int) -> bytes:
    """A body of a declared length, of which `first` is here, received where it stays.

    The buffer is of no more than twice what has come, or of `_FIRST_BUFFER_BYTES`: a length is only a promise.
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
    # Hands out the buffer itself, not a copy.
    return buffer.getvalue()


async def drain(body: RequestBody) -> bool:
    """Reads what is left of a refused body; False when there is more than `MAX_DRAIN_BYTES`."""
    size = 0
    while piece := await body.receive_some():
        size += len(piece)
        if size > MAX_DRAIN_BYTES:
            return False
    return True


async def _read_multipart(request: Request, content_type: str, limit_bytes: int) -> _File:
    """The first part; if that has no file name, the first later part that has one instead."""
    reader = MultipartReader(request.body, _boundary(content_type))
    part = await reader.next_part()
    if part is None:
        raise BadUpload("EOF")
    data = await reader.read_content(part, limit_bytes)
    fields: list[tuple[str, str]] = []
    if not part.filename:
        later = await _pass_fields(reader, fields)
        if later is not None:
            if part.name in _FIELDS:
                fields.insert(0, (part.name, data[:MAX_FORM_FIELD_BYTES].decode("latin-1")))
            part, data = later, await reader.read_content(later, limit_bytes)
    if part.filename:
        while await _pass_fields(reader, fields) is not None:
            pass
    return _File(
        name=_file_name(part.filename),
        content_type=part.headers.get("Content-Type") or "",
        mime="",
        data=data,
        is_gzipped=part.headers.get("Content-Encoding") == "gzip",
        content_md5=part.headers.get("Content-MD5") or "",
        fields=Query(tuple(fields)),
    )


async def _pass_fields(reader: MultipartReader, fields: list[tuple[str, str]]) -> Part | None:
    """The next part with a file name; None when there is none, or what follows is no form. Adds fields on the way."""
    try:
        while (part := await reader.next_part()) is not None:
            if part.filename:
                return part
            if part.name in _FIELDS:
                fields.extend(await _read_field(reader, part))
    except BadUpload:
        pass  # As upstream: what comes behind the file may be anything.
    return None


async def _read_field(reader: MultipartReader, part: Part) -> list[tuple[str, str]]:
    """One field, or none when it is too long to be what it says; one that has no end fails again at the next part."""
    try:
        content = await reader.read_content(part, MAX_FORM_FIELD_BYTES)
    except BadUpload:
        return []
    return [(part.name, content.decode("latin-1"))]


async def _read_raw(request: Request, content_type: str, limit_bytes: int) -> _File:
    data = await read_limited(request.body, limit_bytes)
    if data is None:
        raise BadUpload(f"file over the limited {limit_bytes} bytes")
    return _File(
        name=_file_name(_disposition_name(request)) or base_name(wire_path(request)),
        content_type=content_type,
        mime=content_type,
        data=data,
        is_gzipped=request.headers.get("Content-Encoding") == "gzip",
        content_md5="",
    )


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


def _file_name(name: str) -> str:
    """The last segment of a path of either kind."""
    return base_name(name.replace("\\", "/")) if name else ""


def _stored_mime(file: _File) -> str:
    """The type to store: as sent unless the name says the same; a raw body's type is kept in any case."""
    dot = file.name.rfind(".")
    deduced = mime_of_extension(file.name[dot:].lower()) if dot > 0 else ""
    if file.content_type not in {"", _OCTETS, deduced}:
        return file.content_type
    if deduced not in {"", _OCTETS} and not file.mime:
        return deduced
    return file.mime
