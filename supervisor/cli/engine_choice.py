"""Chooses the mode and the backend program: -mode, -backend, -routes, and what replaces them when they are not given.

If a mode needs a backend and none is found, the problem names the places that were searched. `native` never searches.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from native_handlers.records import dataclass
from supervisor.config.config import Mode, NativeBackend
from supervisor.config.errors import UsageError
from supervisor.config.home_paths import absolute, absolute_or_none

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from supervisor.config.values import FlagValues

BACKEND_VARIABLE = "WEED_BINARY"
BACKEND_PROGRAM = "weed"


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The choice. `backend` is None if the mode is native, if a mixed table needs none, or if problems were noted."""

    mode: Mode
    backend: Path | NativeBackend | None
    routes_file: Path | None


def choose_engine(
    values: FlagValues, environ: Mapping[str, str], cwd: Path, table_forwards: Callable[[Path | None], bool]
) -> EngineChoice:
    """Chooses the mode and the backend. Problems are noted in `values`.

    `table_forwards` tells whether the table forwards anything. It is called when no mode is given, and when mixed mode
    has no backend. It may raise UsageError about the table.
    """
    routes_file = absolute_or_none(values.text("routes"), cwd)
    if routes_file is not None and not routes_file.is_file():
        values.note("routes", f"{routes_file} is not a file; expected a routing table (see docs/routing.md)")
        return EngineChoice(Mode.NATIVE, None, routes_file)
    mode = _mode(values, routes_file, table_forwards)
    if mode is Mode.NATIVE:
        return EngineChoice(mode, None, routes_file)
    search = _Search(cwd)
    backend = _find_backend(values, environ, search)
    is_needed = mode is not Mode.MIXED or backend is not None or table_forwards(routes_file)
    if is_needed and backend is None and not values.is_given("backend"):
        values.problems.append(missing_backend(mode, search.looked))
    if mode is Mode.EXEC and backend is NativeBackend.NATIVE:
        values.note("backend", "-mode=exec becomes the Go program, and this is none; use -mode=native")
    return EngineChoice(mode, backend, routes_file)


def missing_backend(mode: Mode, searched: list[str]) -> str:
    """The message about a missing backend."""
    return (
        f"-mode={mode.value} needs a backend and none was found; looked at {'; '.join(searched)}."
        " Give -backend=/path/to/weed, or -backend=native to put this program behind itself, or -mode=native to run"
        " without a backend"
    )


def _mode(values: FlagValues, routes_file: Path | None, table_forwards: Callable[[Path | None], bool]) -> Mode:
    text = values.text("mode")
    if text:
        return Mode(text)
    if values.is_given("mode"):
        return Mode.NATIVE  # a problem is noted already, and this mode asks for nothing else
    return Mode.MIXED if table_forwards(routes_file) else Mode.NATIVE


class _Search:
    """Examines candidates, and remembers why each was refused."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self.looked: list[str] = []

    def accept(self, path: Path, origin: str) -> Path | None:
        why = _why_not_runnable(path)
        if why is None:
            return path
        self.looked.append(f"{origin} ({why})")
        return None


def _find_backend(values: FlagValues, environ: Mapping[str, str], search: _Search) -> Path | NativeBackend | None:
    text = values.text("backend")
    if text == NativeBackend.NATIVE.value:
        return NativeBackend.NATIVE
    if text:
        given = _by_name(text, environ, search.cwd)
        found = search.accept(given, f"-backend={text}")
        if found is None:
            values.note(
                "backend", f"{given} {_why_not_runnable(given)}; expected the path of a `weed` program, or native"
            )
        return found
    variable = environ.get(BACKEND_VARIABLE, "")
    if variable:
        return search.accept(absolute(variable, search.cwd), f"{BACKEND_VARIABLE}={variable}")
    search.looked.append(f"{BACKEND_VARIABLE} (not set)")
    return _find_in_path(environ, search)


def _find_in_path(environ: Mapping[str, str], search: _Search) -> Path | None:
    directories = [entry for entry in environ.get("PATH", "").split(os.pathsep) if entry]
    for directory in directories:
        candidate = search.cwd / directory / BACKEND_PROGRAM
        if candidate.exists():
            found = search.accept(candidate, str(candidate))
            if found is not None:
                return found
    search.looked.append(f"{BACKEND_PROGRAM!r} in PATH ({os.pathsep.join(directories) or 'empty'})")
    return None


def _by_name(text: str, environ: Mapping[str, str], cwd: Path) -> Path:
    """The path of a program. A bare name is searched in PATH, as in a shell."""
    if "/" not in text:
        for directory in environ.get("PATH", "").split(os.pathsep):
            candidate = cwd / directory / text
            if directory and candidate.is_file() and os.access(candidate, os.X_OK):
                return candidate
    return absolute(text, cwd)


def _why_not_runnable(path: Path) -> str | None:
    if not path.exists():
        return "does not exist"
    if not path.is_file():
        return "is not a file"
    if not os.access(path, os.X_OK):
        return "is not executable"
    if _is_this_program(path):
        return "is this program itself"
    return None


def _is_this_program(path: Path) -> bool:
    """Whether the file is this program's console script. Such a `weed` would start itself without end."""
    with path.open("rb") as file:
        head = file.read(4096)
    return head.startswith(b"#!") and b"supervisor.cli.main" in head


def table_forwards_anything(path: Path | None) -> bool:
    """Whether the routing table at `path`, or the shipped one, needs a backend.

    Raises:
        UsageError: the table is refused.
    """
    # Only the default mode needs the table here. Reading YAML would slow down the start in every other mode.
    from supervisor.routing.errors import TableError  # noqa: PLC0415
    from supervisor.routing.native import native_names  # noqa: PLC0415
    from supervisor.routing.table import load_table  # noqa: PLC0415

    try:
        return load_table(path, native_names=native_names()).forwards_anything
    except TableError as error:
        raise UsageError(*(str(problem) for problem in error.problems)) from error
