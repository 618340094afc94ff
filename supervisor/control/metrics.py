"""The counters of this process, under `SeaweedFS_volumeSupervisor_`, and the text of the metrics port.

`volume_metrics` has upstream's families. There each request is counted by the engine that has answered it, so a
dashboard that sums by label counts no request twice.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import Response
from native_handlers.records import dataclass
from native_handlers.runtime.server_counts import SECONDS_BOUNDS, Distribution
from supervisor.control.text_format import CONTENT_TYPE, Family, RenderedFamily, merge_families, parse_families
from supervisor.control.volume_metrics import KNOWN_TO_BOTH, OWN_PREFIX, VolumeMetrics
from supervisor.net.http_limits import HttpLimits
from supervisor.net.http_server import serve_http
from supervisor.net.listeners import open_listener

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from native_handlers.http_model.message import Request
    from supervisor.net.http_server import Handle
    from supervisor.routing.decision import Engine


class OwnFamily(Protocol):
    """One of the supervisor's own families: `Family` or `RenderedFamily`."""

    name: str

    def render(self) -> str: ...


class FamilySource(Protocol):
    """Something that has families of its own. Called from a thread, at each scrape."""

    def collect(self) -> Iterable[OwnFamily]: ...


class Registry:
    """The supervisor's own families, in the order in which their sources were registered."""

    def __init__(self) -> None:
        self._sources: list[FamilySource] = []

    def register(self, source: FamilySource) -> None:
        self._sources.append(source)

    def collect(self) -> list[OwnFamily]:
        """All families as they are now."""
        return [family for source in list(self._sources) for family in source.collect()]


class SupervisorMetrics:
    """Counts RPCs by route and engine. Safe from any thread."""

    def __init__(self, registry: Registry) -> None:
        # Protects both.
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._seconds: defaultdict[tuple[str, str], Distribution] = defaultdict(lambda: Distribution(SECONDS_BOUNDS))
        registry.register(self)

    def count_rpc(self, route: str, engine: str, code: str, duration_s: float) -> None:
        with self._lock:
            self._requests[route, engine, code] += 1
            self._seconds[route, engine].observe(duration_s)

    def collect(self) -> Iterable[Family]:
        with self._lock:
            requests = dict(self._requests)
            seconds = {key: distribution.copy() for key, distribution in self._seconds.items()}
        count = Family(f"{OWN_PREFIX}rpcs_total", "counter", "RPCs by route, engine and status code.")
        for (route, engine, code), number in requests.items():
            count.add({"route": route, "engine": engine, "code": code}, number)
        durations = Family(f"{OWN_PREFIX}rpc_seconds", "histogram", "Time from a call's headers to its end.")
        for (route, engine), distribution in seconds.items():
            durations.add_distribution({"route": route, "engine": engine}, distribution)
        return (count, durations)


class HttpCountCollector:
    """HTTP answers by route and engine. It reads the gateways' own counts, so the data path updates no metric."""

    def __init__(self, counts: Iterable[Mapping[tuple[str, Engine], int]]) -> None:
        self._counts = tuple(counts)

    def collect(self) -> Iterable[Family]:
        family = Family(f"{OWN_PREFIX}http_requests_total", "counter", "HTTP requests by route and engine.")
        total: Counter[tuple[str, str]] = Counter()
        for counts in self._counts:
            for (route, engine), count in dict(counts).items():
                total[route, str(engine.value)] += count
        for (route, engine_name), count in total.items():
            family.add({"route": route, "engine": engine_name}, count)
        return (family,)


class SeatNumbers(Protocol):
    """The numbers of `Seats`, or of the seats of several processes together. Called from a thread, at each scrape."""

    @property
    def open_count(self) -> int: ...

    @property
    def most(self) -> int: ...

    @property
    def given_up(self) -> int: ...

    @property
    def refused(self) -> int: ...


class SeatCollector:
    """Connections by kind of listener: open now, allowed now, and so far closed for newcomers or turned away."""

    def __init__(self, seats: Mapping[str, SeatNumbers]) -> None:
        self._seats = dict(seats)

    def collect(self) -> Iterable[Family]:
        prefix = f"{OWN_PREFIX}connections"
        count = Family(prefix, "gauge", "Open connections of clients.")
        limit = Family(f"{prefix}_limit", "gauge", "How many there may be now.")
        given_up = Family(f"{prefix}_given_up_total", "counter", "Waiting ones closed for newcomers.")
        refused = Family(f"{prefix}_refused_total", "counter", "Newcomers that found no room.")
        for name, seats in self._seats.items():
            labels = {"listener": name}
            count.add(labels, seats.open_count)
            limit.add(labels, seats.most)
            given_up.add(labels, seats.given_up)
            refused.add(labels, seats.refused)
        return (count, limit, given_up, refused)


