"""Chunk manifests: JSON that names the needles of a large file.

Clients upload manifests, so nothing in them is trusted. Content is a manifest here exactly where it is one for
upstream, so a file that could be stored can be deleted with all its chunks. Other content is a plain file. Source:
weed/operation/chunked_file.go.
"""

from __future__ import annotations

import codecs
import re
from array import array
from bisect import bisect_right
from dataclasses import replace
from heapq import merge
from sys import getsizeof
from typing import TYPE_CHECKING

from native_handlers.content.gzip_data import BadGzip, TooMuchData, measure
from native_handlers.content.json_pieces import BadJson, JsonSteps, TooManyParts, field_of
from native_handlers.format.fid import FileId, parse_file_id, without_delta
from native_handlers.http.tokens import bearer
from native_handlers.http_model.errors import BadManifest
from native_handlers.records import dataclass
from native_handlers.storage.volume.record_reader import MANIFEST_READ_LIMIT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from native_handlers.format.needle import Needle
    from native_handlers.http_model.headers import Headers
    from native_handlers.runtime.content_threads import Job

MAX_MANIFEST_BYTES = MANIFEST_READ_LIMIT_BYTES
"""Longer content is read and deleted as a plain file."""
MAX_CHUNKS = 300_000
"""A terabyte and more: the number of chunks in the longest manifest, in upstream's usual form. Content with more is a
plain file."""
MAX_PARTS = 1_300_000
"""Values and escapes in a manifest, which take the time of parsing. `MAX_CHUNKS` chunks fit. Content with more is a
plain file."""
MAX_MEMORY_BYTES = 28 << 20
"""The memory of a parsed manifest, so that each one can be kept. Only a manifest with millions of characters beyond
Latin-1 takes more."""
MAX_SIZE = (1 << 63) - 1
MAX_DEPTH = 8
"""The number of manifests that may lead to one another, so that a manifest which contains itself comes to an end.
Upstream has no bound."""
DEPTH_HEADER = "X-Manifest-Depth"
"""Tells the holder of a chunk how many manifests have led to it. A server that does not know the header counts from
0."""

_MAX_DEPTH_DIGITS = 3
_MAX_INT_DIGITS = 20
_INTEGER = re.compile(r"-?[0-9]+")
_FIELDS = frozenset({"name", "mime", "size", "chunks", "fid", "offset"})
_GAP = r"[ \t\r\n]{0,32}+"
_TEXT, _WHOLE = r'"([^"\\\x00-\x1f]{0,64}+)"', r"(0|-?[1-9][0-9]{0,17}+)(?![0-9.eE])"
_FIRST, _THEN, _LAST = rf"{_GAP}\{{{_GAP}", rf"{_GAP},{_GAP}", rf"{_GAP}\}}{_GAP}"
_IS = rf"{_GAP}:{_GAP}"
_USUAL_CHUNK = re.compile(rf'{_FIRST}"fid"{_IS}{_TEXT}{_THEN}"offset"{_IS}{_WHOLE}{_THEN}"size"{_IS}{_WHOLE}{_LAST}')
"""A chunk as upstream writes one, with or without spaces, which is read at once."""
_MEMBER = rf"{_TEXT}{_IS}(?:{_TEXT}|{_WHOLE}|(true|false|null))"
_PLAIN_MEMBER = re.compile(_MEMBER)
_UNNAMED = _MEMBER.replace("(0|", "(?:0|").replace("([^", "(?:[^").replace("(true", "(?:true")
_PLAIN_CHUNK = re.compile(rf"{_FIRST}{_UNNAMED}(?:{_THEN}{_UNNAMED}){{0,7}}{_LAST}")
"""A chunk with its members in any order, under any keys, which is read in two calls."""
_SORTED_AT_ONCE = 4096
_DECODED_AT_ONCE = 1 << 16
_CHUNKS_A_STEP = 512
_READ_A_STEP = 64


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk: `size_bytes` bytes of the file from `offset_bytes` on. `fid` names its needle: unchecked text of the
    manifest.

    Either number may be negative.
    """

    fid: str
    offset_bytes: int
    size_bytes: int

    @property
    def end_bytes(self) -> int:
        return self.offset_bytes + self.size_bytes

    @property
    def file_id(self) -> FileId:
        """The needle's address. Raises BadFileId where `fid` cannot be parsed."""
        return parse_file_id(self.fid)

    @property
    def token_file_id(self) -> str:
        """The file id of a token that covers the needle."""
        volume_id, comma, rest = self.fid.partition(",")
        return f"{volume_id}{comma}{without_delta(rest)}"


