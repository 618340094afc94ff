"""How many descriptors the process may have, and how they are divided: volumes, connections, and a reserve.

Upstream's runtime raises the soft limit to the hard one before anything else runs (Go, os/rlimit.go), and counts
nothing. Here volumes come first, because unreadable data is worse than a refused connection. Connections get what
volumes leave, and never less than a floor.
"""

from __future__ import annotations

import logging
import resource

from native_handlers.records import dataclass
from native_handlers.storage.disk.open_limit import VOLUME_DESCRIPTORS, OpenLimit

log = logging.getLogger(__name__)

MAX_COUNTED = 1 << 20
"""Descriptors beyond this number are not used. An unlimited number counts as this many."""

RESERVE = 512
"""For listeners, pollers, channels to masters, logs, directory locks, the pipes of the gRPC relay (128), the files that
vacuum, copies and opening volumes use for a while, and connections that are being turned away (64)."""

MAX_BACKEND_LINKS = 4096
MAX_VOLUME_SERVER_LINKS = 1024
"""The most connections that this server makes itself, to the backend or to other volume servers."""

MAX_LEAST = 2048
"""The most that volumes created later leave to connections in any case."""

GRPC_DESCRIPTORS = 3
"""A relayed connection needs three: the client's, the relay's own to grpcio, and grpcio's end of that."""

MAX_HTTP_CONNECTIONS = 16384
MAX_GRPC_CONNECTIONS = 4096
"""The bounds even with unlimited descriptors: each connection costs memory as well."""

SHARE_DESCRIPTORS = 6
"""The descriptors of a shared volume in each process; see docs/sharing.md. A worker that changes the volume has as many
again. It has room for that: it has neither gRPC connections nor volumes of its own."""
_SHARED_PART = 8
"""One part in this many of the descriptors is for what is shared of volumes."""

_GRPC_PART = 4
"""One part in this many of the connections is for gRPC, which the cluster uses."""


def raise_limit() -> int:
    """Raises the soft limit of open files to the hard one. Returns the limit that holds now.

    Child processes inherit the limit. None of them needs a low one, and the backend raises its own as well. Where the
    system refuses (a sandbox), the limit stays and the log says so.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            log.warning("the soft limit of %d open files cannot be raised to the hard one, %d: %s", soft, hard, error)
    return current_limit()


def current_limit() -> int:
    """The soft limit of open files; `MAX_COUNTED` where it is higher."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_COUNTED if soft == resource.RLIM_INFINITY else min(soft, MAX_COUNTED)


@dataclass(frozen=True, slots=True)
class DescriptorPlan:
    """How `limit` descriptors are divided. With few descriptors every part shrinks.

    Args:
        is_forwarding: whether a client's request may need a connection to the backend, or of a worker to this process.
        is_sharing: whether volumes may be shared with workers.
    """

    limit: int
    is_forwarding: bool = False
    is_sharing: bool = False

    @property
    def reserve(self) -> int:
        """The descriptors that no part of the plan uses."""
        return min(RESERVE, self.limit // 8) + self._for_shares

    @property
    def links(self) -> int:
        """The most connections to the backend or to other volume servers at one time, kept ones included."""
        part, most = (3, MAX_BACKEND_LINKS) if self.is_forwarding else (16, MAX_VOLUME_SERVER_LINKS)
        return max(min(self.limit // part, most), 8)

    @property
    def least_for_connections(self) -> int:
        """The descriptors that volumes created later leave to connections."""
        return min(self.limit // 8, MAX_LEAST)

    @property
    def shared_volumes(self) -> int:
        """How many volumes may be shared with workers. The others are read by this process alone."""
        return self._for_shares // SHARE_DESCRIPTORS

    @property
    def _for_shares(self) -> int:
        return self.limit // _SHARED_PART if self.is_sharing else 0

    @property
    def open_limit(self) -> OpenLimit:
        """How many volumes the store may have open."""
        most_found = (self.limit - self.reserve // 2) // VOLUME_DESCRIPTORS
        most_new = (self.limit - self.reserve - self.links - self.least_for_connections) // VOLUME_DESCRIPTORS
        return OpenLimit(self.limit, max(most_new, 0), max(most_found, 0))

    def http_connections(self, open_volumes: int) -> int:
        """How many clients may be connected to both HTTP ports together, while `open_volumes` are open."""
        return min(self._for_connections(open_volumes) * (_GRPC_PART - 1) // _GRPC_PART, MAX_HTTP_CONNECTIONS)

    def grpc_connections(self, open_volumes: int) -> int:
        """How many clients may be connected to the gRPC port, while `open_volumes` are open."""
        descriptors = self._for_connections(open_volumes) // _GRPC_PART
        return min(descriptors // GRPC_DESCRIPTORS, MAX_GRPC_CONNECTIONS)

    def _for_connections(self, open_volumes: int) -> int:
        left = self.limit - self.reserve - self.links - open_volumes * VOLUME_DESCRIPTORS
        return max(left, self.least_for_connections)

    def describe(self, open_volumes: int) -> str:
        """A line for the log: how far the limit reaches, and which limit more volumes would need."""
        text = (
            f"{self.limit} open files allowed: room for {self.open_limit.most_new} volumes ({open_volumes} are open),"
            f" now for {self.http_connections(open_volumes)} HTTP and {self.grpc_connections(open_volumes)} gRPC"
            f" connections"
        )
        if open_volumes < self.open_limit.most_new:
            return text
        twice = 2 * open_volumes
        return (
            f"{text}; for more volumes allow {VOLUME_DESCRIPTORS} open files each and {self._besides} besides:"
            f" {self.needed(twice)} for {twice}"
        )

    def needed(self, volumes: int) -> int:
        """The limit that has room for `volumes`, new ones included, and for connections."""
        least = volumes * VOLUME_DESCRIPTORS + self._besides
        return least if not self.is_sharing else -(-least * _SHARED_PART // (_SHARED_PART - 1))

    @property
    def _besides(self) -> int:
        return RESERVE + (MAX_BACKEND_LINKS if self.is_forwarding else MAX_VOLUME_SERVER_LINKS) + MAX_LEAST
