"""`weed-volume-py check|fix|compact|export|ec-verify DIR...`: the tools for volumes that no server has open.

Source: weed/command/fix.go, compact.go, export.go. Upstream has no counterpart of `check` and `ec-verify`.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

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
from supervisor.config.errors import OutputFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from native_handlers.storage.volume.paths import VolumePaths
    from supervisor.cli.tool_arguments import ToolArguments


class ToolOutcome(NamedTuple):
    """The result for one directory.

    Args:
        is_well: whether there is no problem.
        data, text: the report.
        is_found: whether the directory has a volume that the command line names.
    """

    is_well: bool
    data: dict[str, Any]
    text: str
    is_found: bool


def run_tool(command: str, argv: Sequence[str], cwd: Path) -> int:
    """Runs one tool. Returns 0 when there is no problem, 1 when a problem was found or a step failed.

    Raises:
        UsageError: the arguments cannot be used. Nothing was done.
        BrokenPipeError, OutputFailed: the reader of the output has gone, or the output cannot be written. What the tool
            changes may be changed.
    """
    arguments = read_arguments(command, argv, cwd)
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # The errors of the volumes' files are results: they do not get here.
        raise OutputFailed(f"the output cannot be written: {error.strerror}") from error
    return status


def _run(arguments: ToolArguments) -> int:
    if arguments.command == "export":
        return run_export(arguments)
    if arguments.command == "ec-verify":
        return run_ec_verify(arguments)
    return _run_in_each(arguments, {"check": _check, "fix": _fix, "compact": _compact}[arguments.command])


def _run_in_each(arguments: ToolArguments, work: Callable[[ToolArguments, Path], ToolOutcome]) -> int:
    outcomes = [_run_in(arguments, path, work) for path in arguments.directories]
    is_well = all(one.is_well for one in outcomes)
    whole: dict[str, Any] = {"directories": [one.data for one in outcomes]}
    if arguments.named and not any(one.is_found for one in outcomes):
        is_well, whole["problem"] = False, arguments.not_found()
        complain(arguments.not_found())
    if arguments.as_json:
        print(json.dumps({"is_well": is_well, **whole}, indent=2))
    return EXIT_HEALTHY if is_well else EXIT_PROBLEMS


def _run_in(arguments: ToolArguments, path: Path, work: Callable[[ToolArguments, Path], ToolOutcome]) -> ToolOutcome:
    try:
        outcome = _with_left_out(arguments, path, work(arguments, path))
    except OSError as error:
        why = f"{error.filename or path}: {error.strerror}"
        complain(why)
        outcome = ToolOutcome(is_well=False, data={"problem": why}, text="", is_found=False)
    except (StorageError, FormatError) as error:
        complain(str(error))
        outcome = ToolOutcome(is_well=False, data={"problem": str(error)}, text="", is_found=False)
    if outcome.text and not arguments.as_json:
        print(outcome.text)
    return outcome._replace(data={"directory": str(path), **outcome.data})


def _with_left_out(arguments: ToolArguments, path: Path, done: ToolOutcome) -> ToolOutcome:
    """Adds the volumes of which the tool did nothing, for they have no .dat here. They are a problem where the command
    line names them, and where the tool would have work with them: shards have neither an .idx nor room to give back.
    """
    left = arguments.data_elsewhere(path)
    if arguments.command == "check":
        left = [one for one in left if one.is_coded]
    if not left:
        return done if done.is_found else done._replace(text=done.text or "no volumes")
    is_well = done.is_well and not arguments.named and all(one.is_coded for one in left)
    hint = "; ec-verify examines its shards" if arguments.command == "check" else ""
    lines = [f"{one.paths.base}: nothing is done: {one.why}{hint if one.is_coded else ''}" for one in left]
    data = {**done.data, "left_out": [{"base": str(one.paths.base), "why": one.why} for one in left]}
    return ToolOutcome(is_well, data, "\n".join(filter(None, (done.text, *lines))), is_found=True)


def _check(arguments: ToolArguments, path: Path) -> ToolOutcome:
    total_bytes = sum(_size_to_read(paths) for paths in arguments.volumes(path))
    with progress(f"check {path}", total_bytes) as passed:
        report = check_directory(
            path,
            index_path=arguments.index_path,
            offset_width_bytes=arguments.offset_width_bytes,
            is_wanted=arguments.is_wanted,
            passed=passed,
        )
    return ToolOutcome(report.is_healthy, report.as_data(), str(report), is_found=bool(report.volumes))


def _size_to_read(paths: VolumePaths) -> int:
    """For the progress alone: a .dat that cannot be looked at is a problem of its volume."""
    try:
        return size_of(paths.file(".dat"))
    except OSError:
        return 0


def _fix(arguments: ToolArguments, path: Path) -> ToolOutcome:
    volumes, width = arguments.volumes(path), arguments.width(path)
    with _locked(path, arguments.command):
        fixed = [_fix_one(arguments, paths, width) for paths in volumes]
    is_well = not any(one.problems for one in fixed)
    text = "\n".join(map(str, fixed))
    return ToolOutcome(is_well, {"volumes": [one.as_data() for one in fixed]}, text, is_found=bool(fixed))


def _fix_one(arguments: ToolArguments, paths: VolumePaths, width: int) -> Fixed:
    """The result for one volume, also where its files cannot be read or written: the other volumes go on."""
    try:
        lost = "" if arguments.index_is_lost else lost_index(paths)
        if lost:
            return Fixed(str(paths.base), problems=[f"nothing is done: {lost}; -indexIsLost makes a new one"])
        with progress(f"fix {paths.name}", size_of(paths.file(".dat"))) as passed:
            is_width_known = arguments.offset_width_bytes is not None
            return fix_index(OS_FILES, paths, width, passed, is_width_known=is_width_known)
    except OSError as error:
        why = f"{error.filename or paths.base}: {error.strerror}"
        problem = f"{why}; the old index or a whole new one is in its place"
        return Fixed(str(paths.base), problems=[problem])


def _compact(arguments: ToolArguments, path: Path) -> ToolOutcome:
    compacted = compact_directory(arguments, path)
    is_well = not any(one.problem for one in compacted)
    text = "\n".join(map(str, compacted))
    return ToolOutcome(is_well, {"volumes": [one.as_data() for one in compacted]}, text, is_found=bool(compacted))


@contextmanager
def _locked(path: Path, command: str) -> Iterator[None]:
    """Holds the lock of the directory inside the block. Raises DirectoryLocked, OSError."""
    lock = lock_directory(OS_FILES, path, f"pid {os.getpid()}, weed-volume-py {command}")
    try:
        yield
    finally:
        lock.release()
