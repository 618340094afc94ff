"""Watches all idle connections in one task, and answers at once the requests that can be answered from memory.

The tasks of idle connections sleep here. Connections without a task (`newcomers`) are watched here too. One epoll
watches all their sockets. So a request that is answered at once costs its reads and writes, and no trip through trio's
scheduler. All other bytes wake the connection's own task.
"""

from __future__ import annotations

import re
import select
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import trio

from native_handlers.http_model.message import HeldAnswer, PendingAnswer
from supervisor.net.awaiting_connection import SHORT_BYTES, Arrival, AwaitingConnection, HalfUpload
from supervisor.net.due_watch import DueWatch
from supervisor.net.polled_exchange import Exchanges
from supervisor.net.rest_of_answer import RestOfAnswer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from native_handlers.http_model.message import FastAnswer
    from supervisor.net.polled_exchange import Forwarding

    Begin = Callable[[bytes], Forwarding | None]
    """Prepares an exchange with another server for a request that has arrived; None leaves the request alone."""

FAST_PATH_BYTES = 4096
"""The most that one receive takes, except of `LongRequests`."""
_MAX_HEAD_BYTES = 4 * 1024
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,5})\r\n")
_NOT_KEPT = re.compile(rb"\r\n(?:expect|transfer-encoding)[ \t]*:")
"""Such a client waits for an answer to its head, or declares no length."""

_ANSWERS_IN_A_ROW = 32
_WOKEN_IN_A_ROW = 32
_TURN_S = 0.01
"""After a turn of the event loop that took longer, fewer tasks are woken in the next turn: some requests take long."""
_LEAST_WOKEN = 2
WOKEN_BESIDE_A_CROWD = 8
"""The most tasks woken in a turn while a listener's backlog is full of newcomers. A health check among the newcomers
must be accepted soon, and nothing is known of it before."""

CROWD = 100
"""With more connections than this, tasks that wait to send are also woken in turns. Each wait costs one more trip."""

_LOOKED_AT = 512
"""How many ready sockets are looked at before a task is woken. The requests among them that can be answered at once are
answered first: when thousands of connections end at once, such a request does not wait for all of their tasks."""

_LATER_S = 0.005
"""How much of each turn goes to newcomers, and to connections whose last answer was long."""

BYTES_IN_A_ROW = 4 << 20
"""After this many bytes of answers the other tasks get a turn: some milliseconds, even where all answers are large."""


class LongRequests(NamedTuple):
    """The requests that can be answered at once although they are long.

    Attributes:
        beginnings: each of them begins with one of these.
        more_bytes: how much of them is received at once besides `FAST_PATH_BYTES`.
        max_kept_bytes: the length of head and body of the longest that is kept until it is whole.
    """

    beginnings: tuple[bytes, ...] = ()
    more_bytes: int = 0
    max_kept_bytes: int = 0

    def missing_bytes(self, data: bytes) -> int:
        """How many bytes a request lacks that begins with `data`; 0 where it lacks none, or is not kept."""
        if not data.startswith(self.beginnings):
            return 0
        end = data.find(b"\r\n\r\n", 0, _MAX_HEAD_BYTES)
        if end < 0:
            return 0
        head = data[: end + 2].lower()
        length = _LENGTH.search(head)
        if length is None or _NOT_KEPT.search(head):
            return 0
        whole_bytes = end + 4 + int(length[1])
        return max(whole_bytes - len(data), 0) if whole_bytes <= self.max_kept_bytes else 0


NO_LONG_REQUESTS = LongRequests()


def receive_request(sock: socket.socket, long_requests: LongRequests) -> bytes:
    """The bytes that have arrived on `sock`, at most those of a request that can be answered at once; b"" at the end.

    Raises:
        BlockingIOError: nothing has arrived.
        OSError: the connection broke.
    """
    data = sock.recv(FAST_PATH_BYTES)
    if len(data) == FAST_PATH_BYTES and data.startswith(long_requests.beginnings):
        try:
            data += sock.recv(long_requests.more_bytes)
        except BlockingIOError:
            return data
    return data


