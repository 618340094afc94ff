"""How a connection fails, as the connection driver sees it. After each of these errors the connection is unusable."""

from __future__ import annotations


class ConnectionFailed(Exception):
    """Base class: the other end, or the network, ended the connection."""


class ConnectionLost(ConnectionFailed):
    """The connection was reset or broke."""


class ConnectionSilent(ConnectionFailed):
    """Nothing moved in either direction for the idle timeout."""

    def __init__(self, idle_s: float) -> None:
        super().__init__(f"nothing moved for {idle_s:g} s")
        self.idle_s = idle_s


class ConnectionTooSlow(ConnectionFailed):
    """Bytes moved, but so slowly that the other end may only want to hold the connection."""


class AnswerBrokeOff(ConnectionFailed):
    """Another server has broken off an answer of which the client has a part already."""


class Interrupted(ConnectionFailed):
    """This process ended the wait for the next request, because the listener drains."""


class BackendUnavailable(Exception):
    """The server behind this process gave no complete response.

    Args:
        address: the server's address, "" where there is none.
        reason: one clause for the answer and the log.
    """

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address}: {reason}" if address else reason)
        self.address = address
        self.reason = reason


class CannotListen(Exception):
    """A listening address cannot be bound. No socket is left open."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"cannot listen on {host or '*'}:{port}: {reason}")
        self.host = host
        self.port = port
        self.reason = reason


class NoPrivateSocket(CannotListen):
    """No directory can hold a private socket for this process. No file is left there."""

    def __init__(self, reason: str) -> None:
        super().__init__("", 0, reason)

    def __str__(self) -> str:
        return (
            f"the inner gRPC server has no socket: {self.reason}. Set TMPDIR to a directory on this machine that the"
            " server may write"
        )


class BadCertificate(Exception):
    """Certificate, key or CA files cannot be used together. The message names the files."""
