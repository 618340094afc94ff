"""`python -m tests.bench`: the whole table "as fast as the Go server", or one group of its lines.

The servers of a line take turns within a round, and each round begins with another one. The first round of a group
warms up and is dropped, except where each round has servers of its own.
"""

import datetime
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench import catalogue, found, plot, report
from bench.catalogue import PAYLOAD_BYTES
from bench.lines import GO, NGINX, PROXY, PROXY_WORKERS, RUST, Figure, Result
from bench.object_load import BUILT_IN, ObjectLoad, Target
from bench.startup import MB, measure_start
from bench.weed_benchmark import ReportError, run_weed_benchmark
from copying import copy_once, volume_with_file
from grpc_unary import H2LOAD, calls_at_once, calls_in_turn
from harness import implementations
from harness.master import Master
from harness.processes import clean_environment
from harness.server import RPC_LIMIT_S, VolumeServer
from nginx import Nginx
from support.ports import LOOPBACK
from transfers import MIB, Workload, run_round

from native_handlers.pb import volume_server_pb2


@dataclass
class Bench:
    """What the groups share: options, programs, and servers, which start when they are needed first."""

    options: object
    programs: dict
    base: Path
    stack: ExitStack
    load: ObjectLoad
    servers: dict = field(default_factory=dict)
    _master: Master | None = None

    @property
    def weed(self):
        return self.programs["go"].path

    @property
    def master(self):
        """The master of all servers but those of `weed benchmark`."""
        if self._master is None:
            self._master = Master(self.base / "master", self.weed)
            self.stack.callback(self._master.process.end)
        return self._master

    def implementation(self, name):
        """How to start a server of this name."""
        if name == RUST:
            return implementations.Implementation(RUST, binary=self.programs["rust"].path)
        return implementations.BY_NAME[name]

    def why_left_out(self, name):
        """Why there is no such server here; "" where there is one."""
        needed = {RUST: ["rust"], NGINX: ["nginx", "go"], **{one: ["go"] for one in (GO, PROXY, PROXY_WORKERS)}}
        missing = [one for one in needed.get(name, ()) if self.programs[one].path is None]
        return self.programs[missing[0]].why_not if missing else ""

    def server(self, name):
        """The running server of this name; for nginx the one behind it."""
        if name == NGINX:
            return self.server(GO)
        if name not in self.servers:
            self.servers[name] = VolumeServer(self.implementation(name), self.base / name, self.master, self.weed)
            self.stack.callback(self.servers[name].end)
        return self.servers[name]

    def target(self, name):
        """The running server of this name, as it is loaded."""
        server = self.server(name)
        if name != NGINX:
            return Target(name, server, server.admin, (server.process.pid,))
        if NGINX not in self.servers:
            workers = len(os.sched_getaffinity(0))
            self.servers[NGINX] = Nginx(self.base / NGINX, server.admin, workers)
            self.stack.callback(self.servers[NGINX].process.end)
        front = self.servers[NGINX]
        return Target(name, server, front.address, (front.process.pid, server.process.pid))


def run(options):
    """Measures, prints, and writes the files that `options` name."""
    programs = found.find_programs(*implementations.find_weed())
    machine, date = found.machine_facts(), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    groups = [options.only] if options.only else list(catalogue.GROUPS)
    _say_what_is_there(machine, programs)
    results = []
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weed-volume-py-bench-")))
        load = stack.enter_context(ObjectLoad(programs["wrk"].path, base))
        bench = Bench(options, programs, base, stack, load)
        report.print_head()
        for group in groups:
            print(f"measuring: {group}", file=sys.stderr, flush=True)
            of_group = _results_of(bench, group)
            MEASURES[group](bench, of_group)
            for result in of_group.values():
                report.print_result(result)
            results += of_group.values()
    _write_files(options, results, machine, programs, date)


