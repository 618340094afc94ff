"""The in-process gRPC server behind the byte relay. It finds the route of each call and gives the call to an engine.

Every handler takes its requests as a stream of bytes, whatever the RPC's shape, because the shapes look the same on the
wire. So the client and the admin gate are checked before a message is read. grpcio's server uses a thread per call.
`grpc_limits` and `grpc_pools` have the bounds, and docs/policy/grpc.md has their reasons.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.context import RequestsBroken, RpcFailure
from native_handlers.grpc.self_calls import MARK_KEY, REFUSAL_CODE, SelfMark
from native_handlers.pb.methods import VOLUME_SERVER_METHODS, RpcMethod
from native_handlers.records import dataclass
from supervisor.gateway.grpc_call import Call, CallEngine, Refusal, RequestStream
from supervisor.gateway.grpc_forward import PingForwarder
from supervisor.gateway.grpc_metadata import new_request_id, request_id_of
from supervisor.gateway.grpc_pools import MAX_SMALL_REQUEST_BYTES, CallLimits, CountedPool, max_request_bytes
from supervisor.gateway.grpc_reflection import REFLECTION_METHODS, ReflectionEngine
from supervisor.gateway.grpc_shares import CallPlace, CallShares, StallWatch, Waiting
from supervisor.net.grpc_limits import SERVER_OPTIONS
from supervisor.net.private_socket import private_socket
from supervisor.routing.decision import Engine, decide
from supervisor.routing.match import match_grpc
from supervisor.routing.registry import REFLECTION, UNKNOWN_RPC, BeforeForward, Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from supervisor.gateway.grpc_authority import GrpcAuthority
    from supervisor.gateway.grpc_gate import AdminGate
    from supervisor.net.grpc_clients import ClientRegistry, GrpcClient
    from supervisor.routing.live import LiveTable
    from supervisor.routing.registry import Route

log = logging.getLogger(__name__)

REFUSING_THREADS = 4
"""A refusal never waits, so a few threads serve any number of refusals."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """The decision about a call, made before any message is read."""

    route: Route
    method: RpcMethod
    engine: CallEngine
    pool: CountedPool
    shares: CallShares | None
    """Where the call takes its place; None for a refusal, which needs no place."""


class GrpcGateway(grpc.GenericRpcHandler):
    """The volume server's gRPC service over both engines.

    Args:
        table: says which engine serves which route; asked for each call.
        native: by RPC name, the engine that executes the RPC here; see `native_engines`.
        clients: filled by the byte relay. A call on a connection without an entry gets PERMISSION_DENIED.
        gate: the admin gate, for both engines.
        backend: None where no backend is configured.
        count: called at the end of each call with route, engine, code name and seconds.
        authority: asked for the volumes before an engine works on them; None where one engine has all volumes.
        is_of_cluster: whether a client is known to belong to the cluster. Other clients never shut its calls out.
        mark: a call with this mark was sent by this process itself, and is refused.
    """

    def __init__(  # noqa: PLR0913  every seam has its name
        self,
        *,
        table: LiveTable,
        native: Mapping[str, CallEngine],
        clients: ClientRegistry,
        gate: AdminGate,
        backend: CallEngine | None = None,
        limits: CallLimits | None = None,
        count: Callable[[str, str, str, float], None] | None = None,
        authority: GrpcAuthority | None = None,
        is_of_cluster: Callable[[GrpcClient], bool] = lambda _client: False,
        mark: SelfMark | None = None,
    ) -> None:
        self._authority = authority
        self._mark = mark or SelfMark()
        limits = limits or CallLimits()
        self._table = table
        self._native = dict(native)
        self._clients = clients
        self._gate = gate
        self._backend = backend
        self._count = count
        self._reflection = ReflectionEngine()
        self._unary = CountedPool(limits.unary, "grpc-unary")
        self._streaming = CountedPool(limits.streaming, "grpc-stream")
        self._refusing = CountedPool(REFUSING_THREADS, "grpc-refuse")
        self._unary_shares = CallShares(limits.unary, "unary", is_of_cluster, limits.rule, limits.stalls)
        self._streaming_shares = CallShares(limits.streaming, "streaming", is_of_cluster, limits.rule, limits.stalls)
        self._places: Mapping[Pool, tuple[CountedPool, CallShares | None]] = {
            Pool.UNARY: (self._unary, self._unary_shares),
            Pool.LONG: (self._streaming, self._streaming_shares),
            Pool.NONE: (self._refusing, None),
        }
        self._watch = StallWatch(self._unary_shares, self._streaming_shares)
        self._server: grpc.Server | None = None
        self._opened = ExitStack()

    @property
    def running_calls(self) -> int:
        """How many calls hold a thread now."""
        return self._unary.running + self._streaming.running + self._refusing.running

    @property
    def placed_calls(self) -> int:
        """How many calls have a place among those that may run at once. A call gets a thread before a place."""
        return len(self._unary_shares) + len(self._streaming_shares)

    def start(self) -> Path:
        """Serves until `drain`, on a Unix socket that only this process can reach. Returns the socket's path.

        Raises:
            NoPrivateSocket: the socket cannot be made, or the temporary directory cannot be written.
        """

        def listen(path: Path) -> None:
            self.listen(f"unix:{path}")

        return self._opened.enter_context(private_socket(listen))

    def listen(self, address: str) -> int:
        """Serves until `drain`, on an address in grpcio's words, such as ``127.0.0.1:0`` for a free port. Returns the
        port; of a Unix socket any number.

        Raises:
            RuntimeError: the address cannot be had.
        """
        assert self._server is None
        self._server = grpc.server(self._refusing, handlers=[self], options=SERVER_OPTIONS)
        port = self._server.add_insecure_port(address)
        self._server.start()
        self._watch.start()
        return port

    def drain(self, grace_s: float) -> None:
        """Sends GOAWAY, lets running calls finish for `grace_s`, and cancels the rest. Blocks until then.

        The threads of handlers that ignore the cancellation go on to their end.
        """
        assert self._server is not None
        self._server.stop(grace_s).wait()
        self._watch.stop()
        self._opened.close()
        for pool in (self._unary, self._streaming, self._refusing):
            pool.shutdown(wait=False)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """grpcio calls this for each call, always from one thread, when it has read only the headers."""
        plan = self._plan(handler_call_details.method)
        if plan.method.server_streaming:
            return grpc.stream_stream_rpc_method_handler(_Behavior(self._stream, plan))
        return grpc.stream_unary_rpc_method_handler(_Behavior(self._respond, plan))

    def _plan(self, path: str) -> _Plan:
        reflection = REFLECTION_METHODS.get(path)
        if reflection is not None:
            return self._placed(REFLECTION, reflection, self._reflection)
        route = match_grpc(path)
        if route is None:
            failure = RpcFailure(unknown_text(path), grpc.StatusCode.UNIMPLEMENTED)
            return self._placed(UNKNOWN_RPC, _unknown_method(path), Refusal(failure))
        method = VOLUME_SERVER_METHODS[path.rpartition("/")[2]]
        decision = decide(route, None, self._table.current())
        engine = self._native.get(method.name)
        if decision.engine is Engine.BACKEND:
            engine = self._forwarding(route, engine)
        if engine is None:
            text = f"{route.name} is not served natively yet, and there is no backend for it ({decision.why})"
            engine = Refusal(RpcFailure(text, grpc.StatusCode.UNIMPLEMENTED))
        elif self._authority is not None:
            engine = self._authority.guarded(route, decision.engine, engine)
        return self._placed(route, method, engine)

    def _placed(self, route: Route, method: RpcMethod, engine: CallEngine) -> _Plan:
        pool, shares = self._places[route.pool]
        return _Plan(route, method, engine, pool, shares)

    def _forwarding(self, route: Route, native: CallEngine | None) -> CallEngine | None:
        """The engine for a call that is to be forwarded; None without a backend."""
        if route.before_forward is BeforeForward.ANSWER_TARGETS and self._backend is not None and native is not None:
            return PingForwarder(self._backend, native)
        return self._backend

    def _respond(self, plan: _Plan, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        started_s = time.monotonic()
        response = b""
        failure: RpcFailure | None = None
        place: CallPlace | None = None
        try:
            call = self._admit(plan, requests, context)
            place = _take_place(plan, call)
            response = plan.engine.respond(call)
        except Exception as error:  # noqa: BLE001  no exception of a call ends more than the call
            failure = failure_of(error, plan.route.name)
        if place is not None:
            failure = ended_here(place) or failure
            # grpcio keeps the answer until the client has taken it, so the place is held as long.
            place.wait_for(Waiting.READING)
            place.give_up()
        self._end(plan, failure, started_s)
        if failure is not None:
            context.abort(failure.code, bounded_text(failure.message))
        return response

    def _stream(self, plan: _Plan, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        started_s = time.monotonic()
        # This value stays where grpcio closes the generator: GeneratorExit is no Exception.
        failure: RpcFailure | None = RpcFailure("the client is gone", grpc.StatusCode.CANCELLED)
        place: CallPlace | None = None
        try:
            call = self._admit(plan, requests, context)
            place = _take_place(plan, call)
            yield from _read_by_client(plan.engine.stream(call), place)
            failure = None
        except Exception as error:  # noqa: BLE001  no exception of a call ends more than the call
            failure = failure_of(error, plan.route.name)
        finally:
            if place is not None:
                failure = ended_here(place) or failure
                place.give_up()
            self._end(plan, failure, started_s)
        if failure is not None:
            context.abort(failure.code, bounded_text(failure.message))

    def _admit(self, plan: _Plan, requests: Iterator[bytes], context: grpc.ServicerContext) -> Call:
        """The call, after its client is known and may make it. No message has been read by then."""
        client = self._clients.find(context.peer())
        if client is None:
            text = "no peer info: this port is for the server's own use"
            raise RpcFailure(text, grpc.StatusCode.PERMISSION_DENIED)
        metadata = tuple((key, value) for key, value in context.invocation_metadata())
        request_id = request_id_of(metadata)
        if not request_id and _is_unary(plan.method) and plan.pool is not self._refusing:
            request_id = new_request_id()
        max_bytes = max_request_bytes(plan.route)
        # The first message of a stream names what the content of the others is for.
        max_first_bytes = min(max_bytes, MAX_SMALL_REQUEST_BYTES) if plan.method.client_streaming else max_bytes
        stream = RequestStream(requests, context, max_bytes, max_first_bytes)
        call = Call(plan.route, plan.method, stream, context, client, metadata, request_id)
        call.set_trailing(())
        if self._mark.is_in(metadata):
            call.set_trailing(((MARK_KEY, self._mark.text),))
            text = f"{plan.method.name} was sent by this server to itself; it serves no calls of its own"
            raise RpcFailure(text, REFUSAL_CODE)
        self._gate.check(plan.route, client)
        return call

    def _end(self, plan: _Plan, failure: RpcFailure | None, started_s: float) -> None:
        if self._count is not None:
            code = failure.code if failure else grpc.StatusCode.OK
            self._count(plan.route.name, plan.engine.name, code.name, time.monotonic() - started_s)


class _Behavior:
    """The function that grpcio calls for one call. grpcio reads the thread pool from an attribute of the function."""

    def __init__(self, run: Callable[..., object], plan: _Plan) -> None:
        self._run = run
        self._plan = plan
        self.experimental_thread_pool = plan.pool

    def __call__(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> object:
        return self._run(self._plan, requests, context)


def _take_place(plan: _Plan, call: Call) -> CallPlace | None:
    """The place of a call; None for a refusal.

    Raises:
        RpcFailure: the client's share is used up.
        RequestsBroken: the call is over already.
    """
    if plan.shares is None:
        return None
    place = plan.shares.take(call.client, call.context.cancel)
    if not call.context.add_callback(place.give_up):
        # A place has two holders, and the callback of a call that is over is never called: see CallPlace.give_up.
        place.give_up()
        place.give_up()
        raise RequestsBroken
    call.requests.place = place
    return place


def _read_by_client(responses: Iterator[bytes], place: CallPlace | None) -> Iterator[bytes]:
    """`responses`, closed at the end. `place` is told while the client has a response to read."""
    try:
        for response in responses:
            if place is not None:
                place.wait_for(Waiting.READING)
            yield response
            if place is not None:
                place.go_on()
    finally:
        close = getattr(responses, "close", None)
        if close is not None:
            close()


def ended_here(place: CallPlace) -> RpcFailure | None:
    """The status that is counted for a call that was ended because its client was idle. The client sees CANCELLED."""
    if not place.end_text:
        return None
    return RpcFailure(place.end_text, grpc.StatusCode.DEADLINE_EXCEEDED)


def failure_of(error: Exception, route_name: str) -> RpcFailure:
    """The status for `error`. A bug is INTERNAL, because upstream's tools take UNKNOWN for an answer."""
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
    """grpc-go's text for a path that it does not serve. Source: google.golang.org/grpc server.go (handleStream)."""
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


# ---- Texts that end calls.

MAX_WIRE_BYTES = 4096
"""The most bytes of a text in a trailer, where each byte outside printable ASCII takes three. This is more than any
text of this program or of upstream, and less than the 8 KiB that many gRPC clients accept. A text may repeat what the
client sent, and a message may have a gigabyte."""


def bounded_text(text: str) -> str:
    """`text`. A text too long for a status becomes its beginning, the count of characters left out, and its end."""
    if len(text) <= MAX_WIRE_BYTES and sum(map(_wire_bytes, text)) <= MAX_WIRE_BYTES:
        return text
    head = _fitting(text[:MAX_WIRE_BYTES])
    tail = _fitting(reversed(text[-MAX_WIRE_BYTES:]))[::-1]
    return f"{head} [{len(text) - len(head) - len(tail)} characters left out] {tail}"


def _fitting(characters: Iterable[str]) -> str:
    """The first of `characters`, as many as fit into a little less than half a status."""
    left = MAX_WIRE_BYTES // 2 - 32
    kept = []
    for character in characters:
        left -= _wire_bytes(character)
        if left < 0:
            break
        kept.append(character)
    return "".join(kept)


def _wire_bytes(character: str) -> int:
    return 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode("utf-8", "surrogatepass"))
