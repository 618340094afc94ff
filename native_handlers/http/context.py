"""What the HTTP handlers are given: settings, the store, and the seams to the rest of the node as protocols.

The supervisor builds one `HttpContext` and passes it to every handler; handlers keep no state of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypedDict

import trio

from native_handlers.http.disk_threads import DiskThreads
from native_handlers.http.message import Request, Response
from native_handlers.storage.payload_buffers import PayloadBuffers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from native_handlers.format.needle import Needle
    from native_handlers.http.headers import Headers
    from native_handlers.storage.store import Store


class ReadMode(Enum):
    """What a read of a volume that is not here does. Source: weed/command/volume.go, -readMode."""

    LOCAL = "local"
    PROXY = "proxy"
    REDIRECT = "redirect"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """The facts about this server that answers depend on.

    Args:
        version: size limit and version as the Server header shows them, "30GB 4.44" or "8000GB 4.44".
        commit: what /status appends to the version; upstream's release builds have a commit id here.
        self_url: the advertised ip:port, by which look-ups name this server.
        peer_scheme: "https" where this server reaches others by HTTPS (https.client.enabled).
        has_ui: false where a write key is configured and access.ui is not set; /ui/index.html then is no page.
    """

    version: str
    self_url: str
    file_size_limit_bytes: int
    commit: str = ""
    read_mode: ReadMode = ReadMode.PROXY
    fix_jpg_orientation: bool = False
    has_ui: bool = True
    peer_scheme: str = "http"


class ReplicaPlacementStatus(TypedDict, total=False):
    """Absent keys are zero."""

    node: int
    rack: int
    dc: int


class TtlStatus(TypedDict):
    Count: int
    Unit: int


class VolumeStatus(TypedDict):
    """One volume as /status shows it, keys in the order of the answer. Source: weed/storage/volume_info.go."""

    Collection: str
    DiskType: str
    RemoteStorageName: str
    ReplicaPlacement: ReplicaPlacementStatus
    Ttl: TtlStatus
    Size: int
    DeletedByteCount: int
    ModifiedAtSecond: int
    Id: int
    DiskId: int
    CompactRevision: int
    FileCount: int
    DeleteCount: int
    Version: int
    ReadOnly: bool


class DiskStatusRow(TypedDict, total=False):
    """One disk as /status shows it, keys in the order of the answer; keys whose value is zero are left out."""

    dir: str
    all: int
    used: int
    free: int
    percent_free: float
    percent_used: float
    disk_type: str
    error: str


class FindingRow(TypedDict):
    """Something out of the ordinary about a volume's files. `Kind` is for programs, `Text` for people."""

    Path: str
    Kind: str
    Text: str


@dataclass(frozen=True, slots=True)
class EcVolumeRow:
    """One EC volume of this node for the status page; `shards` holds (shard id, size in bytes)."""

    volume_id: int
    collection: str
    size_bytes: int
    shards: tuple[tuple[int, int], ...]
    created_at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDetails:
    """What the status page shows beyond volumes and disks. `facts` and `links` are (label, value) in order."""

    started_at_s: float
    masters: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    links: Sequence[tuple[str, str]] = ()
    ec_volumes: Sequence[EcVolumeRow] = ()
    remote_keys: Mapping[int, str] = field(default_factory=dict)


class NodeView(Protocol):
    """The truth about the whole node, both engines together."""

    async def volumes(self) -> Sequence[VolumeStatus]:
        """Every volume, in any order."""
        ...

    async def disk_statuses(self) -> Sequence[DiskStatusRow]:
        """One row for each directory, in configuration order."""
        ...

    async def findings(self) -> Sequence[FindingRow]:
        """What was found about volumes when they were opened; upstream has no such list."""
        ...

    async def details(self) -> NodeDetails: ...

    @property
    def is_stopping(self) -> bool: ...

    @property
    def is_heartbeating(self) -> bool:
        """False once the heartbeat loop has ended (leave, stop); being disconnected for now does not count."""
        ...


@dataclass(frozen=True, slots=True)
class Location:
    """One holder of a volume. `url` and `public_url` are host:port; `grpc_port` 0 means HTTP port + 10000."""

    url: str
    public_url: str
    grpc_port: int = 0


class LookupFailed(Exception):
    """The master could not be asked, or says that it knows no holder of the volume; its text is the message."""

    def __init__(self, volume_id: int, reason: str) -> None:
        super().__init__(reason)
        self.volume_id = volume_id
        self.reason = reason


class VolumeLookup(Protocol):
    async def locations(self, vid: int, *, refresh: bool = False) -> list[Location]:
        """The holders of volume `vid`, this server included; `refresh` drops what was cached first.

        Raises:
            LookupFailed: no answer, or the master knows no holder.
        """
        ...


class PeerFailureKind(Enum):
    """Why a peer gave no answer; the values are metric labels. Source: weed/topology/store_replicate.go."""

    TIMEOUT = "timeout"
    CONNECTION_REFUSED = "connection_refused"
    CONTEXT_CANCELLED = "context_cancelled"
    SERVER_ERROR = "server_error"


class PeerFailed(Exception):
    """A request to a peer had no complete answer. It may or may not have been executed there."""

    def __init__(self, peer: str, kind: PeerFailureKind, reason: str) -> None:
        super().__init__(f"{peer}: {reason}")
        self.peer = peer
        self.kind = kind
        self.reason = reason


