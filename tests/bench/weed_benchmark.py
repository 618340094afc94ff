"""`weed benchmark`: upstream's own load, run on a cluster, and its report."""

import re
import subprocess
from typing import NamedTuple

LIMIT_S = 300
_TITLE_READ = "Randomly Reading Benchmark"
_TITLE_WRITE = "Writing Benchmark"


class BenchmarkRates(NamedTuple):
    """Requests a second."""

    write: float
    read: float


class ReportError(ValueError):
    """The report lacks a part, or says that requests failed."""


def run_weed_benchmark(weed, master, directory, files, clients, size_bytes, environment):
    """Runs it against the master at `master` (host:port) and returns the `BenchmarkRates`.

    Raises ReportError when a request failed, and where the program ends with an error.
    """
    command = [weed, "benchmark", f"-master={master}", f"-n={files}", f"-c={clients}", f"-size={size_bytes}"]
    command.append(f"-list={directory / 'list.txt'}")
    ended = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if ended.returncode:
        raise ReportError(f"weed benchmark ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return parse_report(ended.stdout, files)


def parse_report(text, files):
    """The rates of a report in which all of `files` were written and read. Raises ReportError otherwise.

    Source: printStats in weed/command/benchmark.go.
    """
    return BenchmarkRates(_rate(text, _TITLE_WRITE, files), _rate(text, _TITLE_READ, files))


def _rate(text, title, files):
    begin = text.find(f" {title} ")
    if begin < 0:
        raise ReportError(f"weed benchmark reports no {title}: {text[-2000:]}")
    end = text.find("------------ ", begin + 1)
    part = text[begin : end if end > 0 else len(text)]
    completed, failed = _number(part, "Completed requests"), _number(part, "Failed requests")
    if failed or completed != files:
        raise ReportError(f"{title}: {completed:.0f} of {files} requests, {failed:.0f} failed")
    return _number(part, "Requests per second")


def _number(part, name):
    found = re.search(rf"^{name}:\s+([\d.]+)", part, re.MULTILINE)
    if not found:
        raise ReportError(f"weed benchmark reports no {name}: {part[-2000:]}")
    return float(found[1])
