"""Tokens that allow one file to be read or written. native_handlers/http/tokens.py finds the token in a request.

Tokens are checked with hmac alone: upstream accepts only the three HMAC algorithms, keys of any length and content must
work, and the caller gives the time. Source: weed/security/jwt.go; golang-jwt v5 parser.go, types.go, validator.go.
"""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import urlsafe_b64decode
from contextlib import contextmanager
from functools import lru_cache
from math import floor, inf, isinf
from typing import TYPE_CHECKING

from native_handlers.content.json_pieces import BadJson, JsonReader, field_of
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DIGESTS: Mapping[str, str] = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
_DIGEST_OF_BYTES: Mapping[int, str] = {32: "sha256", 48: "sha384", 64: "sha512"}
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
_NO_LINE_ENDS = {ord("\r"): None, ord("\n"): None}
_CLAIMS = frozenset({"fid", "iss", "sub", "jti", "aud", "exp", "nbf", "iat"})
_USUAL_CLAIMS = re.compile(r'\{"fid":"([^"\\\x00-\x1f]*)"(?:,"exp":([1-9][0-9]{0,14}))?\}')
"""The form of claims that upstream's masters sign. It is read in one step."""
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_MIN_TIME_S = -(1 << 63)
_MAX_TIME_S = (1 << 63) - 62_135_596_800
"""The greatest number of seconds since 1970 that Go's time can hold, because Go counts seconds from the year 1."""


class BadToken(Exception):
    """The token allows nothing. The text has the reason, and no client gets to see the text."""


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """The claims that count, of a token whose signature was verified. Times are whole seconds since 1970, rounded down;
    None where there is none. `file_id` is "" where the token names none.
    """

    file_id: str = ""
    expires_at_s: float | None = None
    not_before_s: float | None = None

    def check_time(self, now_s: float) -> None:
        """Raises BadToken unless the token is valid at `now_s`."""
        if self.expires_at_s is not None and now_s >= self.expires_at_s:
            raise BadToken("the token has expired")
        if self.not_before_s is not None and now_s < self.not_before_s:
            raise BadToken("the token is not valid yet")

    def check_use(self, file_id: str, now_s: float) -> None:
        """Raises BadToken unless the token is valid at `now_s`, and is for `file_id`.

        Args:
            file_id: "3,01637037d6" as in the path, without a delta.
            now_s: seconds since 1970.
        """
        self.check_time(now_s)
        if self.file_id != file_id:
            raise BadToken(f"the token is for {self.file_id!r}, the request for {file_id!r}")


def verified_token(token: str, key: bytes) -> VerifiedToken:
    """The claims of a token. The caller checks the time.

    Raises:
        BadToken: the token is malformed, or is not signed with `key`.
    """
    parts = token.split(".")
    if len(parts) != 3:
        raise BadToken("a token has three parts")
    signature = _decoded(parts[2])
    # The length of the signature says which digest it may be of. So the JSON of a header, which takes a tenth of a
    # second where a client chooses it, is read only when the signature is sound.
    digest = _DIGEST_OF_BYTES.get(len(signature))
    signed = f"{parts[0]}.{parts[1]}".encode("latin-1", "replace")
    if digest is None or not hmac.compare_digest(hmac.digest(key, signed, digest), signature):
        raise BadToken("the signature is of another key")
    if _digest_of(parts[0]) != digest:
        raise BadToken("the signature is of another algorithm")
    return _read_claims(_text_of(parts[1]))


@lru_cache(maxsize=64)
def _digest_of(header: str) -> str:
    """The digest that the first part of a token names.

    The result is kept: a cluster's tokens share their first part.
    """
    found = ""
    reader = JsonReader(_text_of(header))
    with _no_json_is_bad():
        _open_object(reader)
        while (name := reader.next_key()) is not None:
            if name != "alg":
                reader.skip(_check_number)
            elif reader.peek() == '"':
                found = reader.string()
            else:
                reader.skip(_check_number)
                found = ""
        reader.end()
    if found not in _DIGESTS:
        raise BadToken(f"algorithm {found!r} is not one of HS256, HS384, HS512")
    return _DIGESTS[found]


def _read_claims(text: str) -> VerifiedToken:
    """Reads claims as Go fills a struct: the case of names is ignored, the last of equal names counts."""
    usual = _USUAL_CLAIMS.fullmatch(text)
    if usual is not None:
        return VerifiedToken(usual[1], float(usual[2]) if usual[2] else None)
    file_id, expires_at_s, not_before_s, reader = "", None, None, JsonReader(text)
    with _no_json_is_bad():
        _open_object(reader)
        while (key := reader.next_key()) is not None:
            match field_of(key, _CLAIMS):
                case "fid":
                    file_id = _string(reader, "fid", file_id)
                case "exp":
                    expires_at_s = _time(reader, "exp")
                case "nbf":
                    not_before_s = _time(reader, "nbf")
                case "iat":
                    _time(reader, "iat")
                case "aud":
                    _check_audience(reader)
                case "":
                    reader.skip()
                case name:
                    _string(reader, name, "")
        reader.end()
    return VerifiedToken(file_id, expires_at_s, not_before_s)


@contextmanager
def _no_json_is_bad() -> Iterator[None]:
    try:
        yield
    except BadJson as error:
        raise BadToken("a part of the token is no JSON") from error


def _open_object(reader: JsonReader) -> None:
    if reader.peek() != "{":
        raise BadToken("a part of the token is no JSON object")
    reader.open()


def _string(reader: JsonReader, name: str, before: str) -> str:
    if reader.take_null():
        return before
    if reader.peek() != '"':
        raise BadToken(f"claim {name} is no text")
    return reader.string()


def _time(reader: JsonReader, name: str) -> float | None:
    """A number, or a text that is a number. null takes back an earlier value."""
    if reader.take_null():
        return None
    char = reader.peek()
    if not char or char not in '"-0123456789':
        raise BadToken(f"claim {name} is no number")
    text = reader.string() if char == '"' else reader.number()
    if not _NUMBER.fullmatch(text) or isinf(value := float(text)):
        raise BadToken(f"claim {name} is no number")
    # Upstream's times overflow to a time before all others where the seconds do not fit.
    return floor(value) if _MIN_TIME_S <= value < _MAX_TIME_S else -inf


def _check_audience(reader: JsonReader) -> None:
    """Checks that the audience is a text or a list of texts. Its value is not used."""
    if reader.take_null():
        return
    if reader.peek() != "[":
        _string(reader, "aud", "")
        return
    reader.open()
    while reader.next_item():
        if reader.peek() != '"':
            raise BadToken("claim aud is no list of texts")
        reader.string()


def _check_number(text: str) -> None:
    """Go reads the numbers of a header, and refuses a number that is too large for a float64."""
    if isinf(float(text)):
        raise BadToken("a number of the header is too large")


def _text_of(part: str) -> str:
    return _decoded(part).decode("utf-8", "replace")


def _decoded(part: str) -> bytes:
    """The bytes of base64url text. As Go, ignores line ends and refuses padding."""
    part = part.translate(_NO_LINE_ENDS)
    if not _BASE64URL.fullmatch(part):
        raise BadToken("a part of the token is not base64url")
    try:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error as error:
        raise BadToken("a part of the token is not base64url") from error
