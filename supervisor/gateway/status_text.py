"""Parses a child's /status piece by piece. Parsing the list of many volumes in one call would hold the interpreter."""

from __future__ import annotations

import json
import re
from dataclasses import field
from typing import TYPE_CHECKING, cast

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from native_handlers.http.context import VolumeStatus

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_VOLUMES = "Volumes"


@dataclass(slots=True)
class ChildStatus:
    """A parsed /status: each volume with its JSON text, and the rest of the object."""

    volumes: list[tuple[VolumeStatus, str]] = field(default_factory=list)
    rest: dict[str, object] = field(default_factory=dict)


def read_status(data: bytes | bytearray) -> ChildStatus:
    """The status in `data`. Call this in a thread for a long one: other threads get a turn between the volumes.

    Raises:
        ValueError: `data` is no JSON object, or its volumes are no objects.
    """
    text = data.decode()
    status = ChildStatus()
    at, is_over = _begin(text, 0, "{", "}")
    while not is_over:
        key, at = _DECODER.raw_decode(text, at)
        at = _after(text, at, ":")
        if key == _VOLUMES and text.startswith("[", at):
            at = _read_volumes(text, at, status)
        else:
            status.rest[key], at = _DECODER.raw_decode(text, at)
        at, is_over = _next(text, at, "}")
    if at != len(text):
        raise ValueError(f"there is more behind it, at {at}")
    return status


def _read_volumes(text: str, at: int, status: ChildStatus) -> int:
    """Adds the volumes of the list at `at` to `status`. Returns where the list ends."""
    at, is_over = _begin(text, at, "[", "]")
    while not is_over:
        start = at
        volume, at = _DECODER.raw_decode(text, at)
        if not isinstance(volume, dict):
            raise ValueError(f"a volume is not an object: {text[start:at][:100]}")
        status.volumes.append((cast("VolumeStatus", volume), text[start:at]))
        at, is_over = _next(text, at, "]")
    return at


def _begin(text: str, at: int, start: str, end: str) -> tuple[int, bool]:
    """The place of the first item, and False. Without an item: the place behind `end`, and True."""
    at = _after(text, at, start)
    return (_after(text, at, end), True) if text.startswith(end, at) else (at, False)


def _next(text: str, at: int, end: str) -> tuple[int, bool]:
    """Where the next item is. Or, where there is none, the place behind `end`, and True."""
    at = _skip(text, at)
    return (_after(text, at, end), True) if text.startswith(end, at) else (_after(text, at, ","), False)


def _after(text: str, at: int, wanted: str) -> int:
    """The place behind `wanted` and the white space around it."""
    at = _skip(text, at)
    if not text.startswith(wanted, at):
        raise ValueError(f"{wanted} expected at {at}, and there is {text[at : at + 20]!r}")
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
