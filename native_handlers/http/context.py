"""The argument of all HTTP handlers: settings, the store, and protocols for the rest of the node.

The supervisor builds one `HttpContext` and passes it to every handler. Handlers keep no state of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import field
from typing import TYPE_CHECKING, Protocol, TypedDict, TypeVar

from native_handlers.http.clear_content import ClearContents
from native_handlers.http.disk_threads import DiskThreads
from native_handlers.http.manifest_loader import ManifestLoader
from native_handlers.http.settled import SettledWaits
from native_handlers.http_model.message import Request, Response
from native_handlers.records import dataclass
from native_handlers.runtime.content_threads import ContentThreads, ImageThreads
from native_handlers.runtime.server_counts import ServerCounts
from native_handlers.storage.system.buffer_pool import BufferPool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from native_handlers.format.needle import Needle
    from native_handlers.http.settings import HttpSettings
    from native_handlers.http_model.go_json import EncodedList
    from native_handlers.http_model.volume_servers import VolumeServerHttp
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.settling import Settling
    from native_handlers.storage.store import Store
    from native_handlers.storage.volume.volume import Volume

T = TypeVar("T")


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
    """A finding about a volume's files. `Kind` is for programs, `Text` for people."""

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
    """The facts of the status page beyond volumes and disks. `facts` and `links` are (label, value) in order."""

    started_at_s: float
    masters: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    links: Sequence[tuple[str, str]] = ()
    ec_volumes: Sequence[EcVolumeRow] = ()
    remote_keys: Mapping[int, str] = field(default_factory=dict)


class NodeView(Protocol):
    """The state of the whole node, both engines together."""

    async def volumes(self) -> Sequence[VolumeStatus]:
        """Every volume, in any order."""
        ...

    async def volume_rows(self, *, is_pretty: bool) -> Sequence[tuple[int, str]]:
        """The id and JSON of every volume, as `go_json.encode_item` makes it, sorted by id."""
        ...

    async def volume_list(self, *, is_pretty: bool) -> EncodedList:
        """The list of /status: the texts of `volume_rows` joined."""
        ...

    async def aside(self, work: Callable[[], T]) -> T:
        """Runs `work` in a thread and returns its result: for work that grows with the volumes, such as building a
        page.
        """
        ...

    async def disk_statuses(self) -> Sequence[DiskStatusRow]:
        """One row for each directory, in configuration order."""
        ...

    async def findings(self) -> Sequence[FindingRow]:
        """The findings of opening the volumes. Upstream has no such list."""
        ...

    async def details(self) -> NodeDetails: ...

    @property
    def is_stopping(self) -> bool: ...

    @property
    def is_heartbeating(self) -> bool:
        """False once the heartbeat loop has ended (leave, stop). A lost connection alone does not count."""
        ...


@dataclass(frozen=True, slots=True)
class Location:
    """One holder of a volume. `url` and `public_url` are host:port; `grpc_port` 0 means HTTP port + 10000."""

    url: str
    public_url: str
    grpc_port: int = 0


class LookupFailed(Exception):
    """The master gave no answer, or knows no holder of the volume. The master's text is the message."""

    def __init__(self, volume_id: int, reason: str) -> None:
        super().__init__(reason)
        self.volume_id = volume_id
        self.reason = reason


class VolumeLookup(Protocol):
    async def locations(self, vid: int, *, refresh: bool = False) -> list[Location]:
        """The holders of volume `vid`, this server included. `refresh` drops the cached answer first.

        Raises:
            LookupFailed: the master gave no answer, or knows no holder.
        """
        ...


