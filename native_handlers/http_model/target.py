"""The parts of a request target. A target is parsed once for each request: router, guard, authority and handlers use
the same `RequestTarget`, so each checks the ids that the next one uses.

Paths here are wire text: percent escapes decoded once, one character for each byte. Source: weed/server/common.go
parseURLPath, weed/storage/needle/needle.go CreateNeedleFromRequest.
"""

from __future__ import annotations

import re
from dataclasses import field
from string import ascii_letters, digits
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from native_handlers.format.errors import BadFileId
from native_handlers.format.fid import parse_needle_id_cookie, parse_volume_id, without_delta
from native_handlers.format.types import Cookie, NeedleId
from native_handlers.http_model.percent import escape, escapes_but, unescape
from native_handlers.http_model.query import NO_QUERY, SHORT_CHARACTERS, Query, parse_form, parse_query
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

T = TypeVar("T")
STATIC_PREFIX = "/seaweedfsstatic/"
_NAMED_SLASHES = 3
"""The slashes of `/vid/fid/name`. In a deeper path upstream counts from two different places, see `is_misread`."""
SIMPLE_PATH = r"/([0-9]{1,9}),([0-9a-fA-F]{1,16})([0-9a-fA-F]{8})"
"""The form of path that nearly every client sends: volume id, needle id and cookie. The fast path recognises it too."""
_SIMPLE = re.compile(SIMPLE_PATH)
"""Parses that form in one step. A test holds the two parsers to the same result."""
_CANONICAL = re.compile(r"(?:/(?![/.])(?:[A-Za-z0-9\-_.~$&+,:;=@!'()*\[\]]|%[0-9A-Fa-f]{2})*+)++")


class ObjectPath(NamedTuple):
    """The texts in an object path, as wire text. None of them is checked.

    `ext` includes its dot. `filename` is "" unless it is a segment of its own. The ids are "" where the path has none.
    """

    volume_id: str
    file_id: str
    filename: str = ""
    ext: str = ""


