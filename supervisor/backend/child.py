"""Keeps one backend running: start, probe, log, restart within a budget, stop. See docs/policy/backend.md.

Only the task `serve_backend` starts or ends the child; all other code reads the `BackendHandle`. The task is one loop
of runs. A failure of a run reaches the supervisor only as one named error at the end.
"""

from __future__ import annotations

import logging
import random
import signal
from collections import deque
from dataclasses import field
from typing import TYPE_CHECKING

import trio

from native_handlers.records import dataclass
from supervisor.backend.errors import BackendError, BackendGaveUp, BackendStartFailed
from supervisor.backend.handle import BackendHandle, BackendState
from supervisor.backend.log_lines import LevelParser, LineSplitter
from supervisor.backend.ports import LOOPBACK, PortReservation
from supervisor.backend.process import start_child
from supervisor.backend.restart_policy import Exit, GiveUp, RestartPolicy, next_step, relevant_exits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from supervisor.backend.ports import BackendPorts
    from supervisor.backend.process import ChildProcess

LOG = logging.getLogger(__name__)
OUTPUT_LOG = logging.getLogger("supervisor.backend.output")

READ_BYTES = 65536
LEAST_PROBE_PAUSE_S = 0.02
MAX_PROBE_PAUSE_S = 0.2
PROBE_PAUSE_PART = 1 / 20
"""The pause between two probes is this part of the time since the child's start. So a child that is ready is found
about as much later at most."""
PROBE_LIMIT_S = 5.0
LAST_WORDS_S = 2.0
"""How long output is still read after the exit. The pipe ends sooner unless another process holds it."""
KILL_LIMIT_S = 5.0
"""How long a killed process may take to end. Only a process stuck in the kernel takes longer."""
REMEMBERED_LINES = 20
EXIT_CANNOT_EXECUTE = 126
"""The exit code that a shell and the launcher use for this."""


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """The program of a child, and how it is run.

    `command` gets the ports and returns the argument vector; its first entry is the program's path.

    Args:
        environment: the child's environment; None passes on this process's own.
        stop_grace_s: how long a child may take to stop before it is killed.
        descriptors: descriptors that each child inherits.
        before_start: awaited before each start.
        before_ready: awaited when a child serves, before it counts as READY. Cancelled when the child ends.
        note_process: called with each child's process id after its start, and with None after its end.
    """

    name: str
    command: Callable[[BackendPorts], Sequence[str]]
    environment: Mapping[str, str] | None = None
    directory: Path | None = None
    stop_grace_s: float = 30.0
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    descriptors: Sequence[int] = ()
    before_start: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    before_ready: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    note_process: Callable[[int | None], None] = lambda _pid: None


async def serve_backend(
    spec: BackendSpec, *, task_status: trio.TaskStatus[BackendHandle] = trio.TASK_STATUS_IGNORED
) -> None:
    """Runs the backend until `request_stop`. `task_status.started(handle)` is called when it is ready the first time.

    In every case no process, port or descriptor is left at the end.

    Raises:
        BackendStartFailed: the program cannot be executed.
        BackendGaveUp: the budget of the restart policy is used up.

    Cancellation: stops the child as `request_stop` does (TERM, then kill after the grace), then ends.
    """
    with PortReservation() as reservation:
        handle = BackendHandle(spec.name, reservation.ports)
        try:
            failure = await _supervise(spec, handle, reservation, task_status)
        finally:
            handle.enter(BackendState.STOPPED)
        if failure is not None:
            handle.enter(BackendState.FATAL)
            raise failure


async def _supervise(
    spec: BackendSpec,
    handle: BackendHandle,
    reservation: PortReservation,
    task_status: trio.TaskStatus[BackendHandle],
) -> BackendError | None:
    """Runs the loop. Returns the error that ends it, because an error raised out of the nursery would be in a group."""
    failure: BackendError | None = None
    async with trio.open_nursery() as nursery:
        shield = trio.CancelScope(shield=True)
        nursery.start_soon(_stop_when_cancelled, spec, handle, shield)
        with shield:
            try:
                await _Runner(spec, handle, reservation, task_status).run()
            except BackendError as error:
                failure = error
        nursery.cancel_scope.cancel()
    return failure


