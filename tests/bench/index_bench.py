"""`python -m tests.bench --only index`: opening a volume of many needles, ours and the Go server's, and look-ups.

The .idx file is what an append-only life leaves: ids that ascend, ids that concurrent writers left a few places out of
order, and ids in any order. The .dat file is a hole with the last record in it, which is all that opening reads.

Go's time is that of its process until /status lists the volume, less the same with an empty directory; its bytes are
its resident memory, less the same. Ours are of `open_volume` in a process of its own, which has the store loaded.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "contract"))

import numpy as np
from bench.processor_time import processor_s
from harness.http1 import Disconnected, fetch
from harness.master import Master
from harness.processes import ServerProcess, clean_environment, memory_bytes
from support.ports import LOOPBACK, free_port
from support.waiting import wait_until

from native_handlers.format import crc
from native_handlers.format.needle import Needle, encode_needle_parts
from native_handlers.storage.shared.attach import create_share
from native_handlers.storage.shared.share import VolumeShare, open_shared
from native_handlers.storage.shared.state import SharedState
from native_handlers.storage.system.files import OS_FILES
from native_handlers.storage.volume.open import open_volume
from native_handlers.storage.volume.paths import VolumePaths
from native_handlers.storage.volume.state import OpenRequest

ORDERS = ("ascending", "nearly", "shuffled")
NEARLY_PLACES = 64
LOOK_UPS = 200_000
GO_LIMIT_S = 90
_ROW = np.dtype([("key", ">u8"), ("low", ">u4"), ("size", ">i4")])
_RECORD_BYTES, _BODY_BYTES = 40, 6


def run(options, weed):
    """Prints a row for each order of ids."""
    print(f"\nOpening a volume of {options.needles:,} needles\n")
    head = f"{'ids':<12}{'ours':>9}{'cpu':>9}{'bytes':>9}{'peak':>11}{'hit':>9}{'miss':>9}{'shared':>9}"
    print(f"{head}{'Go':>11}{'cpu':>9}{'bytes':>9}   bytes a needle; look-ups in us, of processor time")
    with tempfile.TemporaryDirectory(prefix="weed-volume-py-bench-") as base:
        master = Master(Path(base) / "master", weed) if weed else None
        try:
            for order in ORDERS:
                directory = Path(base) / order
                directory.mkdir()
                make_volume(directory, options.needles, order)
                print_row(order, measure_ours(directory), measure_go(directory, master, weed, options.needles))
        finally:
            if master:
                master.process.end()


def print_row(order, ours, go):
    row = f"{order:<12}{ours['open_s']:>8.2f}s{ours['cpu_s']:>8.2f}s{ours['bytes']:>9.2f}{ours['peak_mib']:>7.0f} MiB"
    row += "".join(f"{ours[name]:>9.2f}" for name in ("hit_us", "miss_us", "shared_us"))
    print(row + (f"{go[0]:>11}{go[1]:>9}{go[2]:>9}" if go else ""), flush=True)


def make_volume(directory, count, order):
    keys = np.arange(1, count + 1, dtype=np.uint64)
    random = np.random.default_rng(1)
    if order == "nearly":
        keys = keys[np.argsort(np.arange(count) + random.integers(0, NEARLY_PLACES, count), kind="stable")]
    elif order == "shuffled":
        keys = random.permutation(keys)
    rows = np.empty(count, _ROW)
    rows["key"], rows["low"], rows["size"] = keys, 1 + np.arange(count) * (_RECORD_BYTES // 8), _BODY_BYTES
    rows.tofile(directory / "1.idx")
    last = Needle(needle_id=int(keys[-1]), cookie=1, data=b"x", checksum=crc.crc32c(b"x"), append_at_ns=1)
    record = b"".join(encode_needle_parts(last, 3))
    assert (len(record), last.size) == (_RECORD_BYTES, _BODY_BYTES)
    with (directory / "1.dat").open("wb") as dat:
        dat.write(bytes([3, 0, 0, 0, 0, 0, 0, 0]))
        dat.seek(8 + (count - 1) * _RECORD_BYTES)
        dat.write(record)


def measure_ours(directory):
    command = [sys.executable, "-m", "tests.bench.index_bench", str(directory)]
    ended = subprocess.run(command, check=True, capture_output=True, env=clean_environment(), text=True)
    return json.loads(ended.stdout)


def measure_here(directory):
    """What one process sees, as numbers. Look-ups are of ids in any order; a miss is between those that exist."""
    paths = VolumePaths(directory, directory, "", 1)
    before = memory_bytes("self", "VmRSS")
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    opened = open_volume(OpenRequest(OS_FILES, paths, 4, now_s=int(time.time())), findings := [])
    open_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    assert not findings, findings
    assert opened.damage is None
    count = opened.index.counters.file_count
    seen = {
        "open_s": open_s,
        "cpu_s": cpu_s,
        "bytes": (memory_bytes("self", "VmRSS") - before) / count,
        "peak_mib": (memory_bytes("self", "VmHWM") - before) / 2**20,
        "hit_us": time_look_ups(opened.index.get, 1, count),
        "miss_us": time_look_ups(opened.index.get, count + 1, 2**63),
    }
    fd, share = create_share(OS_FILES, paths, 4)
    share.adopt(opened, files_generation=1)
    return seen | {"shared_us": time_look_ups(open_as_another(fd).index.get, 1, count)}


def open_as_another(fd):
    """The volume as another process has it that was handed `fd`."""
    own = OS_FILES.reopen(fd)
    state, paths, width = SharedState.attach(own)
    share = VolumeShare(OS_FILES, own, state, width)
    opened = open_shared(share, paths)
    share.follow(opened)
    return opened


def time_look_ups(get, first, last):
    random = Random(1)
    ids = [random.randint(first, last) for _ in range(LOOK_UPS)]
    began_s = time.process_time()
    for needle_id in ids:
        get(needle_id)
    return (time.process_time() - began_s) / LOOK_UPS * 1e6


def measure_go(directory, master, weed, count):
    """Seconds, those of processor time, and bytes a needle, as text; None without a `weed`."""
    if weed is None:
        return None
    empty = directory.with_name(directory.name + "-none")
    empty.mkdir()
    idle_s, idle_cpu_s, idle_bytes = start_go(empty, master, weed, expect_volume=False)
    full_s, full_cpu_s, full_bytes = start_go(directory, master, weed, expect_volume=True)
    if full_s is None:
        return f"> {GO_LIMIT_S}s", "?", "?"
    return f"{full_s - idle_s:.2f}s", f"{full_cpu_s - idle_cpu_s:.2f}s", f"{(full_bytes - idle_bytes) / count:.1f}"


def start_go(directory, master, weed, *, expect_volume):
    port = free_port()
    flags = [f"-port={port}", f"-port.grpc={free_port()}", f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", "-max=4"]
    command = [weed, "-logtostderr=true", "volume", f"-dir={directory}", f"-master={master.address}", *flags]

    def serves():
        try:
            return bool(fetch((LOOPBACK, port), "GET", "/status").json().get("Volumes")) == expect_volume
        except (OSError, Disconnected):
            return False

    began_s = time.perf_counter()
    process = ServerProcess(command, directory.with_suffix(".log"), directory.parent)
    try:
        wait_until(serves, "the Go server to list its volume", GO_LIMIT_S)
        return time.perf_counter() - began_s, processor_s(process.pid), memory_bytes(process.pid, "VmRSS")
    except TimeoutError:
        return None, None, None
    finally:
        process.end()


if __name__ == "__main__":
    print(json.dumps(measure_here(Path(sys.argv[1]))))
