"""The parent's side of the workers: starts them, tells them what changes, starts them again, and stops them.

Each worker has a place with a number. A place is one task, a loop of runs. Only that task starts or ends the worker of
the place; all other code uses `Workers`. In every case no worker is left when `Workers.serve` has returned: a worker is
killed when its task ends, when its channel ends, and by the kernel when this process ends.
"""

from __future__ import annotations

import logging
import random
from dataclasses import field
from typing import TYPE_CHECKING, Protocol

import trio

from native_handlers.records import dataclass
from supervisor.backend.errors import BackendStartFailed
from supervisor.backend.restart_policy import Exit, GiveUp, RestartPolicy, next_step, relevant_exits
from supervisor.workers.channel import CallHandler, ChannelError, ControlChannel
from supervisor.workers.counts import CountSums, WorkerCounts
from supervisor.workers.errors import WorkersGaveUp

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from supervisor.workers.messages import Fields, JsonObject

log = logging.getLogger(__name__)

EXIT_CANNOT_EXECUTE = 126
"""The exit code that a shell and the launcher use for this."""


class WorkerProcess(Protocol):
    """A worker as a process; see `TiedProcess`."""

    @property
    def pid(self) -> int: ...

    async def wait_exit(self) -> None: ...

    def kill_group(self) -> None: ...

    async def end(self, limit_s: float) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerBounds:
    """How long a worker may take. A worker that takes longer is killed.

    Args:
        start_s: from its start until it serves.
        push_s: for the acknowledgement of a push.
        counts_s: for its counts. A worker that takes longer is not killed: its last known counts are taken.
        drain_s: for what is left to do at a stop, its own drain time included.
        end_s: from the end of its channel, or from a kill, to the end of the process.
    """

    start_s: float = 60.0
    push_s: float = 5.0
    counts_s: float = 1.0
    drain_s: float = 35.0
    end_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersSpec:
    """The number of workers, and the functions that start and serve them.

    Args:
        start: starts a worker; returns the process, and this end of its control channel. Raises BackendStartFailed.
        settings: gives the body of the call `start` for the worker with this number, as things are at that moment.
        handlers: carry out the calls of the workers, besides `counted`.
        note_end: called with the number of each worker that has ended.
    """

    count: int
    start: Callable[[int], tuple[WorkerProcess, socket.socket]]
    settings: Callable[[int], JsonObject]
    handlers: Mapping[str, CallHandler]
    note_end: Callable[[int], None] = lambda _number: None
    bounds: WorkerBounds = field(default_factory=WorkerBounds)
    policy: RestartPolicy = field(default_factory=RestartPolicy)