class IdleConnection(AwaitingConnection):
    """One idle connection, made by its task for its socket. The task may call `sleep` any number of times."""

    __slots__ = ("_answer", "_begin_exchange", "_task", "pending", "taken")

    _poller: IdlePoller

    def __init__(
        self,
        poller: IdlePoller,
        sock: socket.socket,
        answer: Callable[[bytes], FastAnswer],
        begin: Begin | None = None,
    ) -> None:
        self._poller = poller
        self._sock = sock
        self._exchange = None
        self._half = None
        self._is_unwatched = False  # whether the client has sent something, or closed, while an exchange runs
        self._woken_by = None
        self._is_cancelled = False
        self.is_regular = False
        self.answered_at = trio.current_time()
        self.answered_bytes = 0
        self.sent_bytes = 0
        self._answer = answer
        self._begin_exchange = begin
        self._task: trio.lowlevel.Task | None = None
        self.taken: bytes | None = None
        """Bytes that have arrived and wait for their turn to be answered."""
        self.pending: PendingAnswer | None = None
        """The answer that another thread is making. The poller calls `send_pending` before other tasks get a turn."""

    EVENTS = select.EPOLLIN

    @property
    def fd(self) -> int:
        return self._sock.fileno()

    @property
    def has_half(self) -> bool:
        """Whether a part of an upload is kept."""
        return self._half is not None

    def watch_again(self) -> None:
        self._poller.watch(self.fd, self)

    def wake_later(self) -> None:
        self._poller.wake_later(self)

    async def sleep(self) -> Arrival:
        """Sleeps while everything that arrives can be answered at once.

        Raises:
            OSError: the connection broke.
            Exception: what `answer` raised.

        Cancellation: nothing was taken from the socket; the task may sleep again.
        """
        poller, fd = self._poller, self.fd
        self._is_cancelled = False
        self._task = trio.lowlevel.current_task()
        poller.watch(fd, self)

        def abort(_: object) -> trio.lowlevel.Abort:
            under_way = self._exchange or self._half
            if self._woken_by is not None or self.taken is not None or under_way is not None:
                # Bytes were taken from the socket. A cancel now would lose them, so the task wakes in its turn.
                self._is_cancelled = True
                self.leave_soon()
                return trio.lowlevel.Abort.FAILED
            poller.forget(fd)
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            await trio.lowlevel.wait_task_rescheduled(abort)
            if self._is_cancelled and isinstance(self._woken_by, Arrival) and self._woken_by.may_be_dropped:
                await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            # The connection's own answer may have cancelled this task.
            self._drop()
            raise
        finally:
            self._task = None  # the task refers to this object: without a cycle both are freed at once
        woken_by, self._woken_by = self._woken_by, None
        if isinstance(woken_by, Exception):
            raise woken_by
        assert woken_by is not None
        return woken_by

    def take(self) -> bool:
        """Takes the socket's bytes, to serve them later. False when there are none."""
        try:
            self.taken = receive_request(self._sock, self._poller.long_requests)
        except BlockingIOError:
            return False
        except OSError as error:
            self._woken_by = error
        return True

    def leave_to_its_task(self) -> None:
        """The bytes that were taken are not answered here: the task gets them."""
        if self._woken_by is None:
            assert self.taken is not None
            self._woken_by = Arrival(self.taken)
        self.taken = None

    def serve_taken(self, now: float) -> bool:
        """As `serve`, for bytes that were taken before.

        A task that was cancelled meanwhile is woken with the result.
        """
        if self._is_cancelled or self.taken is None:
            self.leave_to_its_task()
            return False
        is_served = self.serve(now, self.taken)
        self.taken = None
        if is_served and self._is_cancelled:
            # Cancelled by its own answer, for example.
            self._woken_by = Arrival(None if self._half is None else self._take_half())
        return self._woken_by is None

    def serve(self, now: float, data: bytes | None = None) -> bool:
        """Takes and answers the socket's bytes, at trio time `now`. False when the connection's task must be woken."""
        try:
            self._woken_by = self._serve(now, data)
        except Exception as error:  # noqa: BLE001  the error concerns this connection alone, and its task raises it
            self._woken_by = error
        return self._woken_by is None

    def _serve(self, now: float, data: bytes | None) -> Arrival | None:
        if self._half is not None:
            return self._receive_half(now, self._half)
        if data is None:
            try:
                data = receive_request(self._sock, self._poller.long_requests)
            except BlockingIOError:
                return None
        answer = self._answer(data)
        if answer is None:
            return self._keep(data) if self._begin_exchange is None else self._begin(self._begin_exchange, data)
        if isinstance(answer, PendingAnswer):
            self.pending = answer
            return None
        self.answered_at = now
        if isinstance(answer, HeldAnswer):
            return self._send_held(answer)
        return self._send(answer)

    def send_pending(self, now: float) -> bool:
        """Sends the answer that was pending, at trio time `now`. False when the connection's task must be woken."""
        pending, self.pending = self.pending, None
        assert pending is not None
        try:
            self._woken_by = self._finish_pending(pending, now)
        except Exception as error:  # noqa: BLE001  as in `serve`
            self._woken_by = error
        return self._woken_by is None

    def _finish_pending(self, pending: PendingAnswer, now: float) -> Arrival | None:
        if not pending.try_finish():
            return Arrival(None, pending)
        answer = pending.outcome()
        if answer is None:
            return Arrival(pending.data)
        self.answered_at = now
        return self._send(answer)

    def _send(self, answer: bytes) -> Arrival | None:
        self.is_regular = len(answer) <= SHORT_BYTES
        self.answered_bytes += len(answer)
        try:
            sent = self._sock.send(answer)
        except BlockingIOError:
            sent = 0
        self.sent_bytes += sent
        return None if sent == len(answer) else Arrival(None, answer[sent:])

    @property
    def is_in_exchange(self) -> bool:
        """Whether a request of this connection was sent on, and its answer is awaited."""
        return self._exchange is not None

    def _keep(self, data: bytes) -> Arrival | None:
        """Keeps a part of a small upload until it is whole. All else wakes the task."""
        missing = self._poller.long_requests.missing_bytes(data)
        if not missing:
            return Arrival(data)
        self._half = HalfUpload(data, missing, self._leave_half)
        self._poller.watch_due.add(self._half)
        return None

    def _receive_half(self, now: float, half: HalfUpload) -> Arrival | None:
        """Takes more of the upload, and answers it when it is whole."""
        try:
            is_over = not half.receive(self._sock)
        except BlockingIOError:
            return None
        except OSError:
            self._take_half()
            raise
        if is_over:
            return Arrival(self._take_half())
        return None if half.missing_bytes else self._serve(now, self._take_half())

    def _begin(self, begin: Begin, data: bytes) -> Arrival | None:
        forwarding = begin(data)
        if forwarding is None:
            return self._keep(data)
        self._exchange = self._poller.exchanges.begin(self, data, forwarding)
        return Arrival(data, b"", forwarding) if self._exchange is None else None

    def _send_held(self, answer: HeldAnswer) -> Arrival | None:
        head, body, release = answer
        length_bytes = len(head) + len(body)
        self.is_regular = length_bytes <= SHORT_BYTES
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
        """Releases the memory of an answer that will not be sent, and ends an exchange with which no task goes on."""
        woken_by, self._woken_by = self._woken_by, None
        if isinstance(woken_by, Arrival) and isinstance(woken_by.unsent, HeldAnswer):
            woken_by.unsent.release()
        if isinstance(woken_by, Arrival) and isinstance(woken_by.unsent, RestOfAnswer):
            woken_by.unsent.abandon()
        if isinstance(woken_by, Arrival) and woken_by.begun is not None:
            woken_by.begun.abandon()

    def wake(self) -> None:
        assert self._task is not None
        trio.lowlevel.reschedule(self._task)