def _say_what_is_there(machine, programs):
    print(
        f"{machine['processors']} processors, {machine['processor']}, {machine['kernel']}, {machine['python']}", end=""
    )
    print(f"; load {machine['load_before'][0]:.1f}")
    for name, one in programs.items():
        print(f"{name}: {one.version if one.path else 'left out: ' + one.why_not}")
    print(flush=True)


def _results_of(bench, group):
    """line key -> an empty `Result`, which knows who is left out."""
    lines = [line for line in catalogue.LINES if line.group == group]
    return {line.key: Result(line, left_out=_left_out(bench, line)) for line in lines}


def _left_out(bench, line):
    return {name: why for name in line.servers if (why := bench.why_left_out(name))}


def _take_turns(bench, results, measure, *, warms_up=True):
    """Calls `measure(name)` for each server in each round, which gives line key -> `Figure`."""
    first = next(iter(results.values()))
    names = [name for name in first.line.servers if name not in first.left_out]
    if not names:
        return
    for number in range(0 if warms_up else 1, bench.options.rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            for key, figure in measure(name).items():
                if number:
                    results[key].add(name, figure)


def _measure_get(bench, results):
    _measure_reads(bench, results["get-1k-32"])


def _measure_reads(bench, result):
    fids = {}

    def measure(name):
        if name not in fids:
            fids[name] = bench.server(name).store(os.urandom(PAYLOAD_BYTES))
        load = (fids[name], PAYLOAD_BYTES, catalogue.READERS, bench.options.seconds)
        return {result.line.key: bench.load.get(bench.target(name), *load)}

    result.generator = bench.load.name
    _take_turns(bench, {result.line.key: result}, measure)


def _measure_write(bench, results):
    seconds = bench.options.seconds
    for connections in (1, 16):
        post, delete = f"post-1k-{connections}", f"delete-1k-{connections}"

        def measure(name, connections=connections, post=post, delete=delete):
            target = bench.target(name)
            with _EmptyVolume(target.server) as volume_id:
                stored = bench.load.post(target, volume_id, PAYLOAD_BYTES, connections, seconds)
            count = max(connections, int(stored.value * seconds))
            with _EmptyVolume(target.server) as volume_id:
                deleted = bench.load.delete(target, volume_id, PAYLOAD_BYTES, connections, count)
            return {post: stored, delete: deleted}

        results[post].generator, results[delete].generator = bench.load.name, BUILT_IN
        _take_turns(bench, {key: results[key] for key in (post, delete)}, measure)


def _measure_forwarded(bench, results):
    _measure_reads(bench, results["forwarded-get-1k-32"])
    key = "forwarded-post-1k-32"

    def measure(name):
        target = bench.target(name)
        with _EmptyVolume(target.server) as volume_id:
            load = (volume_id, PAYLOAD_BYTES, catalogue.READERS, bench.options.seconds)
            return {key: bench.load.post(target, *load)}

    results[key].generator = bench.load.name
    _take_turns(bench, {key: results[key]}, measure)


def _measure_weed_benchmark(bench, results):
    """Each server has a master of its own, for the load asks the master where to write."""
    if bench.weed is None:
        for result in results.values():
            result.left_out |= dict.fromkeys(result.line.servers, bench.programs["go"].why_not)
        return

    def measure(name):
        directory = bench.base / "weed-benchmark"
        directory.mkdir()
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, directory)
            master = Master(directory / "master", bench.weed)
            stack.callback(master.process.end)
            server = VolumeServer(bench.implementation(name), directory / "server", master, bench.weed)
            stack.callback(server.end)
            asked = (bench.options.files, catalogue.BENCHMARK_CLIENTS, PAYLOAD_BYTES)
            environment = clean_environment() | {"HOME": str(directory)}
            master.get("/vol/grow?collection=benchmark&count=7")  # else the first write waits a second for volumes
            try:
                address = f"{LOOPBACK}:{master.http_port}.{master.grpc_port}"
                rates = run_weed_benchmark(bench.weed, address, directory, *asked, environment)
            except ReportError as error:
                raise SystemExit(f"{name}: {error}: the figures would mean nothing") from error
        return {"weed-benchmark-write": Figure(rates.write), "weed-benchmark-read": Figure(rates.read)}

    for result in results.values():
        result.generator = "weed benchmark"
    _take_turns(bench, results, measure, warms_up=False)


