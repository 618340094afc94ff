"""Which metadata is passed on with a forwarded call, and the request id of a call. Pure rules.

Source of the request id: weed/pb/grpc_client_server.go (requestIDUnaryInterceptor). Only unary calls have one: the
client's id or a new UUID. The id is passed on to calls made for this one. The trailers return the id, also for a call
that fails.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from native_handlers.grpc.context import Metadata

REQUEST_ID_KEY = "x-amz-request-id"

_OF_THIS_HOP = frozenset(
    {
        "connection",
        "content-length",
        "content-type",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        # grpcio writes this itself and lets no caller set it.
        "user-agent",
    }
)
_STATUS_DETAILS = "grpc-status-details-bin"


def forwarded_request_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> Metadata:
    """The part of a client's `metadata` that the backend gets.

    Keys of the client's own connection and of gRPC itself (deadline, encodings, status) are left out. The next hop
    writes them again.
    """
    return tuple((key, value) for key, value in metadata if key not in _OF_THIS_HOP and not _is_reserved(key))


def forwarded_answer_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
    """The part of the backend's headers or trailers that the client gets: as above, and the details of the status."""
    return tuple(
        (key, value)
        for key, value in metadata or ()
        if key not in _OF_THIS_HOP and (not _is_reserved(key) or key == _STATUS_DETAILS)
    )


def request_id_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The first request id in `metadata`, or "" where there is none."""
    for key, value in metadata:
        if key == REQUEST_ID_KEY:
            return value if isinstance(value, str) else value.decode("latin-1")
    return ""


def with_request_id(metadata: Metadata, request_id: str) -> Metadata:
    """`metadata` with `request_id` as its only request id. With an empty `request_id`, `metadata` unchanged."""
    if not request_id:
        return metadata
    return (*((key, value) for key, value in metadata if key != REQUEST_ID_KEY), (REQUEST_ID_KEY, request_id))


def new_request_id() -> str:
    return str(uuid.uuid4())


def _is_reserved(key: str) -> bool:
    return key.startswith(("grpc-", ":"))