class StateCollector:
    """Gauges that are read at each scrape from functions: route states, child state, and other facts.

    A gauge's text is made again when its values have changed: there is a series for each route, and few routes change.
    """

    def __init__(self, gauges: Mapping[str, Gauge]) -> None:
        self._gauges = gauges
        self._last: dict[str, tuple[Mapping[tuple[str, ...], float], RenderedFamily]] = {}

    def collect(self) -> Iterable[RenderedFamily]:
        for name, gauge in self._gauges.items():
            numbers = gauge.read()
            last = self._last.get(name)
            if last is None or last[0] != numbers:
                family = Family(OWN_PREFIX + name, "gauge", gauge.help_text)
                for values, number in numbers.items():
                    family.add(dict(zip(gauge.labels, values, strict=True)), number)
                last = self._last[name] = dict(numbers), RenderedFamily(family)
            yield last[1]


class Gauge:
    """A named fact: its help text, its label names, and a function that reads {label values: number} now."""

    def __init__(
        self, help_text: str, labels: tuple[str, ...], read: Callable[[], Mapping[tuple[str, ...], float]]
    ) -> None:
        self.help_text = help_text
        self.labels = labels
        self.read = read


ScrapeBackend = Callable[[], Awaitable[bytes]] | None
"""Returns the child's metrics text; b"" when it gives none now. None where there is no child."""


@dataclass(slots=True)
class NodeExposition:
    """The text of the metrics port: upstream's families, then this process's own.

    Attributes:
        refreshers: awaited before each text is made. They bring in what other processes have counted.
    """

    registry: Registry
    volume_metrics: VolumeMetrics
    scrape_backend: ScrapeBackend = None
    refreshers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    _thread: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1), init=False)
    """A thread of its own: a disk that hangs delays nothing else, and many scrapes at once use one thread."""
    _making: trio.Lock = field(default_factory=trio.Lock, init=False)
    _begun: int = field(default=0, init=False)
    _last: bytes = field(default=b"", init=False)

    async def text(self) -> bytes:
        """All series of the node in the text format, each once.

        Callers that come while a text is being made all get the next text. It is as new as a text made for each.
        """
        begun_before = self._begun
        async with self._making:
            if self._begun > begun_before and self._last:
                return self._last
            self._begun, self._last = self._begun + 1, b""
            for refresh in self.refreshers:
                await refresh()
            backend_text = await self.scrape_backend() if self.scrape_backend else b""
            self._last = await trio.to_thread.run_sync(self._render, backend_text, limiter=self._thread)
            return self._last

    def _render(self, backend_text: bytes) -> bytes:
        own = self.registry.collect()
        theirs = parse_families(backend_text.decode("utf-8", "replace"))
        # A child that runs this program has the same families. Those of this process count.
        for family in own:
            theirs.pop(family.name, None)
        families = merge_families(theirs, self.volume_metrics.collect(), single=KNOWN_TO_BOTH)
        return "".join(family.render() for family in (*families.values(), *own)).encode()


# ---- The metrics port: /metrics with any method, as in upstream, and no other path.
#
# Source of the port's behaviour: weed/stats/metrics.go (StartMetricsServer); promhttp's handler.

_LIMITS = HttpLimits(drain_s=2.0, max_connections=64)
_TEXT_FORMAT = (("Content-Type", f"{CONTENT_TYPE}; escaping=underscores"),)
_NOT_FOUND = (("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"))


def metrics_handler(exposition: Callable[[], Awaitable[bytes]]) -> Handle:
    """The handler for requests of the metrics port. It answers with the text of `exposition`."""

    async def handle(request: Request) -> Response:
        if request.raw_path != "/metrics":
            return Response(404, Headers(_NOT_FOUND), b"404 page not found\n")
        text = await exposition()
        headers = Headers((*_TEXT_FORMAT, ("Content-Length", str(len(text)))))
        return Response(200, headers, b"" if request.method == "HEAD" else text)

    return handle


async def serve_metrics(
    exposition: Callable[[], Awaitable[bytes]], host: str, port: int, *, task_status: trio.TaskStatus[int]
) -> None:
    """Serves until cancelled. `started` gets the bound port, also where port 0 was asked for.

    Raises:
        CannotListen: the port cannot be bound.
    """
    listener = open_listener(host, port)
    bound = listener.port
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_http, [listener], metrics_handler(exposition), limits=_LIMITS))
        task_status.started(bound)