@dataclass(slots=True)
class RequestTarget:
    """A request target in its parts. Texts are wire text.

    Args:
        raw_path: the path as sent, with its escapes.
        raw_query: the part after the first `?`, undecoded; "" where there is none.
        path: the path as wire text.
        object: the ids that a read or a delete of the path uses; none of the texts is checked.
        uploaded: the file id that an upload to the path writes. Upstream finds this id in another way than that of
            `object`, so the two may differ: `/7/01aabbccdd/x,02aabbccdd` reads needle 1 and writes needle 2 of volume
            7.
        volume_id: the volume of reads, deletes and uploads; None where the path names none.
        needle: needle id and cookie of `object`, the delta added; None where the file id cannot be parsed.
        uploaded_needle: needle id and cookie of `uploaded`, in the same way.
        is_canonical: False where the path may not be canonical; `canonical_target` then decides.
        failures: by the name of an id that is None, the text that cannot be parsed and the reason.
    """

    raw_path: str
    raw_query: str
    path: str
    object: ObjectPath
    uploaded: str
    volume_id: int | None
    needle: tuple[NeedleId, Cookie] | None
    uploaded_needle: tuple[NeedleId, Cookie] | None
    is_canonical: bool
    failures: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False, compare=False)
    _query: Query | None = field(default=None, repr=False, compare=False)
    _location: tuple[str, str | None] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def parse(cls, target: str) -> Self:
        """Parses a target in origin form. Any other text names nothing."""
        raw_path, _, raw_query = target.partition("?")
        simple = _SIMPLE.fullmatch(raw_path)
        if simple is None:
            return cls.parse_any(raw_path, raw_query)
        volume_id, needle_id, cookie = simple.groups()
        file_id = needle_id + cookie
        needle = NeedleId(int(needle_id, 16)), Cookie(int(cookie, 16))
        named = ObjectPath(volume_id, file_id)
        return cls(raw_path, raw_query, raw_path, named, file_id, int(volume_id), needle, needle, True)

    @classmethod
    def parse_any(cls, raw_path: str, raw_query: str) -> Self:
        """Parses by the whole grammar. `parse` does so for every target but the simple one."""
        path = raw_path
        # A path with a bad escape is refused, see `is_well_formed`, so its text is not used.
        if "%" in raw_path and _BAD_ESCAPE.search(raw_path) is None:
            path = unescape(raw_path.encode("latin-1")).decode("latin-1")
        named, uploaded = parse_object_path(path), upload_file_id(path)
        # Texts: an error that is kept and raised leads, by its traceback, to the request that keeps the error.
        failures: dict[str, tuple[str, str]] = {}

        def parsed(name: str, parse: Callable[[str], T], text: str) -> T | None:
            try:
                return parse(text)
            except BadFileId as failure:
                failures[name] = failure.text, str(failure)
                return None

        volume_id = parsed("volume_id", parse_volume_id, named.volume_id)
        needle = parsed("needle", parse_needle_id_cookie, named.file_id)
        other = parsed("uploaded_needle", parse_needle_id_cookie, uploaded)
        is_canonical = _CANONICAL.fullmatch(raw_path) is not None and raw_path != STATIC_PREFIX[:-1]
        return cls(raw_path, raw_query, path, named, uploaded, volume_id, needle, other, is_canonical, failures)

    def require_volume_id(self) -> int:
        """`volume_id`. Raises BadFileId, with upstream's text, where the path names no volume."""
        if self.volume_id is None:
            raise BadFileId(*self.failures["volume_id"])
        return self.volume_id

    def require_needle(self) -> tuple[NeedleId, Cookie]:
        """`needle`. Raises BadFileId, with upstream's text, where the file id cannot be parsed."""
        if self.needle is None:
            raise BadFileId(*self.failures["needle"])
        return self.needle

    def require_uploaded_needle(self) -> tuple[NeedleId, Cookie]:
        """`uploaded_needle`. Raises BadFileId, with upstream's text, where the file id cannot be parsed."""
        if self.uploaded_needle is None:
            raise BadFileId(*self.failures["uploaded_needle"])
        return self.uploaded_needle

    @property
    def query(self) -> Query:
        """The pairs of `raw_query`, parsed at the first use and then kept."""
        if self._query is None:
            self._query = parse_query(self.raw_query) if self.raw_query else NO_QUERY
        return self._query

    def canonical_target(self, method: str) -> str | None:
        """The target that a request of `method` is redirected to, or None when its path is canonical.

        A canonical path has no empty, `.` and `..` segments. Escapes count as text: `/a/%2e%2e/b` is canonical, unless
        another byte of the path lacks an escape. The redirect keeps escapes unchanged. Upstream escapes their percent
        signs once more, which names another object. Source: Go's ServeMux.
        """
        if self._location is None or self._location[0] != method:
            self._location = method, _location_of(method, self)
        return self._location[1]

    @property
    def has_long_query(self) -> bool:
        """Whether the query is still to be parsed, and is so long that `parse_long_query` is to do it."""
        return len(self.raw_query) > SHORT_CHARACTERS and self._query is None

    def parse_long_query(self) -> Generator[None, None, None]:
        """Parses the query in steps, for `query`."""
        query = yield from parse_form(self.raw_query)
        query.get("")  # The first look-up makes the index of many pairs.
        self._query = query

    @property
    def token_file_id(self) -> str:
        """The file id that the request's token must name. It has no delta: a token covers the ids that follow its
        own.
        """
        return f"{self.object.volume_id},{without_delta(self.object.file_id)}"

    @property
    def uploads_another(self) -> bool:
        """Whether an upload writes another file than the one that the path's token names.

        False where an upload writes nothing, because its file id cannot be parsed.
        """
        if self.uploaded == self.object.file_id:
            return False
        if self.uploaded_needle is None:
            return False
        return without_delta(self.uploaded) != without_delta(self.object.file_id)

    @property
    def is_misread(self) -> bool:
        """Whether upstream may find other ids in the path than those of `object`: the path has more segments than an
        object path, and a comma in the last one. Upstream then mostly breaks the connection, and sometimes takes other
        parts of the path for the ids.
        """
        return self.path.count("/") > _NAMED_SLASHES and "," in self.path.rpartition("/")[2]


# ---- The grammar of object paths. Source: weed/server/common.go parseURLPath.


