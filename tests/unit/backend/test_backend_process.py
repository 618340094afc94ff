"""The child's ties to its parent, with real processes: each way for the parent to vanish ends the child."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio
from support.waiting import LIMIT_S, wait_until

from supervisor.backend import launcher
from supervisor.backend.errors import BackendStartFailed
from supervisor.backend.launch import LAUNCHER, launch
from supervisor.backend.process import TiedProcess, start_child

SLEEP = ["/bin/sleep", "600"]
PARENT = """
import signal, trio
from supervisor.backend.process import start_child
async def main():
    child = start_child(["/bin/sleep", "600"], environment=None, directory=None)
    print(child.pid, flush=True)
    signal.pause()
trio.run(main)
"""


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def ended_with(child, limit_s=LIMIT_S):
    with trio.fail_after(limit_s):
        await child.wait_exit()
    await child.output.aclose()
    return child.reap()


async def test_a_process_that_waits_for_a_disk_is_reaped_later():
    """Its end is not known in time: the descriptor that tells it is played."""
    popen, pidfd = launch(SLEEP)
    os.close(pidfd)
    never, other = os.pipe()
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await TiedProcess(popen, never).end(0.01) == -signal.SIGKILL
    os.close(other)
    wait_until(lambda: popen.returncode == -signal.SIGKILL)


async def test_an_end_gives_the_status_also_when_it_is_cancelled():
    popen, pidfd = launch(["/bin/sh", "-c", "exit 3"])
    process = TiedProcess(popen, pidfd)
    await process.wait_exit()
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await process.end(LIMIT_S) == 3


@pytest.mark.slow
def test_no_orphan_after_the_supervisor_is_killed():
    """Slow: starts a supervisor, and that starts a child."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        wait_until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"/bin/sleep"))
        parent.kill()
    wait_until(lambda: not is_alive(pid))


async def test_the_tie_is_to_the_thread_that_forks():
    """The fork happens in the thread that runs trio: a child of a worker thread would die with that worker."""
    started, may_end = [], threading.Event()

    def fork_and_wait():
        started.append(start_child(SLEEP, environment=None, directory=None))
        may_end.wait()

    worker = threading.Thread(target=fork_and_wait)
    worker.start()
    wait_until(lambda: started and Path(f"/proc/{started[0].pid}/cmdline").read_bytes().startswith(b"/bin/sleep"))
    may_end.set()
    worker.join()
    assert await ended_with(started[0]) == -signal.SIGKILL


async def test_a_child_of_this_thread_lives_on_and_gets_signals():
    child = start_child(SLEEP, environment=None, directory=None)
    await trio.to_thread.run_sync(lambda: None)
    assert os.getpgid(child.pid) == child.pid
    child.send_signal(signal.SIGTERM)
    assert await ended_with(child) == -signal.SIGTERM
    child.kill_group()


async def test_a_parent_that_was_gone_before_the_tie_is_noticed():
    command = [sys.executable, "-I", "-S", "-E", str(LAUNCHER), "1", *SLEEP]
    ended = await trio.run_process(command, check=False)
    assert ended.returncode == launcher.EXIT_PARENT_GONE


@pytest.mark.parametrize(("program", "code"), [("/nowhere/x", launcher.EXIT_NOT_FOUND), ("/", 126)])
async def test_the_launcher_says_why_it_cannot_execute(program, code):
    command = [sys.executable, "-I", "-S", "-E", str(LAUNCHER), str(os.getpid()), program]
    ended = await trio.run_process(command, check=False, capture_stderr=True)
    assert ended.returncode == code
    assert ended.stderr.startswith(f"launcher: {program}: ".encode())


async def test_the_child_gets_ordinary_signal_dispositions():
    show = ["/bin/grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"]
    child = start_child(show, environment=None, directory=None)
    seen = b""
    while data := await child.output.receive_some(4096):
        seen += data
    assert await ended_with(child) == 0
    # Signals 32 and 33 are the C library's own: no program can set them, and `make` starts its own with both ignored.
    ordinary = ~(0b11 << 31)
    assert [int(line.split()[1], 16) & ordinary for line in seen.splitlines()] == [0, 0]


async def test_environment_and_directory_are_as_told(tmp_path):
    child = start_child(["/usr/bin/env"], environment={"ONLY": "this"}, directory=tmp_path)
    assert b"ONLY=this" in await child.output.receive_some(4096)
    assert await ended_with(child) == 0


async def test_a_child_that_no_descriptor_is_left_for_is_one_that_did_not_start(monkeypatch):
    """The supervisor then tries again, as after any start that failed."""

    def refuse(_flags):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pipe2", refuse)
    with pytest.raises(BackendStartFailed, match="Too many open files"):
        start_child(SLEEP, environment=None, directory=None)
