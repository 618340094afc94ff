"""Requests of handlers to other servers over HTTP: the protocol that the supervisor's client implements."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from native_handlers.http_model.headers import Headers


class VolumeServerFailureKind(Enum):
    """Why another server gave no answer; the values are metric labels. Source: weed/topology/store_replicate.go."""

    TIMEOUT = "timeout"
    CONNECTION_REFUSED = "connection_refused"
    CONTEXT_CANCELLED = "context_cancelled"
    SERVER_ERROR = "server_error"


class VolumeServerFailed(Exception):
    """A request to another server got no complete answer, or a refusal. The server may have executed it.

    `status` is that of a refusal, 0 where there was no answer.
    """

    def __init__(self, server: str, kind: VolumeServerFailureKind, reason: str, *, status: int = 0) -> None:
        super().__init__(f"{server}: {reason}")
        self.server = server
        self.kind = kind
        self.reason = reason
        self.status = status


class ByteStream(Protocol):
    """An async iterator of byte chunks that can be closed early, such as an async generator."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class VolumeServerResponse:
    """An answer of another server. The caller reads `chunks` to the end or calls `aclose` of it. The iteration raises
    `VolumeServerFailed` where the body breaks off. Hop-by-hop headers are removed, Content-Length is kept.
    """

    status: int
    headers: Headers
    chunks: ByteStream


class VolumeServerHttp(Protocol):
    """Requests over HTTP to a server by its address: volume servers, and the receiver of pushed metrics."""

    async def request(
        self, method: str, url_host_port: str, target: str, headers: Headers, body: bytes | AsyncIterator[bytes]
    ) -> VolumeServerResponse:
        """Sends one request to a volume server and returns when the head of the answer has arrived.

        `headers` lack Host and framing headers, which the client adds. The request is never repeated once the server
        may have executed it.

        Raises:
            VolumeServerFailed: there was no answer.
        """
        ...
