"""TLS over a plain socket, with the same time limits as HTTP without TLS.

The limits apply below TLS. There the acknowledged bytes are known, and there a wait may be repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from supervisor.net.errors import ConnectionLost
from supervisor.net.transport import RECEIVE_BYTES, SocketTransport, StreamTransport

if TYPE_CHECKING:
    import ssl


class TimedStream(trio.abc.Stream):
    """A socket as the stream below TLS. Raises the ConnectionFailed of a time limit; BrokenResourceError when the other
    end is gone.

    Attributes:
        waits_without_limit: whether receiving waits without limit.
    """

    def __init__(self, transport: SocketTransport) -> None:
        self._transport = transport
        self.waits_without_limit = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._transport.send_all(memoryview(data))
        except ConnectionLost as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def wait_send_all_might_not_block(self) -> None:
        """Returns at once: no caller here needs the wait."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            return await self._transport.receive_some(
                max_bytes or RECEIVE_BYTES, waits_without_limit=self.waits_without_limit
            )
        except ConnectionLost as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def aclose(self) -> None:
        await self._transport.aclose()
        await trio.lowlevel.checkpoint()

    async def abort(self) -> None:
        await self._transport.abort()


class TlsTransport(StreamTransport):
    """A TLS connection, which owns `transport`. `handshake` must be called first."""

    __slots__ = ("_timed", "_tls")

    def __init__(
        self,
        transport: SocketTransport,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        self._timed = TimedStream(transport)
        self._tls = trio.SSLStream(
            self._timed, context, server_side=server_side, server_hostname=server_hostname, https_compatible=True
        )
        super().__init__(self._tls, transport.timeouts)

    async def handshake(self) -> None:
        """Makes the TLS handshake.

        Raises:
            trio.BrokenResourceError: the handshake failed; its cause names the reason. The connection is closed.
            ConnectionFailed: a time limit ended the handshake. The connection is closed.
        """
        try:
            await self._tls.do_handshake()
        except BaseException:
            await self.abort()
            raise

    async def _receive(self, max_bytes: int, *, waits_without_limit: bool) -> bytes:
        self._timed.waits_without_limit = waits_without_limit
        return bytes(await self._tls.receive_some(max_bytes))

    async def _send(self, piece: memoryview) -> None:
        await self._tls.send_all(piece)

    async def send_eof(self) -> None:
        """Does nothing: TLS cannot end one direction."""

    async def abort(self) -> None:
        await self._timed.abort()
