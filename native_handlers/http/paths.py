"""What a request path says: volume, file id and name, and whether it is in its canonical form.

Paths here are wire text: percent escapes decoded, one character for each byte.
Source of the rules: weed/server/common.go parseURLPath.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

if TYPE_CHECKING:
    from native_handlers.http.message import Request

_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_ESCAPED = re.compile(r"[A-Za-z0-9\-_.~$&+,/:;=@!'()*\[\]%]*")
STATIC_PREFIX = "/seaweedfsstatic/"
_LOCATION_SAFE = "/%!$&'()*+,;=:@~"


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """The texts in an object path, none of them checked, as wire text.

    `ext` has its dot; `filename` is "" unless it is a segment of its own; the ids are "" where the path has none.
    """

    volume_id: str
    file_id: str
    filename: str = ""
    ext: str = ""


def wire_path(request: Request) -> str:
    """The request's path decoded to wire text."""
    return unquote_to_bytes(request.raw_path.encode("latin-1")).decode("latin-1")


def parse_object_path(path: str) -> ObjectPath:
    """Splits `/vid,fid[.ext]`, `/vid/fid[.ext]` and `/vid/fid/name.ext`.

    The last segment of a deeper path is all volume id; with a comma in it, it names nothing: upstream's server breaks
    the connection there, this one refuses the volume id "".
    """
    segments = path.split("/")[1:]
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
    """The file id that an upload to `path` writes: what follows the last comma, up to the last dot after it.

    So `/vid/fid`, which reads and deletes understand, names no file id here.
    Source: weed/storage/needle/needle.go CreateNeedleFromRequest.
    """
    file_id = path[path.rfind(",") + 1 :]
    head, dot, _ = file_id.rpartition(".")
    return head if dot else file_id


def extension(name: str) -> str:
    """From the last dot of the last segment on, "" when there is none. Unlike os.path, ".png" is all extension."""
    base = name.rpartition("/")[2]
    dot = base.rfind(".")
    return base[dot:] if dot >= 0 else ""


def base_name(path: str) -> str:
    """The last segment of `path` without trailing slashes; "." for "", "/" for slashes alone. Source: Go path.Base."""
    if not path:
        return "."
    return path.rstrip("/").rpartition("/")[2] or "/"


def is_well_formed(request: Request) -> bool:
    """Whether each percent sign in the path begins an escape. Go's server refuses other targets before any handler."""
    return "%" not in request.target or _BAD_ESCAPE.search(request.raw_path) is None


def canonical_target(request: Request) -> str | None:
    """Where a request has to go instead, or None when its path is canonical: without empty, `.` and `..` segments.

    Escapes are text here: `/a/%2e%2e/b` is canonical, unless a byte beside them lacks one. They are kept as they are
    (upstream escapes their percent signs once more, which makes another object of it). Source: Go's ServeMux.
    """
    raw = _escaped(request.raw_path)
    if raw != STATIC_PREFIX[:-1]:
        if ("//" not in raw and "/." not in raw) or not raw.startswith("/") or request.method == "CONNECT":
            return None
        cleaned = _clean(raw)
        if cleaned == raw:
            return None
        raw = cleaned
    if raw == STATIC_PREFIX[:-1]:
        raw = STATIC_PREFIX
    location = quote(raw.encode("latin-1"), safe=_LOCATION_SAFE)
    return f"{location}?{request.raw_query}" if request.raw_query else location


def _escaped(raw: str) -> str:
    """`raw`, or all of it escaped anew where a byte stands in it that has to be escaped. Source: Go's EscapedPath."""
    if _ESCAPED.fullmatch(raw):
        return raw
    return quote(unquote_to_bytes(raw.encode("latin-1")), safe="/$&+,:;=@~")


def _clean(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in {"", "."}:
            kept.append(segment)
    return "/" + "/".join(kept) + ("/" if kept and path.endswith("/") else "")


def _split_ext(file_id: str) -> tuple[str, str]:
    head, dot, ext = file_id.rpartition(".")
    return (head, dot + ext) if dot and head else (file_id, "")
