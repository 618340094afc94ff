"""Content-Type and Content-Disposition values, parsed and formatted as upstream's library does.

All text is wire text. Sources: RFC 2045, RFC 2231, RFC 6266; Go's mime.ParseMediaType and FormatMediaType. Their
leniency (one backslash rule for file paths) and their error texts are kept.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from native_handlers.http_model.errors import BadMediaType
from native_handlers.http_model.percent import escape, escapes_but, unescape

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PARAMETERS = 256
"""Parameters of one value. Clients send a handful, and each one is work on the event loop. Upstream has no bound."""
_SPACE = " \t\n\v\f\r"
_SPACES = re.compile(r"[ \t\n\v\f\r]*+")
_TSPECIALS = frozenset('()<>@,;:\\"/[]?=')
_TOKEN = re.compile(r"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]+")
_TOKEN_OR_PAIR = re.compile(rf"(?:{_TOKEN.pattern})(?:/{_TOKEN.pattern})?")
_TSPECIAL = r'[()<>@,;:\\"/\[\]?=]'
# Only special characters can be escaped: Windows clients send whole paths without doubling backslashes.
_QUOTED = re.compile(rf'"((?:[^"\\\r\n]++|\\{_TSPECIAL}|\\)*+)"')
_PAIRS = [f"\\{special}" for special in sorted(_TSPECIALS - {"\\"})]
_BACKSLASH = "\ud800"
"""Stands for an escaped backslash meanwhile. No wire text has this character."""
_PLAIN = re.compile(r"[\t\x20-\x7e]*+")
"""A value that is sent without escapes."""
_WRITTEN = escapes_but({chr(code) for code in range(0x21, 0x7F)} - set("*'%") - _TSPECIALS)
_BAD_ESCAPE = re.compile("%(?![0-9a-fA-F]{2})")
_BAD_PARAMETER = "mime: invalid media parameter"


def parse_media_type(value: str) -> tuple[str, dict[str, str]]:
    """Parses a value into the type (lower case) and its parameters (names in lower case). RFC 2231 forms are decoded
    and joined.

    Raises:
        BadMediaType: with upstream's text.
    """
    base = value.partition(";")[0]
    media_type = base.strip(_SPACE).lower()
    _check_type(media_type)
    parameters: dict[str, str] = {}
    pieces: dict[str, dict[str, str]] = {}
    at, count = _after_spaces(value, len(base)), 0
    while at < len(value):
        found = _take_parameter(value, at)
        count += 1
        if count > MAX_PARAMETERS:
            raise BadMediaType(f"mime: more than {MAX_PARAMETERS} media parameters")
        if found is None:
            if value[at] == ";" and _after_spaces(value, at + 1) == len(value):
                break
            raise BadMediaType(_BAD_PARAMETER)
        name, text, at = found
        at = _after_spaces(value, at)
        target = pieces.setdefault(name.partition("*")[0], {}) if "*" in name else parameters
        if target.setdefault(name, text) != text:
            raise BadMediaType("mime: duplicate parameter name")
    for name, parts in pieces.items():
        joined = _join_pieces(name, parts)
        if joined is not None:
            parameters[name] = joined
    return media_type, parameters


def format_media_type(media_type: str, parameters: Mapping[str, str]) -> str:
    """Formats a value with its parameters sorted by name; "" where a name is no token. Values with other bytes than
    ASCII are encoded by RFC 2231.
    """
    if not _TOKEN_OR_PAIR.fullmatch(media_type) or not all(map(is_token, parameters)):
        return ""
    shown = [media_type.lower()]
    for name in sorted(parameters):
        value = parameters[name]
        if not _PLAIN.fullmatch(value):
            shown.append(f"{name.lower()}*=utf-8''{escape(value, _WRITTEN)}")
        elif is_token(value):
            shown.append(f"{name.lower()}={value}")
        else:
            quoted = value.replace("\\", "\\\\").replace('"', '\\"')
            shown.append(f'{name.lower()}="{quoted}"')
    return "; ".join(shown)


def is_token(text: str) -> bool:
    return _TOKEN.fullmatch(text) is not None


def _check_type(media_type: str) -> None:
    main = _TOKEN.match(media_type)
    if main is None:
        raise BadMediaType("mime: no media type")
    rest = media_type[main.end() :]
    if not rest:
        return
    if not rest.startswith("/"):
        raise BadMediaType("mime: expected slash after first token")
    sub = _TOKEN.match(rest, 1)
    if sub is None:
        raise BadMediaType("mime: expected token after slash")
    if sub.end() < len(rest):
        raise BadMediaType("mime: unexpected content after media subtype")


def _take_parameter(text: str, at: int) -> tuple[str, str, int] | None:
    """The parameter `; name=value` at position `at`: name in lower case, value, end position. None where there is no
    parameter.

    The function works by positions: a copy of the rest for each parameter would take time in the square of their
    number.
    """
    if text[at] != ";":
        return None
    name = _TOKEN.match(text, _after_spaces(text, at + 1))
    if name is None:
        return None
    at = _after_spaces(text, name.end())
    if not text.startswith("=", at):
        return None
    taken = _take_value(text, _after_spaces(text, at + 1))
    return None if taken is None else (name.group().lower(), *taken)


def _take_value(text: str, at: int) -> tuple[str, int] | None:
    if not text.startswith('"', at):
        token = _TOKEN.match(text, at)
        return None if token is None else (token.group(), token.end())
    quoted = _QUOTED.match(text, at)
    return None if quoted is None else (_unquoted(quoted.group(1)), quoted.end())


def _unquoted(text: str) -> str:
    """`text` without the backslash of each pair. In C: a regular expression takes ten times as long for many pairs."""
    if "\\" not in text:
        return text
    text = text.replace("\\\\", _BACKSLASH)
    for pair in _PAIRS:
        text = text.replace(pair, pair[1])
    return text.replace(_BACKSLASH, "\\")


def _after_spaces(text: str, at: int) -> int:
    spaces = _SPACES.match(text, at)
    assert spaces is not None, "the pattern matches nothing too"
    return spaces.end()


def _join_pieces(name: str, parts: Mapping[str, str]) -> str | None:
    if f"{name}*" in parts:
        return _decode_2231(parts[f"{name}*"])
    joined: list[str] = []
    while True:
        plain, encoded = f"{name}*{len(joined)}", f"{name}*{len(joined)}*"
        if plain in parts:
            joined.append(parts[plain])
        elif encoded in parts:
            text = parts[encoded]
            joined.append((_decode_2231(text) if not joined else _percent_decode(text)) or "")
        else:
            return "".join(joined) if joined else None


def _decode_2231(text: str) -> str | None:
    charset, _, rest = text.partition("'")
    _, mark, value = rest.partition("'")
    if not mark or charset.lower() not in {"us-ascii", "utf-8"}:
        return None
    return _percent_decode(value)


def _percent_decode(text: str) -> str | None:
    if _BAD_ESCAPE.search(text):
        return None
    return unescape(text.encode("latin-1")).decode("latin-1")
