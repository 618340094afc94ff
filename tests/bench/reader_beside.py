"""A reader beside a load: one small GET after the other on a kept connection, and how long the slowest one took.

The reader runs in a process of its own, so that the load generator's interpreter does not slow it down.
"""

import http.client
import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PAUSE_S = 0.002
"""Between two reads: enough reads to meet a stall of some milliseconds, and little load."""
GIVE_UP_S = 600


@dataclass
class Stalls:
    """What the reader saw; filled when the `with` block ends."""

    reads: int = 0
    failed: int = 0
    median_s: float = 0.0
    longest_s: float = 0.0


@contextmanager
def reader_beside(address, target):
    """Reads `target` at `address` (host, port) until the block ends. Gives the `Stalls` that are known afterwards."""
    host, port = address
    stalls = Stalls()
    reader = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), host, str(port), target],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        reader.stdout.readline()  # the first read is done
        yield stalls
        told, _ = reader.communicate("", timeout=GIVE_UP_S)
        vars(stalls).update(json.loads(told))
    finally:
        reader.kill()
        reader.wait()


def read_until_told(host, port, target):
    """Reads until standard input ends; prints a line after the first read and the figures at the end."""
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    connection = http.client.HTTPConnection(host, port, timeout=GIVE_UP_S)
    times_s, failed = [], 0
    while True:
        started = time.perf_counter()
        try:
            connection.request("GET", target)
            answer = connection.getresponse()
            answer.read()
            failed += answer.status != 200
        except (OSError, http.client.HTTPException):
            failed += 1
            connection.close()
        times_s.append(time.perf_counter() - started)
        if len(times_s) == 1:
            print("reading", flush=True)
        if over.wait(PAUSE_S):
            break
    figures = {"reads": len(times_s), "failed": failed}
    figures |= {"median_s": sorted(times_s)[len(times_s) // 2], "longest_s": max(times_s)}
    print(json.dumps(figures))


if __name__ == "__main__":
    read_until_told(sys.argv[1], int(sys.argv[2]), sys.argv[3])
