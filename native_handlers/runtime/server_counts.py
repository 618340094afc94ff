"""Counts of the server's work, as upstream's metrics count it. `supervisor.control` renders them.

The counters are plain numbers behind one lock, because requests are counted on the event loop and RPCs in threads.
Source: weed/stats/metrics.go and the places that use its volume server metrics.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import field, fields
from typing import TYPE_CHECKING

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from enum import Enum

SECONDS_BOUNDS = tuple(0.0001 * 2**exponent for exponent in range(24))
"""Upper bounds of the buckets of all durations, in seconds."""
REBUILD_SECONDS_BOUNDS = tuple(0.01 * 2**exponent for exponent in range(20))
"""Rebuilds of shards take longer than requests."""
TARGET_BOUNDS = (1.0, 2.0, 3.0, 4.0, 5.0)
"""Upper bounds of the buckets of the count of replicas that a write or a delete goes to."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})
INVALID = "INVALID"
"""The label of every other method. Upstream labels some series with the method as sent, so a client can make series
without end there."""


@dataclass(slots=True)
class Distribution:
    """Observed values of one series. `counts` has one entry for each bucket and one for what is above all bounds."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def copy(self) -> Distribution:
        twin = Distribution(self.bounds)
        twin.counts, twin.total = list(self.counts), self.total
        return twin

    def add(self, other: Distribution) -> None:
        """Adds the values that `other` has observed. The bounds must be the same."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


def _seconds() -> Distribution:
    return Distribution(SECONDS_BOUNDS)


def _rebuild_seconds() -> Distribution:
    return Distribution(REBUILD_SECONDS_BOUNDS)


