"""Authority for RPCs: the volumes are had for as long as the call takes, streams to their last message."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import grpc

from native_handlers.grpc.context import RpcFailure
from supervisor.authority.errors import AccessRefused
from supervisor.authority.volume_ids import BadMessage, text_field, volume_ids_of
from supervisor.routing.decision import Engine
from supervisor.routing.registry import AccessKind

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


class GrpcAuthority:
    """Wraps engines so that a call runs only with access to its volumes.

    Args:
        model: knows which volumes there are, for calls about all of them or about a collection.
        is_bound: whether the backend alone can serve a volume: the native engine has no erasure coding yet.
    """

    def __init__(self, authority: Authority, model: NodeModel, is_bound: Callable[[int], bool]) -> None:
        self._authority = authority
        self._model = model
        self._is_bound = is_bound

    def guarded(self, route: Route, engine: Engine, runner: CallEngine, backend: CallEngine | None) -> CallEngine:
        """`runner`, which belongs to `engine`, with what `route` has to have; `backend` where it alone can do it."""
        if route.access.volume_id_in is None and route.name != "grpc.DeleteCollection":
            return runner
        return _Guarded(self, route, engine, runner, backend)

    @contextmanager
    def access(self, route: Route, engine: Engine, call: Call, *, has_backend: bool) -> Iterator[Engine]:
        """Inside, an engine has the volumes that the first message of `call` names; no more of it is read.

        It is `engine`, or the backend for a call about a volume that it alone can serve.

        Raises:
            RpcFailure: UNAVAILABLE where the engine does not get a volume, INTERNAL for what is no message.
        """
        first = call.requests.only()
        call.requests.give_back(first)
        try:
            volume_ids = self._volume_ids(route, call, first)
        except BadMessage as error:
            raise RpcFailure("grpc: error unmarshalling request", grpc.StatusCode.INTERNAL) from error
        left_s = call.time_remaining_s
        timeout_s = WAIT_LIMIT_S if left_s is None else min(left_s, WAIT_LIMIT_S)
        kind = AccessKind.VOLUME_EXCLUSIVE if route.access.kind is AccessKind.STORE else route.access.kind
        if has_backend and any(map(self._is_bound, volume_ids)):
            engine = Engine.BACKEND
        with self._entered(volume_ids, engine, kind, timeout_s):
            yield engine

    @contextmanager
    def _entered(self, volume_ids: set[int], engine: Engine, kind: AccessKind, timeout_s: float) -> Iterator[None]:
        access = self._authority.access_all(volume_ids, engine, kind, timeout_s)
        try:
            access.__enter__()
        except AccessRefused as refusal:
            raise RpcFailure(str(refusal), grpc.StatusCode.UNAVAILABLE) from refusal
        try:
            yield
        finally:
            access.__exit__(None, None, None)

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
    """Runs one call with access: by `runner`, or by `backend` where its volumes are bound to that."""

    def __init__(
        self, authority: GrpcAuthority, route: Route, engine: Engine, runner: CallEngine, backend: CallEngine | None
    ) -> None:
        self._authority = authority
        self._route = route
        self._engine = engine
        self._runner = runner
        self._backend = backend
        self.name = runner.name

    def respond(self, call: Call) -> bytes:
        with self._access(call) as runner:
            return runner.respond(call)

    def stream(self, call: Call) -> Iterator[bytes]:
        with self._access(call) as runner:
            yield from runner.stream(call)

    @contextmanager
    def _access(self, call: Call) -> Iterator[CallEngine]:
        backend = self._backend
        with self._authority.access(self._route, self._engine, call, has_backend=backend is not None) as engine:
            runner = backend if backend is not None and engine is Engine.BACKEND else self._runner
            self.name = runner.name
            yield runner
