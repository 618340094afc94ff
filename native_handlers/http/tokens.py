"""Tokens for file ids: taken from a request to be checked and passed on, or made for a request of our own.

Whether a client's token is good is checked before any handler runs, with the `token_of` that handlers pass on.
Source: weed/security/jwt.go.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from native_handlers.http.query import parse_query

if TYPE_CHECKING:
    from native_handlers.http.headers import Headers
    from native_handlers.http.message import Request

_BEARER_CHARS = len("bearer ")
_COOKIE_NAME = "AT"
_COOKIE_VALUE = re.compile(r"[\x20-\x7e]*")


def token_of(request: Request) -> str:
    """The token that comes with `request`, "" when there is none: `?jwt=`, else Authorization, else the cookie AT."""
    token = parse_query(request.raw_query).get("jwt") if "jwt=" in request.raw_query else ""
    return token or _bearer_token(request.headers) or _cookie_token(request.headers)


def bearer(token: str) -> list[tuple[str, str]]:
    """The header for `token`; none for ""."""
    return [("Authorization", f"Bearer {token}")] if token else []


def sign_file_id(key: bytes, file_id: str, *, expires_after_s: int, now_s: float) -> str:
    """A token for `file_id`, "" when there is no key. It never expires where `expires_after_s` is 0."""
    if not key:
        return ""
    # Only where there is a key: it brings the whole of a cryptography library.
    import jwt  # noqa: PLC0415

    claims: dict[str, str | int] = {"fid": file_id}
    if expires_after_s > 0:
        claims["exp"] = int(now_s) + expires_after_s
    return jwt.encode(claims, key, algorithm="HS256")


def _bearer_token(headers: Headers) -> str:
    value = headers.get("Authorization") or ""
    return value[_BEARER_CHARS:] if len(value) > _BEARER_CHARS and value[:6].lower() == "bearer" else ""


def _cookie_token(headers: Headers) -> str:
    """What cannot be a cookie is passed over, alone. Source: Go's net/http/cookie.go readCookies."""
    for line in headers.get_all("Cookie"):
        for pair in line.split(";"):
            name, _, value = pair.strip(" \t").partition("=")
            if name.strip(" \t") == _COOKIE_NAME:
                if len(value) > 1 and value[0] == value[-1] == '"':
                    value = value[1:-1]
                if _COOKIE_VALUE.fullmatch(value) and '"' not in value and "\\" not in value:
                    return value
    return ""
