"""A client's connection while something is under way for it: an exchange with another server, or half an upload.

`IdleConnection` adds what wakes it, and what answers at once. Here is what the poller and the exchange tell it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import trio

from supervisor.net.due_watch import LEAVE_AFTER_S
from supervisor.net.rest_of_answer import RestOfAnswer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from native_handlers.http_model.message import Answer, PendingAnswer
    from supervisor.net.due_watch import DueWatch
    from supervisor.net.polled_exchange import Continuation, Forwarding, PolledExchange

SHORT_BYTES = 64 * 1024
"""A connection whose last answer was no longer than this is served first. Connections with longer answers come later.
So do newcomers: a newcomer's request is unknown, and thousands may come at once for large answers."""


class Arrival(NamedTuple):
    """Why a connection was woken: `data` has arrived that was not answered; b"" is the end of the stream.

    Or `data` is None, and `unsent` is the rest of an answer that the client did not take at once, or that another
    server has not sent yet, or an answer that another thread is still making.

    Attributes:
        begun: where `data` is a request that was sent on already, what goes on with it.
    """

    data: bytes | None
    unsent: Answer | PendingAnswer | RestOfAnswer = b""
    begun: Continuation | None = None

    @property
    def may_be_dropped(self) -> bool:
        """Whether a task that was cancelled meanwhile may end without it: it is no request, nor the rest of an answer
        of which the client has a part, and which a server is still sending.
        """
        return self.data is None and not isinstance(self.unsent, RestOfAnswer)


class HalfUpload:
    """The bytes of an upload so far, at trio time now.

    Args:
        missing_bytes: how many it lacks.
        leave: gives the bytes to the task of the connection.

    Attributes:
        due: when that happens at the latest.
    """

    __slots__ = ("_leave", "data", "due", "missing_bytes")

    def __init__(self, data: bytes, missing_bytes: int, leave: Callable[[], None]) -> None:
        self.data = data
        self.missing_bytes = missing_bytes
        self._leave = leave
        self.due = trio.current_time() + LEAVE_AFTER_S

    def receive(self, sock: socket.socket) -> bool:
        """Takes more of it. Returns False at the end of the stream.

        Raises:
            BlockingIOError: nothing has arrived.
            OSError: the connection is broken.
        """
        data = sock.recv(self.missing_bytes)
        self.data += data
        self.missing_bytes -= len(data)
        return bool(data)

    def leave(self) -> None:
        """Gives the bytes to the task of the connection."""
        self._leave()


class Poller(Protocol):
    """The part of `IdlePoller` that is needed here."""

    watch_due: DueWatch

    def forget(self, fd: int) -> None: ...


