"""Every operation that this server answers, by name, with everything that is true of it.

There is one row per HTTP path family and method, and one per RPC. `Route` is the one place for what is true of a route.
A module that treats some routes in its own way reads a field of the `Route` that it is given. No other module names a
route, except the handler tables of the native handlers (tests/unit/routing/test_routing_names.py). `match` finds the
route of a request. The table says what a route does now. docs/routing.md lists the rows, and a test holds that page,
the RPC descriptors and these rows together.

Source: weed/server/volume_server.go (the muxes), volume_server_handlers.go (methods), weed/pb/volume_server.proto.
"""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from native_handlers.http_model.headers import CommonHeaders
from native_handlers.http_model.message import Listener
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PHASE = 4
"""The preset that forwards nothing: a route without a native handler is absent, and that is no error."""
CONTROL_PHASE = 1
"""A route of at most this phase asks about the server or needs no volume. A route of a higher phase works on
volumes."""
VOLUME_SERVICE = "volume_server_pb.VolumeServer"


class Protocol(Enum):
    """How a request of this route arrives."""

    HTTP = "http"
    GRPC = "grpc"


class AccessKind(Enum):
    """The data that a route touches. An engine must have authority over the data before it runs the route."""

    NOTHING = "nothing"
    STORE = "the whole store"
    VOLUME_READ = "volume read"
    VOLUME_WRITE = "volume write"
    VOLUME_EXCLUSIVE = "volume exclusively"


class Holding(Enum):
    """How long a native RPC needs its volume, where both engines work on volumes.

    TO_FIRST_MESSAGE: a stream that has opened all that it reads when its first message is sent, and keeps it open.
    WHILE_WORKING: a stream that gives the volume up while it waits, by `RpcContext.pausing`, and looks it up again.
    ONE_BY_ONE: a call about several volumes that takes each volume for as long as it says, by `RpcContext.taking`.
    """

    TO_THE_END = "until the call is over"
    TO_FIRST_MESSAGE = "until the first message is out"
    WHILE_WORKING = "except while it waits"
    ONE_BY_ONE = "one volume at a time"


@dataclass(frozen=True, slots=True)
class Access:
    """The data that a route touches, and where its request names the volume.

    `volume_id_in`: "path" for HTTP, the request field for an RPC (dotted where it is inside a message). The fields
    `file_ids` and `from_file_ids` hold fids, not numbers. None without a volume.
    `collection_in`: the request field that names a collection. The route needs all volumes of the collection.
    `none_means_all`: a request that names no volume concerns every volume; with `is_of_shards` every erasure-coded one,
        else every regular one.
    `is_volume_in_path`: whether `volume_id_in` is "path".
    `is_long`: the route may take minutes. While the backend runs it, no request waits for the volume
        (docs/authority.md).
    """

    kind: AccessKind
    volume_id_in: str | None = None
    is_long: bool = False
    holding: Holding = Holding.TO_THE_END
    collection_in: str | None = None
    none_means_all: bool = False
    is_of_shards: bool = False
    is_volume_in_path: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_volume_in_path", self.volume_id_in == "path")

    def __str__(self) -> str:
        return f"{self.kind.value} ({self.volume_id_in})" if self.volume_id_in else self.kind.value

    @property
    def keeps_volume_long(self) -> bool:
        """Whether a native call may keep its volume for minutes. Forwarded requests for the volume wait meanwhile."""
        return self.is_long and self.holding is Holding.TO_THE_END

    @property
    def names_volumes(self) -> bool:
        """Whether a request says which volumes it needs."""
        return self.volume_id_in is not None or self.collection_in is not None


class Gate(Enum):
    """The clients that may send a request of a route. Only `WHITE_LIST` is checked: against the client's TCP address,
    for both engines.

    VOLUME_SERVERS: open, because volume servers call the RPC on each other. An operator's white list holds masters and
    shell hosts, not volume servers.

    Source: weed/server/volume_grpc_admin.go (checkGrpcAdminAuth) and its coverage test; weed/security/guard.go.
    """

    WHITE_LIST = "white list"
    VOLUME_SERVERS = "volume servers"
    ANYONE = "anyone"


