"""Exchanges with another server without a task for each: the idle poller watches the server's connection too.

A request goes out over a kept connection as soon as it has arrived. Where the whole answer comes soon and in the common
form, its bytes are passed on. So a forwarded request costs its reads and writes, and no trip through trio's scheduler.
A longer answer of that form is passed on while it comes, its body through a pipe in the kernel. Everything else is
left, with what was sent and received so far, to the task of the client's connection: the ordinary way goes on where
this module has stopped. So failures, late answers, slow clients and other forms of answers are not treated here.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Protocol

import trio

from native_handlers.records import dataclass
from supervisor.net.due_watch import LEAVE_AFTER_S
from supervisor.net.rest_of_answer import RestOfAnswer
from supervisor.net.splice import PIPE_BYTES, SharedPipe
from supervisor.wire.simple_heads import match_response

if TYPE_CHECKING:
    import socket

    from native_handlers.http_model.message import Request, Response
    from supervisor.net.due_watch import DueWatch
    from supervisor.net.rest_of_answer import AnswerSink

MAX_ANSWER_BYTES = 64 * 1024
"""The longest answer, head and body, that is passed on in one piece."""
_ONCE = select.EPOLLIN | select.EPOLLONESHOT

_window = bytearray(MAX_ANSWER_BYTES)
"""Where answers are received. All connections share it: what must stay is copied before the next receive."""
_view = memoryview(_window)


@dataclass(eq=False, slots=True)
class SentRequest:
    """A request that was sent, and the part of its answer that has arrived.

    Attributes:
        raw: the request as it is sent, body included; the kernel has taken `sent_bytes` of it.
        received: the bytes of the answer so far.
        failure: how the connection broke; "" while it works.
    """

    raw: bytes
    sent_bytes: int = 0
    received: bytes = b""
    failure: str = ""


class PolledConnection(Protocol):
    """A kept connection to a server.

    Attributes:
        polled_in: the exchanges whose poller has watched the socket, if any.
    """

    polled_in: object

    @property
    def plain_socket(self) -> socket.socket | None: ...

    async def move_to(self, sink: AnswerSink, length_bytes: int) -> None: ...


class AwaitingClient(Protocol):
    """A client's connection that waits for the answer of an exchange; see `IdleConnection`."""

    @property
    def fd(self) -> int: ...

    @property
    def is_cancelled(self) -> bool: ...

    def pass_on(self, answer: memoryview, now: float) -> None: ...

    def send_part(self, part: memoryview) -> int: ...

    def has_passed(self, count: int) -> None: ...

    def end_answer(self, unsent: bytes, now: float) -> None: ...

    def leave_rest(self, rest: RestOfAnswer) -> None: ...

    def leave_exchange(self, data: bytes, forwarding: Forwarding) -> None: ...

    def fail_exchange(self, error: Exception) -> None: ...


class Continuation(Protocol):
    """A request that was sent on already. Its owner calls one of the methods, once."""

    async def answer(self, request: Request) -> Response:
        """The answer to `request`, which is the request that was sent. Raises as the ordinary way does."""
        ...

    def abandon(self) -> None:
        """Gives the exchange up: nobody wants the answer. After `answer` was called, does nothing."""
        ...


class Forwarding(Continuation, Protocol):
    """A forwarded request, as a polled exchange needs it.

    Attributes:
        sent: the request.
        is_head: whether the request is a HEAD.
    """

    sent: SentRequest
    is_head: bool

    @property
    def server_connection(self) -> PolledConnection:
        """The connection over which the request goes."""
        ...

    def passes(self, status: int) -> bool:
        """Whether an answer with `status` is passed on unchanged."""
        ...

    def passed(self) -> None:
        """The answer is complete, and the connection can serve another request."""
        ...


