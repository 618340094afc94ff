"""Collects the values of one command from its argument list, the environment and the options file."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from native_handlers.records import dataclass
from supervisor.config.flags import Flag, Kind, Owner
from supervisor.config.go_flags import Given, Scan, Unknown, scan
from supervisor.config.home_paths import absolute
from supervisor.config.values import FlagValues, environment_values, options_file_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_COMMAND_WORD = "volume"
_OPTIONS = "options"


@dataclass(slots=True)
class CommandInput:
    """The values of one command, with the unknown flags and warnings."""

    values: FlagValues
    unknown: list[Unknown] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def gather(
    argv: Sequence[str], environ: Mapping[str, str], cwd: Path, table: Mapping[str, Flag], overrides: Mapping[str, str]
) -> CommandInput:
    """The values of the command line, the environment and the options file, in this order of precedence.

    As in upstream, an options file given before the word `volume` sets only flags of the `weed` program itself.
    """
    values = FlagValues(table, overrides)
    before = scan(argv, table)
    has_command_word = before.words[:1] == [_COMMAND_WORD]
    after = scan(before.words[1:], table) if has_command_word else Scan()
    stray = after.words if has_command_word else before.words
    values.problems.extend([*before.problems, *after.problems])
    if stray:
        values.problems.append(_stray_message(stray[0], [*before.given, *after.given], table))
    values.add([*before.given, *after.given])
    values.add(environment_values(table, environ))
    parts = CommandInput(values, [*before.unknown, *after.unknown])
    if _OPTIONS in table and values.text(_OPTIONS):
        path = absolute(values.text(_OPTIONS), cwd)
        for_weed_only = has_command_word and _sets_options(before) and not _sets_options(after)
        from_file = options_file_values(path, table, values.problems, parts.warnings)
        values.add(value for value in from_file if not for_weed_only or table[value.name].owner is Owner.WEED)
    return parts


def _sets_options(result: Scan) -> bool:
    return any(value.name == _OPTIONS for value in result.given)


def _stray_message(word: str, given: Sequence[Given], table: Mapping[str, Flag]) -> str:
    booleans = [value for value in given if table[value.name].kind is Kind.BOOL]
    if word in {"true", "false"} and booleans:
        name = booleans[-1].name
        return f"{word!r} is no flag; a value of a boolean is written with an equals sign: -{name}={word}"
    return f"{word!r} is no flag, and weed would ignore it and all that follows; expected only -name=value"
