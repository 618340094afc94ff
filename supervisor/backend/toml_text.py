"""A tree of values as TOML text: one assignment per line with its whole key, so that no table headers are needed."""

from __future__ import annotations

import json
from datetime import date, datetime, time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def toml_text(tree: Mapping[str, object]) -> str:
    """Text that `tomllib.loads` reads back to an equal tree; tables without any value vanish.

    Raises:
        TypeError: for a value that TOML does not have. None is one.
    """
    return "".join(f"{key} = {value}\n" for key, value in _assignments(tree, ""))


def _assignments(tree: Mapping[str, object], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        path = prefix + _quoted(key)
        if isinstance(value, dict):
            yield from _assignments(value, path + ".")
        else:
            yield path, _value(value)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_quoted(key)} = {_value(item)}' for key, item in value.items())}}}"
    raise TypeError(f"TOML has no {type(value).__name__}")


def _quoted(text: str) -> str:
    """A basic string; JSON's escapes are TOML's but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
