"""How a connection fails, seen from the driver. Whatever is raised, the connection is of no use afterwards."""

from __future__ import annotations


class PeerError(Exception):
    """Base: the other end, or the way there, ended the conversation."""


class PeerGone(PeerError):
    """The connection was reset or broke."""


class PeerSilent(PeerError):
    """Nothing moved in either direction for the idle timeout."""

    def __init__(self, idle_s: float) -> None:
        super().__init__(f"nothing moved for {idle_s:g} s")
        self.idle_s = idle_s


class PeerTooSlow(PeerError):
    """Something moved, but so slowly that it looks like an attempt to hold the connection."""


class Interrupted(PeerError):
    """We ended the wait for the next request ourselves, to drain."""


class BackendUnavailable(Exception):
    """No complete response can be had from the server behind us.

    Args:
        address: where it was tried, "" where there was nothing to try.
        reason: one clause for the answer and the log.
    """

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address}: {reason}" if address else reason)
        self.address = address
        self.reason = reason


class CannotListen(Exception):
    """A listening address cannot be had; nothing was left open."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"cannot listen on {host or '*'}:{port}: {reason}")
        self.host = host
        self.port = port
        self.reason = reason


class BadCertificate(Exception):
    """Certificate, key or CA files cannot be used together; the message names the files."""