async def _stop_when_cancelled(spec: BackendSpec, handle: BackendHandle, shield: trio.CancelScope) -> None:
    """Turns an outside cancellation into an orderly stop, and gives the shield around that stop a deadline."""
    try:
        await trio.sleep_forever()
    finally:
        shield.deadline = trio.current_time() + spec.stop_grace_s + KILL_LIMIT_S + LAST_WORDS_S
        handle.request_stop()


class _Runner:
    """The loop of runs, with what it remembers between runs."""

    def __init__(
        self,
        spec: BackendSpec,
        handle: BackendHandle,
        reservation: PortReservation,
        task_status: trio.TaskStatus[BackendHandle],
    ) -> None:
        self._spec = spec
        self._handle = handle
        self._reservation = reservation
        self._task_status = task_status
        self._has_started = False
        self._exits: list[Exit] = []
        self._last_lines: deque[str] = deque(maxlen=REMEMBERED_LINES)

    async def run(self) -> None:
        handle = self._handle
        while not handle.is_stop_requested:
            handle.last_exit = await self._run_once()
            if not handle.is_stop_requested:
                await self._pause_after(handle.last_exit)

    async def _run_once(self) -> Exit:
        """One run of the child, from its start until it is reaped."""
        handle = self._handle
        if self._reservation.refresh():
            LOG.warning("backend %s: a port was taken by another program, using others", handle.name)
        handle.ports = self._reservation.ports
        handle.enter(BackendState.STARTING)
        await self._wait_for_leave_to_start()
        began_s = trio.current_time()
        if handle.is_stop_requested:
            return Exit(at_s=began_s, status=0, was_ready=False, lifetime_s=0.0)
        try:
            child = start_child(
                self._spec.command(handle.ports),
                environment=self._spec.environment,
                directory=self._spec.directory,
                descriptors=self._spec.descriptors,
            )
        except BackendStartFailed as error:
            if not self._has_started:
                raise
            LOG.error("%s", error)  # the program ran before, so its file may be being replaced
            return Exit(at_s=began_s, status=EXIT_CANNOT_EXECUTE, was_ready=False, lifetime_s=0.0)
        handle.generation += 1
        handle.attach(child)
        self._spec.note_process(child.pid)
        LOG.info("backend %s started: pid %d, http port %d", handle.name, child.pid, handle.ports.http)
        try:
            await self._accompany(child)
        finally:
            # A child that was told to stop did not fail to start, whatever it had reached.
            was_ready = handle.is_ready or handle.state is BackendState.STOPPING
            handle.attach(None)
            self._spec.note_process(None)
            status = await child.end(KILL_LIMIT_S)
        now_s = trio.current_time()
        return Exit(at_s=now_s, status=status, was_ready=was_ready, lifetime_s=now_s - began_s)

    async def _wait_for_leave_to_start(self) -> None:
        """Returns when `before_start` has returned, or when the child is no longer wanted."""
        async with trio.open_nursery() as nursery:

            async def cancel_when_stopped() -> None:
                await self._handle.wait_stop_requested()
                nursery.cancel_scope.cancel()

            nursery.start_soon(cancel_when_stopped)
            await self._spec.before_start()
            nursery.cancel_scope.cancel()

    async def _accompany(self, child: ChildProcess) -> None:
        """Logs and probes the child, and stops it when asked. Returns after its end, when its output was read."""
        async with child.output, trio.open_nursery() as nursery:
            nursery.start_soon(self._log_output, child)
            async with trio.open_nursery() as while_alive:
                while_alive.start_soon(self._announce_ready)
                while_alive.start_soon(self._stop_when_asked, child)
                await child.wait_exit()
                while_alive.cancel_scope.cancel()
            child.kill_group()
            # A process that left the group may hold the pipe open, so reading the rest of the output has an end.
            nursery.cancel_scope.deadline = trio.current_time() + LAST_WORDS_S

    async def _announce_ready(self) -> None:
        began_s, handle = trio.current_time(), self._handle
        while not await self._is_serving():  # noqa: ASYNC110  another process cannot set an event
            await trio.sleep(probe_pause_s(trio.current_time() - began_s))
        await self._spec.before_ready()
        if handle.is_stop_requested:
            return
        LOG.info("backend %s is ready", handle.name)
        handle.enter(BackendState.READY)
        # A SIGHUP that came during the start was kept until now.
        handle.deliver_reload()
        if not self._has_started:
            self._has_started = True
            self._task_status.started(handle)

    async def _is_serving(self) -> bool:
        with trio.move_on_after(PROBE_LIMIT_S):
            return await is_serving(self._handle.ports)
        return False

    async def _stop_when_asked(self, child: ChildProcess) -> None:
        """Sends TERM to the child alone, which should end its own children. After the grace, kills the whole group."""
        await self._handle.wait_stop_requested()
        self._handle.enter(BackendState.STOPPING)
        child.send_signal(signal.SIGTERM)
        await trio.sleep(self._spec.stop_grace_s)
        LOG.warning("backend %s did not stop within %g s: killed", self._handle.name, self._spec.stop_grace_s)
        child.kill_group()

    async def _log_output(self, child: ChildProcess) -> None:
        splitter, levels = LineSplitter(), LevelParser()
        while data := await child.output.receive_some(READ_BYTES):
            for line in splitter.feed(data):
                self._log_line(levels, line)
        for line in splitter.flush():
            self._log_line(levels, line)

    def _log_line(self, levels: LevelParser, line: str) -> None:
        parsed = levels.parse(line)
        OUTPUT_LOG.log(parsed.level, "%s", parsed.text, extra={"backend": self._handle.name})
        self._last_lines.append(parsed.text)

    async def _pause_after(self, ended: Exit) -> None:
        """Waits before the next start.

        Raises:
            BackendGaveUp: there is no next start.
        """
        now_s, handle = trio.current_time(), self._handle
        self._exits = relevant_exits(self._spec.policy, [*self._exits, ended], now_s)
        step = next_step(self._spec.policy, self._exits, now_s, random.random())
        if isinstance(step, GiveUp):
            raise BackendGaveUp(handle.name, step.why, self._exits, tuple(self._last_lines))
        LOG.error(
            "backend %s ended with %s after %.1f s; next start in %.2f s",
            *(handle.name, ended.description, ended.lifetime_s, step.seconds),
        )
        handle.enter(BackendState.BACKOFF)
        with trio.move_on_after(step.seconds):
            await handle.wait_stop_requested()


