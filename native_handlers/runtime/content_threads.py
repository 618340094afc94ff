"""Threads for long work on contents: compression, decompression, image decoding, checksums.

Clients decide how much of this work there is: a small compressed file can hold a thousand times its length. So each
piece of work is a job of short steps. A job runs in a thread for a turn of some milliseconds. Then the job with the
fewest turns runs, and each fourth turn goes to the job that waits longest. The turns of all jobs of one client are
counted together first, so a client with many jobs delays its own jobs. A short job therefore ends soon, however many
long jobs there are. A job whose request is cancelled ends with its turn, and a shutdown waits for one turn at most.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

T = TypeVar("T")

Job = Generator[None, None, T]
"""Work in steps: each step runs until the next `yield`; the last one returns the result. A step never waits, and takes
about a millisecond at most."""

CLIENT: ContextVar[str] = ContextVar("client", default="")
"""The client that the current task works for. Jobs of different clients take turns. The connection driver sets it."""

TURN_S = 0.01
"""How long a job keeps a thread while others wait, in seconds. A change of threads costs a hundredth of that."""
FIRST_TURN_S = 0.0025
"""The length of a job's first turn. The second turn is twice as long, and so on up to `TURN_S`."""
_RANKS = 8
_OLDEST_EACH = 4
"""One turn in so many goes to the job that waits longest, so that long jobs end, too."""
INLINE_S = 0.0005
"""How long a job may run on the event loop before it moves to a thread: about the cost of two changes of threads."""
CLEAR_BYTES = 64 << 20
"""The bound on memory for decompressed content and for the compressed pieces it comes from, for all requests together.
The bound holds while no more requests hold content than the server takes connections."""
GATHER_BYTES = 64 << 20
"""The bound on memory for ranges that are gathered to be sent in another order, for all requests together."""
MAX_GATHERED_BYTES = 4 << 20
MAX_PIECE_BYTES = 256 * 1024
MIN_PIECE_BYTES = 2 * 1024


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[T]):
    value: T


