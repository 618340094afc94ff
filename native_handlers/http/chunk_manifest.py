"""Chunk manifests: JSON that says which needles a large file is made of.

Manifests are uploaded by clients, so nothing in them is trusted. Source: weed/operation/chunked_file.go.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadFileId
from native_handlers.format.fid import FileId, parse_file_id
from native_handlers.http.errors import BadManifest
from native_handlers.http.gzip_data import BadGzip, decompress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.format.needle import Needle
    from native_handlers.http.headers import Headers

MAX_MANIFEST_BYTES = 16 << 20
"""Room for about 200,000 chunks, a terabyte and more; a longer one would cost gigabytes to parse."""
MAX_SIZE = (1 << 63) - 1
MAX_DEPTH = 8
"""How many manifests may lead to one another, so that one which contains itself comes to an end. Upstream has no
bound.
"""
DEPTH_HEADER = "X-Manifest-Depth"
"""Tells a holder of a chunk how many manifests have led to it. Servers that do not know it begin anew."""

_MAX_DEPTH_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Chunk:
    """`size_bytes` bytes of the file from `offset_bytes`, kept in the needle `file_id`; `fid` is its text as given."""

    fid: str
    file_id: FileId
    offset_bytes: int
    size_bytes: int

    @property
    def end_bytes(self) -> int:
        return self.offset_bytes + self.size_bytes


@dataclass(frozen=True, slots=True)
class ChunkManifest:
    """`name` and `mime` are text; `size_bytes` is what the manifest claims, `chunks` are sorted by offset."""

    name: str
    mime: str
    size_bytes: int
    chunks: tuple[Chunk, ...]

    @property
    def content_bytes(self) -> int:
        """The length of the file: what its chunks add up to."""
        return sum(chunk.size_bytes for chunk in self.chunks)

    def chunks_from(self, start_bytes: int) -> Iterator[Chunk]:
        """The chunks from the one that holds byte `start_bytes` on; for a manifest that is readable."""
        first = bisect_right(self.chunks, start_bytes, key=lambda chunk: chunk.end_bytes)
        return islice(self.chunks, first, None)

    def check_readable(self) -> None:
        """Makes sure that the chunks lie one after the other, so that each byte has one place.

        Raises:
            BadManifest: there is a gap or an overlap.
        """
        end = 0
        for chunk in self.chunks:
            if chunk.offset_bytes != end:
                raise BadManifest(f"chunk {chunk.fid} begins at {chunk.offset_bytes}, the one before it ends at {end}")
            end = chunk.end_bytes


def depth_of(headers: Headers) -> int:
    """How many manifests have led to a request with these headers."""
    text = headers.get(DEPTH_HEADER) or ""
    return int(text) if len(text) <= _MAX_DEPTH_DIGITS and text.isascii() and text.isdigit() else 0


def check_depth(depth: int) -> None:
    """Makes sure that a manifest to which `depth` others lead may be followed.

    Raises:
        BadManifest: they are too many.
    """
    if depth >= MAX_DEPTH:
        raise BadManifest(f"more than {MAX_DEPTH} manifests lead to one another")


def load_manifest(needle: Needle) -> ChunkManifest:
    """The manifest that is the needle's content. Slow for a long one: for a worker thread.

    Raises:
        BadManifest: too long, not JSON of the right shape, or an entry that names no needle or has an impossible
            extent.
    """
    raw = bytes(needle.data)
    if needle.is_compressed:
        # As upstream: what does not decompress may be JSON all the same.
        with suppress(BadGzip):
            raw = decompress(raw, MAX_MANIFEST_BYTES)
    if len(raw) > MAX_MANIFEST_BYTES:
        raise BadManifest(f"{len(raw)} bytes are more than the {MAX_MANIFEST_BYTES} of the longest one")
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError) as failure:
        raise BadManifest(f"not JSON: {failure}") from failure
    if not isinstance(fields, dict):
        raise BadManifest("not a JSON object")
    chunks = fields.get("chunks")
    chunks = [] if chunks is None else chunks
    if not isinstance(chunks, list):
        raise BadManifest("chunks is not a list")
    return ChunkManifest(
        name=_text(fields, "name"),
        mime=_text(fields, "mime"),
        size_bytes=_number(fields, "size"),
        chunks=tuple(sorted(map(_chunk, chunks), key=lambda chunk: chunk.offset_bytes)),
    )


def _chunk(entry: object) -> Chunk:
    if not isinstance(entry, dict):
        raise BadManifest("a chunk is not a JSON object")
    fid = _text(entry, "fid")
    try:
        file_id = parse_file_id(fid)
    except BadFileId as failure:
        raise BadManifest(f"chunk {fid!r}: {failure}") from failure
    return Chunk(fid, file_id, _number(entry, "offset"), _number(entry, "size"))


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise BadManifest(f"{name} is not a string")
    return value


def _number(fields: dict[str, object], name: str) -> int:
    value = fields.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SIZE:
        raise BadManifest(f"{name} is not a number from 0 to {MAX_SIZE}")
    return value