class ByteStream(Protocol):
    """An async iterator of byte chunks that can be given up; an async generator is one."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PeerResponse:
    """A peer's answer. Whoever gets it reads `chunks` to the end or calls its `aclose`; the iteration raises
    `PeerFailed` where the body breaks off. Hop-by-hop headers are already removed, Content-Length is kept.
    """

    status: int
    headers: Headers
    chunks: ByteStream


class PeerHttp(Protocol):
    async def request(
        self, method: str, url_host_port: str, target: str, headers: Headers, body: bytes | AsyncIterator[bytes]
    ) -> PeerResponse:
        """Sends one request to a volume server and returns when the head of the answer is there.

        `headers` lack Host and framing headers, which the client adds. Never retried once it may be executed.

        Raises:
            PeerFailed: there was no answer.
        """
        ...


class EcVolumes(Protocol):
    """The erasure-coded volumes of this server. Failures are those of the store, see `failures.STORE_FAILURES`."""

    def has_volume(self, volume_id: int) -> bool:
        """Whether shards of the volume are here, so that the rest of a needle is collected from here."""
        ...

    async def read_needle(self, volume_id: int, needle_id: int, cookie: int) -> Needle:
        """The whole needle, its checksum verified; a TTL is not looked at, as upstream.

        Raises:
            NotFound, Deleted, CookieMismatch: it is not there, or not for this cookie.
            StorageError, FormatError, OSError: too few shards can be read, or they are damaged.
        """
        ...

    async def delete_needle(self, volume_id: int, needle_id: int, cookie: int) -> int:
        """Deletes the needle on every holder of its shards; the size of its body.

        Raises:
            As `read_needle`; a holder that could not be reached is a StorageError too, and others may have deleted.
        """
        ...


@dataclass(frozen=True, slots=True)
class AuthKeys:
    """The signing keys in force now; an empty key means that no token is asked for. Lifetimes 0 never expire."""

    write_key: bytes = b""
    read_key: bytes = b""
    write_expires_after_s: int = 0
    read_expires_after_s: int = 0


class HttpMetrics(Protocol):
    """Counters that only handlers know about. Names are upstream's, weed/stats/metrics.go."""

    def count_handler(self, kind: str) -> None:
        """handler_total{type=kind}."""
        ...

    def count_read_failure(self) -> None:
        """file_read_failures."""
        ...

    def count_read_invalid_needle(self) -> None:
        """file_read_invalid_needles."""
        ...

    def count_write_failure(self) -> None:
        """file_write_failures."""
        ...

    def observe_request(self, kind: str, duration_s: float) -> None:
        """request_seconds{type=kind}, for the kinds inside one request (writeToLocalDisk, writeToReplicas)."""
        ...

    def observe_replication(
        self, operation: str, targets: int, duration_s: float, failure: PeerFailureKind | None
    ) -> None:
        """replication_targets, and with targets: replication_{seconds,operations_total,failures_total}."""
        ...


class NoMetrics:
    """Counts nothing."""

    def count_handler(self, kind: str) -> None: ...

    def count_read_failure(self) -> None: ...

    def count_read_invalid_needle(self) -> None: ...

    def count_write_failure(self) -> None: ...

    def observe_request(self, kind: str, duration_s: float) -> None: ...

    def observe_replication(
        self, operation: str, targets: int, duration_s: float, failure: PeerFailureKind | None
    ) -> None: ...


MAX_IMAGES_AT_ONCE = 2
"""Images worked on at the same time in one process; the memory that one may take, times this, is the bound."""


def image_threads() -> trio.CapacityLimiter:
    """A limiter for the threads in which images are worked on."""
    return trio.CapacityLimiter(MAX_IMAGES_AT_ONCE)


def no_auth_keys() -> AuthKeys:
    """The keys of a server without any."""
    return AuthKeys()


def every_volume_is_ours(_volume_id: int) -> AbstractAsyncContextManager[bool]:
    """For a node whose every volume is native."""
    return nullcontext(enter_result=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpContext:
    """Everything a handler may use. `store` is None where no volume is native; `lookup` and `peers` are None where
    the node stands alone, and then what needs another server fails as if the master knew none. `ec_volumes` is None
    where there is no erasure coding.

    A request's own volume may be used freely. Whoever changes another one does so inside `changing` of it, and looks
    for it there if it gives True: else another process of this node has the volume, and `settings.self_url` leads to
    it. LookupFailed says that it cannot be had.
    """

    settings: HttpSettings
    node: NodeView
    store: Store | None = None
    lookup: VolumeLookup | None = None
    peers: PeerHttp | None = None
    auth: Callable[[], AuthKeys] = no_auth_keys
    metrics: HttpMetrics = field(default_factory=NoMetrics)
    image_threads: trio.CapacityLimiter = field(default_factory=image_threads)
    disk_threads: DiskThreads = field(default_factory=DiskThreads)
    payload_buffers: PayloadBuffers = field(default_factory=PayloadBuffers)
    changing: Callable[[int], AbstractAsyncContextManager[bool]] = every_volume_is_ours
    ec_volumes: EcVolumes | None = None


HttpHandler = Callable[[HttpContext, Request], Awaitable[Response]]
"""Answers one request. Raises nothing that a client can cause."""
