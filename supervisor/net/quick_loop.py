"""Answers at once what can be answered at once, on all idle connections, in one task.

The tasks of idle connections sleep here. Their sockets are watched together, so a request that is answered at once
costs its reads and writes and no trip through the scheduler; whatever else arrives wakes the connection's own task.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, NamedTuple

import trio

from native_handlers.http.message import HeldAnswer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from native_handlers.http.message import Answer

QUICK_BYTES = 4096
"""The most that one receive takes. Longer than any request that is answered at once."""

_ANSWERS_IN_A_ROW = 32
_BYTES_IN_A_ROW = 4 << 20
"""After as many the other tasks get their turn: some milliseconds, even where all answers are large."""


class Arrival(NamedTuple):
    """What woke a connection: `data` that is not answered, b"" at the end of the stream.

    Or, with `data` None, what is left of an answer because the client is slow to take it.
    """

    data: bytes | None
    unsent: Answer = b""


class QuickSleeper:
    """One idle connection, made by its task for its socket. It may sleep any number of times."""

    __slots__ = ("_answer", "_loop", "_sock", "_task", "_woken_by", "answered_at", "answered_bytes", "sent_bytes")

    def __init__(self, loop: QuickLoop, sock: socket.socket, answer: Callable[[bytes], Answer | None]) -> None:
        self._loop = loop
        self._sock = sock
        self._answer = answer
        self._task: trio.lowlevel.Task | None = None
        self._woken_by: Arrival | Exception | None = None
        self.answered_at = trio.current_time()
        """When the last answer went out; at first, when this was made. Trio time."""
        self.answered_bytes = 0
        """How long the answers were, all sleeps together."""
        self.sent_bytes = 0
        """How much of that was sent here."""

    async def sleep(self) -> Arrival:
        """Sleeps while all that arrives can be answered at once.

        Raises:
            OSError: the connection broke.
            Exception: what `answer` raised.

        Cancellation: nothing was taken; it may sleep again.
        """
        loop, fd = self._loop, self._sock.fileno()
        self._task = trio.lowlevel.current_task()
        loop.watch(fd, self)

        def abort(_: object) -> trio.lowlevel.Abort:
            loop.forget(fd)
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            await trio.lowlevel.wait_task_rescheduled(abort)
        except BaseException:
            # It may have been cancelled by its own answer.
            self._drop()
            raise
        woken_by, self._woken_by = self._woken_by, None
        if isinstance(woken_by, Exception):
            raise woken_by
        assert woken_by is not None
        return woken_by

    def serve(self, now: float) -> bool:
        """Takes and answers what the socket has, at trio time `now`; False when the connection is to be woken."""
        try:
            self._woken_by = self._serve(now)
        except Exception as error:  # noqa: BLE001  it concerns this connection alone, whose task raises it
            self._woken_by = error
        return self._woken_by is None

    def _serve(self, now: float) -> Arrival | None:
        sock = self._sock
        try:
            data = sock.recv(QUICK_BYTES)
        except BlockingIOError:
            return None
        answer = self._answer(data)
        if answer is None:
            return Arrival(data)
        self.answered_at = now
        if isinstance(answer, HeldAnswer):
            return self._send_held(answer)
        self.answered_bytes += len(answer)
        try:
            sent = sock.send(answer)
        except BlockingIOError:
            sent = 0
        self.sent_bytes += sent
        return None if sent == len(answer) else Arrival(None, answer[sent:])

    def _send_held(self, answer: HeldAnswer) -> Arrival | None:
        head, body, release = answer
        length_bytes = len(head) + len(body)
        self.answered_bytes += length_bytes
        is_done = True
        try:
            sent = self._sock.sendmsg((head, body))
            is_done = sent == length_bytes
        except BlockingIOError:
            sent, is_done = 0, False
        finally:
            if is_done:
                release()
        self.sent_bytes += sent
        if is_done:
            return None
        return Arrival(None, HeldAnswer(head[sent:], body[max(0, sent - len(head)) :], release))

    def _drop(self) -> None:
        """Gives up what nobody will send."""
        woken_by, self._woken_by = self._woken_by, None
        if isinstance(woken_by, Arrival) and isinstance(woken_by.unsent, HeldAnswer):
            woken_by.unsent.release()

    def wake(self) -> None:
        assert self._task is not None
        trio.lowlevel.reschedule(self._task)


class QuickLoop:
    """Where the idle connections of one server sleep. Used in the trio thread in which `run` runs; to be closed."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sleepers: dict[int, QuickSleeper] = {}

    def close(self) -> None:
        """Nobody sleeps here any more."""
        self._epoll.close()

    async def run(self) -> None:
        """Answers until it is cancelled; who sleeps here then does so until cancelled as well."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            now, left_bytes = trio.current_time(), _BYTES_IN_A_ROW
            # All of these before the epoll is asked again, for it might name the same ones first each time.
            for fd, _ in self._epoll.poll(0, _ANSWERS_IN_A_ROW):
                if left_bytes <= 0:
                    await trio.lowlevel.checkpoint()
                    now, left_bytes = trio.current_time(), _BYTES_IN_A_ROW
                sleeper = self._sleepers.get(fd)
                # An answer may end the sleep of its own connection, and of others.
                if sleeper is None:
                    continue
                left_bytes += sleeper.answered_bytes
                if not sleeper.serve(now) and fd in self._sleepers:
                    self.forget(fd)
                    sleeper.wake()
                left_bytes -= sleeper.answered_bytes

    def watch(self, fd: int, sleeper: QuickSleeper) -> None:
        """Has `sleeper` serve whenever its socket `fd` can be read."""
        self._epoll.register(fd, select.EPOLLIN)
        self._sleepers[fd] = sleeper

    def forget(self, fd: int) -> None:
        """Takes back `watch`."""
        del self._sleepers[fd]
        self._epoll.unregister(fd)