class PolledExchange:
    """One exchange for the client at `connection`.

    Args:
        data: the request as it arrived. The task gets it if the exchange is left to the task.

    Attributes:
        due: when the exchange is left to the task at the latest. Trio time.
        fd: the descriptor of the server's connection.
    """

    __slots__ = ("_connection", "_data", "_exchanges", "_forwarding", "_left_bytes", "_received", "_sock", "due", "fd")

    def __init__(self, exchanges: Exchanges, connection: AwaitingClient, data: bytes, forwarding: Forwarding) -> None:
        sock = forwarding.server_connection.plain_socket
        assert sock is not None, "`acquire_kept` gives plain connections"
        self._exchanges = exchanges
        self._connection = connection
        self._data = data
        self._forwarding = forwarding
        self._sock = sock
        self._received: bytearray | None = None
        self._left_bytes = 0  # of an answer that the client has a part of already
        self.due = trio.current_time() + LEAVE_AFTER_S
        self.fd = sock.fileno()

    @property
    def server_connection(self) -> PolledConnection:
        """The server's connection."""
        return self._forwarding.server_connection

    def send(self) -> bool:
        """Sends the request. False where the kernel did not take all of it at once: then a task must go on."""
        sent = self._forwarding.sent
        try:
            sent.sent_bytes = self._sock.send(sent.raw)
        except BlockingIOError:
            return False
        except OSError as error:
            sent.failure = str(error)
            return False
        return sent.sent_bytes == len(sent.raw)

    def serve(self, now: float) -> int:
        """Takes what the server has sent. Returns how many bytes were passed on to the client."""
        if self._left_bytes:
            return self._pass_some(now)
        forwarding, received = self._forwarding, self._received
        try:
            count = self._sock.recv_into(_window)
        except BlockingIOError:
            self._exchanges.arm(self)
            return 0
        except OSError as error:
            forwarding.sent.failure = str(error)
            self.leave()
            return 0
        if received is None:
            data, length = _window, count
        else:
            received += _view[:count]
            data, length = received, len(received)
        head = match_response(data, length, is_head=forwarding.is_head)
        if head is None or not count or self._connection.is_cancelled:
            self._keep(data, length)
            self.leave()
            return 0
        whole = head.head_bytes + head.body_bytes
        if whole == length and forwarding.passes(head.status):
            self._pass_on(data, length, now)
            return length
        if length < whole > MAX_ANSWER_BYTES and forwarding.passes(head.status) and self._exchanges.pipe.is_there():
            self._begin_to_pass(data, length, whole, now)
            return length
        self._keep(data, length)
        if length < whole <= MAX_ANSWER_BYTES:
            self._exchanges.arm(self)
        else:
            self.leave()
        return 0

    # ---- an answer that is passed on while it comes

    def _begin_to_pass(self, data: bytearray, length: int, whole: int, now: float) -> None:
        self._left_bytes = whole - length
        with (_view if data is _window else memoryview(data))[:length] as part:
            try:
                sent = self._connection.send_part(part)
            except OSError as error:
                self.fail(error)
                return
            self._go_on(bytes(part[sent:]), now)

    def _pass_some(self, now: float) -> int:
        if self._connection.is_cancelled:
            self.leave()
            return 0
        pipe = self._exchanges.pipe
        try:
            count = pipe.fill(self.fd, min(self._left_bytes, PIPE_BYTES))
        except BlockingIOError:
            self._exchanges.arm(self)
            return 0
        except OSError as error:
            self._leave_rest(b"", str(error))
            return 0
        if not count:
            self._leave_rest(b"", f"the server closed the connection {self._left_bytes} bytes before the end")
            return 0
        self._left_bytes -= count
        try:
            unsent = pipe.drain(self._connection.fd, count)
        except OSError as error:
            self.fail(error)
            return 0
        self._connection.has_passed(count - len(unsent))
        self._go_on(unsent, now)
        return count

    def _go_on(self, unsent: bytes, now: float) -> None:
        if not self._left_bytes:
            self._exchanges.forget(self)
            self._forwarding.passed()
            self._connection.end_answer(unsent, now)
        elif unsent:
            self._leave_rest(unsent)
        else:
            self.due = now + LEAVE_AFTER_S
            self._exchanges.arm(self)

    def _leave_rest(self, unsent: bytes, failure: str = "") -> None:
        self._exchanges.forget(self)
        self._exchanges.unwatch(self)
        self._connection.leave_rest(RestOfAnswer(unsent, self._left_bytes, failure, self._forwarding))

    # ---- its end

    def _keep(self, data: bytearray, length: int) -> None:
        if data is _window:
            # All exchanges share the window: the next one overwrites it.
            self._received = bytearray(_view[:length])

    def _pass_on(self, data: bytearray, length: int, now: float) -> None:
        self._exchanges.forget(self)
        self._forwarding.passed()
        self._connection.pass_on((_view if data is _window else memoryview(data))[:length], now)

    def leave(self) -> None:
        """Leaves the exchange to the client's task, which is woken in its turn."""
        if self._left_bytes:
            self._leave_rest(b"")
            return
        self._exchanges.forget(self)
        self._exchanges.unwatch(self)
        self._forwarding.sent.received = bytes(self._received or b"")
        self._connection.leave_exchange(self._data, self._forwarding)

    def abandon(self) -> None:
        """Ends the exchange: the client's connection is closed."""
        self._exchanges.forget(self)
        self._forwarding.abandon()

    def fail(self, error: Exception) -> None:
        """Ends the exchange, after a bug or because the client's connection broke. The client's task raises `error`."""
        self._exchanges.forget(self)
        self._forwarding.abandon()
        self._connection.fail_exchange(error)


