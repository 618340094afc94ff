"""Comma lists with empty entries, on the command lines of `weed volume` and of this project: both refuse a list, or
both accept it. Slow: the Go program is started once for each. Skipped without `weed`.
"""

from __future__ import annotations

import subprocess
import threading

import pytest
from support.ports import free_port

from supervisor.config.errors import UsageError

pytestmark = pytest.mark.slow

LIMIT_S = 60
LINES = [
    ["-dir=A,"], ["-dir=,A"], ["-dir=A,,B"], ["-dir="], ["-dir=,"], ["-dir= A"],
    ["-dir=A", "-max=8,"], ["-dir=A", "-max="], ["-dir=A,B", "-max=8,"], ["-dir=A", "-max= 8"], ["-dir=A", "-max=+8"],
    ["-dir=A", "-minFreeSpace=1,"], ["-dir=A", "-minFreeSpace=,"], ["-dir=A", "-minFreeSpace= 1"],
    ["-dir=A", "-minFreeSpacePercent="], ["-dir=A,B", "-minFreeSpacePercent=1,"],
    ["-dir=A", "-disk=ssd,"], ["-dir=A,B", "-disk=ssd,"], ["-dir=A,B", "-disk=,"], ["-dir=A,B", "-disk= ssd"],
    ["-dir=A", "-tags=,"], ["-dir=A", "-tags=a,b,"], ["-dir=A", "-whiteList=,"], ["-dir=A", "-whiteList= 10.0.0.1,"],
    ["-dir=A", "-master=127.0.0.1:1,"], ["-dir=A", "-master=,127.0.0.1:1"], ["-dir=A", "-mserver=,127.0.0.1:1,,"],
]  # fmt: skip


def weed_takes(weed_program, flags, folder):
    """Whether `weed volume` goes on to ask its master, which does not exist. It ends by itself after a refusal."""
    common = [f"-port={free_port()}", f"-port.grpc={free_port()}", "-ip=127.0.0.1", "-preStopSeconds=0"]
    if not any("master" in flag or "mserver" in flag for flag in flags):
        common.append("-master=127.0.0.1:1")
    command = [weed_program, "-logtostderr=true", f"-config_dir={folder}", "volume", *common, *flags]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE) as process:
        limit = threading.Timer(LIMIT_S, process.kill)
        limit.start()
        try:
            return any(b"checkWithMaster" in line for line in process.stderr)
        finally:
            limit.cancel()
            process.kill()


@pytest.mark.parametrize("flags", LINES, ids=" ".join)
def test_a_list_is_taken_or_refused_as_by_weed(machine, weed_program, flags):
    for name in "AB":
        (machine.cwd / name).mkdir()
    before = set(machine.cwd.iterdir())
    try:
        machine.load(*flags, data=False)
    except UsageError:
        is_taken = False
    else:
        is_taken = True
    assert set(machine.cwd.iterdir()) == before
    assert is_taken == weed_takes(weed_program, flags, machine.cwd)
