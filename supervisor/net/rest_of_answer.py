"""The rest of an answer that the idle poller has begun to pass on from another server: a task passes it on."""

from __future__ import annotations

import logging
from typing import Protocol

from native_handlers.records import dataclass
from supervisor.net.errors import AnswerBrokeOff

log = logging.getLogger(__name__)


class AnswerSink(Protocol):
    """A client's connection; see `Transport`."""

    async def send_all(self, data: bytes | memoryview, *, more: bool = False) -> None: ...

    async def abort(self) -> None: ...


class MovingConnection(Protocol):
    """A connection to a server that sends an answer."""

    async def move_to(self, sink: AnswerSink, length_bytes: int) -> None: ...


class PassedExchange(Protocol):
    """The exchange whose answer is passed on; see `polled_exchange.Forwarding`."""

    @property
    def server_connection(self) -> MovingConnection: ...

    def passed(self) -> None: ...

    def abandon(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RestOfAnswer:
    """The part of an answer that is not sent yet. Its owner calls `finish` or `abandon`, once.

    Attributes:
        unsent: bytes that have come from the server, and that the client has not taken yet.
        left_bytes: how many more the server is to send.
        failure: how the server's connection broke; "" while it works.
    """

    unsent: bytes
    left_bytes: int
    failure: str
    forwarding: PassedExchange

    async def finish(self, client: AnswerSink) -> None:
        """Passes everything on to `client`, and gives the server's connection back.

        Raises:
            AnswerBrokeOff: the server broke off.
            ConnectionFailed: the client's fault.

        Cancellation: both connections are unusable afterwards.
        """
        try:
            if self.unsent:
                await client.send_all(self.unsent)
            if self.failure:
                raise AnswerBrokeOff(self.failure)
            if self.left_bytes:
                await self.forwarding.server_connection.move_to(client, self.left_bytes)
        except AnswerBrokeOff as error:
            log.warning("an answer of the backend broke off while it was passed on: %s", error)
            self.forwarding.abandon()
            await client.abort()
            raise
        except BaseException:
            self.forwarding.abandon()
            raise
        self.forwarding.passed()

    def abandon(self) -> None:
        """Gives the exchange up: nobody wants the answer any more."""
        self.forwarding.abandon()