# ---- Asks the child whether it serves. Readiness is an answer, never a time since the start.


def probe_pause_s(since_start_s: float) -> float:
    """How long to wait before the next probe of a child that was not ready `since_start_s` after its start."""
    return min(max(since_start_s * PROBE_PAUSE_PART, LEAST_PROBE_PAUSE_S), MAX_PROBE_PAUSE_S)


_HEAD_LIMIT_BYTES = 4096
_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def is_serving(ports: BackendPorts) -> bool:
    """Whether the child's admin port answers /healthz with 200 and its gRPC port accepts a connection.

    Cancellation: safe. Give the call a deadline: a child that accepts and sends nothing keeps it waiting.
    """
    try:
        return await _healthz_status(ports.http) == 200 and await _accepts(ports.grpc)
    except (OSError, trio.BrokenResourceError):
        return False


async def _healthz_status(port: int) -> int | None:
    async with await _connect(port) as stream:
        await stream.send_all(_REQUEST)
        head = b""
        while b"\r\n" not in head and len(head) < _HEAD_LIMIT_BYTES:
            piece = await stream.receive_some(_HEAD_LIMIT_BYTES)
            if not piece:
                return None
            head += piece
    words = head.split(b"\r\n", 1)[0].split()
    return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/1.") and words[1].isdigit() else None


async def _accepts(port: int) -> bool:
    await (await _connect(port)).aclose()
    return True


async def _connect(port: int) -> trio.SocketStream:
    made = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_STREAM)
    try:
        await made.connect((LOOPBACK, port))
    except BaseException:
        made.close()
        raise
    return trio.SocketStream(made)