class Workers:
    """The workers, running or being restarted. Only the event loop uses the methods; any thread may read the sums.

    Attributes:
        sums: what all workers have counted.
        starts: how many workers have become ready so far.
    """

    def __init__(self, spec: WorkersSpec) -> None:
        self._spec = spec
        self._running: dict[int, _Worker] = {}
        self._stop_requested = trio.Event()
        self._pushing = trio.Lock()
        self._all_ready = trio.Event()
        self.sums = CountSums()
        self.starts = 0

    @property
    def restarts(self) -> int:
        """How many workers have taken the place of one that had ended."""
        return max(0, self.starts - self._spec.count)

    @property
    def ready_count(self) -> int:
        """How many workers serve now."""
        return sum(worker.is_ready for worker in self._running.values())

    @property
    def pids(self) -> dict[int, int]:
        """The process ids of the running workers, by number."""
        return {number: worker.process.pid for number, worker in self._running.items()}

    def request_stop(self) -> None:
        """Stops all workers for good: they drain. `serve` returns when all have ended."""
        self._stop_requested.set()

    async def push(
        self, kind: str, body: JsonObject, *, waits_for_new: bool = True, spares: Callable[[int], bool] | None = None
    ) -> int:
        """Tells every worker that something has changed. Returns when the change holds in all: each worker has
        acknowledged, or has been ended. One push is made after the other.

        The caller has made the change in what `WorkersSpec.settings` returns, so a worker that starts meanwhile has it.

        Args:
            waits_for_new: False leaves out workers that do not serve yet, because they have nothing to change.
            spares: asked in a thread whether the worker with a process id goes on although it has not acknowledged in
                time. The change holds there later.

        Returns:
            How many workers have acknowledged.

        Cancellation: some workers may have been told.
        """
        acknowledged: list[_Worker] = []
        async with self._pushing, trio.open_nursery() as nursery:
            for worker in list(self._running.values()):
                if waits_for_new or worker.is_ready:
                    nursery.start_soon(self._push_to, worker, kind, body, acknowledged, spares)
        return len(acknowledged)

    async def end(self, pid: int, why: str) -> None:
        """Kills the worker with this process id, and waits for its end, for `end_s` at most. Another one takes its
        place. Does nothing where it has ended.
        """
        for worker in list(self._running.values()):
            if worker.process.pid == pid:
                log.error("HTTP worker %d (pid %d) is ended: %s", worker.number, pid, why)
                await self._kill(worker)

    async def refresh_counts(self) -> None:
        """Asks the running workers for their counts, for `counts_s` at most. `sums` then has what has come."""
        with trio.move_on_after(self._spec.bounds.counts_s):
            async with trio.open_nursery() as nursery:
                for worker in list(self._running.values()):
                    if worker.is_ready:
                        nursery.start_soon(self._ask_for_counts, worker)

    async def _push_to(
        self,
        worker: _Worker,
        kind: str,
        body: JsonObject,
        acknowledged: list[_Worker],
        spares: Callable[[int], bool] | None,
    ) -> None:
        await worker.serves_or_has_ended.wait()
        if not worker.is_ready:
            return
        why, pid = "no answer", worker.process.pid
        with trio.move_on_after(self._spec.bounds.push_s) as wait:
            try:
                await worker.channel.call(kind, body)
            except ChannelError as error:
                why = str(error)
            else:
                acknowledged.append(worker)
                return
        if self._stop_requested.is_set():
            return  # its place waits for its end
        if wait.cancelled_caught and spares is not None and await trio.to_thread.run_sync(spares, pid):
            log.warning("HTTP worker %d (pid %d) waits for a disk, and does later: %s", worker.number, pid, kind)
            return
        log.error("HTTP worker %d (pid %d) is ended: %s: %s", worker.number, pid, kind, why)
        await self._kill(worker)

    async def _kill(self, worker: _Worker) -> None:
        worker.kill()
        with trio.move_on_after(self._spec.bounds.end_s):
            await worker.has_ended.wait()
            return
        # It waits for a disk that hangs. It executes nothing of its own any more, and answers nobody.
        log.error("HTTP worker %d (pid %d) was killed and has not ended yet", worker.number, worker.process.pid)

    async def _ask_for_counts(self, worker: _Worker) -> None:
        try:
            self._note_counts(worker, WorkerCounts.from_data(await worker.channel.call("counts", {})))
        except ChannelError as error:
            log.debug("HTTP worker %d gives no counts: %s", worker.number, error)

    def _note_counts(self, worker: _Worker, counts: WorkerCounts) -> None:
        if self._running.get(worker.number) is worker:  # else its last counts are in the sum of those that have ended
            self.sums.note(worker.number, counts)

    # ---- the loop of runs of each place

    async def serve(self, *, task_status: trio.TaskStatus[Workers]) -> None:
        """Runs the workers until `request_stop`. `started` is called when all serve.

        Raises:
            WorkersGaveUp: in an exception group. No worker can serve.

        Cancellation: kills all workers at once.
        """
        async with trio.open_nursery() as places:
            for number in range(self._spec.count):
                places.start_soon(self._serve_place, number)
            await self._all_ready.wait()
            task_status.started(self)

    async def _serve_place(self, number: int) -> None:
        exits: list[Exit] = []
        while not self._stop_requested.is_set():
            ended = await self._run_once(number)
            await trio.lowlevel.checkpoint_if_cancelled()  # another place may have given up, and said why
            if self._stop_requested.is_set():
                return
            exits = relevant_exits(self._spec.policy, [*exits, ended], trio.current_time())
            delay_s = self._delay_after(exits)
            log.error(
                "HTTP worker %d ended with %s after %.1f s; next start in %.2f s",
                *(number, ended.description, ended.lifetime_s, delay_s),
            )
            with trio.move_on_after(delay_s):
                await self._stop_requested.wait()

    def _delay_after(self, exits: list[Exit]) -> float:
        """The pause before the next start. While other workers serve, a place is never given up.

        Raises:
            WorkersGaveUp: the budget of the policy is used up, and no other worker serves.
        """
        policy = self._spec.policy
        step = next_step(policy, exits, trio.current_time(), random.random())
        if not isinstance(step, GiveUp):
            return step.seconds
        if not self.ready_count or not self._all_ready.is_set():
            raise WorkersGaveUp(step.why)
        return policy.max_delay_s

    async def _run_once(self, number: int) -> Exit:
        """One run of a worker, from its start until it is reaped."""
        began_s = trio.current_time()
        try:
            process, sock = self._spec.start(number)
        except BackendStartFailed as error:
            log.error("HTTP worker %d cannot be started: %s", number, error.__cause__ or error)
            return Exit(at_s=began_s, status=EXIT_CANNOT_EXECUTE, was_ready=False, lifetime_s=0.0)
        worker = self._running[number] = _Worker(number, process, ControlChannel(sock))
        log.info("HTTP worker %d started: pid %d", number, process.pid)
        try:
            await self._accompany(worker)
        finally:
            was_ready, worker.is_ready = worker.is_ready, False
            status = await process.end(self._spec.bounds.end_s)
            del self._running[number]
            self.sums.add_ended(number)
            self._spec.note_end(number)
            worker.serves_or_has_ended.set()
            worker.has_ended.set()
        now_s = trio.current_time()
        return Exit(at_s=now_s, status=status, was_ready=was_ready, lifetime_s=now_s - began_s)

    async def _accompany(self, worker: _Worker) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve_channel, worker)
            nursery.start_soon(self._bring_up, worker)
            nursery.start_soon(self._stop_when_asked, worker)
            await worker.process.wait_exit()
            nursery.cancel_scope.cancel()

    async def _serve_channel(self, worker: _Worker) -> None:
        async def note_counts(body: Fields) -> JsonObject:
            self._note_counts(worker, WorkerCounts.from_data(body))
            await trio.lowlevel.checkpoint()
            return {}

        await worker.channel.run({**self._spec.handlers, "counted": note_counts})
        await trio.sleep(self._spec.bounds.end_s)
        log.error("HTTP worker %d (pid %d) is ended: it has closed its channel", worker.number, worker.process.pid)
        worker.kill()

    async def _bring_up(self, worker: _Worker) -> None:
        with trio.move_on_after(self._spec.bounds.start_s):
            try:
                await worker.channel.call("start", self._spec.settings(worker.number))
            except ChannelError as error:
                log.error("HTTP worker %d (pid %d) does not serve: %s", worker.number, worker.process.pid, error)
                worker.kill()
                return
            self._note_ready(worker)
            return
        log.error("HTTP worker %d (pid %d) is ended: it does not serve", worker.number, worker.process.pid)
        worker.kill()

    def _note_ready(self, worker: _Worker) -> None:
        log.info("HTTP worker %d serves", worker.number)
        worker.is_ready = True
        worker.serves_or_has_ended.set()
        self.starts += 1
        if self.ready_count == self._spec.count:
            self._all_ready.set()

    async def _stop_when_asked(self, worker: _Worker) -> None:
        await self._stop_requested.wait()
        bounds = self._spec.bounds
        if worker.is_ready:
            with trio.move_on_after(bounds.drain_s):
                try:
                    await worker.channel.call("drain", {})
                except ChannelError as error:
                    log.warning("HTTP worker %d does not drain: %s", worker.number, error)
                else:
                    await trio.sleep_forever()
            log.warning("HTTP worker %d (pid %d) did not end: killed", worker.number, worker.process.pid)
        worker.kill()


class _Worker:
    """One run of a worker.

    Attributes:
        is_ready: whether it serves.
        serves_or_has_ended: set when it serves or has ended.
        has_ended: set when it is reaped.
    """

    def __init__(self, number: int, process: WorkerProcess, channel: ControlChannel) -> None:
        self.number = number
        self.process = process
        self.channel = channel
        self.is_ready = False
        self.serves_or_has_ended = trio.Event()
        self.has_ended = trio.Event()

    def kill(self) -> None:
        """Kills the process. Its place notices, and reaps it. Does nothing after that: the number may be taken."""
        if not self.has_ended.is_set():
            self.process.kill_group()
