"""What the bench finds on the machine: the programs that it compares with, the ones that make load, and the machine."""

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

RUST_VARIABLE = "RUST_VOLUME_BINARY"
"""Names the Rust server for upstream's suite too. Source: test/volume_server/framework/cluster_rust.go."""
VERSION_LIMIT_S = 10
SBIN = ("/usr/local/sbin", "/usr/sbin")
"""nginx is often there, and these are often not in the PATH of a user."""
NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), *SBIN]))
WRK, H2LOAD = shutil.which("wrk"), shutil.which("h2load")


@dataclass(frozen=True)
class Program:
    """A program by its path and version, or with a path of None and the reason."""

    path: str | None
    version: str = ""
    why_not: str = ""

    def as_json(self):
        return {"found": self.path is not None, "version": self.version, "why_not": self.why_not}


def find_programs(weed, why_no_weed):
    """name -> `Program`, for whatever the bench can use."""
    rust, why_no_rust = _find_rust()
    return {
        "go": _program(weed, why_no_weed, "version"),
        "rust": _program(rust, why_no_rust, "--version"),
        "nginx": _program(NGINX, "nginx is not installed", "-v"),
        "wrk": _program(WRK, "wrk is not installed: the built-in generator takes its place", "-v"),
        "h2load": _program(H2LOAD, "h2load is not installed", "--version"),
    }


def _find_rust():
    named = os.environ.get(RUST_VARIABLE)
    if named:
        return shutil.which(named), f"{RUST_VARIABLE}={named} is not an executable file"
    return shutil.which("weed-volume"), f"no Rust server: {RUST_VARIABLE} is not set and PATH has no weed-volume"


def _program(path, why_not, version_argument):
    if path is None:
        return Program(None, why_not=why_not)
    ended = subprocess.run(
        [path, version_argument], capture_output=True, text=True, timeout=VERSION_LIMIT_S, check=False
    )
    lines = (ended.stdout + ended.stderr).strip().splitlines()
    return Program(str(Path(path).resolve()), lines[0].strip() if lines else "")


def machine_facts():
    """Facts about the machine that the figures depend on, by name."""
    cpuinfo, meminfo = Path("/proc/cpuinfo").read_text(), Path("/proc/meminfo").read_text()
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return {
        "processor": model[1] if model else platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "memory_bytes": int(re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)[1]) * 1024,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{sys.implementation.name} {platform.python_version()}",
        "load_before": list(os.getloadavg()),
    }
