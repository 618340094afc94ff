"""Errors of the wire protocols. Errors of the network are in supervisor.net.errors."""

from __future__ import annotations


class WireError(Exception):
    """Base class of this package's errors."""


class LocalProtocolError(WireError):
    """This program used a connection out of turn, or tried to send something malformed. It is a bug of this program."""


class RemoteProtocolError(WireError):
    """The other end broke the protocol. Nothing more can be read from the connection.

    Args:
        status: the status to answer with, if the other end is a client.
        why: one clause for the answer and the log. It quotes at most a little of what was sent.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(f"{why} (status {status})")
        self.status = status
        self.why = why
