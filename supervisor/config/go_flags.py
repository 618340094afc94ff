"""The syntax of Go command lines: `-x`, `--x`, `-x=value`, `-x value`, booleans without a value.

Values are not interpreted here. A token list becomes (name, value, origin) in order, and the tokens that match no row
of the table. Source: weed/util/fla9/fla9.go (FlagSet.parseOne).
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from native_handlers.records import dataclass
from supervisor.config.flags import Flag, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_HELP = frozenset({"h", "help"})


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was written. `origin` begins a sentence about the value: `-port=x`, `WEED_PORT=x` ..."""

    name: str
    text: str
    origin: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A flag that is in no table. `text` is None where it had no `=value`."""

    name: str
    text: str | None


@dataclass(slots=True)
class Scan:
    """The content of a token list. `words` are the arguments that are no flags. `problems` are sentences."""

    given: list[Given] = field(default_factory=list)
    unknown: list[Unknown] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    wants_help: bool = False


def scan(tokens: Sequence[str], table: Mapping[str, Flag]) -> Scan:
    """Parses `tokens` up to the first word that is no flag. That word and all after it are `words`."""
    result = Scan()
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if token == "--":
            result.words.extend(tokens[index + 1 :])
            break
        if len(token) < 2 or not token.startswith("-"):
            result.words.extend(tokens[index:])
            break
        index += 1 + _scan_flag(token, tokens[index + 1 :], table, result)
    return result


def _scan_flag(token: str, rest: Sequence[str], table: Mapping[str, Flag], result: Scan) -> int:
    """Parses one flag into `result`. Returns how many tokens of `rest` were its value."""
    name, equals, text = token[1:].removeprefix("-").partition("=")
    if not name or name.startswith("-"):
        result.problems.append(f"{token!r} is no flag; expected -name=value")
        return 0
    row = table.get(name)
    if row is None:
        return _scan_unknown(name, text if equals else None, rest, result)
    if equals:
        result.given.append(Given(name, text, f"-{name}={text}"))
        return 0
    if row.kind is Kind.BOOL:
        result.given.append(Given(name, "true", f"-{name}"))
        return 0
    if not rest:
        result.problems.append(f"-{name} needs a value: -{name}={row.default or '...'}")
        return 0
    result.given.append(Given(name, rest[0], f"-{name}={rest[0]}"))
    return 1


def _scan_unknown(name: str, text: str | None, rest: Sequence[str], result: Scan) -> int:
    if text is None and name in _HELP:
        result.wants_help = True
        return 0
    result.unknown.append(Unknown(name, text))
    has_separate_value = text is None and bool(rest) and not rest[0].startswith("-")
    return 1 if has_separate_value else 0


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant: equal except for case, else the most similar; None where none is near."""
    import difflib  # noqa: PLC0415  for a message alone

    by_folded = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None


def unknown_flag_message(name: str, table: Mapping[str, Flag]) -> str:
    """A sentence that says that the flag is unknown, and names the nearest flag."""
    meant = nearest(name, table)
    hint = f"did you mean -{meant}?" if meant else "-h lists them all"
    return f"-{name} is no flag of this command; {hint}"
