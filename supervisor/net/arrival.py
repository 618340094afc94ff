"""What arrives on an idle connection, and why the task of a connection was woken."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from supervisor.net.rest_of_answer import RestOfAnswer

if TYPE_CHECKING:
    import socket

    from native_handlers.http_model.message import Answer, PendingAnswer
    from supervisor.net.polled_exchange import Continuation

FAST_PATH_BYTES = 4096
"""The most that one receive takes. Every request that can be answered from memory is shorter."""
_UPLOAD_BYTES = 36 * 1024
"""The most that is taken of an upload besides. A longer one is not answered at once."""
_UPLOADS = (b"POST ", b"PUT ")


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


def receive_request(sock: socket.socket) -> bytes:
    """What has arrived on `sock`, as far as a request that can be answered at once may be long; b"" at the end.

    Raises:
        BlockingIOError: nothing has arrived.
        OSError: the connection broke.
    """
    data = sock.recv(FAST_PATH_BYTES)
    if len(data) == FAST_PATH_BYTES and data.startswith(_UPLOADS):
        try:
            data += sock.recv(_UPLOAD_BYTES)
        except BlockingIOError:
            return data
    return data
