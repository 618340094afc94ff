"""What can go wrong in the wire protocols, apart from what the network does."""

from __future__ import annotations


class WireError(Exception):
    """Base of this layer's errors."""


class LocalProtocolError(WireError):
    """We used a connection out of turn or tried to send something malformed: a bug of ours, never a peer's."""


class RemoteProtocolError(WireError):
    """The peer broke the protocol; nothing more can be read from this connection.

    Args:
        status: what to answer if the peer is a client that still listens.
        why: one clause for the answer and the log; quotes no more than a little of what was sent.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(f"{why} (status {status})")
        self.status = status
        self.why = why
