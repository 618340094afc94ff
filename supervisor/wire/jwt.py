"""Tokens that allow one file to be read or written. Where a request carries one: native_handlers/http/tokens.py.

Checked with hmac alone: the three HMAC algorithms are all that upstream takes, keys of any length and shape must work,
and the time comes from the caller. Source: weed/security/jwt.go, golang-jwt v5 (validator, base64url without padding).
"""

from __future__ import annotations

import binascii
import hmac
import json
import re
from base64 import urlsafe_b64decode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIGESTS: Mapping[str, str] = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
_STRING_CLAIMS = ("fid", "iss", "sub", "jti")
_TIME_CLAIMS = ("exp", "nbf", "iat")


class BadToken(Exception):
    """The token allows nothing, for the reason in its text. Never shown to a client."""


def check_token(token: str, key: bytes, file_id: str, now_s: float) -> None:
    """Returns if `token` is signed with `key`, is in force at `now_s`, and is for `file_id`.

    Args:
        file_id: "3,01637037d6" as the path has it; a `_N` behind it counts for the same file.
        now_s: seconds since 1970.

    Raises:
        BadToken: it does not.
    """
    claims = _verified_claims(token, key)
    _check_times(claims, now_s)
    expected = _without_delta(file_id)
    if claims.get("fid", "") != expected:
        raise BadToken(f"the token is for {claims.get('fid', '')!r}, the request for {expected!r}")


def _verified_claims(token: str, key: bytes) -> Mapping[str, object]:
    parts = token.split(".")
    if len(parts) != 3 or not all(_BASE64URL.fullmatch(part) for part in parts):
        raise BadToken("a token has three parts in base64url")
    header = _json_object(parts[0])
    digest = _DIGESTS.get(str(header.get("alg")))
    if digest is None:
        raise BadToken(f"algorithm {header.get('alg')!r} is not one of HS256, HS384, HS512")
    signed = f"{parts[0]}.{parts[1]}".encode("ascii")
    if not hmac.compare_digest(hmac.digest(key, signed, digest), _decoded(parts[2])):
        raise BadToken("the signature is of another key")
    claims = _json_object(parts[1])
    for name in _STRING_CLAIMS:
        if not isinstance(claims.get(name) or "", str):
            raise BadToken(f"claim {name} is no text")
    return claims


def _check_times(claims: Mapping[str, object], now_s: float) -> None:
    times = {name: claims[name] for name in _TIME_CLAIMS if claims.get(name) is not None}
    for name, value in times.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadToken(f"claim {name} is no number")
        # Go keeps whole seconds of a time.
        if name == "exp" and now_s >= value // 1:
            raise BadToken("the token has expired")
        if name == "nbf" and now_s < value // 1:
            raise BadToken("the token is not valid yet")


def _without_delta(file_id: str) -> str:
    volume_id, comma, rest = file_id.partition(",")
    at = rest.rfind("_")
    return f"{volume_id}{comma}{rest[:at]}" if at > 0 else file_id


def _json_object(part: str) -> Mapping[str, object]:
    try:
        value = json.loads(_decoded(part))
    except (ValueError, RecursionError) as error:
        raise BadToken("a part of the token is no JSON") from error
    if not isinstance(value, dict):
        raise BadToken("a part of the token is no JSON object")
    return value


def _decoded(part: str) -> bytes:
    try:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error as error:
        raise BadToken("a part of the token is not base64url") from error
