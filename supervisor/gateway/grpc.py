"""The in-process gRPC server behind the byte relay: names the route of each call and gives it to an engine.

Every handler takes its requests as a stream of bytes, whatever the RPC's shape: on the wire there is no difference, and
so the peer and the admin gate are checked before a message is read. grpcio's server is a thread per call; the bounds
are in `grpc_limits`, and why they are such is in docs/policy/grpc.md.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.context import RequestsBroken, RpcFailure
from native_handlers.pb.methods import VOLUME_SERVER_METHODS, RpcMethod
from supervisor.gateway.grpc_call import Call, CallEngine, Refusal, RequestStream
from supervisor.gateway.grpc_forward import PingForwarder
from supervisor.gateway.grpc_limits import LONG_UNARY, SERVER_OPTIONS, CallLimits, CountedPool
from supervisor.gateway.grpc_metadata import new_request_id, request_id_of
from supervisor.gateway.grpc_reflection import REFLECTION_METHODS, ReflectionEngine
from supervisor.routing.decision import Engine, decide
from supervisor.routing.match import match_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from supervisor.gateway.grpc_authority import GrpcAuthority
    from supervisor.gateway.grpc_gate import AdminGate
    from supervisor.net.grpc_peers import PeerRegistry
    from supervisor.routing.live import LiveTable

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
REFUSING_THREADS = 4
"""Refusals never wait for anything, so a few threads serve any number of them."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a call is to become, decided before any of it is read."""

    route_name: str
    method: RpcMethod
    engine: CallEngine
    pool: CountedPool
    is_gated: bool = True


