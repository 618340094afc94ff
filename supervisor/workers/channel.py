"""The control channel between the parent and a worker: calls with answers, both ways, over a socket pair.

Both ends are equal: each may call the other at any time. Each call is carried out by a task of its own, so two calls
that must be carried out in order are made one after the other. One task sends, so a call that is cancelled leaves no
half message behind.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING

import trio

from supervisor.workers.messages import (
    BadControlMessage,
    ControlAnswer,
    ControlCall,
    Fields,
    JsonObject,
    MessageReader,
    encode_answer,
    encode_call,
    encode_refusal,
)

if TYPE_CHECKING:
    import socket

log = logging.getLogger(__name__)

CallHandler = Callable[[Fields], Awaitable[JsonObject]]
"""Carries out a call and returns the body of its answer. May raise CallRefused."""

READ_BYTES = 65536
MAX_UNSENT = 64
"""Messages that wait for the other end to read. Further calls wait for their turn."""


class ChannelError(Exception):
    """A call has no answer. The text says why."""


class ChannelClosed(ChannelError):
    """The other end is gone, or what it has sent is no message. Whether the call was carried out is unknown."""


class CallRefused(ChannelError):
    """The other end did not carry the call out. The text is the other end's."""


class ControlChannel:
    """One end of the channel. `run` must run while the channel is used. Only one event loop uses it."""

    def __init__(self, sock: socket.socket) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._numbers = count(1)
        self._waiting: dict[int, _Wait] = {}
        self._outgoing, self._to_send = trio.open_memory_channel[bytes](MAX_UNSENT)

    async def call(self, kind: str, body: JsonObject) -> Fields:
        """Asks the other end for `kind`. Returns the body of the answer. Has no bound: the caller sets a deadline.

        Raises:
            CallRefused: the other end did not carry the call out.
            ChannelClosed: there will be no answer.

        Cancellation: safe for the channel. Whether the call is carried out is unknown.
        """
        number = next(self._numbers)
        wait = self._waiting[number] = _Wait()
        try:
            await self._send(encode_call(number, kind, body))
            await wait.is_over.wait()
        finally:
            del self._waiting[number]
        if wait.answer is None:
            raise ChannelClosed("the other end is gone")
        if wait.answer.refusal:
            raise CallRefused(wait.answer.refusal)
        return wait.answer.body

    async def run(self, handlers: Mapping[str, CallHandler]) -> None:
        """Carries out the other end's calls until the other end closes the channel. Then all own calls fail.

        Calls that are being carried out at that moment are cancelled.
        """
        try:
            async with self._stream, trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_sending, nursery.cancel_scope)
                await self._serve_receiving(handlers, nursery)
                nursery.cancel_scope.cancel()
        finally:
            self._to_send.close()
            for wait in self._waiting.values():
                wait.is_over.set()

    async def _send(self, data: bytes) -> None:
        try:
            await self._outgoing.send(data)
        except trio.BrokenResourceError as error:
            raise ChannelClosed("the other end is gone") from error

    async def _serve_sending(self, scope: trio.CancelScope) -> None:
        async for data in self._to_send:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                scope.cancel()
                return

    async def _serve_receiving(self, handlers: Mapping[str, CallHandler], nursery: trio.Nursery) -> None:
        reader = MessageReader()
        while data := await self._receive():
            try:
                for message in reader.feed(data):
                    if isinstance(message, ControlAnswer):
                        self._note(message)
                    else:
                        nursery.start_soon(self._carry_out, message, handlers)
            except BadControlMessage as error:
                log.error("the control channel is closed: %s", error)
                return
        if reader.has_part:
            log.warning("the control channel ended within a message")

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(READ_BYTES))
        except trio.BrokenResourceError:
            return b""

    def _note(self, answer: ControlAnswer) -> None:
        wait = self._waiting.get(answer.number)  # absent where the caller has given up
        if wait is not None:
            wait.answer = answer
            wait.is_over.set()

    async def _carry_out(self, call: ControlCall, handlers: Mapping[str, CallHandler]) -> None:
        handler = handlers.get(call.kind)
        try:
            if handler is None:
                raise CallRefused(f"there is no call {call.kind!r}")
            data = encode_answer(call.number, await handler(call.body))
        except (CallRefused, BadControlMessage) as refusal:
            data = encode_refusal(call.number, str(refusal))
        await self._send(data)


class _Wait:
    """A call that waits for its answer. `answer` stays None where the channel ends first."""

    __slots__ = ("answer", "is_over")

    def __init__(self) -> None:
        self.answer: ControlAnswer | None = None
        self.is_over = trio.Event()
