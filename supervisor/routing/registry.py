"""Every operation that this server answers, by name: one row per HTTP path family and method, one per RPC.

The rows say what a route touches and from which phase on the shipped presets serve it natively. Which request is
which route is `match`'s job; what a route does now is the table's. docs/routing.md lists the rows, and a test
holds that page, the RPC descriptors and these rows together.

Source: weed/server/volume_server.go (the muxes), volume_server_handlers.go (methods), weed/pb/volume_server.proto.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

from native_handlers.http.message import Listener

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PHASE = 4
"""The preset that forwards nothing: a route without a native handler is absent rather than an error."""
CONTROL_PHASE = 1
"""Up to here a route asks about the server or is answered from nothing; above it a route works on volumes."""
VOLUME_SERVICE = "volume_server_pb.VolumeServer"


class Protocol(Enum):
    """How a request of this route arrives."""

    HTTP = "http"
    GRPC = "grpc"


class AccessKind(Enum):
    """What a route touches; an engine must be allowed that before it runs the route."""

    NOTHING = "nothing"
    STORE = "the whole store"
    VOLUME_READ = "volume read"
    VOLUME_WRITE = "volume write"
    VOLUME_EXCLUSIVE = "volume exclusively"


class Holding(Enum):
    """How long a native RPC needs its volume, where both engines work on volumes.

    TO_FIRST_MESSAGE: a stream that has opened all it reads when its first message is out, and holds on to it.
    WHILE_WORKING: a stream that gives the volume up where it waits, with `RpcContext.pausing`, and looks it up anew.
    """

    TO_THE_END = "until the call is over"
    TO_FIRST_MESSAGE = "until the first message is out"
    WHILE_WORKING = "except while it waits"


@dataclass(frozen=True, slots=True)
class Access:
    """`volume_id_in` says where the volume is named: "path" for HTTP, the request field for an RPC (dotted where it
    is inside a message; the fields `file_ids` and `from_file_ids` hold fids, not numbers). None without a volume.

    `is_long`: it may take minutes; while the backend does it, nobody waits for the volume (docs/authority.md).
    """

    kind: AccessKind
    volume_id_in: str | None = None
    is_long: bool = False
    holding: Holding = Holding.TO_THE_END

    def __str__(self) -> str:
        return f"{self.kind.value} ({self.volume_id_in})" if self.volume_id_in else self.kind.value


@dataclass(frozen=True, slots=True)
class Route:
    """One named operation.

    `phase` is the preset from which on the route is native (0: in each of them). `listener` is the HTTP socket.
    `answers` says in words which requests these are.
    """

    name: str
    protocol: Protocol
    access: Access
    phase: int
    answers: str
    summary: str
    listener: Listener | None = None

    @property
    def is_always_native(self) -> bool:
        return self.phase == 0

    @property
    def is_data(self) -> bool:
        """Whether it works on volumes, so that it must run where the volumes are open."""
        return self.phase > CONTROL_PHASE


_NOTHING = Access(AccessKind.NOTHING)
_STORE = Access(AccessKind.STORE)
_PATH_READ = Access(AccessKind.VOLUME_READ, "path")
_PATH_WRITE = Access(AccessKind.VOLUME_WRITE, "path")
_READ = Access(AccessKind.VOLUME_READ, "volume_id")
_WRITE = Access(AccessKind.VOLUME_WRITE, "volume_id")
_EXCLUSIVE = Access(AccessKind.VOLUME_EXCLUSIVE, "volume_id")
_LONG_EXCLUSIVE = Access(AccessKind.VOLUME_EXCLUSIVE, "volume_id", is_long=True)
_LONG_WRITE = Access(AccessKind.VOLUME_WRITE, "volume_id", is_long=True)
_COPY_OUT = Access(AccessKind.VOLUME_READ, "volume_id", is_long=True, holding=Holding.TO_FIRST_MESSAGE)
_FOLLOW = Access(AccessKind.VOLUME_READ, "volume_id", is_long=True, holding=Holding.WHILE_WORKING)

_ELSE = "any other path"

_HTTP_ROWS: tuple[tuple[str, Access, int, str, str], ...] = (
    ("http.status", _STORE, 1, "any method, /status", "disks and volumes as JSON"),
    ("http.healthz", _NOTHING, 1, "any method, /healthz", "503 once stopping or out of the cluster"),
    ("http.readyz", _NOTHING, 1, "any method, /readyz", "the same answer as /healthz"),
    ("http.ui", _STORE, 1, "any method, /ui/index.html", "a page for people"),
    ("http.favicon", _NOTHING, 1, "any method, /favicon.ico", "the icon"),
    ("http.static", _NOTHING, 1, "any method, /seaweedfsstatic and below", "files of the page"),
    ("http.stats", _NOTHING, 1, "GET and HEAD, /stats/…", "gone upstream: 400, as from the object handler"),
    ("http.options", _NOTHING, 1, f"OPTIONS, {_ELSE}", "CORS preflight"),
    ("http.read", _PATH_READ, 2, f"GET and HEAD, {_ELSE}", "read an object"),
    ("http.write", _PATH_WRITE, 2, f"POST and PUT, {_ELSE}", "store an object"),
    ("http.delete", _PATH_WRITE, 2, f"DELETE, {_ELSE}", "delete an object"),
    ("http.invalid", _NOTHING, 1, f"any other method, {_ELSE}", "400 unsupported method"),
    ("http.public.favicon", _NOTHING, 1, "any method, /favicon.ico", "the icon"),
    ("http.public.static", _NOTHING, 1, "any method, /seaweedfsstatic and below", "files of the page"),
    ("http.public.options", _NOTHING, 1, f"OPTIONS, {_ELSE}", "CORS preflight"),
    ("http.public.read", _PATH_READ, 2, f"GET and HEAD, {_ELSE}", "read an object"),
    ("http.public.other", _NOTHING, 1, f"any other method, {_ELSE}", "200 with nothing, no effect"),
)

_GRPC_ROWS: tuple[tuple[str, Access, int, str], ...] = (
    ("BatchDelete", Access(AccessKind.VOLUME_WRITE, "file_ids"), 2, "delete many objects"),
    ("VacuumVolumeCheck", _READ, 3, "the share of garbage"),
    ("VacuumVolumeCompact", _LONG_EXCLUSIVE, 3, "copy what is live beside the volume"),
    ("VacuumVolumeCommit", _EXCLUSIVE, 3, "swap the compacted copy in"),
    ("VacuumVolumeCleanup", _EXCLUSIVE, 3, "drop the compacted copy"),
    ("DeleteCollection", _STORE, 2, "delete every volume of a collection"),
    ("AllocateVolume", _EXCLUSIVE, 2, "create a volume"),
    ("VolumeSyncStatus", _READ, 2, "sizes and revision for a follower"),
    ("VolumeIncrementalCopy", _COPY_OUT, 3, "what was appended since a time"),
    ("VolumeMount", _EXCLUSIVE, 2, "open a volume that is on disk"),
    ("VolumeUnmount", _EXCLUSIVE, 2, "close a volume, keep its files"),
    ("VolumeConsolidateIndex", _EXCLUSIVE, 2, "rewrite the index without what is gone"),
    ("VolumeDelete", _EXCLUSIVE, 2, "delete a volume and its files"),
    ("VolumeMarkReadonly", _EXCLUSIVE, 2, "stop writes to a volume"),
    ("VolumeMarkWritable", _EXCLUSIVE, 2, "allow writes again"),
    ("VolumeConfigure", _EXCLUSIVE, 2, "change the replica placement"),
    ("VolumeStatus", _READ, 2, "size, counts, read-only"),
    ("GetState", _STORE, 1, "maintenance mode and its version"),
    ("SetState", _STORE, 1, "change maintenance mode"),
    ("VolumeCopy", _LONG_EXCLUSIVE, 3, "fetch a volume from another server"),
    ("ReadVolumeFileStatus", _READ, 2, "file sizes and times"),
    ("CopyFile", _COPY_OUT, 3, "stream a file of a volume out"),
    (
        "ReceiveFile",
        Access(AccessKind.VOLUME_EXCLUSIVE, "info.volume_id", is_long=True),
        3,
        "take a file of a volume in",
    ),
    ("ReadNeedleBlob", _READ, 2, "one record as it is on disk"),
    ("ReadNeedleMeta", _READ, 2, "what a record says of itself"),
    ("WriteNeedleBlob", _WRITE, 2, "append one record as it is"),
    (
        "ReadAllNeedles",
        Access(AccessKind.VOLUME_READ, "volume_ids", is_long=True, holding=Holding.TO_FIRST_MESSAGE),
        2,
        "every live record",
    ),
    ("VolumeTailSender", _FOLLOW, 3, "follow what is appended"),
    ("VolumeTailReceiver", _LONG_WRITE, 3, "follow another server's copy"),
    ("VolumeEcShardsGenerate", _LONG_EXCLUSIVE, 3, "erasure-code a volume"),
    ("VolumeEcShardsRebuild", _LONG_EXCLUSIVE, 3, "make lost shards anew"),
    ("VolumeEcShardsCopy", _LONG_EXCLUSIVE, 3, "fetch shards from another server"),
    ("VolumeEcShardsDelete", _EXCLUSIVE, 3, "delete shards"),
    ("VolumeEcShardsMount", _EXCLUSIVE, 3, "open shards"),
    ("VolumeEcShardsUnmount", _EXCLUSIVE, 3, "close shards"),
    ("VolumeEcShardRead", _READ, 3, "a range of a shard"),
    ("VolumeEcBlobDelete", _WRITE, 3, "delete an object of an erasure-coded volume"),
    ("VolumeEcShardsToVolume", _LONG_EXCLUSIVE, 3, "decode shards into a volume"),
    ("VolumeEcShardsInfo", _READ, 3, "which shards are here"),
    ("VolumeTierMoveDatToRemote", _LONG_EXCLUSIVE, 3, "move the data to a remote store"),
    ("VolumeTierMoveDatFromRemote", _LONG_EXCLUSIVE, 3, "bring the data back"),
    ("VolumeServerStatus", _STORE, 1, "disks, memory, version, state"),
    ("VolumeServerLeave", _STORE, 1, "stop the heartbeat"),
    ("FetchAndWriteNeedle", _WRITE, 3, "store an object from a remote store"),
    (
        "ScrubVolume",
        Access(AccessKind.VOLUME_WRITE, "volume_ids", is_long=True),
        3,
        "verify volumes, may mark them read-only",
    ),
    ("ScrubEcVolume", Access(AccessKind.VOLUME_READ, "volume_ids", is_long=True), 3, "verify erasure-coded volumes"),
    ("Query", Access(AccessKind.VOLUME_READ, "from_file_ids"), 3, "select rows out of JSON or CSV objects"),
    ("VolumeNeedleStatus", _READ, 2, "where an object is and how large"),
    ("Ping", _NOTHING, 1, "is a server there"),
)

REFLECTION_PATHS = (
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
)
_REFLECTION = Route(
    name="grpc.reflection",
    protocol=Protocol.GRPC,
    access=_NOTHING,
    phase=0,
    answers=" and ".join(REFLECTION_PATHS),
    summary="which RPCs there are",
)


def _http_route(row: tuple[str, Access, int, str, str]) -> Route:
    name, access, phase, answers, summary = row
    listener = Listener.PUBLIC if name.startswith("http.public.") else Listener.ADMIN
    return Route(name, Protocol.HTTP, access, phase, answers, summary, listener)


def _grpc_route(row: tuple[str, Access, int, str]) -> Route:
    name, access, phase, summary = row
    return Route(f"grpc.{name}", Protocol.GRPC, access, phase, f"/{VOLUME_SERVICE}/{name}", summary)


ROUTES: tuple[Route, ...] = (*map(_http_route, _HTTP_ROWS), *map(_grpc_route, _GRPC_ROWS), _REFLECTION)
ROUTES_BY_NAME: Mapping[str, Route] = MappingProxyType({route.name: route for route in ROUTES})
