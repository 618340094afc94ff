"""`python -m tests.bench --only ways`: requests a second by the way that they go, as ratios to Go.

A GET with a Range, small writes and deletes are answered by this process; a forwarded GET by the child of a front. With
`--before` the servers of another checkout run beside those of this one, in the same rounds.
"""

import shutil
import statistics
from dataclasses import dataclass

from bench.processor_time import processor_s
from harness import implementations
from harness.server import VolumeServer
from load import run_load

PAYLOAD_BYTES = 1024
WRITES = """
local volume, body = wrk.path:match("/(%d+),"), string.rep("x", 1024)
local count = os.time() * 1000000
local headers = {["Content-Type"] = "application/x-bench"}
local function path()
  return string.format("/%s,%x01020304", volume, count)
end
"""
PUTS = f"""{WRITES}
request = function()
  count = count + 1
  return wrk.format("PUT", path(), headers, body)
end
"""
POSTS = f"""{WRITES}
headers = {{["Content-Type"] = "multipart/form-data; boundary=bench"}}
body = '--bench\\r\\nContent-Disposition: form-data; name="file"; filename="a.bin"\\r\\n' ..
  'Content-Type: application/x-bench\\r\\n\\r\\n' .. body .. '\\r\\n--bench--\\r\\n'
request = function()
  count = count + 1
  return wrk.format("POST", path(), headers, body)
end
"""
DELETES = f"""{WRITES}
local is_there = true  -- wrk asks for one request that it does not send
request = function()
  is_there = not is_there
  if is_there then
    count = count + 1
    return wrk.format("PUT", path(), headers, body)
  end
  return wrk.format("DELETE", path())
end
"""


@dataclass(frozen=True)
class Way:
    """A kind of request, our server that takes it, and the load. Go takes each of them."""

    name: str
    ours: str
    arguments: tuple[str, ...] = ()
    script: str = ""
    connections: int = 0
    """0: as the option says."""

    def load_arguments(self, base):
        if not self.script:
            return self.arguments
        path = base / f"{self.name.replace(' ', '-')}.lua"
        path.write_text(self.script)
        return (*self.arguments, "-s", str(path))


WAYS = (
    Way("GET with Range", "native", ("-H", "Range: bytes=100-199")),
    Way("small PUT", "native", script=PUTS),
    Way("POST 1 KiB, 1 connection", "native", script=POSTS, connections=1),
    Way("POST 1 KiB, 16 connections", "native", script=POSTS, connections=16),
    Way("PUT and DELETE in turn, 1 connection", "native", script=DELETES, connections=1),
    Way("forwarded GET", "proxy-go"),
)


@dataclass(frozen=True)
class OfCheckout(implementations.Implementation):
    """Our program as another checkout has it."""

    checkout: str = ""

    def command(self, layout, weed, extra=()):
        path = [shutil.which("env"), f"PYTHONPATH={self.checkout}", "PYTHONSAFEPATH=1"]
        return [*path, *super().command(layout, weed, extra)]


def run(options, master, base, weed, stack):
    """Measures and prints; see the module."""
    servers = _start(options, master, base, weed, stack)
    targets = {name: (one.admin, f"/{one.store(bytes(PAYLOAD_BYTES))}") for name, one in servers.items()}
    for way in WAYS:
        names = [name for name in servers if name in {"go", way.ours, f"{way.ours} before"}]
        rates, costs = {name: [] for name in names}, {name: [] for name in names}
        for number in range(options.rounds + 1):
            for name in names:
                (host, port), target = targets[name]
                before_s = processor_s(servers[name].process.pid)
                load = run_load(
                    host,
                    port,
                    target,
                    connections=way.connections or options.connections,
                    duration_s=options.seconds if number else 1,
                    arguments=way.load_arguments(base),
                )
                if load.failed:
                    raise SystemExit(
                        f"{way.name}, {name}: {load.failed} requests failed: the figures would mean nothing"
                    )
                if number:
                    rates[name].append(load.requests_per_s)
                    used_s = processor_s(servers[name].process.pid) - before_s
                    costs[name].append(used_s / (load.requests_per_s * options.seconds) * 1e6)
        _print(way.name, rates, costs)


def _start(options, master, base, weed, stack):
    known = {one.name: one for one in implementations.ALL}
    ours = dict.fromkeys(way.ours for way in WAYS)
    wanted = {name: known[name] for name in ("go", *ours)}
    if options.before:
        for name in ours:
            one = known[name]
            fields = {"mode": one.mode, "backend": one.backend, "needs_weed": one.needs_weed}
            wanted[f"{name} before"] = OfCheckout(f"{name} before", checkout=options.before, **fields)
    started = {}
    for name, one in wanted.items():
        started[name] = VolumeServer(one, base / name.replace(" ", "-"), master, weed)
        stack.callback(started[name].end)
    return started


def _print(way, rates, costs):
    print(f"\n{way}\n{'server':<18}{'requests/s':>12}{'of direct Go':>15}{'spread':>14}{'CPU us each':>14}")
    for name, seen in rates.items():
        ratios = [rate / direct for rate, direct in zip(seen, rates["go"], strict=True)]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        print(
            f"{name:<18}{statistics.median(seen):>12,.0f}{statistics.median(ratios):>15.2f}{spread:>14}{statistics.median(costs[name]):>14,.0f}"
        )
