"""Values of flags by their sources, and typed access to them.

Precedence, as in weed/util/fla9/fla9.go: command line, environment, options file, default.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, assert_never

from native_handlers.records import dataclass
from supervisor.config.durations import parse_duration_s
from supervisor.config.errors import BadValue
from supervisor.config.flags import Flag, Kind
from supervisor.config.go_flags import Given, unknown_flag_message
from supervisor.config.go_values import parse_bool, parse_int

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


class FlagValues:
    """The values of one command. A value that does not fit is noted in `problems`, and the default is used.

    `overrides` are other defaults of the command (quickstart has others than volume).
    """

    def __init__(self, table: Mapping[str, Flag], overrides: Mapping[str, str] | None = None) -> None:
        self._table = table
        self._given: dict[str, Given] = {}
        self._overrides = overrides or {}
        self.problems: list[str] = []

    def add(self, given: Iterable[Given]) -> None:
        """Adds values. Within one call the last value of a name counts; a value of an earlier call stays."""
        latest = {value.name: value for value in given}
        for name, value in latest.items():
            self._given.setdefault(name, value)

    def force(self, name: str, text: str) -> None:
        """Sets a value in place of any given one: the command decides it."""
        self._given[name] = Given(name, text, f"-{name}={text} (set by this command)")

    @property
    def given(self) -> tuple[Given, ...]:
        return tuple(self._given.values())

    def is_given(self, name: str) -> bool:
        return name in self._given

    def origin(self, name: str) -> str:
        """The origin of the value, for a message."""
        value = self._given.get(name)
        return value.origin if value else f"-{name} (default)"

    def note(self, name: str, why: str) -> None:
        """Notes a problem of the value of `name`, once. `why` completes the sentence."""
        sentence = f"{self.origin(name)}: {why}"
        if sentence not in self.problems:
            self.problems.append(sentence)

    def check_all(self) -> None:
        """Notes the problems of all values, also of those that are used later or never."""
        for name, row in self._table.items():
            match row.kind:
                case Kind.BOOL:
                    self.boolean(name)
                case Kind.INT:
                    self.integer(name)
                case Kind.DURATION:
                    self.duration_s(name)
                case Kind.TEXT:
                    self.text(name)
                case _:
                    assert_never(row.kind)

    def text(self, name: str) -> str:
        row = self._table[name]
        value = self._given.get(name)
        text = value.text if value else self._overrides.get(name, row.default)
        if value and row.kind is Kind.TEXT and row.choices and text not in {*row.choices, row.default}:
            self.note(name, f"{text!r} cannot be used; expected {_one_of(row.choices)}")
            return row.default
        return text

    def boolean(self, name: str) -> bool:
        try:
            return parse_bool(self.text(name))
        except BadValue as error:
            self.note(name, str(error))
            return parse_bool(self._table[name].default)

    def integer(self, name: str) -> int:
        row = self._table[name]
        text = self.text(name)
        try:
            return _check_range(row, text, parse_int(text))
        except BadValue:
            self.note(name, f"{text!r} cannot be used; expected {_expected_integer(row)}")
            return parse_int(row.default)

    def duration_s(self, name: str) -> float:
        """The value in seconds. A negative value is noted as a problem."""
        text = self.text(name)
        try:
            seconds = parse_duration_s(text)
        except BadValue as error:
            self.note(name, str(error))
            return parse_duration_s(self._table[name].default)
        if seconds < 0:
            self.note(name, f"{text!r} cannot be used; expected a duration that is not negative, such as 60s")
        return seconds


def environment_values(table: Mapping[str, Flag], environ: Mapping[str, str]) -> list[Given]:
    """The flags that the environment sets.

    An empty variable counts for upstream's flags, not for this program's own.
    """
    found = []
    for row in table.values():
        for variable in row.environment:
            text = environ.get(variable)
            if text is None or (not text and not row.is_upstream):
                continue
            if row.kind is Kind.BOOL and not text:
                text = "true"
            found.append(Given(row.name, text, f"{variable}={text} in the environment"))
            break
    return found


def options_file_values(
    path: Path, table: Mapping[str, Flag], problems: list[str], warnings: list[str]
) -> tuple[Given, ...]:
    """The values in the file of -options. A file that cannot be read is noted in `problems`."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        problems.append(f"-options={path}: the file cannot be read: {error.strerror or error}")
        return ()
    parsed = parse_options_file(text, str(path), table)
    warnings.extend(parsed.warnings)
    return parsed.given


def _check_range(row: Flag, text: str, value: int) -> int:
    too_small = row.minimum is not None and value < row.minimum
    too_large = row.maximum is not None and value > row.maximum
    if too_small or too_large or (row.choices and str(value) not in row.choices):
        raise BadValue(text, _expected_integer(row))
    return value


def _expected_integer(row: Flag) -> str:
    if row.choices:
        return _one_of(row.choices)
    if row.minimum is not None and row.maximum is not None:
        return f"a whole number from {row.minimum} to {row.maximum}"
    if row.minimum is not None:
        return f"a whole number, {row.minimum} or more"
    return "a whole number"


def _one_of(choices: tuple[str, ...]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


# ---- The file of -options: one `name=value` per line, for flags that neither command line nor environment set.
#
# Source: weed/util/fla9/fla9.go (FlagSet.ParseFile). As there: the first of `=`, space and `:` separates, one leading
# dash is dropped, `#` begins a comment, the first line of a name counts, an unknown name is skipped. Difference: a
# skipped line gets a warning.

_SEPARATOR = re.compile(r"[= :]")


@dataclass(frozen=True, slots=True)
class OptionsFile:
    """The values by name, and one sentence for each line without effect."""

    given: tuple[Given, ...]
    warnings: tuple[str, ...]


def parse_options_file(text: str, file_name: str, table: Mapping[str, Flag]) -> OptionsFile:
    """Parses the file. Never fails: values are checked together with all other values."""
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