class Exchanges:
    """The running exchanges of one poller. To be closed.

    Attributes:
        pipe: what bodies go through, one piece at a time.
    """

    def __init__(self, epoll: select.epoll, watch: DueWatch) -> None:
        """`watch` leaves exchanges that take long to their tasks."""
        self._epoll = epoll
        self._watch = watch
        self.pipe = SharedPipe()
        self._running: dict[int, PolledExchange] = {}

    def close(self) -> None:
        """Closes the pipe."""
        self.pipe.close()

    @property
    def count(self) -> int:
        """How many exchanges run."""
        return len(self._running)

    def begin(self, connection: AwaitingClient, data: bytes, forwarding: Forwarding) -> PolledExchange | None:
        """Sends the request of `forwarding`. None where a task must go on: then nothing runs here."""
        exchange = PolledExchange(self, connection, data, forwarding)
        if not exchange.send():
            return None
        self._running[exchange.fd] = exchange
        self._watch.add(exchange)
        self.arm(exchange)
        return exchange

    def arm(self, exchange: PolledExchange) -> None:
        """Has the poller call `serve` for `exchange` once, when its server has sent something."""
        server = exchange.server_connection
        # Between two exchanges the socket stays in the epoll, disarmed: one system call for each exchange.
        if server.polled_in is self:
            self._epoll.modify(exchange.fd, _ONCE)
        else:
            self._epoll.register(exchange.fd, _ONCE)
            server.polled_in = self

    def unwatch(self, exchange: PolledExchange) -> None:
        """Takes the socket of `exchange` out of the epoll: a task waits for it from now on."""
        self._epoll.unregister(exchange.fd)
        exchange.server_connection.polled_in = None

    def forget(self, exchange: PolledExchange) -> None:
        """Ends the exchange here, if it runs."""
        self._running.pop(exchange.fd, None)
        self._watch.discard(exchange)

    def serve(self, fd: int, now: float) -> int:
        """Serves the exchange over the socket `fd`, if there is one. Returns how many bytes were passed on."""
        exchange = self._running.get(fd)
        if exchange is None:
            return 0
        try:
            return exchange.serve(now)
        except Exception as error:  # noqa: BLE001  a bug concerns this connection alone, and its task raises it
            exchange.fail(error)
            return 0