class TurnSize:
    """How many tasks are woken in one turn of the event loop: half as many after a long turn, else twice as many."""

    def __init__(self) -> None:
        self.count = _WOKEN_IN_A_ROW

    def note(self, turn_s: float) -> None:
        """Takes into account that the last turn took `turn_s` seconds."""
        if turn_s > _TURN_S:
            self.count = max(self.count // 2, _LEAST_WOKEN)
        else:
            self.count = min(self.count * 2, _WOKEN_IN_A_ROW)


class IdlePoller:
    """The place where the idle connections of one server sleep. Only the trio thread of `run` uses it. The
    caller closes it.

    Args:
        urgent: a connection whose bytes begin with one of these is woken before the others.
        long_requests: the requests that can be answered at once although they are long.

    Attributes:
        connections: how many connections exist, asleep or not. The code that opens and closes connections counts them.
        exchanges: the requests that were sent on for connections which sleep here.
        watch_due: what is under way for them.
        crowded_ports: the ports with more newcomers than are admitted in one turn. The accepting tasks keep the set.
    """

    def __init__(self, urgent: tuple[bytes, ...] = (), long_requests: LongRequests = NO_LONG_REQUESTS) -> None:
        self._urgent = urgent
        self.long_requests = long_requests
        self.connections = 0
        self.crowded_ports: set[int] = set()
        self._epoll = select.epoll()
        self.watch_due = DueWatch(self.wake_waiting)
        self.exchanges = Exchanges(self._epoll, self.watch_due)
        self._watched: dict[int, IdleConnection] = {}
        self._to_wake: deque[IdleConnection] = deque()  # have an arrival, and are no longer watched
        self._to_wake_first: deque[IdleConnection] = deque()
        self._later: deque[IdleConnection] = deque()  # have taken bytes, and are no longer watched
        self._pending: list[IdleConnection] = []  # of this turn; empty whenever other tasks run

    @property
    def sleeping_count(self) -> int:
        """How many connections are watched."""
        return len(self._watched)

    def close(self) -> None:
        """Closes the epoll. No connection may sleep here any more."""
        self.exchanges.close()
        self._epoll.close()

    async def run(self) -> None:
        """Serves until cancelled. A connection that sleeps here then sleeps until its own task is cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.watch_due.run)
            await self._run()

    async def _run(self) -> None:
        turn = TurnSize()
        try:
            while True:
                if self._later or self._to_wake or self._to_wake_first:
                    began_s = perf_counter()
                    await trio.lowlevel.checkpoint()
                    turn.note(perf_counter() - began_s)
                else:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                await self._serve_all_that_arrived()
                self._serve_later()
                self._wake_some(min(turn.count, WOKEN_BESIDE_A_CROWD) if self.crowded_ports else turn.count)
        finally:
            # A task whose bytes were taken cannot be cancelled before its turn, so all of these are woken now.
            self.watch_due.leave_all()
            for connection in self._later:
                connection.leave_to_its_task()
            self._to_wake.extend(self._later)
            self._wake_some(len(self._to_wake) + len(self._to_wake_first))

    def _wake_some(self, most: int) -> None:
        """Wakes up to `most` tasks. While others wait, at most half are urgent ones: any client may send those."""
        urgent = min(len(self._to_wake_first), max(most // 2, most - len(self._to_wake)))
        for _ in range(urgent):
            self._to_wake_first.popleft().wake()
        for _ in range(min(len(self._to_wake), most - urgent)):
            self._to_wake.popleft().wake()

    def wake_later(self, connection: IdleConnection) -> None:
        """Wakes the task of `connection` in its turn. The connection is not watched any more."""
        self._to_wake.append(connection)

    async def wake_waiting(self) -> None:
        """Wakes the tasks that wait for their turn, few in each turn of the event loop. Then returns."""
        while self._to_wake or self._to_wake_first:
            self._wake_some(WOKEN_BESIDE_A_CROWD)
            await trio.lowlevel.checkpoint()

    async def _serve_all_that_arrived(self) -> None:
        now, left, left_bytes = trio.current_time(), _ANSWERS_IN_A_ROW, BYTES_IN_A_ROW
        # One poll gives up to _LOOKED_AT sockets, and all are looked at before the next poll. The kernel may name the
        # same ones first each time.
        for fd, _ in self._epoll.poll(0, _LOOKED_AT):
            if left_bytes <= 0 or left <= 0:
                self._send_all_pending()
                await trio.lowlevel.checkpoint()
                now, left, left_bytes = trio.current_time(), _ANSWERS_IN_A_ROW, BYTES_IN_A_ROW
            connection = self._watched.get(fd)
            # An earlier answer may have ended the sleep of this connection.
            if connection is None:
                left_bytes -= self.exchanges.serve(fd, now)
                continue
            if connection.is_in_exchange:
                connection.unwatch()
                continue
            if not connection.is_regular and not connection.has_half:
                self._put_off(fd, connection)
                continue
            left_bytes += connection.answered_bytes
            if connection.serve(now):
                left -= 1
                if connection.pending is not None:
                    self._pending.append(connection)
            elif fd in self._watched:
                self.forget(fd)
                self._to_wake.append(connection)
            left_bytes -= connection.answered_bytes
        self._send_all_pending()

    def _send_all_pending(self) -> None:
        """Sends the answers that threads have made for this turn. An answer that takes longer goes to its task."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        now = trio.current_time()
        for connection in pending:
            if not connection.send_pending(now):
                if connection.fd in self._watched:
                    self.forget(connection.fd)
                self._to_wake.append(connection)

    def _put_off(self, fd: int, connection: IdleConnection) -> None:
        """Leaves the connection for after those with short answers. An urgent one is woken before all others."""
        if not connection.take():
            return
        self.forget(fd)
        data = connection.taken
        if data and not data.startswith(self._urgent):
            self._later.append(connection)
            return
        connection.leave_to_its_task()
        (self._to_wake_first if data else self._to_wake).append(connection)

    def _serve_later(self) -> None:
        now, until_s, left_bytes = trio.current_time(), perf_counter() + _LATER_S, BYTES_IN_A_ROW
        for _ in range(min(len(self._later), _ANSWERS_IN_A_ROW)):
            connection = self._later.popleft()
            left_bytes += connection.answered_bytes
            if connection.serve_taken(now):
                self.watch(connection.fd, connection)
                if connection.pending is not None:
                    self._pending.append(connection)
            else:
                self._to_wake.append(connection)
            left_bytes -= connection.answered_bytes
            if left_bytes <= 0 or perf_counter() > until_s:
                break
        self._send_all_pending()

    @property
    def is_crowded(self) -> bool:
        """Whether tasks should wait here for their turn, because too many may become ready at once."""
        return self.connections > CROWD

    def watch(self, fd: int, connection: IdleConnection) -> None:
        """Calls `connection` whenever its socket `fd` can be read, or written if `connection` waits for that."""
        self._epoll.register(fd, connection.EVENTS)
        self._watched[fd] = connection

    def is_asleep(self, connection: IdleConnection) -> bool:
        """Whether `connection` waits for its client alone: no bytes that it has taken wait for a turn or an answer."""
        return self._watched.get(connection.fd) is connection and connection.is_between_messages

    def forget(self, fd: int) -> None:
        """Ends `watch` for the socket `fd`."""
        del self._watched[fd]
        self._epoll.unregister(fd)


def leave_unanswered(_data: bytes) -> None:
    """Answers nothing: the connection's task gets all bytes."""