class TokenKey(Enum):
    """Which signing key makes a token necessary, where that key is configured.

    Source: weed/server/volume_server_handlers.go (maybeCheckJwtAuthorization).
    """

    NONE = "none"
    READ = "read"
    WRITE = "write"


class PathId(Enum):
    """The id in the path of an HTTP request that is parsed before the token is checked. A malformed one is 400, with or
    without a token.

    Source: weed/server/volume_server_handlers_write.go (PostHandler, DeleteHandler).
    """

    NONE = "none"
    VOLUME = "the volume id"
    FILE = "the whole file id"


class Pool(Enum):
    """Which threads of the gRPC gateway run the route. The routes of one pool share its bound.

    LONG: streams, and RPCs with one answer that may take as long as a stream, because they follow other servers or read
    whole volumes. NONE: HTTP, and calls that are always refused.
    """

    NONE = "none"
    UNARY = "unary"
    LONG = "long"


class Sharing(Enum):
    """Which engine may answer a route while both engines work on volumes.

    NATIVE: the answer is over all volumes, and only this process knows the volumes of both engines.
    """

    EITHER = "either"
    NATIVE = "native"


class BeforeForward(Enum):
    """The steps of this process before it forwards a request, apart from the check of its `Source`.

    ANSWER_TARGETS: a request that names a target is answered here. The only master that the backend knows is the relay
    of this process, so the backend would refuse to ask the real masters.
    CHECK_FILE: the name of the file that is sent, and a `.vif` whole. The backend takes any extension.
    CHECK_SHARDS: the names of the files that are fetched. The backend takes any collection and shard.
    COMPLETE_QUERY: a query without a filter or an input format gets those that select the same as in the native
    engine. Go's server would end: it takes both for given.
    """

    NOTHING = "nothing"
    ANSWER_TARGETS = "a request that names a target is answered here"
    CHECK_FILE = "the file's name is checked"
    CHECK_SHARDS = "the files' names are checked"
    COMPLETE_QUERY = "a filter and an input format are added"


class AfterForward(Enum):
    """The steps of this process after the backend has answered a route, before the client gets the answer.

    For an RPC this happens after OK. ASK_OTHER_HOLDERS is for HTTP, after a 404: the backend does not look for the
    object on the other replicas.
    """

    NOTHING = "nothing"
    LEAVE = "the node leaves the cluster"
    NOTE_STATE = "the new state is remembered"
    ASK_OTHER_HOLDERS = "after 404 the other replicas are asked"


class Leaves(Enum):
    """The effects of a forwarded RPC in the backend's memory; see `supervisor/authority/backend_effects.py`."""

    NOTHING = "nothing"
    COMPACTION = "a compacted copy to commit"
    COMMIT = "no compacted copy, or a volume without its files"
    CLEANUP = "no compacted copy"
    CLOSED = "the volume closed, or another one of that id open"
    WRITABLE = "no mark"
    READ_ONLY = "a mark as read-only"
    SHARDS = "the disk type of its shards"


@dataclass(frozen=True, slots=True)
class Source:
    """The other server that an RPC fetches from.

    `field` is the request field that names that server. `doing` says what the RPC does, for the text of a refusal.
    `needs_volume`: the backend refuses a volume that is not here before it looks at the address.
    """

    field: str
    doing: str
    needs_volume: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class FlipGroup:
    """Why the routes with this value in `Route.flips_with` are flipped together: they are used on the same volumes.

    `is_required`: a table that divides the group is refused, for the reason `why`. A table that divides another group
    gets a warning: "… are used on the same volumes `why`".
    """

    why: str
    is_required: bool = False


_OBJECTS = FlipGroup("all the time")
_OBJECT_DELETES = FlipGroup("by filers, which delete with both")
_SHARD_READS = FlipGroup("by servers that hold their shards")
_SHARD_DELETES = FlipGroup("by servers that hold their shards")
_MOVING_AWAY = FlipGroup("when one is moved away")
_MOVING_HERE = FlipGroup("when one is moved here")
_VACUUM = FlipGroup("the engine that compacted a volume must commit it", is_required=True)