class ChunkManifest:
    """A parsed manifest. `name` and `mime` are text. `size_bytes` is the claim of the manifest and may be negative.

    Chunks that overlap, leave gaps or have less than no bytes are taken as upstream takes them: the file is what its
    chunks hold, one after the other, and a byte of it is looked for by the offsets.

    Holds some 40 bytes for each chunk: there may be hundreds of thousands.
    """

    __slots__ = ("_ends", "_fids", "_offsets", "_reach", "_sizes", "content_bytes", "mime", "name", "size_bytes")

    def __init__(self, name: str, mime: str, size_bytes: int) -> None:
        self.name, self.mime, self.size_bytes = name, mime, size_bytes
        self._fids = ""
        self._offsets, self._sizes, self._ends = array("q"), array("q"), array("q", [0])
        self._reach: array[int] | None = None
        """For each chunk, the furthest end of the chunks up to it; None where that is the chunk's own end for each."""
        self.content_bytes = 0
        """The length of the file: what its chunks add up to, as upstream's 64 bits have it; maybe negative."""

    def fill(self, fids: Sequence[str], offsets: array[int], sizes: array[int]) -> Job[None]:
        """Sets the chunks: their file ids, offsets and sizes, sorted by offset."""
        self._fids, self._offsets, self._sizes = "".join(fids), offsets, sizes
        reach, is_in_order = array("q"), True
        end, total = -MAX_SIZE - 1, 0
        for index, fid in enumerate(fids):
            self._ends.append(self._ends[-1] + len(fid))
            is_in_order = is_in_order and sizes[index] >= 0 and offsets[index] >= end
            end = max(end, min(offsets[index] + sizes[index], MAX_SIZE))
            reach.append(end)
            total += sizes[index]
            if not index % _CHUNKS_A_STEP:
                yield
        self.content_bytes = (total + MAX_SIZE + 1) % (1 << 64) - MAX_SIZE - 1
        self._reach = None if is_in_order else reach

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> Chunk:
        """The chunk at `index` in the order of offsets."""
        fid = self._fids[self._ends[index] : self._ends[index + 1]]
        return Chunk(fid, self._offsets[index], self._sizes[index])

    @property
    def memory_bytes(self) -> int:
        """About how much memory the manifest takes."""
        numbers = 24 if self._reach is None else 32
        return sum(map(getsizeof, (self._fids, self.name, self.mime))) + numbers * len(self) + 512

    def chunks(self) -> Iterator[Chunk]:
        """The chunks sorted by offset, one by one."""
        return map(self.__getitem__, range(len(self)))

    def chunks_from(self, start_bytes: int) -> Iterator[Chunk]:
        """The chunks from the first one on that holds byte `start_bytes` by its offset; none where there is none."""
        if self._reach is None:
            indexes = range(len(self))
            first = bisect_right(indexes, start_bytes, key=lambda index: self._offsets[index] + self._sizes[index])
        else:
            first = bisect_right(self._reach, start_bytes)
        if first < len(self) and self._offsets[first] > start_bytes:
            # Those behind it begin no earlier.
            return iter(())
        return map(self.__getitem__, range(first, len(self)))


def depth_of(headers: Headers) -> int:
    """The number of manifests that have led to a request with these headers."""
    text = headers.get(DEPTH_HEADER) or ""
    return int(text) if len(text) <= _MAX_DEPTH_DIGITS and text.isascii() and text.isdigit() else 0


def check_depth(depth: int) -> None:
    """Checks that a manifest to which `depth` others lead may be followed.

    Raises:
        BadManifest: too many manifests lead to it.
    """
    if depth >= MAX_DEPTH:
        raise BadManifest(f"more than {MAX_DEPTH} manifests lead to one another")


@dataclass(frozen=True, slots=True)
class Visit:
    """How a request reaches a manifest, and its rights on the chunks: those that it has on the chunks directly.

    Args:
        depth: how many manifests lead to this one.
        token: the request's own token, which goes on to other holders.
        covers: the one file id that the token is for; None where every chunk is allowed.
        is_lenient: whether a delete skips chunks that no server can have, so that the manifest can be deleted.
    """

    depth: int = 0
    token: str = ""
    covers: str | None = None
    is_lenient: bool = False

    def allows(self, chunk: Chunk) -> bool:
        """Whether the request has the same right on the chunk directly."""
        return self.covers is None or chunk.token_file_id == self.covers

    def deeper(self) -> Visit:
        """The visit of a manifest that is a chunk of this one."""
        return replace(self, depth=self.depth + 1)

    def fields(self) -> list[tuple[str, str]]:
        """The header fields for a request to another server for a chunk."""
        return [*bearer(self.token), (DEPTH_HEADER, str(self.depth + 1))]


