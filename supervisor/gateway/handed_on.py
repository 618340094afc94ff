"""The requests that workers hand on to their parent: each is answered as if its client had connected here."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import PendingAnswer
from native_handlers.records import dataclass
from native_handlers.runtime.content_threads import CLIENT
from supervisor.net.http_connection import Client, plain_response
from supervisor.net.seats import client_of
from supervisor.wire.handed_on import CLIENT_FIELD, HandedOnClient, parse_client, take_client_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from native_handlers.http_model.message import FastAnswer, Request, Response
    from native_handlers.storage.store import Store
    from supervisor.net.http_server import Handle, TryAnswer
    from supervisor.routing.decision import Engine

log = logging.getLogger(__name__)


class HandedOnRequests:
    """Serves the private socket of a parent.

    Args:
        handle: answers a request of a client, the ordinary way.
        fast_path: answers simple requests at once.
    """

    def __init__(self, handle: Handle, fast_path: TryAnswer) -> None:
        self._handle = handle
        self._fast_path = fast_path

    async def handle(self, request: Request) -> Response:
        """The answer to the request, of the client that its first field names. Raises as `handle` does."""
        try:
            client, headers = _taken(request.headers)
        except ValueError:
            # Only a worker of this server can connect.
            log.error("%s %s names no client", request.method, request.target)
            return plain_response(400, "the request names no client")
        CLIENT.set(client_of(client.host))
        return await self._handle(
            replace(
                request,
                headers=headers,
                listener=client.listener,
                client_host=client.host,
                client_port=client.port,
                is_tls=client.is_tls,
            )
        )

    def answer(self, _worker: Client, data: bytes) -> FastAnswer:
        """The answer to `data` by the fast path, or None."""
        taken = take_client_line(data)
        if taken is None:
            return None
        (listener, is_tls, port, host), own = taken
        answer = self._fast_path(Client(host, port, listener, is_tls), own)
        return _PendingWithClient(data, answer) if isinstance(answer, PendingAnswer) else answer


@dataclass(frozen=True, slots=True)
class NativeSource:
    """The parts of a native server that serve its workers.

    Attributes:
        requests: answers what the workers hand on.
        store: the volumes that the workers read.
        counts: the answers of `requests`, by route and engine.
    """

    requests: HandedOnRequests
    store: Store
    counts: Mapping[tuple[str, Engine], int]


def _taken(headers: Headers) -> tuple[HandedOnClient, Headers]:
    """The client, and the fields that the client sent. Raises ValueError where the first field names no client."""
    if not headers.pairs or headers.pairs[0][0] != CLIENT_FIELD:
        raise ValueError("no client")
    return parse_client(headers.pairs[0][1]), Headers(headers.pairs[1:])


class _PendingWithClient(PendingAnswer):
    """An answer to come. Where there will be none, the ordinary way gets the request with its client."""

    __slots__ = ("_answer",)

    def __init__(self, data: bytes, answer: PendingAnswer) -> None:
        self.data = data
        self._answer = answer

    def try_finish(self) -> bool:
        return self._answer.try_finish()

    async def wait(self) -> None:
        await self._answer.wait()

    def outcome(self) -> bytes | None:
        return self._answer.outcome()
