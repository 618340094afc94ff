"""Content-Disposition, and the response headers that a query may ask for by name, as S3 has them.

Source: weed/server/common.go AdjustPassthroughHeaders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.http.go_numbers import parse_bool
from native_handlers.http.media_type import format_media_type

if TYPE_CHECKING:
    from native_handlers.http.header_map import HeaderMap
    from native_handlers.http.query import Query

_OVERRIDES = {
    "response-cache-control": "Cache-Control",
    "response-content-disposition": "Content-Disposition",
    "response-content-encoding": "Content-Encoding",
    "response-content-language": "Content-Language",
    "response-content-type": "Content-Type",
    "response-expires": "Expires",
}


def apply_overrides(headers: HeaderMap, query: Query) -> None:
    """Sets each header that the query asks for (names without regard to case, the first value of each)."""
    seen: set[str] = set()
    for key, value in query.pairs:
        name = _OVERRIDES.get(key.lower())
        if name is not None and key not in seen:
            seen.add(key)
            headers.set(name, value)


def set_disposition(headers: HeaderMap, query: Query, filename: str) -> None:
    """Names the file (wire text) unless the header is set already or there is no name; `dl` makes it a download."""
    if filename and not headers.get("Content-Disposition"):
        kind = "attachment" if parse_bool(query.get("dl")) else "inline"
        headers.set("Content-Disposition", format_media_type(kind, {"filename": filename}))