@dataclass(frozen=True, slots=True)
class Route:
    """One named operation, with everything that is true of it under every table.

    Attributes:
        phase: the first preset in which the route is native (0: in every preset).
        summary: what the route does, in words.
        requests: which requests have this route, in words. Empty for an RPC, whose path says it.
        paths: the fixed paths of an HTTP route. A path that ends with `/` stands for all paths below it.
        methods: the HTTP methods. Empty means every method that no other route of the listener has.
        gate: who may send a request.
        token: the signing key that makes a token necessary.
        parsed_before_token: the id in the path whose malformation counts before a bad token.
        is_upload: whether the request's body is stored as an object: the bound on uploads in flight applies, and the
            token must be for the file that is written.
        pool: the threads that run an RPC.
        takes_large_requests: whether messages carry content or long lists, so that gRPC's own limit applies to them.
        common_headers: which of the common headers a native answer carries.
        shared: which engine may answer while both engines work on volumes.
        is_health: whether this is a health check, which is answered without a seat, and natively during a stop.
        is_status_page: whether the route exists only while the status page is on. Otherwise the method's object route
            answers.
        is_counted: whether upstream's metrics count the request. They count its object handler, on both ports.
        source: the server that the RPC fetches from. A source that is this server itself is refused.
        before_forward: what this process does before a request is forwarded.
        after_forward: what this process does after the backend has answered.
        leaves: what the call leaves in the backend's memory.
        takes_volume_away: after an answer of OK the volume, or shards of it, are in neither engine.
        flips_with: the groups of routes that should have the same state as this route; see `FLIP_GROUPS`.
    """

    name: str
    access: Access
    phase: int
    summary: str
    requests: str = ""
    paths: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    gate: Gate = Gate.WHITE_LIST
    token: TokenKey = TokenKey.NONE
    parsed_before_token: PathId = PathId.NONE
    is_upload: bool = False
    pool: Pool = Pool.NONE
    takes_large_requests: bool = False
    common_headers: CommonHeaders = CommonHeaders.NONE
    shared: Sharing = Sharing.EITHER
    is_health: bool = False
    is_status_page: bool = False
    is_counted: bool = False
    source: Source | None = None
    before_forward: BeforeForward = BeforeForward.NOTHING
    after_forward: AfterForward = AfterForward.NOTHING
    leaves: Leaves = Leaves.NOTHING
    takes_volume_away: bool = False
    flips_with: tuple[FlipGroup, ...] = ()

    @property
    def protocol(self) -> Protocol:
        return Protocol(self.name.partition(".")[0])

    @property
    def listener(self) -> Listener | None:
        """The HTTP listener; None for an RPC."""
        if self.protocol is Protocol.GRPC:
            return None
        return Listener.PUBLIC if self.name.startswith("http.public.") else Listener.ADMIN

    @property
    def rpc_name(self) -> str:
        """The name of the RPC in its service, without `grpc.`."""
        return self.name.removeprefix("grpc.")

    @property
    def answers(self) -> str:
        """Which requests have this route: words for HTTP, the path of an RPC."""
        return self.requests or f"/{VOLUME_SERVICE}/{self.rpc_name}"

    @property
    def is_always_native(self) -> bool:
        return self.phase == 0

    @property
    def is_data(self) -> bool:
        """Whether the route works on volumes, so that it must run in the engine that has the volumes open."""
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


def _scrub(*, is_of_shards: bool) -> Access:
    """A scrub takes access of another kind for the mark of a broken volume alone, at its end."""
    return Access(
        AccessKind.VOLUME_READ,
        "volume_ids",
        is_long=True,
        holding=Holding.ONE_BY_ONE,
        none_means_all=True,
        is_of_shards=is_of_shards,
    )


_ELSE = "any other path"
_READS = ("GET", "HEAD")
_STATIC = ("/seaweedfsstatic", "/seaweedfsstatic/")

_page = partial(Route, gate=Gate.ANYONE, common_headers=CommonHeaders.PLAIN)
"""A fixed path that is answered for every method."""
_file = partial(Route, gate=Gate.ANYONE, common_headers=CommonHeaders.NONE)
"""A file of the status page."""
_object = partial(Route, gate=Gate.ANYONE, common_headers=CommonHeaders.CORS, is_counted=True)
"""A route of upstream's object handler."""
_unary = partial(Route, pool=Pool.UNARY)
"""An RPC with one answer that comes soon."""
_long = partial(Route, pool=Pool.LONG)
"""An RPC that is a stream, or takes as long as a stream."""

