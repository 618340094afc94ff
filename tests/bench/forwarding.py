"""`python -m tests.bench --only forwarding`: what a front costs, beside nginx in front of the same Go server.

GET and PUT of 1 KiB at 32 connections, GET and PUT of 4 MiB at 8. The rounds are interleaved; a ratio is made within
its round. `proxy-go-workers` has two HTTP workers. Beside each rate stands the processor time that the front itself
takes for a request: others may use the machine, and then the rates say little.
"""

import os
import statistics
from dataclasses import dataclass, field
from functools import partial

from bench.processor_time import processor_s
from harness.processes import children_of
from load import run_load
from nginx import NGINX, Nginx
from transfers import MIB, Workload, run_round

GO, NGINX_NAME, OURS, WORKERS = "go", "nginx", "proxy-go", "proxy-go-workers"
UPLOADS = (
    Workload("PUT 1 KiB", "PUT", 1024, connections=32, requests=6400),
    Workload("GET 4 MiB", "GET", 4 * MIB, connections=8, requests=400),
    Workload("PUT 4 MiB", "PUT", 4 * MIB, connections=8, requests=200),
)
GET = "GET 1 KiB"
CONNECTIONS = 32


class ThroughNginx:
    """A server as it is reached through nginx."""

    def __init__(self, server, nginx):
        self._server, self.name, self.admin = server, NGINX_NAME, nginx.address

    def __getattr__(self, name):
        return getattr(self._server, name)


@dataclass
class Seen:
    """Requests a second, and microseconds of processor time for each request in the front, one of each a round."""

    rates: list = field(default_factory=list)
    costs_us: list = field(default_factory=list)


def run(servers, base, stack, rounds, seconds):
    """Measures `servers` (go and ours) and nginx, where it is installed, and prints."""
    by_name = {one.name: one for one in servers}
    if not by_name:
        raise SystemExit("without Go there is nothing to forward to")
    with_workers = by_name[WORKERS]
    fronts = {
        OURS: lambda: [by_name[OURS].process.pid],
        WORKERS: lambda: [with_workers.process.pid, *with_workers.worker_pids()],
    }
    if NGINX and GO in by_name:
        nginx = Nginx(base / "nginx", by_name[GO].admin)
        stack.callback(nginx.process.end)
        by_name[NGINX_NAME] = ThroughNginx(by_name[GO], nginx)
        fronts[NGINX_NAME] = lambda: children_of(nginx.process.pid)
    elif not NGINX:
        print("nginx is not installed: its row is left out")
    fids = {name: by_name[GO if name == NGINX_NAME else name].store(os.urandom(1024)) for name in by_name}
    heads = f"{'requests':<12}{'server':<18}{'requests/s':>12}{'of Go':>8}{'spread':>14}"
    print(f"\n{heads}{'of nginx':>10}{'CPU us each':>13}")
    for workload in (None, *UPLOADS):
        seen = {name: Seen() for name in by_name}
        for number in range(rounds + 1):
            for name, server in by_name.items():
                one = partial(_read, server, fids[name], seconds) if workload is None else None
                _measure(seen[name], fronts.get(name, list), one or partial(_transfer, server, workload), bool(number))
        _print(GET if workload is None else workload.name, seen)


def _read(server, fid, seconds):
    """Requests a second and their number, of one round of small reads."""
    load = run_load(*server.admin, f"/{fid}", connections=CONNECTIONS, duration_s=seconds)
    if load.failed:
        raise SystemExit(f"{GET}, {server.name}: {load.failed} requests failed: the figures would mean nothing")
    return load.requests_per_s, load.requests_per_s * seconds


def _transfer(server, workload):
    return run_round(server, workload), workload.requests


def _measure(seen, front, one, counts):
    """Adds one round. The first one warms up and does not count."""
    before_s = sum(processor_s(pid) for pid in front())
    rate, requests = one()
    if counts:
        seen.rates.append(rate)
        seen.costs_us.append((sum(processor_s(pid) for pid in front()) - before_s) / requests * 1e6)


def _print(workload, seen):
    for name, one in seen.items():
        of_go, of_nginx = ("", ""), ""
        if GO in seen:
            ratios = _ratios(one, seen[GO])
            of_go = f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f}-{max(ratios):.2f}"
        if NGINX_NAME in seen:
            of_nginx = f"{statistics.median(_ratios(one, seen[NGINX_NAME])):.2f}"
        cost = f"{statistics.median(one.costs_us):,.0f}" if any(one.costs_us) else ""
        rate = statistics.median(one.rates)
        print(f"{workload:<12}{name:<18}{rate:>12,.0f}{of_go[0]:>8}{of_go[1]:>14}{of_nginx:>10}{cost:>13}", flush=True)


def _ratios(one, other):
    return [rate / base for rate, base in zip(one.rates, other.rates, strict=True)]
