"""Authority for RPCs: an engine has the volumes of a call as long as the call needs them, usually to its last
message."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NoReturn, cast

import grpc

from native_handlers.grpc.context import RpcFailure
from supervisor.authority.backend_effects import backend_effects
from supervisor.authority.errors import AccessRefused, ServedElsewhere
from supervisor.authority.outside import holding
from supervisor.authority.volume_ids import BadMessage, text_field, volume_ids_of
from supervisor.gateway.grpc_volume_access import VolumeAccess
from supervisor.routing.decision import Engine
from supervisor.routing.registry import AccessKind, Holding, Leaves, Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.descriptor import Descriptor

    from native_handlers.pb.methods import RpcMethod
    from supervisor.authority.authority import Authority
    from supervisor.cluster.node_model import NodeModel
    from supervisor.gateway.grpc_call import Call, CallEngine
    from supervisor.routing.registry import Route

WAIT_LIMIT_S = 30.0
"""How long a call waits while the other engine works on its volume. An earlier deadline of the call counts instead."""
_log = logging.getLogger(__name__)


class GrpcAuthority:
    """Wraps engines so that a call runs only with access to its volumes.

    Args:
        model: knows which volumes there are, for calls about all of them or about a collection.
        is_bound: whether the backend alone can serve a volume.
        backend: executes the native calls that the backend is to execute for now.
        check_maintenance: raises what a call gets in maintenance mode.
    """

    def __init__(
        self,
        authority: Authority,
        model: NodeModel,
        is_bound: Callable[[int], bool],
        backend: CallEngine,
        check_maintenance: Callable[[], None] = lambda: None,
    ) -> None:
        self._check_maintenance = check_maintenance
        self._authority = authority
        self._model = model
        self._is_bound = is_bound
        self._backend = backend

    def guarded(self, route: Route, engine: Engine, runner: CallEngine) -> CallEngine:
        """`runner`, which belongs to `engine`, wrapped so that it runs only with what `route` needs."""
        if not route.access.names_volumes:
            return runner
        return _Guarded(self, route, engine, runner, self._backend)

    def enter(self, route: Route, engine: Engine, call: Call) -> VolumeAccess:
        """Returns when `engine` has the volumes that the first message of `call` names. Reads no further message.

        Raises:
            RpcFailure: UNAVAILABLE where the engine does not get a volume, INTERNAL where the message cannot be parsed,
                FAILED_PRECONDITION for the commit of a compaction that the backend does not have.
            ServedElsewhere: the backend must execute the call.
            In each case the engine has no volume.
        """
        first = call.requests.only()
        call.requests.give_back(first)
        try:
            volume_ids = self._volume_ids(route, call, first)
        except BadMessage as error:
            raise RpcFailure("grpc: error unmarshalling request", grpc.StatusCode.INTERNAL) from error
        is_one_by_one = engine is Engine.NATIVE and route.access.holding is Holding.ONE_BY_ONE
        if engine is Engine.NATIVE:
            for volume_id in volume_ids:
                # Volume 0 stands for shards that no engine has open. The backend has every volume that is not open.
                if not volume_id or self._is_bound(volume_id):
                    raise ServedElsewhere(volume_id)
                if is_one_by_one and self._authority.is_kept_by_backend(volume_id):
                    raise ServedElsewhere(volume_id)
        left_s = call.time_remaining_s
        timeout_s = WAIT_LIMIT_S if left_s is None else min(left_s, WAIT_LIMIT_S)
        kind = AccessKind.VOLUME_EXCLUSIVE if route.access.kind is AccessKind.STORE else route.access.kind
        cancel = call.context.cancel if route.pool is Pool.LONG else None
        access = VolumeAccess(self._authority, volume_ids, engine, kind, is_long=route.access.is_long, cancel=cancel)
        if is_one_by_one:
            return access
        try:
            access.take(timeout_s)
        except AccessRefused as refusal:
            raise RpcFailure(str(refusal), grpc.StatusCode.UNAVAILABLE) from refusal
        if engine is Engine.BACKEND:
            if call.method.client_streaming:
                call.requests.checks.append(partial(self._check_later, route, call.method, volume_ids))
            self._note_what_is_left(access, route, volume_ids, first)
        return access

    def note_end(self, route: Route, access: VolumeAccess) -> None:
        """Notes a volume that the call has taken away. Call this at the end of the call, before access is given up."""
        if route.takes_volume_away and access.code is grpc.StatusCode.OK:
            for volume_id in access.volume_ids:
                self._authority.forget(volume_id)

    def _note_what_is_left(self, access: VolumeAccess, route: Route, volume_ids: set[int], first: bytes) -> None:
        if route.leaves is Leaves.COMMIT and not all(self._authority.is_pinned(volume_id) for volume_id in volume_ids):
            access.give_up()
            self._refuse_commit(min(volume_ids))
        access.left_after = lambda code: backend_effects(route.leaves, code, first)

    def _check_later(self, route: Route, method: RpcMethod, volume_ids: set[int], message: bytes) -> None:
        """Refuses a later message about a volume that the first did not name: upstream's ReceiveFile accepts that."""
        assert route.access.volume_id_in is not None
        descriptor = cast("Descriptor", method.request_class.DESCRIPTOR)
        try:
            later = volume_ids_of(descriptor, route.access.volume_id_in, message, is_first=False) - volume_ids
        except BadMessage:
            return  # The engine refuses it in its own words.
        if later:
            text = f"the call is about volume {min(volume_ids)}, and a later message about volume {min(later)}"
            raise RpcFailure(text, grpc.StatusCode.INVALID_ARGUMENT)

    def _refuse_commit(self, volume_id: int) -> NoReturn:
        """Refuses a commit, with the backend's checks in its order. See `backend_effects` for the harm of a commit."""
        self._check_maintenance()
        if volume_id not in self._model.snapshot().volume_ids:
            raise RpcFailure(f"volume id {volume_id} is not found during commit compact")
        text = f"there is no compaction of volume {volume_id} to commit: compact it anew"
        raise RpcFailure(text, grpc.StatusCode.FAILED_PRECONDITION)

    def _volume_ids(self, route: Route, call: Call, first: bytes) -> set[int]:
        descriptor = cast("Descriptor", call.method.request_class.DESCRIPTOR)
        if route.access.volume_id_in is None:
            assert route.access.collection_in is not None
            collection = text_field(descriptor, route.access.collection_in, first)
            snapshot = self._model.snapshot()
            of_it = {key[1] for key, volume in snapshot.volumes.items() if volume.message.collection == collection}
            of_it |= {key[1] for key, coded in snapshot.ec_shards.items() if coded.collection == collection}
            # A native volume that was not reported yet may be of the collection, too.
            return of_it | (set(self._authority.native_volumes()) - snapshot.all_ids)
        found = volume_ids_of(descriptor, route.access.volume_id_in, first)
        if found or not route.access.none_means_all:
            return found
        snapshot = self._model.snapshot()
        every = {key[1] for key in snapshot.ec_shards} if route.access.is_of_shards else set(snapshot.volume_ids)
        # A native volume that was not reported yet may be of either kind.
        return every | (set(self._authority.native_volumes()) - snapshot.all_ids)


class _Guarded:
    """Runs `runner` with access, or the backend where the volume must stay with the backend."""

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
        """Whether access may end with the first message. A stream over several volumes opens them one after another."""
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
            call.pausing, access.is_wanted = access.pausing, call.context.is_active
        if self._engine is Engine.NATIVE and self._route.access.holding is Holding.ONE_BY_ONE:
            call.taking, access.is_wanted = access.taking, call.context.is_active
            call.volume_ids = sorted(access.volume_ids)
        try:
            if self._engine is Engine.NATIVE:
                with holding(access.pausing):
                    yield access
            else:
                yield access
        except RpcFailure as failure:
            access.code = failure.code
            raise
        finally:
            self._authority.note_end(self._route, access)
            access.give_up()
