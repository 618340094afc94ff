"""`~` and `~user` at the start of a path. Source: weed/util/file_util.go (ResolvePath)."""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def expand_home(text: str) -> str:
    """The path with its home directory filled in. Unchanged where there is no `~` or no such user.

    `~` is this user's home directory in the password database; the variable HOME only where the database has none.
    """
    if not text.startswith("~"):
        return text
    name, slash, rest = text[1:].partition("/")
    home = _home_of(name)
    if home is None:
        return text
    return str(Path(home) / rest) if slash else home


def absolute(text: str, cwd: Path) -> Path:
    """`text` with `~` expanded; relative to `cwd` where it is relative."""
    return cwd / expand_home(text)


def absolute_or_none(text: str, cwd: Path) -> Path | None:
    """As `absolute`; None for an empty text."""
    return absolute(text, cwd) if text else None


def _home_of(name: str) -> str | None:
    try:
        return pwd.getpwnam(name).pw_dir if name else pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None if name else os.environ.get("HOME")
