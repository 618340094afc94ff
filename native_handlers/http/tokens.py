"""Tokens for file ids, taken from a request for checking and for sending on. This server issues no tokens.

The guard checks a client's token before any handler runs, with the same `token_of` whose result handlers send on.
Source: weed/security/jwt.go.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from native_handlers.http_model.message import Request

_BEARER_CHARS = len("bearer ")
_VALUE = r"[\x20\x21\x23-\x3a\x3c-\x5b\x5d-\x7e]*+"
"""The characters of a cookie's value: no quote, semicolon or backslash."""
_COOKIE = re.compile(rf';[ \t]*+AT[ \t]*+(?:=(?:"(?P<quoted>{_VALUE})"|(?P<bare>{_VALUE})))?[ \t]*+(?=;|\Z)')
"""A well-formed cookie AT, in a list with a semicolon before each cookie. One search passes over thousands of other
cookies, and over malformed ones."""


def token_of(request: Request) -> str:
    """The token of `request`, "" when there is none: `?jwt=`, else Authorization, else the cookie AT."""
    query, headers = request.parsed.raw_query, request.headers
    token = request.parsed.query.get("jwt") if "jwt=" in query or "%" in query else ""
    return token or choose_token("", headers.get("Authorization") or "", headers.get_all("Cookie"))


def choose_token(in_query: str, authorization: str, cookies: Sequence[str]) -> str:
    """As `token_of`, of a request with these values of `?jwt=`, of Authorization and of its fields Cookie."""
    return in_query or _bearer_token(authorization) or _cookie_token(cookies)


def bearer(token: str) -> list[tuple[str, str]]:
    """The header field for `token`; none for ""."""
    return [("Authorization", f"Bearer {token}")] if token else []


def _bearer_token(value: str) -> str:
    return value[_BEARER_CHARS:] if len(value) > _BEARER_CHARS and value[:6].lower() == "bearer" else ""


def _cookie_token(lines: Sequence[str]) -> str:
    """The value of the cookie AT. A malformed cookie alone is skipped. Source: Go's net/http/cookie.go readCookies."""
    for line in lines:
        found = _COOKIE.search(f";{line}")
        if found is not None:
            return found["quoted"] or (found["bare"] or "").rstrip(" ")
    return ""
