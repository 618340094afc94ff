"""Which metadata goes on with a forwarded call, and the request id of a call. Pure rules.

Source of the request id: weed/pb/grpc_client_server.go, requestIDUnaryInterceptor: unary calls only; the client's id or
a new UUID; handed on to calls made for this one; returned in the trailers, also of a call that fails.
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
        # grpcio writes its own and lets no caller set it.
        "user-agent",
    }
)
_STATUS_DETAILS = "grpc-status-details-bin"


def forwarded_request_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> Metadata:
    """What of a client's `metadata` the backend gets: all but what belongs to the client's own connection or to gRPC
    itself (deadline, encodings, status), which the next hop writes anew.
    """
    return tuple((key, value) for key, value in metadata if key not in _OF_THIS_HOP and not _is_reserved(key))


def forwarded_answer_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
    """What of the backend's headers or trailers the client gets: as above, and the details of its status."""
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
    """`metadata` with exactly one request id, this one; as it is when `request_id` is empty."""
    if not request_id:
        return metadata
    return (*((key, value) for key, value in metadata if key != REQUEST_ID_KEY), (REQUEST_ID_KEY, request_id))


def new_request_id() -> str:
    return str(uuid.uuid4())


def _is_reserved(key: str) -> bool:
    return key.startswith(("grpc-", ":"))
