"""Refuses forwarded calls by which the backend would fetch from this very server, store a file of a foreign name, or
end its own process.

Go's server deletes a volume that it is told to copy from itself, tails itself without end, and truncates shards that it
copies from itself. It accepts any extension for a file of an erasure-coded volume, the facts of a file more than once,
and shards of any collection, whose name may lead out of the data directory. So each such call is checked before it is
forwarded. The checked fields are encoded again, with the address in one fixed form, and this message is forwarded. So
the backend reads the fields that were checked. `Route.source` and `Route.before_forward` say which calls are checked.
The native handlers have their own checks.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError

from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.file_names import check_copied_shards, check_sent_file
from native_handlers.grpc.self_calls import self_text
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.records import dataclass
from native_handlers.storage.model.errors import ReceiveRefused
from native_handlers.storage.model.file_kinds import in_use_text, is_reserved, other_collection_text
from native_handlers.storage.transfer.received_files import MAX_VIF_BYTES, DataBeside, MountedVolume, check_coded_info
from supervisor.routing.registry import BeforeForward
from supervisor.wire.server_address import BadServerAddress, ServerAddress, join_host_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

    from supervisor.gateway.grpc_call import Call, CallEngine, RequestStream

WHOLE_DOCUMENT = "@this"
"""A path that each document has. Source: gjson 1.18, SYNTAX.md."""
M = TypeVar("M", bound="Message")


class SourceProbe(Protocol):
    """Finds out whether an address leads to this process; see `DialledVolumeServers.leads_here`."""

    def leads_here(self, address: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class NodePorts:
    """The addresses of this server, to recognise calls that would come back to it.

    Args:
        own_address: this server's address, for the text of refusals.
        own_grpc_port: this server's gRPC port.
        child_grpc_port: returns the port on which the backend listens now, on loopback only. A call to that port does
            not pass through this process.
    """

    own_address: str
    own_grpc_port: int
    child_grpc_port: Callable[[], int]


class CheckedBackend:
    """Forwards with `backend` the calls that pass the checks.

    Args:
        probe: asked for each call that names a source.
        mounted: returns the facts of the mounted volume with an id; None where there is none.
        check_maintenance: raises RpcFailure while this server is in maintenance, as the backend would.
        offset_width_bytes: the width of offsets in this server's indexes.
    """

    def __init__(  # noqa: PLR0913, PLR0917  every seam has its name
        self,
        backend: CallEngine,
        probe: SourceProbe,
        ports: NodePorts,
        mounted: Callable[[int], MountedVolume | None],
        check_maintenance: Callable[[], None],
        offset_width_bytes: int,
    ) -> None:
        self._backend = backend
        self._mounted = mounted
        self._probe = probe
        self._ports = ports
        self._check_maintenance = check_maintenance
        self._offset_width_bytes = offset_width_bytes
        self.name = backend.name

    def respond(self, call: Call) -> bytes:
        if call.route.before_forward is BeforeForward.CHECK_FILE:
            refused = self._refused_file(call.requests)
            if refused is not None:
                return pb.ReceiveFileResponse(error=refused).SerializeToString()
        self._check_source(call)
        return self._backend.respond(call)

    def stream(self, call: Call) -> Iterator[bytes]:
        if call.route.before_forward is BeforeForward.COMPLETE_QUERY:
            _complete_query(call.requests)
        self._check_source(call)
        yield from self._backend.stream(call)

    def _check_source(self, call: Call) -> None:
        """Refuses a source that is this server. Rewrites the address, so that Go cannot read it in another way."""
        source = call.route.source
        if source is None:
            return
        request = _parsed(call.method.request_class, call.requests.only())
        # The backend would make this check first.
        self._check_maintenance()
        if call.route.before_forward is BeforeForward.CHECK_SHARDS:
            assert isinstance(request, pb.VolumeEcShardsCopyRequest)
            mounted = self._mounted(request.volume_id)
            check_copied_shards(request, None if mounted is None else mounted.collection)
        if source.needs_volume and self._mounted(request.volume_id) is None:  # type: ignore[attr-defined]  # of all three
            raise RpcFailure(f"receiver not found volume id {request.volume_id}")  # type: ignore[attr-defined]
        try:
            address = ServerAddress.parse(getattr(request, source.field))
        except BadServerAddress as error:
            raise RpcFailure(str(error)) from error
        usual = f"{join_host_port(address.host, address.port)}.{address.grpc_port}"
        if self._is_here(address) or self._probe.leads_here(usual):
            raise RpcFailure(self_text(self._ports.own_address, source.doing))
        setattr(request, source.field, usual)
        call.requests.give_back(request.SerializeToString())

    def _is_here(self, address: ServerAddress) -> bool:
        """Whether the address has one of this server's ports and is on this machine. This needs no network call."""
        ports = {self._ports.own_grpc_port, self._ports.child_grpc_port()}
        return address.grpc_port in ports and _is_of_this_machine(address.host)

    def _refused_file(self, requests: RequestStream) -> str | None:
        """Why the file that a ReceiveFile begins with is refused; None where the backend decides."""
        try:
            first = next(requests)
        except StopIteration:
            return None
        request = _parsed(pb.ReceiveFileRequest, first)
        requests.checks.append(_check_later_message)
        requests.give_back(request.SerializeToString())
        if request.WhichOneof("data") != "info":
            return None
        try:
            check_sent_file(request.info)
        except RpcFailure as failure:
            return failure.message
        refused = self._refused_name(request.info)
        if refused is None and request.info.is_ec_volume and request.info.ext == ".vif":
            return self._refused_vif(request.info.volume_id, requests)
        return refused

    def _refused_name(self, info: pb.ReceiveFileInfo) -> str | None:
        mounted = self._mounted(info.volume_id)
        if mounted is None:
            return None
        if info.is_ec_volume and info.collection != mounted.collection:
            return other_collection_text(info.volume_id, mounted.collection, info.collection)
        if not info.is_ec_volume and is_reserved(info.ext):
            return in_use_text(info.volume_id, info.ext)
        return None

    def _refused_vif(self, volume_id: int, requests: RequestStream) -> str | None:
        """Why the .vif that follows is refused; None if it is accepted.

        It is read whole before the backend gets any.
        """
        messages, content = [next(requests)], b""
        for message in requests:
            messages.append(message)
            content += pb.ReceiveFileRequest.FromString(message).file_content
            if len(content) > MAX_VIF_BYTES:
                return f"the .vif has more than {MAX_VIF_BYTES} bytes"
        mounted = self._mounted(volume_id)
        data, objects = DataBeside.NONE, []
        if mounted is not None:
            data = DataBeside.BARE if mounted.is_bare else DataBeside.SOME
            objects = [mounted.remote_object] if mounted.remote_object is not None else []
        try:
            check_coded_info(content, self._offset_width_bytes, mounted, data, objects)
        except ReceiveRefused as refusal:
            return str(refusal)
        requests.give_back(*messages)
        return None


def _complete_query(requests: RequestStream) -> None:
    """Adds what Go's server takes for given: without an input format it would select nothing, without a filter all."""
    request = _parsed(pb.QueryRequest, requests.only())
    request.input_serialization.SetInParent()
    if not request.HasField("filter"):
        request.filter.field = WHOLE_DOCUMENT
    requests.give_back(request.SerializeToString())


def _parsed(request_class: type[M], message: bytes) -> M:
    try:
        return request_class.FromString(message)
    except DecodeError as error:
        raise RpcFailure(f"grpc: error unmarshalling request: {error}", grpc.StatusCode.INTERNAL) from error


def _check_later_message(message: bytes) -> None:
    """Refuses a second info message. Upstream accepts one at any time, and goes on with another file then."""
    if _parsed(pb.ReceiveFileRequest, message).WhichOneof("data") == "info":
        raise RpcFailure("file info was sent already")


def _is_of_this_machine(host: str) -> bool:
    """Whether `host` is an address of this machine. An unspecified address counts, because it leads here too."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(_can_bind(family, address) for family, _, _, _, address in found)


def _can_bind(family: int, address: tuple[object, ...]) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((address[0], 0, *address[2:]))
    except OSError:
        return False
    return True