class GrpcGateway(grpc.GenericRpcHandler):
    """The volume server's gRPC service over both engines.

    Args:
        table: which route is served by which engine, asked for each call.
        native: by RPC name, what executes it here; see `native_engines`.
        peers: filled by the byte relay; a call on a connection that is not in it gets PERMISSION_DENIED.
        gate: the admin gate, for both engines.
        backend: None where no backend is configured.
        count: called at the end of each call with route, engine, code name and seconds.
        authority: asked for the volumes before an engine works on them; None where one engine has them all.
    """

    def __init__(  # noqa: PLR0913  every seam has its name
        self,
        *,
        table: LiveTable,
        native: Mapping[str, CallEngine],
        peers: PeerRegistry,
        gate: AdminGate,
        backend: CallEngine | None = None,
        limits: CallLimits | None = None,
        count: Callable[[str, str, str, float], None] | None = None,
        authority: GrpcAuthority | None = None,
    ) -> None:
        self._authority = authority
        limits = limits or CallLimits()
        self._table = table
        self._native = dict(native)
        self._peers = peers
        self._gate = gate
        self._backend = backend
        self._ping = PingForwarder(backend, self._native["Ping"]) if backend and "Ping" in self._native else backend
        self._count = count
        self._reflection = ReflectionEngine()
        self._unary = CountedPool(limits.unary, "grpc-unary")
        self._streaming = CountedPool(limits.streaming, "grpc-stream")
        self._refusing = CountedPool(REFUSING_THREADS, "grpc-refuse")
        self._server: grpc.Server | None = None

    @property
    def running_calls(self) -> int:
        """How many calls hold a thread now."""
        return self._unary.running + self._streaming.running + self._refusing.running

    def start(self, bind_host: str = LOOPBACK) -> int:
        """Listens on a free port of `bind_host`, which must be a loopback address, and returns the port.

        Raises:
            RuntimeError: there is no port to be had.
        """
        assert self._server is None
        self._server = grpc.server(self._refusing, handlers=[self], options=SERVER_OPTIONS)
        port = self._server.add_insecure_port(f"{bind_host}:0")
        self._server.start()
        return port

    def drain(self, grace_s: float) -> None:
        """Tells clients to go elsewhere, lets running calls finish for `grace_s`, cancels the rest. Blocks until then.

        Threads of handlers that do not heed the cancellation go on to their end.
        """
        assert self._server is not None
        self._server.stop(grace_s).wait()
        for pool in (self._unary, self._streaming, self._refusing):
            pool.shutdown(wait=False)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """grpcio asks here for each call, always from one thread, before anything but the headers was read."""
        plan = self._plan(handler_call_details.method)
        if not plan.pool.has_room:
            what = "streaming" if plan.pool is self._streaming else "unary"
            text = f"{plan.pool.max_calls} {what} calls are in progress; try again later"
            plan = self._refusal(plan.method, RpcFailure(text, grpc.StatusCode.RESOURCE_EXHAUSTED))
        if plan.method.server_streaming:
            return grpc.stream_stream_rpc_method_handler(_Behavior(self._stream, plan))
        return grpc.stream_unary_rpc_method_handler(_Behavior(self._respond, plan))

    def _plan(self, path: str) -> _Plan:
        reflection = REFLECTION_METHODS.get(path)
        if reflection is not None:
            return _Plan("grpc.reflection", reflection, self._reflection, self._streaming, is_gated=False)
        route = match_grpc(path)
        if route is None:
            return self._refusal(_unknown_method(path), RpcFailure(unknown_text(path), grpc.StatusCode.UNIMPLEMENTED))
        method = VOLUME_SERVER_METHODS[path.rpartition("/")[2]]
        decision = decide(route, None, self._table.current())
        engine: CallEngine | None = self._native.get(method.name)
        if decision.engine is Engine.BACKEND:
            engine = self._ping if method.name == "Ping" else self._backend
        if engine is None:
            text = f"{route.name} is not served natively yet, and there is no backend for it ({decision.why})"
            engine = Refusal(RpcFailure(text, grpc.StatusCode.UNIMPLEMENTED))
        elif self._authority is not None:
            engine = self._authority.guarded(route, decision.engine, engine)
        is_short = _is_unary(method) and method.name not in LONG_UNARY
        return _Plan(route.name, method, engine, self._unary if is_short else self._streaming)

    def _refusal(self, method: RpcMethod, failure: RpcFailure) -> _Plan:
        return _Plan("grpc.refused", method, Refusal(failure), self._refusing, is_gated=False)

    def _respond(self, plan: _Plan, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        started_s = time.monotonic()
        response = b""
        failure: RpcFailure | None = None
        try:
            response = plan.engine.respond(self._admit(plan, requests, context))
        except Exception as error:  # noqa: BLE001  the fault wall of a call
            failure = failure_of(error, plan.route_name)
        self._end(plan, failure, started_s)
        if failure is not None:
            context.abort(failure.code, failure.message)
        return response

    def _stream(self, plan: _Plan, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        started_s = time.monotonic()
        failure: RpcFailure | None = RpcFailure("the client is gone", grpc.StatusCode.CANCELLED)
        try:
            yield from plan.engine.stream(self._admit(plan, requests, context))
            failure = None
        except Exception as error:  # noqa: BLE001  the fault wall of a call
            failure = failure_of(error, plan.route_name)
        finally:
            self._end(plan, failure, started_s)
        if failure is not None:
            context.abort(failure.code, failure.message)

    def _admit(self, plan: _Plan, requests: Iterator[bytes], context: grpc.ServicerContext) -> Call:
        """The call, once its peer is known and may make it. Nothing of its messages has been read by then."""
        peer = self._peers.find(context.peer())
        if peer is None:
            text = "no peer info: this port is for the server's own use"
            raise RpcFailure(text, grpc.StatusCode.PERMISSION_DENIED)
        metadata = tuple((key, value) for key, value in context.invocation_metadata())
        request_id = request_id_of(metadata)
        if not request_id and _is_unary(plan.method) and plan.pool is not self._refusing:
            request_id = new_request_id()
        stream = RequestStream(requests, context)
        call = Call(plan.route_name, plan.method, stream, context, peer, metadata, request_id)
        call.set_trailing(())
        if plan.is_gated:
            self._gate.check(plan.method.name, peer)
        return call

    def _end(self, plan: _Plan, failure: RpcFailure | None, started_s: float) -> None:
        if self._count is not None:
            code = failure.code if failure else grpc.StatusCode.OK
            self._count(plan.route_name, plan.engine.name, code.name, time.monotonic() - started_s)


class _Behavior:
    """What grpcio calls for one call, with the pool that it is to run in as grpcio wants it said."""

    def __init__(self, run: Callable[..., object], plan: _Plan) -> None:
        self._run = run
        self._plan = plan
        self.experimental_thread_pool = plan.pool

    def __call__(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> object:
        return self._run(self._plan, requests, context)


def failure_of(error: Exception, route_name: str) -> RpcFailure:
    """What the client is told of `error`. A bug of ours is INTERNAL: upstream's tools take UNKNOWN for an answer."""
    match error:
        case RpcFailure():
            return error
        case RequestsBroken():
            return RpcFailure(str(error), grpc.StatusCode.CANCELLED)
        case _:
            log.error("%s failed: %r", route_name, error, exc_info=error)
            return RpcFailure(f"internal error in {route_name}: {error!r}", grpc.StatusCode.INTERNAL)


def _is_unary(method: RpcMethod) -> bool:
    return not (method.client_streaming or method.server_streaming)


def unknown_text(path: str) -> str:
    """What grpc-go says of a path that it does not serve. Source: google.golang.org/grpc, server.go handleStream."""
    service, slash, name = path.removeprefix("/").rpartition("/")
    if not slash:
        return f'malformed method name: "{path}"'
    if service in _SERVICES:
        return f"unknown method {name} for service {service}"
    return f"unknown service {service}"


_SERVICES = {method.service for method in (*VOLUME_SERVER_METHODS.values(), *REFLECTION_METHODS.values())}


def _unknown_method(path: str) -> RpcMethod:
    some = next(iter(VOLUME_SERVER_METHODS.values()))
    return RpcMethod("", path, some.request_class, some.response_class, True, True)
