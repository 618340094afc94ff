"""The gRPC server on loopback that the child takes for its master.

The relay keeps the child's heartbeats (they go into the node model; only this server is registered with the real
master), changes addresses in messages (relay_rewrite.py), and forwards every other RPC as bytes to the leader. All four
call shapes are alike here: on the wire a unary message is a stream of one message.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from native_handlers.pb import master_pb2
from native_handlers.pb.methods import MASTER_METHODS
from supervisor.cluster.caller_check import is_own_user
from supervisor.cluster.channels import ChannelCache
from supervisor.cluster.child_heartbeat import ChildStream, absorb, is_leave, needs_full_list
from supervisor.cluster.identity import NodeIdentity, parse_address
from supervisor.cluster.relay_rewrite import REWRITES, RelayNames, Rewrite, RpcRewrite, configuration_for_child
from supervisor.net.grpc_deadline import remaining_s
from supervisor.net.grpc_limits import SERVER_OPTIONS
from supervisor.wire.server_address import ServerAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from supervisor.cluster.dial import Dial
    from supervisor.cluster.master_view import MasterSettings, MasterView
    from supervisor.cluster.node_model import NodeModel

_log = logging.getLogger(__name__)
_HOST = "127.0.0.1"
_MAX_CALLS = 64  # a child has one heartbeat stream and a look-up per replicated write; each call holds a thread
_MAX_WAITING = 4096  # calls in all; a refused look-up fails a write, and a look-up takes a millisecond
_STOP_GRACE_S = 1.0
_HEARTBEAT = MASTER_METHODS["SendHeartbeat"].path
_CONFIGURATION = MASTER_METHODS["GetMasterConfiguration"].path
_NO_REWRITE = RpcRewrite()
_HOP_METADATA = frozenset({"user-agent", "grpc-accept-encoding", "grpc-encoding", "grpc-timeout"})


class MasterRelay:
    """One relay for one child. Call `start` before the child starts, and `stop` after it has ended."""

    def __init__(
        self,
        model: NodeModel,
        identity: NodeIdentity,
        view: MasterView,
        dial: Dial,
        *,
        source_name: str = "child",
        on_child_leave: Callable[[], None] = lambda: None,
        is_allowed_caller: Callable[[str, int], bool] = is_own_user,
    ) -> None:
        """
        Args:
            identity: this server's identity in the cluster.
            source_name: the source of the model that the child's heartbeats fill.
            on_child_leave: called in a thread when the child leaves its master. Its volumes stay in the model: the
                supervisor decides whether the node leaves.
            is_allowed_caller: (grpcio's name of the client, relay port) -> whether to serve the client.
        """
        self._model = model
        self._source = model.source(source_name)
        self._identity = identity
        self._view = view
        self._channels = ChannelCache(dial)
        self._on_child_leave = on_child_leave
        self._is_allowed_caller = is_allowed_caller
        self._lock = threading.Lock()  # protects _stream and _child
        self._stream: ChildStream | None = None
        self._child: NodeIdentity | None = None
        self._executor = ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="master-relay")
        self._server = grpc.server(
            self._executor,
            handlers=[_RelayHandler(self)],
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=_MAX_WAITING,
        )
        self._port = 0
        self._remove_listener: Callable[[], None] = lambda: None

    def start(self, credentials: grpc.ServerCredentials | None = None) -> int:
        """Listens on a free loopback port and returns it. The child's -master must be `address`.

        A child with client certificates dials its masters with TLS, also the relay. Then `credentials` are needed.
        """
        if credentials is None:
            self._port = self._server.add_insecure_port(f"{_HOST}:0")
        else:
            self._port = self._server.add_secure_port(f"{_HOST}:0", credentials)
        self._server.start()
        self._remove_listener = self._view.add_settings_listener(self._pass_on_settings)
        return self._port

    def stop(self) -> None:
        """Ends all calls and the listener. Blocks for about two seconds at most."""
        self._remove_listener()
        with self._lock:
            stream = self._stream
        if stream is not None:
            stream.end()
        self._server.stop(_STOP_GRACE_S).wait(_STOP_GRACE_S * 2)
        self._channels.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    @property
    def address(self) -> ServerAddress:
        """The only master address that the child gets. No HTTP server is behind it; the child needs none."""
        return ServerAddress(_HOST, self._port, self._port)

    @property
    def child(self) -> NodeIdentity | None:
        """The child's identity as it reports it; None before its first heartbeat."""
        with self._lock:
            return self._child

    @property
    def is_child_connected(self) -> bool:
        """Whether the child's heartbeat stream is open."""
        with self._lock:
            return self._stream is not None

    def _names(self) -> RelayNames:
        return RelayNames(ours=self._identity, child=self.child, relay=self.address)

    def _pass_on_settings(self, _settings: MasterSettings) -> None:
        with self._lock:
            stream = self._stream
        if stream is not None:
            stream.answer()

    # -- the child's heartbeat

    def serve_heartbeat_stream(
        self, beats: Iterator[master_pb2.Heartbeat], context: grpc.ServicerContext
    ) -> Iterator[master_pb2.HeartbeatResponse]:
        """Serves one SendHeartbeat stream. A new stream ends the one before it."""
        self._refuse_strangers(context)
        stream = ChildStream(beats, lambda: self._view.settings, self._take)
        with self._lock:
            previous, self._stream = self._stream, stream
        if previous is not None:
            previous.end()
        context.add_callback(stream.end)
        try:
            yield from stream.responses()
        finally:
            with self._lock:
                if self._stream is stream:
                    self._stream = None

    def _take(self, stream: ChildStream, beat: master_pb2.Heartbeat) -> bool:
        with self._lock:
            if stream is not self._stream:
                return False  # a late beat of a stream that was replaced
            if beat.ip and beat.grpc_port:
                self._child = NodeIdentity.of_heartbeat(beat)
        if is_leave(beat):
            _log.info("the backend takes its leave; its volumes stay registered")
            self._on_child_leave()
            return False
        absorb(self._source, beat)
        return needs_full_list(self._source, beat)

    # -- everything else

    def forward(self, path: str, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Passes one call of any shape on to the leader, with metadata, deadline, status and trailers."""
        self._refuse_strangers(context)
        rewrite = REWRITES.get(path, _NO_REWRITE)
        target = self._view.leader
        channel = self._channel(target, context)
        method: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
        call = method(
            self._rewritten(requests, rewrite.request),
            timeout=remaining_s(context),
            metadata=_forwardable(context.invocation_metadata()),
        )
        if not context.add_callback(lambda: _cancel(call)):
            call.cancel()  # the child has already ended the call
        try:
            context.send_initial_metadata(_forwardable(call.initial_metadata()))
            for message in call:
                said = self._note_configuration(message) if path == _CONFIGURATION else message
                yield rewrite.response(said, self._names()) if rewrite.response else said
            context.set_trailing_metadata(_forwardable(call.trailing_metadata()))
        except grpc.RpcError as failure:
            if not isinstance(failure, grpc.Call):
                raise  # the child ended the call
            if failure.code() is grpc.StatusCode.UNAVAILABLE:
                self._view.note_unreachable(target)
                self._channels.forget(target, channel)
            known = self._view.configuration
            if path == _CONFIGURATION and known is not None and failure.code() is grpc.StatusCode.UNAVAILABLE:
                # Without this answer a child that starts while no master can be reached would wait, and serve nothing.
                yield configuration_for_child(known, self._names()).SerializeToString()
                return
            context.set_trailing_metadata(_forwardable(call.trailing_metadata()))
            context.abort(failure.code(), failure.details() or "")

    def _channel(self, target: ServerAddress, context: grpc.ServicerContext) -> grpc.Channel:
        try:
            return self._channels.to(target)
        except OSError as error:
            context.abort(grpc.StatusCode.UNAVAILABLE, f"the relay cannot make a channel to master {target}: {error}")

    def _rewritten(self, requests: Iterator[bytes], rewrite: Rewrite | None) -> Iterator[bytes]:
        try:
            for request in requests:
                yield request if rewrite is None else rewrite(request, self._names())
        except grpc.RpcError:
            return  # the child ended the call; the callback of its context cancels the call to the master

    def _note_configuration(self, message: bytes) -> bytes:
        """The answer with this server's own tiers in it."""
        response = master_pb2.GetMasterConfigurationResponse.FromString(message)
        self._view.note_configuration(response)
        leader = parse_address(response.leader)
        if leader is not None:
            self._view.note_leader(leader)
        known = self._view.configuration
        return message if known is None else known.SerializeToString()

    def _refuse_strangers(self, context: grpc.ServicerContext) -> None:
        if not self._is_allowed_caller(context.peer(), self._port):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "this master relay serves its own backend only")


class _RelayHandler(grpc.GenericRpcHandler):
    """Gives each call its handler: heartbeats have their own, all other calls are forwarded."""

    def __init__(self, relay: MasterRelay) -> None:
        self._relay = relay

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        path = handler_call_details.method
        if path == _HEARTBEAT:
            return grpc.stream_stream_rpc_method_handler(
                self._relay.serve_heartbeat_stream,
                request_deserializer=master_pb2.Heartbeat.FromString,
                response_serializer=master_pb2.HeartbeatResponse.SerializeToString,
            )
        return grpc.stream_stream_rpc_method_handler(partial(self._relay.forward, path))


def _cancel(call: grpc.Call) -> None:
    call.cancel()


def _forwardable(metadata: Iterable[tuple[str, str | bytes]] | None) -> tuple[tuple[str, str | bytes], ...]:
    """`metadata` without the keys that belong to one hop."""
    return tuple((key, value) for key, value in metadata or () if key not in _HOP_METADATA)
