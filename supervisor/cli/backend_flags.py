"""Flags that only a newer backend knows, read from its help text. So an upgrade of `weed` needs no upgrade here.

This applies only where all requests go to a Go backend (exec and proxy). In other modes the native handlers would not
know the flag.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.config.config import Mode
from supervisor.config.errors import BackendProbeFailed
from supervisor.config.go_flags import unknown_flag_message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from supervisor.cli.engine_choice import EngineChoice
    from supervisor.config.flags import Flag
    from supervisor.config.go_flags import Unknown

_HELP_DEADLINE_S = 20.0
_HELP_ROW = re.compile(r"^  -(\S+)(?: (\S+))?$", re.MULTILINE)


def parse_help(text: str) -> dict[str, bool]:
    """The flags in the output of `weed help volume`: name -> whether the flag is a boolean, which shows no type."""
    return {name: not type_name for name, type_name in _HELP_ROW.findall(text)}


def ask_backend_flags(program: Path, environ: Mapping[str, str]) -> dict[str, bool]:
    """Runs `PROGRAM help volume`, for at most 20 seconds.

    Raises:
        BackendProbeFailed: the program cannot run, does not end, or prints no flags.
    """
    command = [str(program), "help", "volume"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            timeout=_HELP_DEADLINE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendProbeFailed(command, str(error)) from error
    flags = parse_help(done.stdout.decode(errors="replace"))
    if not flags:
        raise BackendProbeFailed(command, "its output lists no flags")
    return flags


def pass_through(
    unknown: Sequence[Unknown],
    choice: EngineChoice,
    table: Mapping[str, Flag],
    ask: Callable[[Path], Mapping[str, bool]],
) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Decides about the flags that are in no table.

    Returns (name and value to pass on, warnings, problems). `ask` is called at most once, and only where it is needed.
    """
    program = choice.backend
    if not unknown:
        return [], [], []
    if choice.mode not in {Mode.EXEC, Mode.PROXY} or not isinstance(program, Path):
        return [], [], [unknown_flag_message(flag.name, table) for flag in unknown]
    try:
        known = ask(program)
    except BackendProbeFailed as error:
        return [], [], [*(unknown_flag_message(flag.name, table) for flag in unknown), str(error)]
    return _sort_out(unknown, known, program, table)


def _sort_out(
    unknown: Sequence[Unknown], known: Mapping[str, bool], program: Path, table: Mapping[str, Flag]
) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    passed, warnings, problems = [], [], []
    for flag in unknown:
        if flag.name not in known:
            problems.append(f"{unknown_flag_message(flag.name, table)} ({program} does not know it either)")
        elif flag.text is None and not known[flag.name]:
            problems.append(
                f"-{flag.name} is unknown here but known to {program}; write its value as -{flag.name}=VALUE"
            )
        else:
            passed.append((flag.name, "true" if flag.text is None else flag.text))
            warnings.append(f"-{flag.name} is unknown here and passed on to {program} as it is")
    return passed, warnings, problems