@dataclass(slots=True)
class Counts:
    """One moment's numbers. Each field is the upstream family of that name; the keys are label values."""

    request_total: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(method, status code)."""
    request_seconds: defaultdict[str, Distribution] = field(default_factory=lambda: defaultdict(_seconds))
    """By method, and by the steps writeToLocalDisk and writeToReplicas."""
    in_flight_requests: Counter[str] = field(default_factory=Counter)
    """By method and step. A key stays when its number is 0 again."""
    handler_total: Counter[str] = field(default_factory=Counter)
    file_read_failures: int = 0
    file_read_invalid_needles: int = 0
    file_write_failures: int = 0
    replication_targets: Distribution = field(default_factory=lambda: Distribution(TARGET_BOUNDS))
    replication_seconds: defaultdict[str, Distribution] = field(default_factory=lambda: defaultdict(_seconds))
    """By operation: write, delete."""
    replication_operations_total: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(operation, "success" or "failure")."""
    replication_failures_total: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(operation, reason)."""
    vacuuming_compact_count: Counter[bool] = field(default_factory=Counter)
    """By success."""
    vacuuming_commit_count: Counter[bool] = field(default_factory=Counter)
    """By success."""
    vacuuming_seconds: defaultdict[str, Distribution] = field(default_factory=lambda: defaultdict(_seconds))
    """By step: compact, commit."""
    scrub_volume_failures: Counter[str] = field(default_factory=Counter)
    """Broken volumes that scrubs have found, by mode."""
    scrub_shard_failures: Counter[str] = field(default_factory=Counter)
    """Broken shards of erasure-coded volumes that scrubs have found, by mode."""
    scrub_last_time_seconds: dict[str, float] = field(default_factory=dict)
    """When the last scrub ended, by mode, in seconds since 1970."""
    ec_rebuild_total: Counter[str] = field(default_factory=Counter)
    """By result: "success" or "failure"."""
    ec_rebuild_seconds: defaultdict[str, Distribution] = field(default_factory=lambda: defaultdict(_rebuild_seconds))
    """By result: "success" or "failure"."""
    upload_error_total: Counter[str] = field(default_factory=Counter)
    """Uploads to other servers that failed, by status code; "0" where no answer came."""

    def copy(self) -> Counts:
        """The same numbers, which stay as they are."""
        twin = Counts(
            request_total=self.request_total.copy(),
            in_flight_requests=self.in_flight_requests.copy(),
            handler_total=self.handler_total.copy(),
            file_read_failures=self.file_read_failures,
            file_read_invalid_needles=self.file_read_invalid_needles,
            file_write_failures=self.file_write_failures,
            replication_targets=self.replication_targets.copy(),
            replication_operations_total=self.replication_operations_total.copy(),
            replication_failures_total=self.replication_failures_total.copy(),
            vacuuming_compact_count=self.vacuuming_compact_count.copy(),
            vacuuming_commit_count=self.vacuuming_commit_count.copy(),
            scrub_volume_failures=self.scrub_volume_failures.copy(),
            scrub_shard_failures=self.scrub_shard_failures.copy(),
            ec_rebuild_total=self.ec_rebuild_total.copy(),
            scrub_last_time_seconds=self.scrub_last_time_seconds.copy(),
            upload_error_total=self.upload_error_total.copy(),
        )
        for kind, seconds in self.request_seconds.items():
            twin.request_seconds[kind] = seconds.copy()
        for operation, seconds in self.replication_seconds.items():
            twin.replication_seconds[operation] = seconds.copy()
        for step, seconds in self.vacuuming_seconds.items():
            twin.vacuuming_seconds[step] = seconds.copy()
        for result, seconds in self.ec_rebuild_seconds.items():
            twin.ec_rebuild_seconds[result] = seconds.copy()
        return twin

    def add(self, other: Counts) -> None:
        """Adds what another process of the same server has counted."""
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            match mine:
                case int():
                    setattr(self, one.name, mine + theirs)
                case Distribution():
                    mine.add(theirs)
                case Counter():
                    # The `update` of a Counter adds.
                    mine.update(theirs)
                case defaultdict():
                    for key, distribution in theirs.items():
                        mine[key].add(distribution)
                case dict():  # times
                    mine.update({key: max(mine.get(key, 0.0), at_s) for key, at_s in theirs.items()})
                case _:
                    raise TypeError(f"{one.name} cannot be added")


class ServerCounts:
    """Counts one server's work, over all its listeners. Safe from any thread."""

    def __init__(self) -> None:
        # Protects `_counts`; held for a few additions, or for a copy of some hundred numbers.
        self._lock = threading.Lock()
        self._counts = Counts()
        self._others: Callable[[], Counts] | None = None

    def include(self, others: Callable[[], Counts]) -> None:
        """Adds what `others` returns to each snapshot: the counts of other processes of this server."""
        self._others = others

    def snapshot(self) -> Counts:
        """The numbers now, as a copy."""
        with self._lock:
            total = self._counts.copy()
        if self._others is not None:
            total.add(self._others())
        return total

    def count_request(self, method: str, status: int, duration_s: float) -> None:
        """request_total and request_seconds, for an answered request; `method` is one of `METHODS`, or `INVALID`."""
        with self._lock:
            self._counts.request_total[method, str(status)] += 1
            self._counts.request_seconds[method].observe(duration_s)

    def count_at_once(self, method: str, status: int, duration_s: float) -> None:
        """As `begin`, `end` and `count_request` in one step, for a request that was answered in one step."""
        with self._lock:
            counts = self._counts
            # The label appears, as `begin` and `end` make it appear.
            counts.in_flight_requests.setdefault(method, 0)
            counts.request_total[method, str(status)] += 1
            counts.request_seconds[method].observe(duration_s)

    def begin(self, kind: str) -> None:
        """in_flight_requests{type=kind}, up."""
        with self._lock:
            self._counts.in_flight_requests[kind] += 1

    def end(self, kind: str) -> None:
        """in_flight_requests{type=kind}, down."""
        with self._lock:
            self._counts.in_flight_requests[kind] -= 1

    @contextmanager
    def counting_read_failure(self) -> Iterator[None]:
        """Counts file_read_failures when the block fails, and lets the failure pass."""
        try:
            yield
        except Exception:
            self.count_read_failure()
            raise

    @contextmanager
    def counting_write_failure(self) -> Iterator[None]:
        """Counts file_write_failures when the block fails, and lets the failure pass."""
        try:
            yield
        except Exception:
            self.count_write_failure()
            raise

    @contextmanager
    def in_flight(self, kind: str) -> Iterator[None]:
        """Counts a step as in flight within the block."""
        self.begin(kind)
        try:
            yield
        finally:
            self.end(kind)

    def count_handler(self, kind: str) -> None:
        """handler_total{type=kind}."""
        with self._lock:
            self._counts.handler_total[kind] += 1

    def count_read_failure(self) -> None:
        """file_read_failures."""
        with self._lock:
            self._counts.file_read_failures += 1

    def count_read_invalid_needle(self) -> None:
        """file_read_invalid_needles."""
        with self._lock:
            self._counts.file_read_invalid_needles += 1

    def count_write_failure(self) -> None:
        """file_write_failures."""
        with self._lock:
            self._counts.file_write_failures += 1

    def observe_request(self, kind: str, duration_s: float) -> None:
        """request_seconds{type=kind}, for the steps of one request: writeToLocalDisk, writeToReplicas."""
        with self._lock:
            self._counts.request_seconds[kind].observe(duration_s)

    def observe_replication(self, operation: str, targets: int, duration_s: float, failure: Enum | None) -> None:
        """replication_targets, and where there are targets replication_{seconds,operations_total,failures_total}.

        Args:
            operation: "write" or "delete".
            targets: how many other servers the operation went to.
            duration_s: of the whole operation, the local part included.
            failure: why another server has not done the operation, as an enum whose value is the label; None where
                all have.
        """
        with self._lock:
            counts = self._counts
            counts.replication_targets.observe(targets)
            if not targets:
                return
            counts.replication_seconds[operation].observe(duration_s)
            counts.replication_operations_total[operation, "success" if failure is None else "failure"] += 1
            if failure is not None:
                counts.replication_failures_total[operation, failure.value] += 1

    def count_small_change(self, method: str, status: int, duration_s: float, *, is_write: bool) -> None:
        """Counts a write or a delete that went to this server alone, when it is over: in one step all that `begin` and
        `end`, `count_request`, `observe_request` and `observe_replication` count.
        """
        with self._lock:
            counts = self._counts
            # Adding 0 makes the label appear, as `begin` and `end` do.
            counts.in_flight_requests[method] += 0
            counts.request_total[method, str(status)] += 1
            counts.request_seconds[method].observe(duration_s)
            counts.replication_targets.observe(0)
            if is_write:
                counts.in_flight_requests["writeToLocalDisk"] += 0
                counts.request_seconds["writeToLocalDisk"].observe(duration_s)

    def observe_compaction(self, duration_s: float, *, is_success: bool) -> None:
        """vacuuming_compact_count{success} and vacuuming_seconds{type="compact"}."""
        with self._lock:
            self._counts.vacuuming_compact_count[is_success] += 1
            self._counts.vacuuming_seconds["compact"].observe(duration_s)

    def observe_compaction_commit(self, duration_s: float, *, is_success: bool) -> None:
        """vacuuming_commit_count{success} and vacuuming_seconds{type="commit"}."""
        with self._lock:
            self._counts.vacuuming_commit_count[is_success] += 1
            self._counts.vacuuming_seconds["commit"].observe(duration_s)

    def observe_scrub(self, mode: str, broken_count: int, ended_at_s: float) -> None:
        """scrub_volume_failures{mode} and scrub_last_time_seconds{mode}."""
        with self._lock:
            self._counts.scrub_volume_failures[mode] += broken_count
            self._counts.scrub_last_time_seconds[mode] = ended_at_s

    def observe_ec_scrub(self, mode: str, broken_count: int, broken_shards: int, ended_at_s: float) -> None:
        """As `observe_scrub`, for erasure-coded volumes. Also counts scrub_shard_failures{mode}."""
        self.observe_scrub(mode, broken_count, ended_at_s)
        with self._lock:
            self._counts.scrub_shard_failures[mode] += broken_shards

    def observe_ec_rebuild(self, duration_s: float, *, is_success: bool) -> None:
        """ec_rebuild_total{result} and ec_rebuild_seconds{result}."""
        result = "success" if is_success else "failure"
        with self._lock:
            self._counts.ec_rebuild_total[result] += 1
            self._counts.ec_rebuild_seconds[result].observe(duration_s)

    def count_upload_error(self, status: int) -> None:
        """SeaweedFS_upload_error_total{code}; `status` 0 where no answer came."""
        with self._lock:
            self._counts.upload_error_total[str(status)] += 1