class AwaitingConnection:
    """The exchange or the upload under way for one connection that sleeps in a poller. `IdleConnection` makes its
    attributes.

    Attributes:
        is_regular: whether the last answer was a short one.
        answered_at: when the last answer was sent; before the first one, when this object was made. Trio time.
        answered_bytes: the length of all answers, over all sleeps.
        sent_bytes: how many bytes of the answers were sent by this object.
    """

    __slots__ = (
        "_exchange",
        "_half",
        "_is_cancelled",
        "_is_unwatched",
        "_poller",
        "_sock",
        "_woken_by",
        "answered_at",
        "answered_bytes",
        "is_regular",
        "sent_bytes",
    )

    _poller: Poller
    _sock: socket.socket
    _exchange: PolledExchange | None
    _half: HalfUpload | None
    _is_unwatched: bool
    _woken_by: Arrival | Exception | None
    _is_cancelled: bool
    is_regular: bool
    answered_at: float
    answered_bytes: int
    sent_bytes: int

    @property
    def fd(self) -> int:
        """The socket's descriptor."""
        raise NotImplementedError

    def watch_again(self) -> None:
        """The poller watches this connection again."""
        raise NotImplementedError

    def wake_later(self) -> None:
        """The poller, which no longer watches this connection, wakes its task in its turn."""
        raise NotImplementedError

    # ---- uploads that arrive in pieces

    @property
    def is_between_messages(self) -> bool:
        """Whether neither an exchange nor an upload is under way."""
        return self._exchange is None and self._half is None

    def _take_half(self) -> bytes:
        half, self._half = self._half, None
        assert half is not None
        self._poller.watch_due.discard(half)
        return half.data

    def _leave_half(self) -> None:
        self._woken_by = Arrival(self._take_half())
        self._leave()

    def leave_soon(self) -> None:
        """Leaves the exchange or the upload under way to the task soon."""
        under_way = self._exchange or self._half
        if under_way is not None:
            self._poller.watch_due.leave_soon(under_way)

    # ---- exchanges with another server

    @property
    def is_cancelled(self) -> bool:
        """Whether the connection's task is to wake as soon as it can."""
        return self._is_cancelled

    def unwatch(self) -> None:
        """The client has sent something, or closed, while an exchange runs: that is looked at after the answer."""
        self._is_unwatched = True
        self._poller.forget(self.fd)

    def pass_on(self, answer: memoryview, now: float) -> None:
        """Sends the answer of the exchange, which is over, at trio time `now`. `answer` may change afterwards."""
        self._exchange = None
        self.answered_at = now
        self.is_regular = len(answer) <= SHORT_BYTES
        self.answered_bytes += len(answer)
        try:
            sent = self._sock.send(answer)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._woken_by = error
            sent = len(answer)
        else:
            self.sent_bytes += sent
        if sent < len(answer):
            self._woken_by = Arrival(None, bytes(answer[sent:]))
        if self._woken_by is not None:
            self._leave()
        elif self._is_unwatched:
            self._is_unwatched = False
            self.watch_again()

    def send_part(self, part: memoryview) -> int:
        """Sends a part of the answer of the exchange. Returns how much the kernel took. `part` may change afterwards.

        Raises:
            OSError: the connection is broken.
        """
        try:
            sent = self._sock.send(part)
        except BlockingIOError:
            sent = 0
        self.has_passed(sent)
        return sent

    def has_passed(self, count: int) -> None:
        """The kernel has taken `count` bytes of the answer of the exchange."""
        self.answered_bytes += count
        self.sent_bytes += count

    def end_answer(self, unsent: bytes, now: float) -> None:
        """The exchange is over, at trio time `now`. `unsent` is what the kernel did not take of the answer."""
        self._exchange = None
        self.answered_at = now
        self.is_regular = False
        self.answered_bytes += len(unsent)
        if unsent or self._is_cancelled:
            self._woken_by = Arrival(None, unsent)
            self._leave()
        elif self._is_unwatched:
            self._is_unwatched = False
            self.watch_again()

    def leave_rest(self, rest: RestOfAnswer) -> None:
        """The task passes on the rest of the answer, as soon as it has its turn."""
        self._exchange = None
        self.is_regular = False
        self._woken_by = Arrival(None, rest)
        self._leave()

    def leave_exchange(self, data: bytes, forwarding: Forwarding) -> None:
        """The task goes on with the exchange, as soon as it has its turn."""
        self._exchange = None
        self._woken_by = Arrival(data, b"", forwarding)
        self._leave()

    def _leave(self) -> None:
        """Has the task woken in its turn."""
        self._stop_watching()
        self.wake_later()

    def _stop_watching(self) -> None:
        if self._is_unwatched:
            self._is_unwatched = False
        else:
            self._poller.forget(self.fd)

    def abandon_exchange(self) -> None:
        """The connection is closed: ends what is under way."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abandon()
            self._stop_watching()
        if self._half is not None:
            self._take_half()
            self._stop_watching()

    def fail_exchange(self, error: Exception) -> None:
        """The exchange has failed by a bug, or this connection is broken: the task raises `error`."""
        self._exchange = None
        self._woken_by = error
        self._leave()