def load_manifest(needle: Needle) -> Job[ChunkManifest]:
    """Parses the content of the needle as a manifest.

    Raises:
        BadManifest: the content is too long, has too many chunks, or is not JSON of the right types. For upstream the
            last is no manifest either.
    """
    if needle.data_size > MAX_MANIFEST_BYTES:
        # The payload may still be on disk. Compressed data that is too long does not get shorter by decompression.
        raise _too_long(needle.data_size)
    raw = needle.data
    if needle.is_compressed:
        try:
            facts = yield from measure(raw, MAX_MANIFEST_BYTES, keep_bytes=MAX_MANIFEST_BYTES)
        except TooMuchData as failure:
            raise BadManifest(str(failure)) from failure
        except BadGzip:
            # As upstream: data that does not decompress may still be JSON.
            pass
        else:
            assert facts.data is not None, "what is beyond the limit was refused"
            raw = facts.data
    if len(raw) > MAX_MANIFEST_BYTES:
        raise _too_long(len(raw))
    text = yield from _decoded(raw)
    manifest = yield from _Parser(text).parse()
    if manifest.memory_bytes > MAX_MEMORY_BYTES:
        raise BadManifest(f"it takes more than {MAX_MEMORY_BYTES} bytes of memory")
    return manifest


def length_of(needle: Needle) -> Job[int]:
    """The length in bytes of the text that `load_manifest` would parse. Keeps none of it."""
    if needle.data_size > MAX_MANIFEST_BYTES:
        return needle.data_size
    if needle.is_compressed:
        try:
            return (yield from measure(needle.data, MAX_MANIFEST_BYTES)).size_bytes
        except TooMuchData:
            return MAX_MANIFEST_BYTES + 1
        except BadGzip:
            pass
    return len(needle.data)


