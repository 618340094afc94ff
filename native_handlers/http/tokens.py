"""Tokens for file ids: taken from a request to be passed on, or made for a request of our own.

Whether a client's token is good was checked before any handler runs. Source: weed/security/jwt.go.
"""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

from native_handlers.http.query import parse_query

if TYPE_CHECKING:
    from native_handlers.http.message import Request

_BEARER = "BEARER"
_COOKIE = "AT"


def token_of(request: Request) -> str:
    """The token of the query, else of the Authorization header, else of the cookie; "" when there is none."""
    token = parse_query(request.raw_query).get("jwt")
    if token:
        return token
    authorization = request.headers.get("Authorization") or ""
    if len(authorization) > len(_BEARER) + 1 and authorization[: len(_BEARER)].upper() == _BEARER:
        return authorization[len(_BEARER) + 1 :]
    return _cookie_token(request)


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


def _cookie_token(request: Request) -> str:
    cookies = SimpleCookie()
    try:
        for header in request.headers.get_all("Cookie"):
            cookies.load(header)
    except CookieError:
        return ""
    return cookies[_COOKIE].value if _COOKIE in cookies else ""