_HTTP = (
    _page("http.status", _STORE, 1, "disks and volumes as JSON", "any method, /status",
          paths=("/status",), shared=Sharing.NATIVE),
    _page("http.healthz", _NOTHING, 1, "503 once stopping or out of the cluster", "any method, /healthz",
          paths=("/healthz",), is_health=True),
    _page("http.readyz", _NOTHING, 1, "the same answer as /healthz", "any method, /readyz",
          paths=("/readyz",), is_health=True),
    _page("http.ui", _STORE, 1, "a page for people", "any method, /ui/index.html",
          paths=("/ui/index.html",), shared=Sharing.NATIVE, is_status_page=True),
    _file("http.favicon", _NOTHING, 1, "the icon", "any method, /favicon.ico", paths=("/favicon.ico",)),
    _file("http.static", _NOTHING, 1, "files of the page", "any method, /seaweedfsstatic and below", paths=_STATIC),
    # Upstream's object handler answers. It asks for a token before it finds that `stats` is no volume.
    _object("http.stats", _NOTHING, 1, "gone upstream: 400, as from the object handler", "GET and HEAD, /stats/…",
            paths=("/stats/",), methods=_READS, token=TokenKey.READ),
    _object("http.options", _NOTHING, 1, "CORS preflight", f"OPTIONS, {_ELSE}", methods=("OPTIONS",)),
    _object("http.read", _PATH_READ, 2, "read an object", f"GET and HEAD, {_ELSE}",
            methods=_READS, token=TokenKey.READ, flips_with=(_OBJECTS, _SHARD_READS)),
    _object("http.write", _PATH_WRITE, 2, "store an object", f"POST and PUT, {_ELSE}",
            methods=("POST", "PUT"), gate=Gate.WHITE_LIST, token=TokenKey.WRITE, parsed_before_token=PathId.VOLUME,
            is_upload=True, flips_with=(_OBJECTS,)),
    _object("http.delete", _PATH_WRITE, 2, "delete an object", f"DELETE, {_ELSE}",
            methods=("DELETE",), gate=Gate.WHITE_LIST, token=TokenKey.WRITE, parsed_before_token=PathId.FILE,
            after_forward=AfterForward.ASK_OTHER_HOLDERS, flips_with=(_OBJECTS, _OBJECT_DELETES, _SHARD_DELETES)),
    _object("http.invalid", _NOTHING, 1, "400 unsupported method", f"any other method, {_ELSE}"),
    _file("http.public.favicon", _NOTHING, 1, "the icon", "any method, /favicon.ico", paths=("/favicon.ico",)),
    _file("http.public.static", _NOTHING, 1, "files of the page", "any method, /seaweedfsstatic and below",
          paths=_STATIC),
    _object("http.public.options", _NOTHING, 1, "CORS preflight", f"OPTIONS, {_ELSE}", methods=("OPTIONS",)),
    _object("http.public.read", _PATH_READ, 2, "read an object", f"GET and HEAD, {_ELSE}",
            methods=_READS, token=TokenKey.READ, flips_with=(_OBJECTS, _SHARD_READS)),
    _object("http.public.other", _NOTHING, 1, "200 with nothing, no effect", f"any other method, {_ELSE}"),
)  # fmt: skip

