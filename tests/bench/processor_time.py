"""Processor time of other processes: load of the machine matters less to it than to the time that passes."""

import os
from pathlib import Path

from harness.processes import children_of


def processor_s(pid):
    """What a process, without its children, has used of the processors, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def used_by(pid):
    """Processor seconds of a process and of all that it started and that still run."""
    return processor_s(pid) + sum(used_by(child) for child in children_of(pid))
