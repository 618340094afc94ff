"""Parts of the status page: tables, lists, meters, and numbers for people.

Cells and values are HTML already; the caller escapes text from outside. Tables label each cell, so that a narrow screen
can show a row as a card.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    is_number: bool = False


def section(title: str, content: str) -> str:
    anchor = title.lower().replace(" ", "-")
    return f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{escape(title)}</h2>{content}</section>'


def table(name: str, columns: Sequence[Column], rows: Sequence[Sequence[str]], if_empty: str) -> str:
    """A table named `name` for screen readers, or the sentence `if_empty`."""
    if not rows:
        return f'<p class="empty">{escape(if_empty)}</p>'
    head = "".join(f'<th scope="col"{_class(column)}>{escape(column.title)}</th>' for column in columns)
    # One text for each column, and not one for each cell: there may be many thousand rows.
    starts = [f'<td data-label="{escape(column.title)}"{_class(column)}>' for column in columns]
    body = "".join(f"<tr>{_cells(starts, row)}</tr>" for row in rows)
    return f'<table aria-label="{escape(name)}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def definitions(facts: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts) + "</dl>"


def disk_meter(used_bytes: int, all_bytes: int) -> str:
    """A bar and the same number as text."""
    percent = 100 * used_bytes / all_bytes if all_bytes else 0.0
    return (
        f'<span><meter min="0" max="100" high="90" optimum="0" value="{percent:.1f}" aria-hidden="true"></meter> '
        f"{percent:.1f}%</span>"
    )


def human_size(size_bytes: int) -> str:
    """`size_bytes` in the largest binary unit that leaves at least 1, with two digits after the point at most."""
    size, unit = float(size_bytes), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    number = f"{size:.2f}".rstrip("0").rstrip(".")
    return f"{number} {_UNITS[unit]}"


def human_uptime(seconds: float) -> str:
    """Days, hours, minutes and seconds, without leading zeros: 1d2h0m3s."""
    rest, text = max(int(seconds), 0), ""
    for size, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        count, rest = divmod(rest, size)
        if count or text:
            text += f"{count}{letter}"
    return f"{text}{rest}s"


def _cells(starts: Sequence[str], row: Sequence[str]) -> str:
    return "".join([f"{start}{cell}</td>" for start, cell in zip(starts, row, strict=True)])


def _class(column: Column) -> str:
    return ' class="number"' if column.is_number else ""
