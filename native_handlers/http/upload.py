"""From an uploaded file to the needle that is stored. Works on the whole file in memory: for a worker thread.

Source: weed/storage/needle/needle_parse_upload.go ParseUpload, needle.go CreateNeedleFromRequest.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadTtl
from native_handlers.format.needle import Needle
from native_handlers.format.ttl import EMPTY_TTL, Ttl, parse_ttl
from native_handlers.http.errors import BadUpload
from native_handlers.http.go_json import encode_json, text_of_wire
from native_handlers.http.go_numbers import parse_uint_or_zero
from native_handlers.http.gzip_data import BadGzip, compress_if_smaller, is_worth_compressing, measure
from native_handlers.http.header_map import canonical_name
from native_handlers.http.paths import base_name
from native_handlers.http.sniff import UNKNOWN, sniff

if TYPE_CHECKING:
    from native_handlers.http.headers import Headers
    from native_handlers.http.query import Query
    from native_handlers.http.upload_body import UploadBody

PAIR_PREFIX = "Seaweed-"
MAX_FIELD_BYTES = 255
"""Of name and MIME type; a longer one is left out, not cut."""
MAX_PAIRS_BYTES = 65535


@dataclass(frozen=True, slots=True)
class Upload:
    """A needle to be written. `clear_size_bytes` is its length before compression; `content_md5` is "" unless asked."""

    needle: Needle
    clear_size_bytes: int
    content_md5: str


@dataclass(frozen=True, slots=True)
class _Content:
    data: bytes
    is_gzipped: bool
    clear_size_bytes: int
    content_md5: str


def make_upload(body: UploadBody, form: Query, headers: Headers, *, now_s: int) -> Upload:
    """The needle for `body`, with neither id, cookie nor checksum yet.

    Raises:
        BadUpload: the content has another MD5 than the client says.
    """
    content = _prepare(body, headers.get("Content-MD5") or body.content_md5, is_replica=form.get("type") == "replicate")
    needle = Needle(data=content.data)
    name, mime = body.name.encode("latin-1"), body.mime.encode("latin-1")
    # The flags are set for empty values, too: each then takes one byte in the record.
    if len(name) <= MAX_FIELD_BYTES:
        needle.name, needle.has_name = name, True
    if len(mime) <= MAX_FIELD_BYTES:
        needle.mime, needle.has_mime = mime, True
    pairs = encode_pairs(headers)
    if pairs and len(pairs) <= MAX_PAIRS_BYTES:
        needle.pairs, needle.has_pairs = pairs, True
    needle.is_compressed = content.is_gzipped
    needle.last_modified_s = parse_uint_or_zero(form.get("ts") or body.fields.get("ts")) or now_s
    needle.has_last_modified = True
    needle.ttl = _ttl(form.get("ttl") or body.fields.get("ttl"))
    needle.has_ttl = bool(needle.ttl)
    needle.is_chunk_manifest = body.is_manifest
    return Upload(needle, content.clear_size_bytes, content.content_md5)


def encode_pairs(headers: Headers) -> bytes:
    """The headers that are to be kept with the file, as JSON without their prefix; b"" when there are none."""
    pairs: dict[str, str] = {}
    for name, value in headers:
        key = canonical_name(name)
        if key.startswith(PAIR_PREFIX):
            pairs.setdefault(text_of_wire(key.removeprefix(PAIR_PREFIX)), text_of_wire(value))
    return encode_json(dict(sorted(pairs.items()))) if pairs else b""


def _prepare(body: UploadBody, wanted_md5: str, *, is_replica: bool) -> _Content:
    data, is_gzipped = body.data, body.is_gzipped
    clear_size, clear_md5 = len(data), b""
    if is_gzipped:
        try:
            facts = measure(data)
        except BadGzip:
            pass  # Not what it claims to be: stored as it is, and its own length and MD5 count.
        else:
            clear_size, clear_md5 = facts.size_bytes, facts.md5
    # A replica keeps the state that the first copy has, so that all copies are the same bytes.
    elif not is_replica and _is_compressible(body):
        packed = compress_if_smaller(data)
        if packed is not None:
            clear_md5 = hashlib.md5(data, usedforsecurity=False).digest() if wanted_md5 else b""
            data, is_gzipped = packed, True
    content_md5 = ""
    if wanted_md5:
        digest = clear_md5 or hashlib.md5(data, usedforsecurity=False).digest()
        content_md5 = base64.b64encode(digest).decode()
        if content_md5 != wanted_md5:
            expected = text_of_wire(wanted_md5)
            raise BadUpload(
                "Content-MD5 did not match md5 of file data "
                f"expected [{expected}] received [{content_md5}] size {clear_size}"
            )
    return _Content(data, is_gzipped, clear_size, content_md5)


def _is_compressible(body: UploadBody) -> bool:
    mime = body.mime or sniff(body.data)
    return is_worth_compressing(base_name(body.name), "" if mime == UNKNOWN else mime)


def _ttl(text: str) -> Ttl | None:
    try:
        ttl = parse_ttl(text)
    except BadTtl:
        return None
    return None if ttl == EMPTY_TTL else ttl