def _decoded(raw: bytes | memoryview) -> Job[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces, view = [], memoryview(raw)
    for start in range(0, len(view), _DECODED_AT_ONCE):
        pieces.append(decoder.decode(view[start : start + _DECODED_AT_ONCE]))
        yield
    pieces.append(decoder.decode(b"", final=True))
    return "".join(pieces)


def _too_long(length_bytes: int) -> BadManifest:
    return BadManifest(f"{length_bytes} bytes are more than the {MAX_MANIFEST_BYTES} of the longest one")


class _Parser:
    """Parses a manifest as Go's encoding/json fills its struct: keys match without regard to case, null changes
    nothing, the last of equal keys counts, and the chunks of a second list are merged into those of the first.
    """

    def __init__(self, text: str) -> None:
        self._reader = JsonSteps(text, MAX_PARTS)
        self._texts = {"name": "", "mime": ""}
        self._size = 0
        self._fids: list[str | None] = []
        self._offsets = array("q")
        self._sizes = array("q")
        self._count = 0

    def parse(self) -> Job[ChunkManifest]:
        reader = self._reader
        try:
            if not (yield from reader.take_null()):
                yield from self._file()
            yield from reader.end()
        except TooManyParts as failure:
            raise BadManifest(f"more than {MAX_PARTS} values and escapes") from failure
        except BadJson as failure:
            raise BadManifest(f"not JSON: {failure}") from failure
        manifest = ChunkManifest(self._texts["name"], self._texts["mime"], self._size)
        yield from manifest.fill(*(yield from self._sorted()))
        return manifest

    def _file(self) -> Job[None]:
        reader = self._reader
        _want("a manifest", "{", (yield from reader.peek()))
        yield from reader.open()
        while (key := (yield from reader.next_key())) is not None:
            name = field_of(key, _FIELDS)
            if name in self._texts:
                self._texts[name] = yield from self._text(name, self._texts[name])
            elif name == "size":
                self._size = yield from self._number(name, self._size)
            elif name == "chunks":
                yield from self._chunks()
            else:
                yield from reader.skip()

    def _chunks(self) -> Job[None]:
        reader = self._reader
        if (yield from reader.take_null()):
            self._forget_chunks()
            return
        _want("chunks", "[", (yield from reader.peek()))
        yield from reader.open()
        index = 0
        while True:
            plain = None
            usual = reader.match_item(_USUAL_CHUNK)
            if usual is None:
                plain = reader.match_item(_PLAIN_CHUNK)
                if plain is None and not (yield from reader.next_item()):
                    break
            if index == MAX_CHUNKS:
                raise BadManifest(f"more than {MAX_CHUNKS} chunks")
            if usual is not None:
                self._put(index, usual[1], int(usual[2]), int(usual[3]))
            elif plain is not None:
                self._plain_chunk(index, plain.group())
            elif (yield from reader.take_null()):
                self._put(index, None, 0, 0)
            else:
                yield from self._chunk(index)
            if not index % _READ_A_STEP:
                yield
            index += 1
        self._count = index
        if index == 0:
            self._forget_chunks()

    def _before(self, index: int) -> tuple[str, int, int]:
        """The fields of the chunk `index` of an earlier list, which the one that is read now changes."""
        if index < len(self._fids):
            return self._fids[index] or "", self._offsets[index], self._sizes[index]
        return "", 0, 0

    def _plain_chunk(self, index: int, text: str) -> None:
        fid, offset, size = self._before(index)
        members = _PLAIN_MEMBER.findall(text)
        self._reader.count_parts(len(members))
        for key, value, whole, word in members:
            name = field_of(key, _FIELDS)
            if word == "null" or name not in {"fid", "offset", "size"}:
                continue
            if name == "fid":
                _want(name, '"', (whole or word)[:1] or '"')
                fid = value
            else:
                _want(name, "-0123456789", whole[:1] or word[:1] or '"')
                if name == "offset":
                    offset = int(whole)
                else:
                    size = int(whole)
        self._put(index, fid, offset, size)

    def _chunk(self, index: int) -> Job[None]:
        reader = self._reader
        _want("a chunk", "{", (yield from reader.peek()))
        yield from reader.open()
        fid, offset, size = self._before(index)
        while (key := (yield from reader.next_key())) is not None:
            match field_of(key, _FIELDS):
                case "fid":
                    fid = yield from self._text("fid", fid)
                case "offset":
                    offset = yield from self._number("offset", offset)
                case "size":
                    size = yield from self._number("size", size)
                case _:
                    yield from reader.skip()
        self._put(index, fid, offset, size)

    def _put(self, index: int, fid: str | None, offset: int, size: int) -> None:
        if index == len(self._fids):
            self._fids.append(fid)
            self._offsets.append(offset)
            self._sizes.append(size)
        else:
            self._fids[index], self._offsets[index], self._sizes[index] = fid, offset, size

    def _forget_chunks(self) -> None:
        self._fids, self._offsets, self._sizes, self._count = [], array("q"), array("q"), 0

    def _text(self, name: str, before: str) -> Job[str]:
        if (yield from self._reader.take_null()):
            return before
        _want(name, '"', (yield from self._reader.peek()))
        return (yield from self._reader.string())

    def _number(self, name: str, before: int) -> Job[int]:
        if (yield from self._reader.take_null()):
            return before
        _want(name, "-0123456789", (yield from self._reader.peek()))
        text = yield from self._reader.number()
        if len(text) <= _MAX_INT_DIGITS and _INTEGER.fullmatch(text) and -MAX_SIZE - 1 <= int(text) <= MAX_SIZE:
            return int(text)
        raise BadManifest(f"{name} is no whole number of 64 bits")

    def _sorted(self) -> Job[tuple[list[str], array[int], array[int]]]:
        """The chunks in the order of their offsets. A chunk that is null is left out. (Upstream breaks the connection
        for it.)
        """
        fids, offsets, sizes = self._fids[: self._count], self._offsets[: self._count], self._sizes[: self._count]
        if (yield from _are_in_order(fids, offsets)):
            return [fid for fid in fids if fid is not None], offsets, sizes
        indexes = [index for index, fid in enumerate(fids) if fid is not None]
        runs = []
        for at in range(0, len(indexes), _SORTED_AT_ONCE):
            # Sorting all in one call would keep all threads waiting.
            runs.append(sorted(indexes[at : at + _SORTED_AT_ONCE], key=offsets.__getitem__))
            yield
        order: tuple[list[str], array[int], array[int]] = ([], array("q"), array("q"))
        for index in merge(*runs, key=offsets.__getitem__):
            order[0].append(fids[index] or "")
            order[1].append(offsets[index])
            order[2].append(sizes[index])
            if not len(order[0]) % _CHUNKS_A_STEP:
                yield
        return order


def _are_in_order(fids: list[str | None], offsets: array[int]) -> Job[bool]:
    """Whether no chunk is null and the offsets are in order already."""
    before = -MAX_SIZE - 1
    for index, fid in enumerate(fids):
        if fid is None or offsets[index] < before:
            return False
        before = offsets[index]
        if not index % _CHUNKS_A_STEP:
            yield
    return True


def _want(what: str, beginnings: str, char: str) -> None:
    if not char or char not in beginnings:
        raise BadManifest(f"{what} cannot begin with {char!r}")