_GRPC = (
    _unary("grpc.BatchDelete", Access(AccessKind.VOLUME_WRITE, "file_ids"), 2, "delete many objects",
           takes_large_requests=True, flips_with=(_OBJECT_DELETES, _SHARD_DELETES)),
    _unary("grpc.VacuumVolumeCheck", _READ, 3, "the share of garbage", gate=Gate.ANYONE),
    _long("grpc.VacuumVolumeCompact", _LONG_EXCLUSIVE, 3, "copy what is live beside the volume",
          leaves=Leaves.COMPACTION, flips_with=(_VACUUM,)),
    _unary("grpc.VacuumVolumeCommit", _EXCLUSIVE, 3, "swap the compacted copy in", leaves=Leaves.COMMIT,
           flips_with=(_VACUUM,)),
    _unary("grpc.VacuumVolumeCleanup", _EXCLUSIVE, 3, "drop the compacted copy", leaves=Leaves.CLEANUP,
           flips_with=(_VACUUM,)),
    _unary("grpc.DeleteCollection", Access(AccessKind.STORE, collection_in="collection"), 2,
           "delete every volume of a collection", leaves=Leaves.CLOSED),
    _unary("grpc.AllocateVolume", _EXCLUSIVE, 2, "create a volume"),
    _unary("grpc.VolumeSyncStatus", _READ, 2, "sizes and revision for a follower", gate=Gate.VOLUME_SERVERS),
    _long("grpc.VolumeIncrementalCopy", _COPY_OUT, 3, "what was appended since a time", gate=Gate.VOLUME_SERVERS),
    _unary("grpc.VolumeMount", _EXCLUSIVE, 2, "open a volume that is on disk"),
    _unary("grpc.VolumeUnmount", _EXCLUSIVE, 2, "close a volume, keep its files",
           leaves=Leaves.CLOSED, takes_volume_away=True),
    _long("grpc.VolumeConsolidateIndex", _EXCLUSIVE, 2, "bring the index into the index directory"),
    _unary("grpc.VolumeDelete", _EXCLUSIVE, 2, "delete a volume and its files",
           leaves=Leaves.CLOSED, takes_volume_away=True),
    _unary("grpc.VolumeMarkReadonly", _EXCLUSIVE, 2, "stop writes to a volume", leaves=Leaves.READ_ONLY),
    _unary("grpc.VolumeMarkWritable", _EXCLUSIVE, 2, "allow writes again", leaves=Leaves.WRITABLE),
    _unary("grpc.VolumeConfigure", _EXCLUSIVE, 2, "change the replica placement", leaves=Leaves.CLOSED),
    _unary("grpc.VolumeStatus", _READ, 2, "size, counts, read-only", gate=Gate.VOLUME_SERVERS),
    _unary("grpc.GetState", _STORE, 1, "maintenance mode and its version", gate=Gate.ANYONE),
    _unary("grpc.SetState", _STORE, 1, "change maintenance mode", after_forward=AfterForward.NOTE_STATE),
    _long("grpc.VolumeCopy", _LONG_EXCLUSIVE, 3, "fetch a volume from another server",
          source=Source("source_data_node", "copy a volume"), leaves=Leaves.CLOSED, flips_with=(_MOVING_HERE,)),
    _unary("grpc.ReadVolumeFileStatus", _READ, 2, "file sizes and times", gate=Gate.VOLUME_SERVERS),
    _long("grpc.CopyFile", _COPY_OUT, 3, "stream a file of a volume out", gate=Gate.VOLUME_SERVERS,
          flips_with=(_MOVING_AWAY,)),
    _long("grpc.ReceiveFile", Access(AccessKind.VOLUME_EXCLUSIVE, "info.volume_id", is_long=True), 3,
          "take a file of a volume in", gate=Gate.VOLUME_SERVERS, takes_large_requests=True,
          before_forward=BeforeForward.CHECK_FILE),
    _unary("grpc.ReadNeedleBlob", _READ, 2, "one record as it is on disk", gate=Gate.VOLUME_SERVERS),
    _unary("grpc.ReadNeedleMeta", _READ, 2, "what a record says of itself", gate=Gate.VOLUME_SERVERS),
    _unary("grpc.WriteNeedleBlob", _WRITE, 2, "append one record as it is",
           gate=Gate.VOLUME_SERVERS, takes_large_requests=True),
    _long("grpc.ReadAllNeedles",
          Access(AccessKind.VOLUME_READ, "volume_ids", is_long=True, holding=Holding.TO_FIRST_MESSAGE), 2,
          "every live record"),
    _long("grpc.VolumeTailSender", _FOLLOW, 3, "follow what is appended", gate=Gate.VOLUME_SERVERS,
          flips_with=(_MOVING_AWAY,)),
    _long("grpc.VolumeTailReceiver", _LONG_WRITE, 3, "follow another server's copy",
          source=Source("source_volume_server", "tail a volume", needs_volume=True), flips_with=(_MOVING_HERE,)),
    _long("grpc.VolumeEcShardsGenerate", _LONG_EXCLUSIVE, 3, "erasure-code a volume"),
    _long("grpc.VolumeEcShardsRebuild", _LONG_EXCLUSIVE, 3, "make lost shards anew"),
    _long("grpc.VolumeEcShardsCopy", _LONG_EXCLUSIVE, 3, "fetch shards from another server",
          source=Source("source_data_node", "copy shards"), before_forward=BeforeForward.CHECK_SHARDS),
    _unary("grpc.VolumeEcShardsDelete", _EXCLUSIVE, 3, "delete shards", takes_volume_away=True),
    _unary("grpc.VolumeEcShardsMount", _EXCLUSIVE, 3, "open shards",
           gate=Gate.VOLUME_SERVERS, leaves=Leaves.SHARDS),
    _unary("grpc.VolumeEcShardsUnmount", _EXCLUSIVE, 3, "close shards", takes_volume_away=True),
    _long("grpc.VolumeEcShardRead", _READ, 2, "a range of a shard", gate=Gate.VOLUME_SERVERS,
          flips_with=(_SHARD_READS,)),
    _unary("grpc.VolumeEcBlobDelete", _WRITE, 2, "delete an object of an erasure-coded volume",
           gate=Gate.VOLUME_SERVERS, flips_with=(_SHARD_DELETES,)),
    _long("grpc.VolumeEcShardsToVolume", _LONG_EXCLUSIVE, 3, "decode shards into a volume", leaves=Leaves.CLOSED),
    _unary("grpc.VolumeEcShardsInfo", _READ, 3, "which shards are here", gate=Gate.VOLUME_SERVERS),
    _long("grpc.VolumeTierMoveDatToRemote", _LONG_EXCLUSIVE, 3, "move the data to a remote store"),
    _long("grpc.VolumeTierMoveDatFromRemote", _LONG_EXCLUSIVE, 3, "bring the data back"),
    _unary("grpc.VolumeServerStatus", _STORE, 1, "disks, memory, version, state", gate=Gate.ANYONE),
    _unary("grpc.VolumeServerLeave", _STORE, 1, "stop the heartbeat", after_forward=AfterForward.LEAVE),
    _long("grpc.FetchAndWriteNeedle", _WRITE, 3, "store an object from a remote store"),
    _long("grpc.ScrubVolume", _scrub(is_of_shards=False), 3, "verify volumes, may mark them read-only"),
    _long("grpc.ScrubEcVolume", _scrub(is_of_shards=True), 3, "verify erasure-coded volumes"),
    _long("grpc.Query", Access(AccessKind.VOLUME_READ, "from_file_ids"), 3, "select rows out of JSON or CSV objects",
          gate=Gate.ANYONE, before_forward=BeforeForward.COMPLETE_QUERY),
    _unary("grpc.VolumeNeedleStatus", _READ, 2, "where an object is and how large"),
    _unary("grpc.Ping", _NOTHING, 1, "is a server there",
           gate=Gate.ANYONE, before_forward=BeforeForward.ANSWER_TARGETS),
)  # fmt: skip

REFLECTION_PATHS = (
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
)
REFLECTION = _long(
    "grpc.reflection", _NOTHING, 0, "which RPCs there are", " and ".join(REFLECTION_PATHS), gate=Gate.ANYONE
)
UNKNOWN_RPC = Route("grpc.refused", _NOTHING, 0, "refused", "any other path", gate=Gate.ANYONE)
"""The route of a call to a method that the volume server does not have; metrics count under it. No table names it."""

ROUTES: tuple[Route, ...] = (*_HTTP, *_GRPC, REFLECTION)
ROUTES_BY_NAME: Mapping[str, Route] = MappingProxyType({route.name: route for route in ROUTES})

_GROUPS = (_OBJECTS, _OBJECT_DELETES, _SHARD_READS, _SHARD_DELETES, _MOVING_AWAY, _MOVING_HERE, _VACUUM)
FLIP_GROUPS: Mapping[FlipGroup, tuple[str, ...]] = MappingProxyType(
    {group: tuple(route.name for route in ROUTES if group in route.flips_with) for group in _GROUPS}
)
"""The names of the routes of each group, in the order in which warnings name the groups."""
