"""Makes the needle of an uploaded file: a job over the whole file in memory, see content_threads.

Source: weed/storage/needle/needle_parse_upload.go ParseUpload, needle.go CreateNeedleFromRequest.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from native_handlers.content.gzip_data import (
    MAX_COUNTED_BYTES,
    BadGzip,
    TooMuchData,
    compress_if_smaller,
    is_worth_compressing,
    measure,
    size_in_trailer,
    sum_up,
)
from native_handlers.content.sniff import UNKNOWN, sniff
from native_handlers.format.crc import crc32c_extend
from native_handlers.format.errors import BadTtl
from native_handlers.format.needle import (
    FLAG_HAS_LAST_MODIFIED,
    FLAG_HAS_MIME,
    FLAG_HAS_NAME,
    FLAG_HAS_PAIRS,
    FLAG_HAS_TTL,
    FLAG_IS_CHUNK_MANIFEST,
    FLAG_IS_COMPRESSED,
    Needle,
)
from native_handlers.format.ttl import EMPTY_TTL, Ttl, parse_ttl
from native_handlers.http_model.errors import BadUpload
from native_handlers.http_model.go_json import encode_json, text_of_wire
from native_handlers.http_model.go_numbers import parse_uint_or_zero
from native_handlers.http_model.headers import canonical_name
from native_handlers.http_model.target import base_name
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from native_handlers.http.upload_body import UploadBody
    from native_handlers.http_model.headers import Headers
    from native_handlers.http_model.query import Query
    from native_handlers.runtime.content_threads import Job

PAIR_PREFIX = "Seaweed-"
_LOWER_PREFIX = PAIR_PREFIX.lower()
MAX_FIELD_BYTES = 255
"""The greatest length of name and MIME type; a longer one is left out, not cut."""
MAX_PAIRS_BYTES = 65535
_INCOMPRESSIBLE_BYTES = 22
"""Content up to this length never gets smaller: gzip data has at least 20 bytes and must be shorter than nine
tenths."""
_SUMMED_BYTES = 1 << 18
"""Bytes of one step: some tens of microseconds."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A needle to be written. `clear_size_bytes` is the length before compression. `content_md5` is "" where the client
    sent none.
    """

    needle: Needle
    clear_size_bytes: int
    content_md5: str


@dataclass(frozen=True, slots=True)
class _Content:
    data: bytes
    is_gzipped: bool
    clear_size_bytes: int
    content_md5: str


def make_upload(body: UploadBody, form: Query, headers: Headers, *, now_s: int, clear_limit_bytes: int) -> Job[Upload]:
    """Makes the needle for `body`, without id, cookie and checksum.

    Gzip data is decompressed to find its length, up to `clear_limit_bytes`. Beyond that, the length in the gzip trailer
    counts. Where the client sent an MD5, all of the data is read.

    Raises:
        BadUpload: the content has another MD5 than the client says.
    """
    wanted_md5 = (headers.get("Content-MD5") if "content-md5" in headers.lower_names else "") or body.content_md5
    if body.is_gzipped:
        content = yield from _measured(body.data, wanted_md5, clear_limit_bytes)
    else:
        # A replica keeps the compression of the first copy, so that all copies are the same bytes.
        is_replica = bool(form.pairs) and form.get("type") == "replicate"
        is_compressible = not is_replica and len(body.data) > _INCOMPRESSIBLE_BYTES and _is_compressible(body)
        content = yield from _compressed(body.data, wanted_md5, is_compressible=is_compressible)
    name, mime = body.name.encode("latin-1"), body.mime.encode("latin-1")
    pairs = encode_pairs(headers) if any(one.startswith(_LOWER_PREFIX) for one in headers.lower_names) else b""
    needle = Needle(data=content.data, flags=FLAG_HAS_LAST_MODIFIED)
    # The flags are set for empty values, too; each then takes one byte in the record.
    if len(name) <= MAX_FIELD_BYTES:
        needle.name, needle.flags = name, needle.flags | FLAG_HAS_NAME
    if len(mime) <= MAX_FIELD_BYTES:
        needle.mime, needle.flags = mime, needle.flags | FLAG_HAS_MIME
    if pairs and len(pairs) <= MAX_PAIRS_BYTES:
        needle.pairs, needle.flags = pairs, needle.flags | FLAG_HAS_PAIRS
    if content.is_gzipped:
        needle.flags |= FLAG_IS_COMPRESSED
    if body.is_manifest:
        needle.flags |= FLAG_IS_CHUNK_MANIFEST
    modified, ttl = _field(form, body, "ts"), _field(form, body, "ttl")
    needle.last_modified_s = (modified and parse_uint_or_zero(modified)) or now_s
    needle.ttl = _ttl(ttl) if ttl else None
    if needle.ttl:
        needle.flags |= FLAG_HAS_TTL
    return Upload(needle, content.clear_size_bytes, content.content_md5)


def _field(form: Query, body: UploadBody, name: str) -> str:
    """The value of `name` in the query or form, else in a part of the body; "" where there is none."""
    said = form.get(name) if form.pairs else ""
    return said or (body.fields.get(name) if body.fields.pairs else "")


def checksum_of(data: bytes | memoryview) -> Job[int]:
    """The CRC-32C of `data`."""
    computed = 0
    for start in range(0, len(data), _SUMMED_BYTES):
        computed = crc32c_extend(computed, data[start : start + _SUMMED_BYTES])
        yield
    return computed


def encode_pairs(headers: Headers) -> bytes:
    """The headers that are stored with the file, as JSON without their prefix; b"" when there are none."""
    pairs: dict[str, str] = {}
    for name, value in headers:
        key = canonical_name(name)
        if key.startswith(PAIR_PREFIX):
            pairs.setdefault(text_of_wire(key.removeprefix(PAIR_PREFIX)), text_of_wire(value))
    return encode_json(dict(sorted(pairs.items()))) if pairs else b""


def _measured(data: bytes, wanted_md5: str, limit_bytes: int) -> Job[_Content]:
    """Measures data that the client has compressed. For data that is no gzip, the length and MD5 of the data itself
    count.
    """
    digest = hashlib.md5(usedforsecurity=False) if wanted_md5 else None
    size = len(data)
    try:
        facts = yield from measure(data, MAX_COUNTED_BYTES if wanted_md5 else limit_bytes, digest=digest)
        size = facts.size_bytes
    except TooMuchData:
        size, digest = size_in_trailer(data), None
    except BadGzip:
        digest = None
    if not wanted_md5:
        return _Content(data, True, size, "")
    if digest is None:
        digest = hashlib.md5(usedforsecurity=False)
        yield from sum_up(data, digest)
    return _Content(data, True, size, _checked_md5(digest.digest(), wanted_md5, size))


def _compressed(data: bytes, wanted_md5: str, *, is_compressible: bool) -> Job[_Content]:
    content_md5 = ""
    if wanted_md5:
        digest = hashlib.md5(usedforsecurity=False)
        yield from sum_up(data, digest)
        content_md5 = _checked_md5(digest.digest(), wanted_md5, len(data))
    packed = None
    if is_compressible:
        packed = yield from compress_if_smaller(data)
    return _Content(data if packed is None else packed, packed is not None, len(data), content_md5)


def _checked_md5(digest: bytes, wanted_md5: str, size_bytes: int) -> str:
    """The MD5 in the form of the header. Raises BadUpload where the client sent another one."""
    content_md5 = base64.b64encode(digest).decode()
    if content_md5 != wanted_md5:
        expected = text_of_wire(wanted_md5)
        raise BadUpload(
            "Content-MD5 did not match md5 of file data "
            f"expected [{expected}] received [{content_md5}] size {size_bytes}"
        )
    return content_md5


def _is_compressible(body: UploadBody) -> bool:
    mime = body.mime or sniff(body.data)
    return is_worth_compressing(base_name(body.name), "" if mime == UNKNOWN else mime)


def _ttl(text: str) -> Ttl | None:
    try:
        ttl = parse_ttl(text)
    except BadTtl:
        return None
    return None if ttl == EMPTY_TTL else ttl
