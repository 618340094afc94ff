"""The file of -options: one ``name=value`` per line, for flags that neither command line nor environment set.

Source: weed/util/fla9/fla9.go, FlagSet.ParseFile. Kept from there: the first of ``=``, space and ``:`` separates, one
leading dash is dropped, ``#`` begins a comment, the first line of a name wins, an unknown name is skipped. Different:
what is skipped is said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.cli.flags import Flag, Kind
from supervisor.cli.go_flags import Given, unknown_flag_message

if TYPE_CHECKING:
    from collections.abc import Mapping

_SEPARATOR = re.compile(r"[= :]")


@dataclass(frozen=True, slots=True)
class OptionsFile:
    """The values by name, and one sentence for each line that means nothing."""

    given: tuple[Given, ...]
    warnings: tuple[str, ...]


def parse_options_file(text: str, file_name: str, table: Mapping[str, Flag]) -> OptionsFile:
    """Never fails: whether a value fits its flag is decided with all other values."""
    given: dict[str, Given] = {}
    warnings = []
    for number, raw_line in enumerate(text.splitlines(), start=1):
        line = raw_line.strip()
        if not line or line.startswith(("#", "//")):
            continue
        where = f"{file_name}:{number}"
        name, value = _split(line)
        if line.startswith("--"):
            warnings.append(f"{where}: a line that begins with -- is a comment, as for weed; write it without dashes")
            continue
        row = table.get(name)
        if row is None:
            warnings.append(f"{where}: {unknown_flag_message(name, table)}")
            continue
        if row.kind is Kind.BOOL and not value:
            value = "true"
        given.setdefault(name, Given(name, value, f"{where}: {name}={value}"))
    return OptionsFile(tuple(given.values()), tuple(warnings))


def _split(line: str) -> tuple[str, str]:
    separator = _SEPARATOR.search(line)
    if separator is None:
        return line.removeprefix("-"), ""
    return line[: separator.start()].strip().removeprefix("-"), line[separator.end() :].strip()
