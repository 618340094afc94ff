"""`python -m tests.bench --only ways`: requests a second of those that go the ordinary way, as ratios to Go.

A GET with a Range and a small PUT are answered by this process; a forwarded GET by the child of a front. With
`--before` the servers of another checkout run beside those of this one, in the same rounds.
"""

import os
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path

from harness import implementations
from harness.server import VolumeServer
from load import run_load

PAYLOAD_BYTES = 1024
PUTS = """
local count = 0
request = function()
  count = count + 1
  return wrk.format("PUT", nil, {["Content-Type"] = "application/x-bench"}, "a small body " .. count)
end
"""
WAYS = {"GET with Range": "native", "small PUT": "native", "forwarded GET": "proxy-go"}
"""The way, and our server that goes it. Go goes each of them."""


@dataclass(frozen=True)
class OfCheckout(implementations.Implementation):
    """Our program as another checkout has it."""

    checkout: str = ""

    def command(self, layout, weed, extra=()):
        path = [shutil.which("env"), f"PYTHONPATH={self.checkout}", "PYTHONSAFEPATH=1"]
        return [*path, *super().command(layout, weed, extra)]


def run(options, master, base, weed, stack):
    """Measures and prints; see the module."""
    script = base / "puts.lua"
    script.write_text(PUTS)
    arguments = {
        "GET with Range": ["-H", "Range: bytes=100-199"],
        "small PUT": ["-s", str(script)],
        "forwarded GET": [],
    }
    servers = _start(options, master, base, weed, stack)
    targets = {name: (one.admin, f"/{one.store(bytes(PAYLOAD_BYTES))}") for name, one in servers.items()}
    for way, ours in WAYS.items():
        names = [name for name in servers if name in {"go", ours, f"{ours} before"}]
        rates, costs = {name: [] for name in names}, {name: [] for name in names}
        for number in range(options.rounds + 1):
            for name in names:
                (host, port), target = targets[name]
                before_s = _cpu_s(servers[name].process.pid)
                load = run_load(
                    host,
                    port,
                    target,
                    connections=options.connections,
                    duration_s=options.seconds if number else 1,
                    arguments=arguments.get(way, ()),
                )
                if load.failed:
                    raise SystemExit(f"{way}, {name}: {load.failed} requests failed: the figures would mean nothing")
                if number:
                    rates[name].append(load.requests_per_s)
                    used_s = _cpu_s(servers[name].process.pid) - before_s
                    costs[name].append(used_s / (load.requests_per_s * options.seconds) * 1e6)
        _print(way, rates, costs)


def _start(options, master, base, weed, stack):
    known = {one.name: one for one in implementations.ALL}
    wanted = {name: known[name] for name in ("go", *dict.fromkeys(WAYS.values()))}
    if options.before:
        for name in dict.fromkeys(WAYS.values()):
            one = known[name]
            fields = {"mode": one.mode, "backend": one.backend, "needs_weed": one.needs_weed}
            wanted[f"{name} before"] = OfCheckout(f"{name} before", checkout=options.before, **fields)
    started = {}
    for name, one in wanted.items():
        started[name] = VolumeServer(one, base / name.replace(" ", "-"), master, weed)
        stack.callback(started[name].end)
    return started


def _cpu_s(pid):
    """What the process, without its children, has had of a processor so far: other load matters less to it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _print(way, rates, costs):
    print(f"\n{way}\n{'server':<18}{'requests/s':>12}{'of direct Go':>15}{'spread':>14}{'CPU us each':>14}")
    for name, seen in rates.items():
        ratios = [rate / direct for rate, direct in zip(seen, rates["go"], strict=True)]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        print(
            f"{name:<18}{statistics.median(seen):>12,.0f}{statistics.median(ratios):>15.2f}{spread:>14}{statistics.median(costs[name]):>14,.0f}"
        )
