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
_COOKIE_NAME = "AT"
_COOKIE_VALUE = re.compile(r"[\x20-\x7e]*")


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
        for pair in line.split(";"):
            name, _, value = pair.strip(" \t").partition("=")
            if name.strip(" \t") == _COOKIE_NAME:
                if len(value) > 1 and value[0] == value[-1] == '"':
                    value = value[1:-1]
                if _COOKIE_VALUE.fullmatch(value) and '"' not in value and "\\" not in value:
                    return value
    return ""
