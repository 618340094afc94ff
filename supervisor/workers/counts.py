"""The counts of a worker, as an object and as JSON, and the sums over all workers.

The counts of a worker that has ended stay in the sums, so no counter goes back. A worker tells its counts every second,
and when it is asked: what it has counted after that is lost if it dies.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import field, fields
from typing import TYPE_CHECKING

from native_handlers.records import dataclass
from native_handlers.runtime.server_counts import Counts, Distribution
from supervisor.routing.decision import Engine
from supervisor.workers.messages import BadControlMessage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.workers.messages import Fields, JsonObject, JsonValue


@dataclass(slots=True)
class WorkerCounts:
    """The counts of one worker since its start.

    Attributes:
        requests: by route and engine.
        handed_on: requests that the parent has answered, and so counted.
        server: upstream's families.
        open_count, given_up, refused: of its seats; see `Seats`.
    """

    requests: Counter[tuple[str, Engine]] = field(default_factory=Counter)
    server: Counts = field(default_factory=Counts)
    open_count: int = 0
    given_up: int = 0
    refused: int = 0
    handed_on: int = 0

    def add(self, other: WorkerCounts) -> None:
        """Adds what another worker has counted."""
        self.requests.update(other.requests)
        self.server.add(other.server)
        self.open_count += other.open_count
        self.given_up += other.given_up
        self.refused += other.refused
        self.handed_on += other.handed_on

    def end(self) -> None:
        """Forgets what is true of a running worker only: its connections, and its requests in flight."""
        self.open_count = 0
        self.server.in_flight_requests = Counter(dict.fromkeys(self.server.in_flight_requests, 0))

    def as_data(self) -> JsonObject:
        requests = [[route, engine.value, count] for (route, engine), count in self.requests.items()]
        return {
            "requests": requests,
            "server": _counts_data(self.server),
            "open_count": self.open_count,
            "given_up": self.given_up,
            "refused": self.refused,
            "handed_on": self.handed_on,
        }

    @classmethod
    def from_data(cls, data: Fields) -> WorkerCounts:
        """Raises BadControlMessage."""
        requests: Counter[tuple[str, Engine]] = Counter()
        for row in data.items("requests"):
            match row:
                case [str() as route, str() as engine, int() as count]:
                    requests[route, Engine(engine)] = count
                case _:
                    raise BadControlMessage(f"{row!r} is no count of requests")
        return cls(
            requests,
            _counts_from_data(data.object("server")),
            data.integer("open_count"),
            data.integer("given_up"),
            data.integer("refused"),
            data.integer("handed_on"),
        )


# ---- Upstream's families. Their number is large, so the form follows from the type of each field.


def _counts_data(counts: Counts) -> JsonObject:
    return {one.name: _family_data(getattr(counts, one.name)) for one in fields(counts)}


def _family_data(family: object) -> JsonValue:
    match family:
        case int() | float():
            return family
        case Distribution():
            return _distribution_data(family)
        case Counter():
            return [[list(key) if isinstance(key, tuple) else key, count] for key, count in family.items()]
        case dict():
            return [
                [key, _distribution_data(value) if isinstance(value, Distribution) else value]
                for key, value in family.items()
            ]
        case _:
            raise TypeError(f"no form for {type(family)}")


def _distribution_data(distribution: Distribution) -> JsonObject:
    return {"counts": distribution.counts, "total": distribution.total}


def _counts_from_data(data: Fields) -> Counts:
    counts = Counts()
    for one in fields(counts):
        empty = getattr(counts, one.name)
        match empty:
            case int():
                setattr(counts, one.name, data.integer(one.name))
            case Distribution():
                _fill(empty, data.object(one.name))
            case dict():
                for key, value in _pairs(data, one.name):
                    _put(empty, key, value)
            case _:
                raise TypeError(f"no form for {type(empty)}")
    return counts


def _pairs(data: Fields, name: str) -> list[tuple[object, JsonValue]]:
    pairs: list[tuple[object, JsonValue]] = []
    for item in data.items(name):
        match item:
            case [list() as key, value]:
                pairs.append((tuple(key), value))
            case [str() | bool() as key, value]:
                pairs.append((key, value))
            case _:
                raise BadControlMessage(f"{item!r} of {name!r} is no count")
    return pairs


def _put(family: dict[object, object], key: object, value: JsonValue) -> None:
    match value:
        case {"counts": [*counts], "total": int() | float() as total}:
            distribution = family[key]  # made by the family, with its bounds
            assert isinstance(distribution, Distribution)
            _fill_with(distribution, counts, total)
        case int() | float():
            family[key] = value
        case _:
            raise BadControlMessage(f"{value!r} is no count")


def _fill(distribution: Distribution, data: Fields) -> None:
    _fill_with(distribution, data.items("counts"), data.number("total"))


def _fill_with(distribution: Distribution, counts: list[JsonValue], total: float) -> None:
    numbers = [count for count in counts if isinstance(count, int)]
    if len(numbers) != len(counts) or len(numbers) != len(distribution.counts):
        raise BadControlMessage("a distribution with other buckets")
    distribution.counts, distribution.total = numbers, total


# ---- The sums.


class CountSums:
    """The counts of all workers, running and ended. The event loop writes, and any thread reads the sums."""

    def __init__(self) -> None:
        # The sum of the ended ones, and the last counts of the running ones. Replaced as a whole.
        self._state: tuple[WorkerCounts, Mapping[int, WorkerCounts]] = (WorkerCounts(), {})

    def note(self, number: int, counts: WorkerCounts) -> None:
        """The last counts of worker `number`, which runs."""
        ended, running = self._state
        self._state = ended, {**running, number: counts}

    def add_ended(self, number: int) -> None:
        """Adds the last counts of worker `number` to those of the ended workers.

        The worker has ended. Another one may take its place, and begins at 0.
        """
        before, running = self._state
        if number not in running:
            return
        ended = WorkerCounts()
        ended.add(before)
        ended.add(running[number])
        ended.end()
        self._state = ended, {other: counts for other, counts in running.items() if other != number}

    def running(self) -> Mapping[int, WorkerCounts]:
        """The last counts of each worker that runs, by number."""
        return self._state[1]

    def total(self) -> WorkerCounts:
        """The sums over all workers."""
        ended, running = self._state
        total = WorkerCounts()
        total.add(ended)
        for counts in running.values():
            total.add(counts)
        return total
