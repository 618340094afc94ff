"""`python -m tests.bench`: the table "as fast as the Go server", and other measurements by `--only`.

Rounds are interleaved, each server once a round, so that a slow moment of the machine hits all servers alike. A ratio
is made within its round, and the table gives the median and the spread. All servers listen on loopback and are ended
at the end.
"""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "contract"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import forwarding
import index_bench
import sweep_content
import sweep_volumes
import ways
import whole
from bench import catalogue
from coding import print_coding
from copying import print_copies
from harness import implementations
from harness.http1 import Connection
from harness.master import Master
from harness.processes import memory_bytes, reset_peak_memory
from harness.server import VolumeServer
from harness.transfer import MIB, download, upload
from sweep_connections import print_connections
from sweep_grpc import print_sweep as print_sweep_grpc
from vacuum import print_vacuums
from walk import print_walks

LARGE_FILE_MIB = 1024
BASELINE = "go"
SERVERS = "go,proxy-go,mixed-go,native"
MAINTENANCE = ("ec", "vacuum", "maintenance")
COMPARED = ("go", "native")
OTHER_PARTS = (
    "copies",
    "ec",
    "forwarding",
    "index",
    "maintenance",
    "memory",
    "sweep-connections",
    "sweep-content",
    "sweep-grpc",
    "sweep-volumes",
    "vacuum",
    "walk",
    "ways",
)
FORWARDING = ("proxy-go", "mixed-go", "proxy-native", "mixed-native")


def main():
    options = parse_options()
    if options.only is None or options.only in catalogue.GROUPS:
        whole.run(options)
        return
    weed, why_not = implementations.find_weed()
    if options.only == "index":
        index_bench.run(options, weed)
        return
    if options.only == "walk":
        print_walks()
        return
    if options.only == "sweep-content":
        sweep_contents(options, weed)
        return
    if weed is None:
        print(f"{why_not}: without Go there are no ratios, only rates")
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weed-volume-py-bench-")))
        master = Master(base / "master", weed)
        stack.callback(master.process.end)
        if options.only == "sweep-volumes":
            sweep_volumes.run(options, master, base, weed)
        elif options.only in MAINTENANCE:
            maintain(options, base, master, weed, stack)
        elif options.only == "ways":
            ways.run(options, master, base, weed, stack)
        elif options.only == "forwarding":
            compared = start_servers("go,proxy-go,proxy-go-workers", base, master, weed, stack)
            forwarding.run(compared, base, stack, options.rounds, options.seconds)
        else:
            run_part(options, start_servers(options.servers, base, master, weed, stack))


def run_part(options, servers):
    if options.only == "sweep-grpc":
        print_sweep_grpc(servers, options.seconds)
    elif options.only == "sweep-connections":
        print_connections(servers, [int(text) for text in options.held.split(",")])
    elif options.only == "copies":
        print_copies(servers, BASELINE, options.rounds, options.copy_mib)
    else:
        print_memory([one for one in servers if one.name in FORWARDING], options)


def parse_options():
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--seconds", type=float, help="of load per server and round (2; of the other parts 3)")
    parser.add_argument(
        "--connections", type=int, default=32, help="at once (32); the lines of the table have their own"
    )
    parser.add_argument(
        "--mib", type=int, default=LARGE_FILE_MIB, help=f"of the large file ({LARGE_FILE_MIB}); 0: none"
    )
    parser.add_argument("--copy-mib", type=int, default=512, help="of the file that is copied (512)")
    parser.add_argument("--files", type=int, default=10_000, help="that `weed benchmark` writes and reads (10000)")
    parser.add_argument(
        "--large-requests", type=int, default=200, help="PUTs of 4 MiB in a round, and half of the GETs (200)"
    )
    parser.add_argument("--json", default="build/bench.json", help='of the table (build/bench.json); "": none')
    parser.add_argument("--svg", default="build/bench.svg", help='of the table (build/bench.svg); "": none')
    parser.add_argument(
        "--servers", default=SERVERS, help=f"of the contract suite's ({SERVERS}; {sweep_content.SERVERS} for contents)"
    )
    parser.add_argument(
        "--only",
        choices=[*catalogue.GROUPS, *OTHER_PARTS],
        help=f"one group of the table's lines ({', '.join(catalogue.GROUPS)}), or one of the other parts: "
        "4 copies at once with calls beside them (copies), forwarded requests beside nginx with the time of the front, "
        "the index, memory of a front that forwards a large file, "
        "many connections, contents that are much work, silent gRPC clients, many volumes, "
        "vacuums and scrubs, erasure coding, both of these (maintenance), how far a request travels, "
        "or requests that go the ordinary way",
    )
    parser.add_argument("--vacuum-mib", type=int, default=512, help="of the volumes of the vacuum bench (512)")
    parser.add_argument("--before", help="another checkout, whose servers are measured beside these in `--only ways`")
    parser.add_argument("--needles", type=int, default=10_000_000, help="of the index bench (10 million)")
    parser.add_argument(
        "--held", default="100,1000,2000,10000", help="of the sweep over connections (100,1000,2000,10000)"
    )
    parser.add_argument("--volumes", default="3000,20000", help="of the sweep over volumes (3000,20000)")
    options = parser.parse_args()
    if options.only in OTHER_PARTS:
        options.seconds = max(1, round(options.seconds or 3))
    else:
        options.seconds = options.seconds or 2
    return options


def maintain(options, base, master, weed, stack):
    names = options.servers if options.servers != SERVERS else ",".join(COMPARED)
    compared = start_servers(names, base, master, weed, stack)
    if options.only != "vacuum":
        print_coding(compared, BASELINE, options.rounds, options.copy_mib)
    if options.only != "ec":
        print_vacuums(compared, BASELINE, options.rounds, options.vacuum_mib, base)


def sweep_contents(options, weed):
    names = options.servers if options.servers != SERVERS else sweep_content.SERVERS
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weed-volume-py-bench-")))
        master = Master(base / "master", weed)
        stack.callback(master.process.end)
        sweep_content.run(start_servers(names, base, master, weed, stack, flags=()))


def start_servers(names, base, master, weed, stack, flags=("-fileSizeLimitMB=2048",)):
    started = []
    for name in names.split(","):
        if implementations.BY_NAME[name].needs_weed and weed is None:
            continue
        server = VolumeServer(implementations.BY_NAME[name], base / name, master, weed, flags)
        stack.callback(server.end)
        started.append(server)
    return started


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
    """Resident memory before, and the peaks after an upload and after its download."""
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
