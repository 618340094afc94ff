"""What the path of an HTTP request says, as upstream's mux and object handler read it. Pure text work.

Source: net/http ServeMux (matching by escaped segments), weed/server/common.go parseURLPath,
weed/storage/needle/volume_id.go.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

STATIC_ROOT = "/seaweedfsstatic"
_MAX_UINT64 = 0xFFFFFFFFFFFFFFFF
_MAX_UINT64_DIGITS = 20
_MAX_UINT32 = 0xFFFFFFFF


def segments_of(raw_path: str) -> tuple[bytes, ...]:
    """The segments between slashes, each decoded once: what Go compares with a pattern's segments."""
    return tuple(unquote_to_bytes(segment) for segment in raw_path.encode("utf-8", "surrogateescape").split(b"/"))


def volume_id_in_path(path: str) -> int | None:
    """The volume that a decoded object path names: `/3,01…`, `/3/01…` or `/3/01…/name`; None where there is none.

    Like upstream, ids above 32 bits wrap and ids above 64 bits are refused.
    """
    if path.count("/") in {2, 3}:
        text = path.split("/")[1]
    else:
        text = path.rpartition("/")[2].rpartition(",")[0] or path.rpartition("/")[2]
    digits = text.lstrip("0") or "0"
    if not (text.isascii() and text.isdigit()) or len(digits) > _MAX_UINT64_DIGITS or int(digits) > _MAX_UINT64:
        return None
    return int(digits) & _MAX_UINT32
