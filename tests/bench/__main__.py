"""`python -m tests.bench`: what forwarding costs, as ratios to the same requests straight to Go.

Rounds are interleaved, each server once per round, so that a slow moment of the machine hits all alike; a ratio is made
within its round, and the table gives the median and the spread. Everything listens on loopback and is ended at the end.
"""

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "contract"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import index_bench
from copying import print_copies
from grpc_unary import print_unary
from harness import implementations
from harness.http1 import Connection
from harness.master import Master
from harness.processes import memory_bytes, reset_peak_memory
from harness.server import VolumeServer
from harness.transfer import MIB, download, upload
from load import generator_name, run_load
from nginx import NGINX, Nginx
from transfers import measure_transfers, print_transfers

PAYLOAD_BYTES = 1024
LARGE_FILE_MIB = 1024
BASELINE = "go"
TRANSFERRING = ("go", "native")
FORWARDING = ("proxy-go", "mixed-go", "proxy-native", "mixed-native")


def main():
    options = parse_options()
    weed, why_not = implementations.find_weed()
    if options.only == "index":
        index_bench.run(options, weed)
        return
    if weed is None:
        print(f"{why_not}: without Go there are no ratios, only rates")
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weed-volume-py-bench-")))
        master = Master(base / "master", weed)
        stack.callback(master.process.end)
        servers = start_servers(options.servers, base, master, weed, stack)
        targets = read_targets(servers, base, stack)
        print_rates(measure(targets, options), options)
        print_unary(servers, BASELINE, options.rounds, options.seconds)
        print_copies(servers, BASELINE, options.rounds, options.copy_mib)
        if options.transfer_rounds:
            compared = [one for one in servers if one.name in TRANSFERRING]
            print_transfers(measure_transfers(compared, options.transfer_rounds), BASELINE)
        print_memory([one for one in servers if one.name in FORWARDING], options)


def parse_options():
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--seconds", type=int, default=3, help="of load per server and round (3)")
    parser.add_argument("--connections", type=int, default=32, help="at once (32)")
    parser.add_argument(
        "--transfer-rounds", type=int, default=5, help="interleaved rounds of large and small transfers (5); 0: none"
    )
    parser.add_argument(
        "--mib", type=int, default=LARGE_FILE_MIB, help=f"of the large file ({LARGE_FILE_MIB}); 0: none"
    )
    parser.add_argument("--copy-mib", type=int, default=512, help="of the file that is copied (512); 0: none")
    parser.add_argument(
        "--servers", default="go,proxy-go,mixed-go,native", help="of the contract suite's (go,proxy-go,mixed-go,native)"
    )
    parser.add_argument("--only", choices=["index"], help="opening and looking up, instead of requests")
    parser.add_argument("--needles", type=int, default=10_000_000, help="of the index bench (10 million)")
    return parser.parse_args()


def start_servers(names, base, master, weed, stack):
    known = {one.name: one for one in implementations.ALL}
    started = []
    for name in names.split(","):
        if known[name].needs_weed and weed is None:
            continue
        server = VolumeServer(known[name], base / name, master, weed, ["-fileSizeLimitMB=2048"])
        stack.callback(server.end)
        started.append(server)
    return started


def read_targets(servers, base, stack):
    """name -> (address, target) of a small file at each server, and at nginx in front of the baseline."""
    targets = {one.name: (one.admin, f"/{one.store(bytes(PAYLOAD_BYTES))}") for one in servers}
    if BASELINE in targets and NGINX:
        address, target = targets[BASELINE]
        nginx = Nginx(base / "nginx", address)
        stack.callback(nginx.process.end)
        targets["nginx"] = (nginx.address, target)
    elif not NGINX:
        print("nginx is not installed: its row is left out")
    return targets


def measure(targets, options):
    """name -> requests a second, one figure per round. A first short run of each warms up and is thrown away."""
    rates = {name: [] for name in targets}
    for (host, port), target in targets.values():
        run_load(host, port, target, connections=options.connections, duration_s=1)
    for _ in range(options.rounds):
        for name, ((host, port), target) in targets.items():
            load = run_load(host, port, target, connections=options.connections, duration_s=options.seconds)
            if load.failed:
                raise SystemExit(f"{name}: {load.failed} requests failed: the figures would mean nothing")
            rates[name].append(load.requests_per_s)
    return rates


def print_rates(rates, options):
    print(
        f"\nGET of {PAYLOAD_BYTES} bytes, {options.connections} connections, {options.rounds} interleaved rounds of"
        f" {options.seconds} s, load from {generator_name()}\n"
    )
    print(f"{'server':<14}{'requests/s':>12}{'spread':>18}{'of direct Go':>15}{'spread':>14}")
    for name, seen in rates.items():
        row = f"{name:<14}{statistics.median(seen):>12,.0f}{f'{min(seen):,.0f}-{max(seen):,.0f}':>18}"
        if BASELINE in rates:
            ratios = [rate / direct for rate, direct in zip(seen, rates[BASELINE], strict=True)]
            row += f"{statistics.median(ratios):>15.2f}{f'{min(ratios):.2f}-{max(ratios):.2f}':>14}"
        print(row)


def print_memory(servers, options):
    if not options.mib or not servers:
        return
    print(f"\nGrowth of the supervisor's peak memory, one file of {options.mib} MiB\n")
    print(f"{'server':<14}{'before':>12}{'upload':>12}{'download':>12}")
    for server in servers:
        before, after_upload, after_download = memory_growth(server, options.mib)
        grown = [f"+{(peak - before) / MIB:.1f} MiB" for peak in (after_upload, after_download)]
        print(f"{server.name:<14}{f'{before / MIB:.0f} MiB':>12}{grown[0]:>12}{grown[1]:>12}")


def memory_growth(server, size_mib):
    """Resident memory before, and the peaks after an upload and after the download of it."""
    pid = server.process.pid
    with Connection(server.admin, limit_s=120) as connection:
        upload(connection, server.new_fid(), 1)
        reset_peak_memory(pid)
        before, fid = memory_bytes(pid, "VmRSS"), server.new_fid()
        digest = upload(connection, fid, size_mib)
        after_upload = memory_bytes(pid, "VmHWM")
        reset_peak_memory(pid)
        if download(connection, fid) != (size_mib * MIB, digest):
            raise SystemExit(f"{server.name}: the large file came back changed")
        return before, after_upload, memory_bytes(pid, "VmHWM")


if __name__ == "__main__":
    main()
