"""The RPCs of the three services as data, and clients made from them.

Service stubs are not generated: the server side is generic (a method is either served natively or forwarded as
bytes), so all that is needed of a service is its method list, which the descriptors already hold.
"""

from __future__ import annotations

from native_handlers.records import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory

from native_handlers.pb import master_pb2, volume_server_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import grpc
    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class RpcMethod:
    """One RPC. `path` is its HTTP/2 :path, `/package.Service/Name`."""

    service: str
    name: str
    request_class: type[Message]
    response_class: type[Message]
    client_streaming: bool
    server_streaming: bool

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


def _methods_of(service: ServiceDescriptor) -> Mapping[str, RpcMethod]:
    return {
        method.name: RpcMethod(
            service=service.full_name,
            name=method.name,
            request_class=message_factory.GetMessageClass(method.input_type),
            response_class=message_factory.GetMessageClass(method.output_type),
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
        )
        for method in service.methods
    }


VOLUME_SERVER_METHODS = _methods_of(volume_server_pb2.DESCRIPTOR.services_by_name["VolumeServer"])
MASTER_METHODS = _methods_of(master_pb2.DESCRIPTOR.services_by_name["Seaweed"])


def open_call(channel: grpc.Channel, method: RpcMethod, *, decodes: bool = True) -> Any:  # noqa: ANN401  grpc's multi-callables share no type
    """Returns grpc's multi-callable for `method` on `channel`: call it with a request, or an iterator of requests.

    Where `decodes` is False its answers are the bytes of messages.
    """
    shape = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    return getattr(channel, shape)(
        method.path,
        request_serializer=method.request_class.SerializeToString,
        response_deserializer=method.response_class.FromString if decodes else None,
    )


class ServiceClient:
    """Calls of one service on one channel as attributes: ``volume_server(channel).Ping(request, timeout=3)``.

    `metadata` goes with each call. Where `decodes` is False the answers are the bytes of messages.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        methods: Mapping[str, RpcMethod],
        metadata: tuple[tuple[str, str], ...] = (),
        *,
        decodes: bool = True,
    ) -> None:
        self._channel = channel
        self._methods = methods
        self._metadata = metadata
        self._decodes = decodes

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  see open_call
        method = self._methods.get(name)
        if method is None:
            raise AttributeError(f"no RPC named {name}")
        call = self._with_metadata(open_call(self._channel, method, decodes=self._decodes))
        setattr(self, name, call)
        return call

    @property
    def undecoded(self) -> ServiceClient:
        """The same client for callers that read the answers' bytes themselves."""
        return ServiceClient(self._channel, self._methods, self._metadata, decodes=False)

    def _with_metadata(self, call: Any) -> Any:  # noqa: ANN401  see open_call
        return _WithMetadata(call, self._metadata) if self._metadata else call

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)


class _WithMetadata:
    """One of grpc's multi-callables, whose calls carry `metadata`."""

    def __init__(self, call: Any, metadata: tuple[tuple[str, str], ...]) -> None:  # noqa: ANN401  see open_call
        self._call = call
        self._metadata = metadata

    def __call__(self, request: Any, timeout: float | None = None) -> Any:  # noqa: ANN401  see open_call
        return self._call(request, timeout=timeout, metadata=self._metadata)

    def future(self, request: Any, timeout: float | None = None) -> Any:  # noqa: ANN401  see open_call
        return self._call.future(request, timeout=timeout, metadata=self._metadata)


def volume_server(channel: grpc.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> ServiceClient:
    """A client of `volume_server_pb.VolumeServer` on `channel`; `metadata` goes with each call."""
    return ServiceClient(channel, VOLUME_SERVER_METHODS, metadata)


def master(channel: grpc.Channel) -> ServiceClient:
    """A client of `master_pb.Seaweed` on `channel`."""
    return ServiceClient(channel, MASTER_METHODS)
