"""``weed-volume-py check DIR...``: examines volumes without changing them, and prints what it found."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from native_handlers.storage.check import check_directory
from supervisor.cli.errors import UsageError
from supervisor.cli.flags import CHECK_FLAGS
from supervisor.cli.go_flags import Scan, scan, unknown_flag_message
from supervisor.cli.home_paths import absolute, absolute_or_none
from supervisor.cli.values import FlagValues

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EXIT_HEALTHY = 0
EXIT_PROBLEMS = 1


def run_check(argv: Sequence[str], cwd: Path) -> int:
    """Returns 0 when every volume is healthy, 1 when one is not or cannot be read.

    Raises:
        UsageError: the arguments cannot be used; nothing was examined.
    """
    directories, values = _read_arguments(argv)
    index_path = absolute_or_none(values.text("dir.idx"), cwd)
    offset_width_bytes = values.integer("offset.bytes") or None
    paths = [absolute(directory, cwd) for directory in directories]
    problems = [*values.problems, *(f"{path} is not a directory" for path in paths if not path.is_dir())]
    if problems:
        raise UsageError(*problems)
    status = EXIT_HEALTHY
    for path in paths:
        try:
            report = check_directory(path, index_path=index_path, offset_width_bytes=offset_width_bytes)
        except OSError as error:
            print(f"{path}: cannot be listed: {error.strerror}", file=sys.stderr)
            status = EXIT_PROBLEMS
            continue
        print(report)
        status = status if report.is_healthy else EXIT_PROBLEMS
    return status


def _read_arguments(argv: Sequence[str]) -> tuple[list[str], FlagValues]:
    """Flags may stand before, between and behind the directories."""
    values = FlagValues(CHECK_FLAGS)
    directories: list[str] = []
    part = Scan(words=list(argv))
    while part.words:
        part = scan(part.words, CHECK_FLAGS)
        values.add(part.given)
        values.problems.extend(part.problems)
        values.problems.extend(unknown_flag_message(flag.name, CHECK_FLAGS) for flag in part.unknown)
        if part.words:
            directories.append(part.words.pop(0))
    if not directories:
        values.problems.append("check needs a directory: weed-volume-py check [flags] DIR...")
    return directories, values
