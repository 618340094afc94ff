"""Metric families in Prometheus' text format: written, parsed, and the families of two processes merged.

prometheus_client writes and reads that format too, but with "_total" behind the name of every counter. Upstream has
counters without the suffix, and dashboards ask for upstream's names. A library beside this would be a second writer of
the same text.
Source: Prometheus exposition formats, text format 0.0.4.
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import TYPE_CHECKING

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from native_handlers.runtime.server_counts import Distribution

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})
_ESCAPED = re.compile(r"\\([\\n])")
_COMMENT = re.compile(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) ?(.*)")
_SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*(?:\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})?)\s+(\S+)(?:\s+-?\d+)?')
_SUFFIXES = ("_bucket", "_sum", "_count")


@dataclass(slots=True)
class Family:
    """One metric with all its series. `samples` maps a series as it is written, labels sorted by name, to its value."""

    name: str
    kind: str
    help_text: str
    samples: dict[str, float] = field(default_factory=dict)

    def add(self, labels: Mapping[str, str], value: float) -> None:
        """Adds one series of a counter or gauge."""
        self.samples[_series(self.name, labels)] = value

    def add_distribution(self, labels: Mapping[str, str], values: Distribution) -> None:
        """Adds the series of a histogram with these labels."""
        count = 0
        for bound, in_bucket in zip((*values.bounds, float("inf")), values.counts, strict=True):
            count += in_bucket
            self.samples[_series(f"{self.name}_bucket", labels, (f'le="{format_value(bound)}"',))] = count
        self.samples[_series(f"{self.name}_sum", labels)] = values.total
        self.samples[_series(f"{self.name}_count", labels)] = count

    def render(self) -> str:
        """The family as text; "" for a family without series, as in Prometheus' libraries."""
        if not self.samples:
            return ""
        head = f"# HELP {self.name} {self.help_text.translate(_HELP_ESCAPES)}\n# TYPE {self.name} {self.kind}\n"
        return head + "".join(f"{series} {format_value(value)}\n" for series, value in self.samples.items())


class RenderedFamily:
    """A family whose text is made already, for one that does not change from scrape to scrape."""

    __slots__ = ("_text", "name")

    def __init__(self, family: Family) -> None:
        self.name = family.name
        self._text = family.render()

    def render(self) -> str:
        """See `Family.render`."""
        return self._text


def _series(name: str, labels: Mapping[str, str], last: tuple[str, ...] = ()) -> str:
    """A series as text: labels sorted by name, the bound of a bucket last, as upstream's library writes them."""
    pairs = [f'{label}="{labels[label].translate(_ESCAPES)}"' for label in sorted(labels)]
    pairs += last
    return f"{name}{{{','.join(pairs)}}}" if pairs else name


def format_value(value: float) -> str:
    """A number as upstream's library writes it, so that equal bucket bounds are equal texts."""
    if value == float("inf"):
        return "+Inf"
    if value == float("-inf"):
        return "-Inf"
    if value != value:  # noqa: PLR0124  NaN
        return "NaN"
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    return repr(float(value))


def parse_families(text: str) -> dict[str, Family]:
    """The families of a metrics text by name, in its order. Lines that are not of the format are skipped.

    Time stamps of samples are dropped.
    """
    families: dict[str, Family] = {}
    for line in text.split("\n"):
        if comment := _COMMENT.fullmatch(line):
            what, name, rest = comment.groups()
            family = families.setdefault(name, Family(name, "untyped", ""))
            if what == "HELP":
                family.help_text = _ESCAPED.sub(lambda escaped: "\n" if escaped[1] == "n" else escaped[1], rest)
            else:
                family.kind = rest
        elif sample := _SAMPLE.fullmatch(line.strip()):
            series, number = sample.groups()
            try:
                value = float(number)
            except ValueError:
                continue
            name = _family_of(series.partition("{")[0], families)
            families.setdefault(name, Family(name, "untyped", "")).samples[series] = value
    return families


def _family_of(name: str, families: Mapping[str, Family]) -> str:
    for suffix in _SUFFIXES:
        base = name.removesuffix(suffix)
        if base != name and base in families and families[base].kind in {"histogram", "summary"}:
            return base
    return name


def merge_families(
    theirs: Mapping[str, Family], ours: Iterable[Family], *, single: Collection[str]
) -> dict[str, Family]:
    """One family for each name, so that a scrape gets each series once.

    Args:
        theirs: the families of the other process. They are changed.
        single: the names of families about the node, which both processes know: `ours` replace `theirs`. In all other
            families the values of equal series are added.
    """
    merged = dict(theirs)
    for family in ours:
        other = merged.get(family.name)
        if other is None or family.name in single:
            merged[family.name] = family
            continue
        for series, value in family.samples.items():
            other.samples[series] = other.samples.get(series, 0) + value
    return merged
