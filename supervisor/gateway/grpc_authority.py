"""Authority for RPCs: the volumes are had for as long as the call needs them, most calls to their last message."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import grpc

from native_handlers.grpc.context import RpcFailure
from supervisor.authority.errors import AccessRefused, ServedElsewhere
from supervisor.authority.left_behind import COMMIT, left_behind
from supervisor.authority.volume_ids import BadMessage, text_field, volume_ids_of
from supervisor.gateway.grpc_volume_access import VolumeAccess
from supervisor.routing.decision import Engine
from supervisor.routing.registry import AccessKind, Holding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.descriptor import Descriptor

    from supervisor.authority.authority import Authority
    from supervisor.cluster.node_model import NodeModel
    from supervisor.gateway.grpc_call import Call, CallEngine
    from supervisor.routing.registry import Route

WAIT_LIMIT_S = 30.0
"""How long a call waits for what the other engine has under way on its volume, where its own deadline is later."""
_NONE_MEANS_ALL = frozenset({"grpc.ScrubVolume", "grpc.ScrubEcVolume"})
_log = logging.getLogger(__name__)


class GrpcAuthority:
    """Wraps engines so that a call runs only with access to its volumes.

    Args:
        model: knows which volumes there are, for calls about all of them or about a collection.
        is_bound: whether the backend alone can serve a volume: an erasure-coded or a tiered one.
        backend: executes the native calls that the backend is to execute for now.
    """

    def __init__(
        self, authority: Authority, model: NodeModel, is_bound: Callable[[int], bool], backend: CallEngine
    ) -> None:
        self._authority = authority
        self._model = model
        self._is_bound = is_bound
        self._backend = backend

    def guarded(self, route: Route, engine: Engine, runner: CallEngine) -> CallEngine:
        """`runner`, which belongs to `engine`, with what `route` has to have."""
        if route.access.volume_id_in is None and route.name != "grpc.DeleteCollection":
            return runner
        return _Guarded(self, route, engine, runner, self._backend)

    def enter(self, route: Route, engine: Engine, call: Call) -> VolumeAccess:
        """Returns when `engine` has the volumes that the first message of `call` names; no more of it is read.

        Raises:
            RpcFailure: UNAVAILABLE where the engine does not get a volume, INTERNAL for what is no message,
                FAILED_PRECONDITION for a commit of a compaction that the backend does not know of.
            ServedElsewhere: the backend is to execute the call.
        """
        first = call.requests.only()
        call.requests.give_back(first)
        try:
            volume_ids = self._volume_ids(route, call, first)
        except BadMessage as error:
            raise RpcFailure("grpc: error unmarshalling request", grpc.StatusCode.INTERNAL) from error
        if engine is Engine.NATIVE:
            for volume_id in volume_ids:
                if self._is_bound(volume_id):
                    raise ServedElsewhere(volume_id)
        left_s = call.time_remaining_s
        timeout_s = WAIT_LIMIT_S if left_s is None else min(left_s, WAIT_LIMIT_S)
        kind = AccessKind.VOLUME_EXCLUSIVE if route.access.kind is AccessKind.STORE else route.access.kind
        access = VolumeAccess(self._authority, volume_ids, engine, kind, is_long=route.access.is_long)
        try:
            access.take(timeout_s)
        except AccessRefused as refusal:
            raise RpcFailure(str(refusal), grpc.StatusCode.UNAVAILABLE) from refusal
        if engine is Engine.BACKEND:
            self._note_what_is_left(access, route, volume_ids, first)
        return access

    def _note_what_is_left(self, access: VolumeAccess, route: Route, volume_ids: set[int], first: bytes) -> None:
        if route.name == COMMIT and not all(self._authority.is_pinned(volume_id) for volume_id in volume_ids):
            access.give_up()
            # The backend would leave the volume without its files: see `supervisor.authority.left_behind`.
            text = f"there is no compaction of volume {min(volume_ids)} to commit: compact it anew"
            raise RpcFailure(text, grpc.StatusCode.FAILED_PRECONDITION)
        access.left_after = lambda code: left_behind(route.name, code, first)

    def _volume_ids(self, route: Route, call: Call, first: bytes) -> set[int]:
        descriptor = cast("Descriptor", call.method.request_class.DESCRIPTOR)
        if route.access.volume_id_in is None:
            collection = text_field(descriptor, "collection", first)
            volumes = self._model.snapshot().volumes
            of_it = {key[1] for key, volume in volumes.items() if volume.message.collection == collection}
            # What is native and was not reported yet may be of the collection too.
            return of_it | (set(self._authority.native_volumes()) - {key[1] for key in volumes})
        found = volume_ids_of(descriptor, route.access.volume_id_in, first)
        return found or (self._model.snapshot().volume_ids if route.name in _NONE_MEANS_ALL else found)


class _Guarded:
    """Runs `runner` with access, or the backend where the volume is to stay there."""

    def __init__(
        self, authority: GrpcAuthority, route: Route, engine: Engine, runner: CallEngine, backend: CallEngine
    ) -> None:
        self._authority = authority
        self._route = route
        self._engine = engine
        self._runner = runner
        self._backend = backend
        self.name = runner.name

    def respond(self, call: Call) -> bytes:
        with self._access(call) as access:
            response = self._runner.respond(call)
            access.code = grpc.StatusCode.OK
            return response

    def stream(self, call: Call) -> Iterator[bytes]:
        with self._access(call) as access:
            for message in self._runner.stream(call):
                if self._engine is Engine.NATIVE and self._lets_go(access):
                    access.give_up()
                yield message
            access.code = grpc.StatusCode.OK

    def _lets_go(self, access: VolumeAccess) -> bool:
        """Several volumes are opened one after the other, so a stream over them needs the last to the end."""
        return self._route.access.holding is Holding.TO_FIRST_MESSAGE and access.is_of_one

    @contextmanager
    def _access(self, call: Call) -> Iterator[VolumeAccess]:
        try:
            access = self._authority.enter(self._route, self._engine, call)
        except ServedElsewhere as elsewhere:
            _log.debug("%s: %s", self._route.name, elsewhere)
            self._engine, self._runner, self.name = Engine.BACKEND, self._backend, self._backend.name
            access = self._authority.enter(self._route, self._engine, call)
        if self._engine is Engine.NATIVE and self._route.access.holding is Holding.WHILE_WORKING:
            call.pausing = access.pausing
        try:
            yield access
        except RpcFailure as failure:
            access.code = failure.code
            raise
        finally:
            access.give_up()