def parse_object_path(path: str) -> ObjectPath:
    """Splits `/vid,fid[.ext]`, `/vid/fid[.ext]` and `/vid/fid/name.ext`.

    In a deeper path, the whole last segment is the volume id. A deeper path with a comma in the last segment names
    nothing: upstream's server breaks the connection there, this server refuses the volume id "". A path that does not
    begin with a slash names nothing either.
    """
    segments = path.split("/")[1:]
    if not segments:
        return ObjectPath("", "")
    if len(segments) == 3:
        return ObjectPath(segments[0], segments[1], segments[2], extension(segments[2]))
    if len(segments) == 2:
        file_id, ext = _split_ext(segments[1])
        return ObjectPath(segments[0], file_id, "", ext)
    volume_id, comma, rest = segments[-1].rpartition(",")
    if not comma:
        return ObjectPath(segments[-1], "")
    if len(segments) > 1:
        return ObjectPath("", "")
    file_id, ext = _split_ext(rest)
    return ObjectPath(volume_id, file_id, "", ext)


def upload_file_id(path: str) -> str:
    """The file id that an upload to `path` writes: the text after the last comma, up to the last dot behind that comma.

    So `/vid/fid`, which names a file id for reads and deletes, names none for uploads. Source:
    weed/storage/needle/needle.go CreateNeedleFromRequest.
    """
    file_id = path[path.rfind(",") + 1 :]
    head, dot, _ = file_id.rpartition(".")
    return head if dot else file_id


def extension(name: str) -> str:
    """The part of the last segment from its last dot on, "" when there is no dot. Unlike os.path, ".png" is all
    extension.
    """
    base = name.rpartition("/")[2]
    dot = base.rfind(".")
    return base[dot:] if dot >= 0 else ""


def base_name(path: str) -> str:
    """The last segment of `path` without trailing slashes; "." for "", "/" for slashes alone. Source: Go path.Base."""
    if not path:
        return "."
    return path.rstrip("/").rpartition("/")[2] or "/"


def _split_ext(file_id: str) -> tuple[str, str]:
    head, dot, ext = file_id.rpartition(".")
    return (head, dot + ext) if dot and head else (file_id, "")


# ---- Canonical paths, and the redirect for other paths. Source: Go's ServeMux.

_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_ESCAPED = re.compile(r"[A-Za-z0-9\-_.~$&+,/:;=@!'()*\[\]%]*")
_IN_PATH = escapes_but(f"{ascii_letters}{digits}_.-~/$&+,:;=@")


def is_well_formed(target: RequestTarget) -> bool:
    """Whether each percent sign in the path begins an escape. Go's server refuses other targets before any handler
    runs.
    """
    return "%" not in target.raw_path or _BAD_ESCAPE.search(target.raw_path) is None


def _location_of(method: str, target: RequestTarget) -> str | None:
    raw = _escaped(target.raw_path)
    if raw != STATIC_PREFIX[:-1]:
        if ("//" not in raw and "/." not in raw) or not raw.startswith("/") or method == "CONNECT":
            return None
        cleaned = _clean(raw)
        if cleaned == raw:
            return None
        raw = cleaned
    if raw == STATIC_PREFIX[:-1]:
        raw = STATIC_PREFIX
    # All other characters that are left may stand in a header.
    location = raw.replace("[", "%5B").replace("]", "%5D")
    return f"{location}?{target.raw_query}" if target.raw_query else location


def _escaped(raw: str) -> str:
    """`raw`, or the whole path escaped anew where it holds a byte that must be escaped. Source: Go's EscapedPath."""
    if _ESCAPED.fullmatch(raw):
        return raw
    return escape(unescape(raw.encode("latin-1")).decode("latin-1"), _IN_PATH)


def _clean(path: str) -> str:
    kept = [segment for segment in path.split("/") if segment and segment != "."]
    if ".." in kept:
        kept = _without_parents(kept)
    return "/" + "/".join(kept) + ("/" if kept and path.endswith("/") else "")


def _without_parents(segments: Sequence[str]) -> list[str]:
    """`segments` without each `..` and the segment before it."""
    kept: list[str] = []
    for segment in segments:
        if segment != "..":
            kept.append(segment)
        elif kept:
            kept.pop()
    return kept
