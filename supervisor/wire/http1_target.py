"""Request targets, brought to the one form that everything behind them reads. Source: RFC 9112 section 3.2."""

from __future__ import annotations

import re

from supervisor.wire.errors import RemoteProtocolError

_ABSOLUTE = re.compile(r"https?://([A-Za-z0-9.\-_~:\[\]]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
_NOT_ASCII = re.compile(r"[^\x21-\x7e]")


def normalised_target(method: str, target: str) -> tuple[str, str | None]:
    """The target in origin form, and the authority that replaces the Host header when the target had one.

    Bytes outside ASCII come back percent-encoded, which upstream's server takes for the same path. `*` stays for
    OPTIONS, as does the authority of a CONNECT.

    Raises:
        RemoteProtocolError: 400, it is none of the forms that the method allows.
    """
    if target.startswith("/"):
        return (target if target.isascii() else _escaped(target)), None
    if (method == "OPTIONS" and target == "*") or (method == "CONNECT" and target.isascii()):
        return target, None
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise RemoteProtocolError(400, f"{target[:60]!r} is not a request target, which starts with a slash")
    rest = match[2] or "/"
    return _escaped(rest if rest.startswith("/") else f"/{rest}"), match[1]


def _escaped(text: str) -> str:
    return _NOT_ASCII.sub(lambda match: f"%{ord(match[0]):02X}", text)
