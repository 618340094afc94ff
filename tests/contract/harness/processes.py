"""Programs under test: each is started in its own process group, logged to a file, and ended in every case. The
project's own launcher starts them and ties them to this process, so that nothing stays when the test run itself is
killed.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from support.descriptors import links_of
from support.waiting import LIMIT_S as STOP_LIMIT_S

from supervisor.backend.launch import LAUNCHER
from supervisor.workers.spawn import WORKER_MODULE

REPOSITORY = Path(__file__).resolve().parents[3]
LOG_TAIL_BYTES = 6000
_RUNNING = set()


class ServerProcess:
    """One program. `log_path` has the output of this run and of earlier ones."""

    def __init__(self, command, log_path, directory):
        self.command = [str(word) for word in command]
        self.log_path = log_path
        temporary = directory / "tmp"
        temporary.mkdir(exist_ok=True)
        environment = clean_environment() | {"HOME": str(directory), "TMPDIR": str(temporary)}
        with log_path.open("ab") as log:
            log.write(f"--- {' '.join(self.command)}\n".encode())
            log.flush()
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", "-E", str(LAUNCHER), str(os.getpid()), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory,
                env=environment,
                process_group=0,
            )
        _RUNNING.add(self)

    @property
    def pid(self):
        return self._popen.pid

    @property
    def exit_code(self):
        """The exit code; None while the program runs."""
        return self._popen.poll()

    def send_signal(self, number):
        self._popen.send_signal(number)

    def kill(self):
        """SIGKILL to this one process, as the kernel does without memory. Returns when the process is gone."""
        self._popen.kill()
        self._popen.wait(STOP_LIMIT_S)

    def stop(self):
        """Asks the program to end, and returns its exit code. Kills the rest of its process group in every case."""
        try:
            if self.exit_code is None:
                self._popen.terminate()
            return self._popen.wait(STOP_LIMIT_S)
        finally:
            self.end()

    def end(self):
        """Ends the whole process group at once. Idempotent."""
        if self in _RUNNING:
            _RUNNING.discard(self)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait(STOP_LIMIT_S)

    def log_tail(self):
        data = self.log_path.read_bytes()[-LOG_TAIL_BYTES:]
        return data.decode("utf-8", "replace")


def clean_environment():
    """The environment of this process without the variables that steer a server: its mode, its configuration, a
    proxy.
    """
    steering = ("WEED_", "VOLUME_SERVER_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
    return kept | {"PYTHONPATH": str(REPOSITORY)}


def children_of(pid):
    """The process ids whose parent is `pid`, zombies too."""
    numbered = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [int(entry.name) for entry in numbered if (fields := _stat_fields(entry)) and int(fields[1]) == pid]


def argument_of(pid, flag):
    """The value of `-flag=value` in a process's command line, None without the flag. A process that has just started
    has its parent's command line, or none.
    """
    try:
        words = (Path("/proc") / str(pid) / "cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next((word.partition("=")[2] for word in words if word.lstrip("-").startswith(f"{flag}=")), None)


def is_worker(pid):
    """Whether the process is an HTTP worker, or is about to become one."""
    try:
        words = (Path("/proc") / str(pid) / "cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return WORKER_MODULE in words


def is_alive(pid):
    """Whether the process exists and is no zombie."""
    fields = _stat_fields(Path("/proc") / str(pid))
    return bool(fields) and fields[0] != "Z"


def _stat_fields(entry):
    """The state, parent and other fields of a process; empty when the process is gone."""
    try:
        return (entry / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def open_files(pid):
    """The targets of a process's descriptors. A deleted file keeps its name."""
    return [link.removesuffix(" (deleted)") for link in links_of(pid).values()]


def memory_bytes(pid, field):
    """A line of /proc/PID/status such as VmRSS or VmHWM."""
    for line in (Path("/proc") / str(pid) / "status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"process {pid} has no {field}")


def reset_peak_memory(pid):
    """Resets VmHWM to the present VmRSS."""
    (Path("/proc") / str(pid) / "clear_refs").write_text("5")


@atexit.register
def _end_all():
    for process in tuple(_RUNNING):
        process.end()
