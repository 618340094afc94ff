"""Work on a volume, measured: how long it takes, and how much processor time the server uses; as ratios to Go's.

Others may use the machine meanwhile. The wall time then says little, and the processor time still says how much work
there is to do.
"""

import os
import statistics
import tempfile
import time
from typing import NamedTuple

from bench.processor_time import used_by

MB, GB = 10**6, 10**9
_ZEROS = bytes(256 << 10)


class Measured(NamedTuple):
    """What one piece of work took. `used_s` is processor time of the server and its children."""

    taken_s: float
    used_s: float


def measure(server, run, size_bytes):
    """Runs `run`, which has the server handle `size_bytes`.

    What earlier work left for the disk is written before. And memory is used: a virtual machine may have given its free
    memory back to the host, and whoever is the first to use it again would pay for that. The memory is that of a file,
    so it is free afterwards in pieces as files take them.
    """
    os.sync()
    with tempfile.TemporaryFile(dir=server.data_dir.parent) as file:
        for _ in range(2 * size_bytes // len(_ZEROS)):
            file.write(_ZEROS)
    used_s, began_s = used_by(server.process.pid), time.monotonic()
    run()
    return Measured(time.monotonic() - began_s, used_by(server.process.pid) - used_s)


def print_steps(title, seen, baseline, size_bytes):
    """A table of `seen`, which has for each step and server one `Measured` a round, of `size_bytes` each."""
    print(f"\n{title}\n")
    heads = ("step", "server", "MB/s", "spread", "of Go", "spread", "CPU s/GB", "of Go")
    print(_row(heads))
    for step, by_name in seen.items():
        for name, rounds in by_name.items():
            rates = [size_bytes / MB / one.taken_s for one in rounds]
            used = [one.used_s * GB / size_bytes for one in rounds]
            cells = [step, name, f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f}-{max(rates):,.0f}"]
            ratios = costs = ""
            if baseline in by_name:
                pairs = list(zip(rounds, by_name[baseline], strict=True))
                times = [other.taken_s / one.taken_s for one, other in pairs]
                ratios = f"{statistics.median(times):.2f}", f"{min(times):.2f}-{max(times):.2f}"
                costs = f"{statistics.median(one.used_s / max(other.used_s, 0.01) for one, other in pairs):.2f}"
            cells += [*(ratios or ("", "")), f"{statistics.median(used):.2f}", costs]
            print(_row(cells), flush=True)


def _row(cells):
    widths = (-16, -10, 8, 14, 7, 12, 9, 7)
    parts = (
        f"{cell:<{-width}}" if width < 0 else f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)
    )
    return "".join(parts).rstrip()
