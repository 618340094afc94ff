"""Where values come from, and typed access to them.

Precedence, as in weed/util/fla9/fla9.go: command line, environment, options file, default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.cli.durations import parse_duration_s
from supervisor.cli.errors import BadValue
from supervisor.cli.flags import Flag, Kind
from supervisor.cli.go_flags import Given
from supervisor.cli.go_values import parse_bool, parse_int
from supervisor.cli.options_file import parse_options_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


class FlagValues:
    """The values of one command. A value that does not fit is noted in `problems` and read as the default.

    `overrides` are defaults of the command itself (quickstart has others than volume).
    """

    def __init__(self, table: Mapping[str, Flag], overrides: Mapping[str, str] | None = None) -> None:
        self._table = table
        self._given: dict[str, Given] = {}
        self._overrides = overrides or {}
        self.problems: list[str] = []

    def add(self, given: Iterable[Given]) -> None:
        """The last value of a name counts, and what was added by an earlier call counts more."""
        latest = {value.name: value for value in given}
        for name, value in latest.items():
            self._given.setdefault(name, value)

    def force(self, name: str, text: str) -> None:
        """Sets a value whatever was given: the command itself decides it."""
        self._given[name] = Given(name, text, f"-{name}={text} (set by this command)")

    @property
    def given(self) -> tuple[Given, ...]:
        return tuple(self._given.values())

    def is_given(self, name: str) -> bool:
        return name in self._given

    def origin(self, name: str) -> str:
        """What to call the value in a message."""
        value = self._given.get(name)
        return value.origin if value else f"-{name} (default)"

    def note(self, name: str, why: str) -> None:
        """Records a problem of the value of `name`, once; `why` completes the sentence."""
        sentence = f"{self.origin(name)}: {why}"
        if sentence not in self.problems:
            self.problems.append(sentence)

    def text(self, name: str) -> str:
        row = self._table[name]
        value = self._given.get(name)
        text = value.text if value else self._overrides.get(name, row.default)
        if value and row.kind is Kind.TEXT and row.choices and text and text not in row.choices:
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
        """Seconds, never negative."""
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
    """The flags that the environment sets. An empty variable counts for upstream's flags, not for our own."""
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
    """The values in the file of -options, which must be readable."""
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