class EcVolumes(Protocol):
    """The erasure-coded volumes of this server. Its errors are those of the store, see `failures.STORE_FAILURES`."""

    def find(self, volume_id: int) -> EcVolume | None:
        """The volume where this server has shards of it, and so reads and deletes its needles."""
        ...

    async def read_needle(self, volume: EcVolume, needle_id: int, cookie: int) -> Needle:
        """The whole needle, its checksum verified. The TTL is not checked, as upstream. A volume that was closed after
        `find` is looked up again.

        Raises:
            NotFound, Deleted, CookieMismatch: there is no needle with this id and cookie.
            StorageError, FormatError, OSError: too few shards can be read, or they are damaged.
        """
        ...

    async def delete_needle(self, volume: EcVolume, needle_id: int, cookie: int, *, is_exact: bool = False) -> int:
        """Deletes the needle at one holder of its shards, which counts for the whole volume, and returns the size of
        its body. A volume that was closed after `find` is looked up again. Cookie 0 is any cookie, unless `is_exact`.

        Raises:
            As `read_needle`. It is a StorageError too where no holder can be reached.
        """
        ...


class ReadableVolumes(Protocol):
    """The volumes that this process can read now."""

    settling: Settling
    """The volumes whose reads must wait; see `Store.settling`."""

    def find_volume(self, vid: int) -> Volume | None: ...


class AttachedVolumes(ReadableVolumes, Protocol):
    """The volumes of another process."""

    def find_writer(self, vid: int) -> Volume | None:
        """The volume for changes; None where this process does not change it now."""
        ...


class TokenScope(Protocol):
    """The rights of a request on other files than the one in its path: those that a manifest names.

    The result is the file id that the request's token is for, in the form of `Chunk.token_file_id`, or "" where the
    token is for none. None means that no key is configured and everything is allowed.
    """

    def readable(self, request: Request) -> str | None:
        """The file that may be read."""
        ...

    def changeable(self, request: Request) -> str | None:
        """The file that may be deleted."""
        ...


class NoTokenScope:
    """The scope of a server without keys."""

    def readable(self, _request: Request) -> str | None:
        return None

    def changeable(self, _request: Request) -> str | None:
        return None


def every_volume_is_ours(_volume_id: int) -> AbstractAsyncContextManager[bool]:
    """The `changing` of a node whose volumes are all native."""
    return nullcontext(enter_result=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpContext:
    """Everything that a handler may use. `store` is None where no volume is native. `ec_volumes` is None where there is
    no erasure coding. `lookup` and `volume_servers` are None for a node without a master; operations that need another
    server then fail as if the master knew no holder.

    A handler may use the volume of its own request freely. Callers change another volume only inside
    `changing(volume_id)`. Where `changing` gives True, the caller looks the volume up inside the block. Where it gives
    False, another process of this node has the volume, and requests to `settings.self_url` reach that process. It
    raises LookupFailed where the volume cannot be had.
    """

    settings: HttpSettings
    node: NodeView
    store: Store | None = None
    lookup: VolumeLookup | None = None
    volume_servers: VolumeServerHttp | None = None
    token_scope: TokenScope = field(default_factory=NoTokenScope)
    metrics: ServerCounts = field(default_factory=ServerCounts)
    image_threads: ImageThreads = field(default_factory=ImageThreads)
    disk_threads: DiskThreads = field(default_factory=DiskThreads)
    content_threads: ContentThreads = field(default_factory=ContentThreads)
    payload_buffers: BufferPool = field(default_factory=BufferPool)
    clear_contents: ClearContents = field(default_factory=ClearContents)
    manifests: ManifestLoader = field(default_factory=ManifestLoader)
    settled: SettledWaits = field(default_factory=SettledWaits)
    changing: Callable[[int], AbstractAsyncContextManager[bool]] = every_volume_is_ours
    ec_volumes: EcVolumes | None = None
    attached: AttachedVolumes | None = None
    """The volumes of another process that this one reads and changes; None in a process with a store of its own."""

    @property
    def open_volumes(self) -> ReadableVolumes | None:
        """The volumes that can be read here: those of the store, or those of another process."""
        return self.attached if self.store is None else self.store

    def find_writer(self, volume_id: int) -> Volume | None:
        """The volume for changes that need not wait; None where there is none here, or it settles."""
        store = self.store
        if store is None:
            return None if self.attached is None else self.attached.find_writer(volume_id)
        return None if volume_id in store.settling.volume_ids else store.find_volume(volume_id)


HttpHandler = Callable[[HttpContext, Request], Awaitable[Response]]
"""Answers one request. Raises no exception that a client can cause."""
