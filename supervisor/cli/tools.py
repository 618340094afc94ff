"""`weed-volume-py check|fix|compact|export|ec-verify DIR...`: the tools for volumes that no server has open.

Source: weed/command/fix.go, compact.go, export.go. Upstream has no counterpart of `check` and `ec-verify`.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from native_handlers.format.errors import FormatError
from native_handlers.storage.check import check_directory
from native_handlers.storage.disk.directory_lock import lock_directory
from native_handlers.storage.fix import Fixed, fix_index
from native_handlers.storage.model.errors import StorageError
from native_handlers.storage.system.files import OS_FILES
from supervisor.cli.compact_tool import compact_directory
from supervisor.cli.ec_verify_tool import run_ec_verify
from supervisor.cli.export_tool import run_export
from supervisor.cli.tool_arguments import (
    EXIT_HEALTHY,
    EXIT_PROBLEMS,
    complain,
    lost_index,
    progress,
    read_arguments,
    size_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from native_handlers.storage.volume.paths import VolumePaths
    from supervisor.cli.tool_arguments import ToolArguments

    Outcome = tuple[bool, dict[str, Any], str]
    """Whether a directory has no problem, and the report as data and as text."""


def run_tool(command: str, argv: Sequence[str], cwd: Path) -> int:
    """Runs one tool. Returns 0 when there is no problem, 1 when a problem was found or a step failed.

    Raises:
        UsageError: the arguments cannot be used. Nothing was done.
    """
    arguments = read_arguments(command, argv, cwd)
    if command == "export":
        return run_export(arguments)
    if command == "ec-verify":
        return run_ec_verify(arguments)
    return _run_in_each(arguments, {"check": _check, "fix": _fix, "compact": _compact}[command])


def _run_in_each(arguments: ToolArguments, work: Callable[[ToolArguments, Path], Outcome]) -> int:
    status, found = EXIT_HEALTHY, []
    for path in arguments.directories:
        try:
            is_well, data, text = work(arguments, path)
        except OSError as error:
            is_well, data, text = False, {"problem": f"{error.strerror}"}, ""
            complain(f"{path}: {error.strerror}")
        except (StorageError, FormatError) as error:
            is_well, data, text = False, {"problem": str(error)}, ""
            complain(str(error))
        found.append({"directory": str(path), **data})
        status = status if is_well else EXIT_PROBLEMS
        if text and not arguments.as_json:
            print(text)
    if arguments.as_json:
        print(json.dumps({"is_well": status == EXIT_HEALTHY, "directories": found}, indent=2))
    return status


def _check(arguments: ToolArguments, path: Path) -> Outcome:
    total_bytes = sum(_size_to_read(paths) for paths in arguments.volumes(path))
    with progress(f"check {path}", total_bytes) as passed:
        report = check_directory(
            path,
            index_path=arguments.index_path,
            offset_width_bytes=arguments.offset_width_bytes,
            is_wanted=arguments.is_wanted,
            passed=passed,
        )
    return report.is_healthy, report.as_data(), str(report)


def _size_to_read(paths: VolumePaths) -> int:
    """For the progress alone: a .dat that cannot be looked at is a problem of its volume."""
    try:
        return size_of(paths.file(".dat"))
    except OSError:
        return 0


def _fix(arguments: ToolArguments, path: Path) -> Outcome:
    volumes, width = arguments.volumes(path), arguments.width(path)
    with _locked(path, arguments.command):
        fixed = [_fix_one(arguments, paths, width) for paths in volumes]
    is_well = not any(one.problems for one in fixed)
    text = "\n".join(map(str, fixed)) or "no volumes"
    return is_well, {"volumes": [one.as_data() for one in fixed]}, text


def _fix_one(arguments: ToolArguments, paths: VolumePaths, width: int) -> Fixed:
    """The result for one volume, also where its files cannot be read or written: the other volumes go on."""
    try:
        lost = "" if arguments.index_is_lost else lost_index(paths)
        if lost:
            return Fixed(str(paths.base), problems=[f"nothing is done: {lost}; -indexIsLost makes a new one"])
        with progress(f"fix {paths.name}", size_of(paths.file(".dat"))) as passed:
            return fix_index(OS_FILES, paths, width, passed)
    except OSError as error:
        why = f"{error.filename or paths.base}: {error.strerror}"
        problem = f"{why}; no index was made, and the old one may have another name by now"
        return Fixed(str(paths.base), problems=[problem])


def _compact(arguments: ToolArguments, path: Path) -> Outcome:
    compacted = compact_directory(arguments, path)
    is_well = not any(one.problem for one in compacted)
    text = "\n".join(map(str, compacted)) or "no volumes"
    return is_well, {"volumes": [one.as_data() for one in compacted]}, text


@contextmanager
def _locked(path: Path, command: str) -> Iterator[None]:
    """Holds the lock of the directory inside the block. Raises DirectoryLocked, OSError."""
    lock = lock_directory(OS_FILES, path, f"pid {os.getpid()}, weed-volume-py {command}")
    try:
        yield
    finally:
        lock.release()