def _measure_large(bench, results):
    for key, method, share in (("get-4m-8", "GET", 2), ("put-4m-8", "PUT", 1)):
        requests = share * bench.options.large_requests
        workload = Workload(results[key].line.name, method, 4 * MIB, catalogue.LARGE_CONNECTIONS, requests)

        def measure(name, key=key, workload=workload):
            target = bench.target(name)
            used_s = target.used_s()
            rate = run_round(target.server, workload)
            taken_s, used_s = workload.requests / rate, target.used_s() - used_s
            return {key: Figure(rate * workload.size_bytes / MB, server_busy=used_s / taken_s)}

        results[key].generator = "built-in (threads, sendfile)"
        _take_turns(bench, {key: results[key]}, measure)


def _measure_copy_file(bench, results):
    volumes = {}

    def measure(name):
        target, mib = bench.target(name), bench.options.copy_mib
        if name not in volumes:
            volumes[name] = volume_with_file(target.server, mib)
        used_s = target.used_s()
        rate = copy_once(target.server, volumes[name], mib)
        taken_s, used_s = mib * MIB / MB / rate, target.used_s() - used_s
        return {"copy-file": Figure(rate, server_busy=used_s / taken_s)}

    results["copy-file"].generator = "grpcio"
    _take_turns(bench, results, measure)


def _measure_unary(bench, results):
    at_once, seconds = results["unary-at-once"], bench.options.seconds
    kinds = {"unary-in-turn": calls_in_turn, "unary-at-once": calls_at_once}
    if not H2LOAD:
        at_once.left_out |= dict.fromkeys(at_once.line.servers, bench.programs["h2load"].why_not)
        del kinds["unary-at-once"]

    def measure(name):
        target, figures = bench.target(name), {}
        for key, calls in kinds.items():
            used_s = target.used_s()
            rate = calls(target.server, seconds)
            figures[key] = Figure(rate, server_busy=(target.used_s() - used_s) / seconds)
        return figures

    results["unary-in-turn"].generator, at_once.generator = "grpcio", "h2load"
    _take_turns(bench, results, measure)


def _measure_start(bench, results):
    def measure(name):
        directory = bench.base / "start" / name
        taken_s, memory_mb = measure_start(bench.implementation(name), directory, bench.master, bench.weed)
        shutil.rmtree(directory)
        return {"first-healthy-answer": Figure(taken_s), "idle-memory": Figure(memory_mb)}

    _take_turns(bench, results, measure)


MEASURES = {
    "get": _measure_get,
    "write": _measure_write,
    "weed-benchmark": _measure_weed_benchmark,
    "forwarded": _measure_forwarded,
    "large": _measure_large,
    "copy-file": _measure_copy_file,
    "unary": _measure_unary,
    "start": _measure_start,
}


class _EmptyVolume:
    """A volume of its own for one round, deleted afterwards."""

    def __init__(self, server):
        self._server = server

    def __enter__(self):
        self._volume_id = self._server.new_volume()
        return self._volume_id

    def __exit__(self, *_):
        request = volume_server_pb2.VolumeDeleteRequest(volume_id=self._volume_id)
        self._server.rpc.VolumeDelete(request, timeout=RPC_LIMIT_S)


def _write_files(options, results, machine, programs, date):
    for name in filter(None, (options.json, options.svg)):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
    if options.json:
        asked = {name: getattr(options, name) for name in ("rounds", "seconds", "files", "large_requests", "copy_mib")}
        Path(options.json).write_text(report.as_json(results, machine, programs, asked, date))
        print(f"\nwrote {options.json}")
    if options.svg:
        title = f"{date[:10]}, {machine['processors']} processors ({machine['processor']}), {options.rounds} rounds"
        why_not = plot.write_plot(results, options.svg, title)
        print(why_not or f"wrote {options.svg}")
