"""The client of a request that a worker hands on to its parent: one header field, the first one of the head.

Many clients' requests come over one connection of a worker, so each request names its client. A worker puts the field
first. The parent takes the first field, and no other one, so a client that sends the field itself changes nothing.
docs/workers.md says who can connect to the parent.
"""

from __future__ import annotations

from typing import NamedTuple

from native_handlers.http_model.message import Listener

CLIENT_FIELD = "X-Handed-On-For"
_LINE_START = f"{CLIENT_FIELD}: ".encode()


class HandedOnClient(NamedTuple):
    """A client, and how it has connected to a worker."""

    listener: Listener
    is_tls: bool
    port: int
    host: str


def encode_client(client: HandedOnClient) -> str:
    """The value of the field."""
    listener, is_tls, port, host = client
    return f"{listener.value} {int(is_tls)} {port} {host}"


def parse_client(value: str) -> HandedOnClient:
    """The client that a value of `encode_client` names. Raises ValueError for any other text."""
    listener, is_tls, port, host = f"{value} ".split(" ", 3)
    return HandedOnClient(Listener(listener), is_tls == "1", int(port), host.rstrip(" "))


def with_client_line(request: bytes, client: HandedOnClient) -> bytes:
    """A request that begins with a whole request line, and the client's field after that line."""
    at = request.index(b"\r\n") + 2
    return b"%b%b%b\r\n%b" % (request[:at], _LINE_START, encode_client(client).encode("latin-1"), request[at:])


def take_client_line(request: bytes) -> tuple[HandedOnClient, bytes] | None:
    """The client that the second line names, and the request without this line. None where the line is another one, or
    the two lines have not arrived.
    """
    at = request.find(b"\r\n") + 2
    if not request.startswith(_LINE_START, at) or at < 2:
        return None
    end = request.find(b"\r\n", at)
    if end < 0:
        return None
    try:
        client = parse_client(request[at + len(_LINE_START) : end].decode("latin-1"))
    except ValueError:
        return None
    return client, request[:at] + request[end + 2 :]
