"""The loopback ports of the child: chosen once, kept through restarts, and safe from other programs meanwhile.

A program that asks the kernel for a free port and closes the socket leaves a gap: another program may get the same
port. Here the asking socket stays open, bound with SO_REUSEADDR but never listening. Linux lets a second socket bind
and listen on that port as long as both set SO_REUSEADDR and no socket listens yet (Go, grpc and trio all set it).
bind(0) and connect() of other programs avoid a port in use. So a port stays reserved while the child is down. Only a
program that asks for this very number can take it; `PortReservation.refresh` notices that.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Self

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from types import TracebackType

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class BackendPorts:
    """The child's ports on loopback: admin, gRPC, public and metrics. All four differ."""

    http: int
    grpc: int
    public: int
    metrics: int


class PortReservation:
    """Holds four free loopback ports until it is closed. It is a context manager."""

    def __init__(self, host: str = LOOPBACK) -> None:
        self._host = host
        self._held: list[socket.socket] = []
        try:
            for _ in range(len(BackendPorts.__slots__)):
                self._held.append(_hold_free_port(host))
        except OSError:
            self.close()
            raise

    @property
    def ports(self) -> BackendPorts:
        return BackendPorts(*(held.getsockname()[1] for held in self._held))

    def refresh(self) -> bool:
        """Replaces each port on which another program listens. Returns whether there was one.

        The child must be down.
        """
        changed = False
        for index, held in enumerate(self._held):
            if not _can_listen(self._host, held.getsockname()[1]):
                self._held[index] = _hold_free_port(self._host)
                held.close()
                changed = True
        return changed

    def close(self) -> None:
        for held in self._held:
            held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _hold_free_port(host: str) -> socket.socket:
    holder = _reusable_socket()
    try:
        holder.bind((host, 0))
    except OSError:
        holder.close()
        raise
    return holder


def _can_listen(host: str, port: int) -> bool:
    with _reusable_socket() as probe:
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError:
            return False
    return True


def _reusable_socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made