class ContentThreads:
    """The threads of one process for work on contents, and the memory bound for decompressed content."""

    def __init__(self, threads: int | None = None) -> None:
        count = threads or min(8, max(2, os.cpu_count() or 1))
        self._limiter = trio.CapacityLimiter(count)
        self._line = _Line(count)
        self.holders = 0
        self._gathered = 0

    async def run(self, job: Job[T], *, is_long: bool = False) -> T:
        """Runs `job` to its end and returns its result, or raises its error.

        A short job runs on the event loop at once. Of a job with `is_long`, only the first step runs on the loop.

        Cancellation: takes effect after the current step or turn; the job is then closed.
        """
        try:
            outcome = _turn(job, 0 if is_long else INLINE_S)
            return outcome.value if outcome is not None else await self._run_in_turns(job)
        finally:
            job.close()

    async def _run_in_turns(self, job: Job[T]) -> T:
        with self._line.joined(CLIENT.get()) as client:
            turns, outcome = 0, None
            while outcome is None:
                duration_s = min(TURN_S, FIRST_TURN_S * (1 << min(turns, 8)))
                async with self._line.turn(client, _rank(turns)):
                    outcome = await trio.to_thread.run_sync(_turn, job, duration_s, limiter=self._limiter)
                turns += 1
            return outcome.value

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Counts the caller as a holder of content inside the block. A holder holds three pieces, each of at most
        `piece_bytes`: compressed content, the decompressed piece that is being sent, and the piece to be sent next.
        """
        self.holders += 1
        try:
            yield
        finally:
            self.holders -= 1

    @contextmanager
    def gathering(self, size_bytes: int) -> Iterator[None]:
        """Counts ranges that are gathered inside the block. They are held twice: as they are read, and as they are
        sent.
        """
        self._gathered += 2 * size_bytes
        try:
            yield
        finally:
            self._gathered -= 2 * size_bytes

    @property
    def gathered_bytes(self) -> int:
        """How many bytes of ranges a request may gather now: a part of what others leave."""
        return max(MIN_PIECE_BYTES, min(MAX_GATHERED_BYTES, (GATHER_BYTES - self._gathered) // 4))

    @property
    def piece_bytes(self) -> int:
        """The greatest length of a piece of content now, in bytes: shorter when more requests hold content."""
        return max(MIN_PIECE_BYTES, min(MAX_PIECE_BYTES, CLEAR_BYTES // (3 * max(1, self.holders))))


def _rank(turns: int) -> int:
    """The rank of a job, or of a client, that has had so many turns."""
    return min(turns.bit_length(), _RANKS - 1)


class _Client:
    """The running jobs of one client."""

    __slots__ = ("jobs", "lines", "turns", "waiting")

    def __init__(self) -> None:
        self.jobs = 0
        self.turns = 0
        """The turns of all jobs of this client, since the client last had no job."""
        self.lines: list[OrderedDict[int, trio.Event]] = [OrderedDict() for _ in range(_RANKS)]
        """The jobs that wait, by rank of the job and by number of arrival."""
        self.waiting = 0


class _Line:
    """The queue of jobs for turns. The client of the lowest rank is next; clients of one rank take turns. Among the
    jobs of one client the job of the lowest rank is next, and among equal ranks the earliest.

    Args:
        count: how many jobs have a turn at the same time.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._clients: dict[str, _Client] = {}
        self._ranks: list[OrderedDict[_Client, None]] = [OrderedDict() for _ in range(_RANKS)]
        """The clients with waiting jobs, by rank. In each rank the next client comes first."""
        self._all: OrderedDict[int, tuple[_Client, int]] = OrderedDict()
        """Number of arrival -> client and rank of each waiting job, the longest wait first."""
        self._arrivals = 0
        self._given = 0

    @contextmanager
    def joined(self, name: str) -> Iterator[_Client]:
        """Counts one running job of the client with that name inside the block."""
        client = self._clients.setdefault(name, _Client())
        client.jobs += 1
        try:
            yield client
        finally:
            client.jobs -= 1
            if not client.jobs:
                del self._clients[name]

    @asynccontextmanager
    async def turn(self, client: _Client, rank: int) -> AsyncIterator[None]:
        """Gives a job of `client` a turn inside the block. Cancelling the wait is safe."""
        await self._wait(client, rank)
        client.turns += 1
        try:
            yield
        finally:
            self._give()

    async def _wait(self, client: _Client, rank: int) -> None:
        if self._free:
            self._free -= 1
            return
        self._arrivals += 1
        number, given = self._arrivals, trio.Event()
        if not client.waiting:
            self._ranks[_rank(client.turns)][client] = None
        client.waiting += 1
        client.lines[rank][number] = given
        self._all[number] = client, rank
        try:
            await given.wait()
        except BaseException:
            if number in self._all:
                self._take(number)
            else:
                # The turn was given and the wait was cancelled in the same moment: the turn passes on.
                self._give()
            raise

    def _give(self) -> None:
        """Passes a finished turn to the next job."""
        if not self._all:
            self._free += 1
            return
        self._given += 1
        if self._given % _OLDEST_EACH == 0:
            number = next(iter(self._all))
        else:
            client = next(iter(next(clients for clients in self._ranks if clients)))
            number = next(iter(next(line for line in client.lines if line)))
        self._take(number).set()

    def _take(self, number: int) -> trio.Event:
        """Removes a job from the queue and moves its client behind the other clients of its new rank."""
        client, rank = self._all.pop(number)
        given = client.lines[rank].pop(number)
        client.waiting -= 1
        for clients in self._ranks:
            clients.pop(client, None)
        if client.waiting:
            self._ranks[_rank(client.turns + 1)][client] = None
        return given


def finish_within(job: Job[T], steps: int) -> T | None:
    """The result of `job`, or None where it takes more than `steps` steps: it is then given up. Raises its error."""
    try:
        for _ in range(steps):
            next(job)
    except StopIteration as done:
        result: T = done.value
        return result
    job.close()
    return None


def _turn(job: Job[T], duration_s: float) -> _Outcome[T] | None:
    """Runs steps of `job` for `duration_s`, at least one. Returns None where the job is not done then."""
    end = time.perf_counter() + duration_s
    try:
        next(job)
        while time.perf_counter() < end:
            next(job)
    except StopIteration as done:
        return _Outcome(done.value)
    return None


# ---- Threads for images: few at a time, because each image takes much memory and time.

MAX_IMAGES_AT_ONCE = 2
"""Images that one process works on at the same time. The memory bound is this times the memory of one image."""


class ImageThreads:
    """The threads of one process for images, and the turns of requests whose files are in memory for that."""

    def __init__(self) -> None:
        self._turns = trio.CapacityLimiter(MAX_IMAGES_AT_ONCE)
        self._threads = trio.CapacityLimiter(MAX_IMAGES_AT_ONCE)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Gives the caller a turn inside the block: it may hold one file and `run` work on it. Others wait before they
        load theirs.
        """
        async with self._turns:
            yield

    async def run(self, work: Callable[[], T]) -> T:
        """Runs `work` in a thread and returns its result, or raises its error. `work` needs nothing that is not in
        memory.

        Cancellation: at once. The work goes on to its end and nobody waits for it; its thread counts until then.
        """
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._threads)
