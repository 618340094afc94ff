"""A line of the table "as fast as the Go server": what it measures, its aim, and the figures that were seen.

A figure is what one round gave for one server. A ratio is made within its round, from the figures of a server and of
the baseline, so that a slow moment of the machine hits both. Of several rounds the median counts; the spread is the
lowest and the highest.
"""

import statistics
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

GO, RUST, NGINX, NATIVE, PROXY = "go", "rust", "nginx", "native", "proxy-go"
NATIVE_WORKERS, PROXY_WORKERS = "native-workers", "proxy-go-workers"
"""Our servers with two worker processes."""


class Better(StrEnum):
    """Which of two figures is the better one."""

    MORE = "more"
    LESS = "less"


@dataclass(frozen=True)
class Aim:
    """What a server is to reach: at least `value` where more is better, at most `value` where less is.

    Args:
        is_ratio: the value is of the figure of the line's baseline in the same round; else it is in the line's unit.
    """

    value: float
    is_ratio: bool = True


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Args:
        key: names the line in JSON; never changes.
        group: what `--only` names; lines of one group are measured together.
        servers: who is measured, in the order of the table.
        baseline: the server that ratios are made with.
        aims: server -> its aim.
        why_no_aim: the reason where no server has one.
    """

    key: str
    group: str
    name: str
    unit: str
    servers: tuple[str, ...]
    aims: dict[str, Aim] = field(default_factory=dict)
    why_no_aim: str = ""
    better: Better = Better.MORE
    baseline: str = GO


class Spread(NamedTuple):
    """The median of some numbers, the lowest and the highest."""

    median: float
    low: float
    high: float


def spread_of(numbers):
    """Raises ValueError for no numbers."""
    if not numbers:
        raise ValueError("no round was measured")
    return Spread(statistics.median(numbers), min(numbers), max(numbers))


class Figure(NamedTuple):
    """What one round gave for one server.

    Args:
        value: in the unit of the line.
        generator_busy: processors that the generator used, on average; None where it was not taken.
        server_busy: the same of all processes that served: the server, its children, and what is behind a front.
    """

    value: float
    generator_busy: float | None = None
    server_busy: float | None = None


@dataclass
class Result:
    """The figures of one line.

    Args:
        figures: server -> its figure of each round.
        generator: what made the load.
        generator_busy: server -> the processors that the generator used in each round.
        server_busy: server -> the processors that the server used in each round.
        left_out: server -> why it was not measured.
    """

    line: Line
    generator: str = ""
    figures: dict[str, list[float]] = field(default_factory=dict)
    generator_busy: dict[str, list[float]] = field(default_factory=dict)
    server_busy: dict[str, list[float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, server, figure):
        """Adds the `Figure` of one round."""
        self.figures.setdefault(server, []).append(figure.value)
        for seen, busy in ((self.generator_busy, figure.generator_busy), (self.server_busy, figure.server_busy)):
            if busy is not None:
                seen.setdefault(server, []).append(busy)

    def measured(self):
        """The servers that have figures, in the order of the line."""
        return [server for server in self.line.servers if server in self.figures]

    def spread(self, server):
        """The `Spread` of the figures of `server`."""
        return spread_of(self.figures[server])

    def ratios(self, server, baseline=None):
        """One ratio a round, to the line's baseline or to `baseline`; None where that was not measured.

        Raises ValueError where both have not the same rounds.
        """
        direct = self.figures.get(baseline or self.line.baseline)
        if direct is None:
            return None
        return [figure / other for figure, other in zip(self.figures[server], direct, strict=True)]

    def is_met(self, server):
        """Whether `server` reaches its aim, by the median; None without an aim or without what it is compared with."""
        aim = self.line.aims.get(server)
        seen = self.ratios(server) if aim and aim.is_ratio else self.figures[server]
        if aim is None or seen is None:
            return None
        median = statistics.median(seen)
        return median >= aim.value if self.line.better is Better.MORE else median <= aim.value
