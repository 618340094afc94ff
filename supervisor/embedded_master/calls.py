"""Admits gRPC calls to an embedded master. Each client has its share, as in the volume server's gateway."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from native_handlers.grpc.context import RequestsBroken, RpcFailure
from supervisor.gateway.grpc_call import RequestStream
from supervisor.gateway.grpc_pools import CountedPool
from supervisor.gateway.grpc_shares import CallPlace, CallShares, StallWatch, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from supervisor.net.grpc_clients import ClientRegistry, GrpcClient

_MAX_CALLS = 128
"""Each heartbeat stream and each watching client holds a thread."""
_MAX_REQUEST_BYTES = 64 << 20
"""The first heartbeat of a server with 100,000 volumes has a fifth of this size."""


class MasterCalls:
    """The places of all calls, and the threads in which they run.

    Args:
        clients: the client of each connection.
        is_of_cluster: whether a client is a registered volume server; see `ShareRule`.
    """

    def __init__(self, clients: ClientRegistry, is_of_cluster: Callable[[GrpcClient], bool]) -> None:
        self._clients = clients
        self._shares = CallShares(_MAX_CALLS, "embedded master's", is_of_cluster)
        self._watch = StallWatch(self._shares)
        self.pool = CountedPool(_MAX_CALLS, "embedded-master")

    def start(self) -> None:
        """From now on ends calls whose clients are idle, until `stop`."""
        self._watch.start()

    def stop(self) -> None:
        """Stops without waiting for calls."""
        self._watch.stop()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def unary(
        self,
        answer: Callable[[Any, grpc.ServicerContext], Any],
        parse: Callable[[bytes], Any],
        encode: Callable[[Any], bytes],
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of an RPC with one request and one answer.

        The call has a place while it waits for the request.
        """

        def respond(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            requests, place = self._enter(messages, context)
            try:
                return encode(answer(parse(requests.only()), context))
            except (RpcFailure, RequestsBroken) as error:
                _abort(context, error)
            finally:
                place.wait_for(Waiting.READING)
                place.give_up()

        return grpc.stream_unary_rpc_method_handler(respond)

    def streaming(
        self,
        serve: Callable[[Iterator[Any], grpc.ServicerContext], Iterator[bytes]],
        parse: Callable[[bytes], Any],
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of an RPC with a stream both ways."""
        return grpc.stream_stream_rpc_method_handler(partial(self._stream, serve, parse))

    def _stream(
        self,
        serve: Callable[[Iterator[Any], grpc.ServicerContext], Iterator[bytes]],
        parse: Callable[[bytes], Any],
        messages: Iterator[bytes],
        context: grpc.ServicerContext,
    ) -> Iterator[bytes]:
        requests, place = self._enter(messages, context)
        try:
            for response in serve(map(parse, requests), context):
                place.wait_for(Waiting.READING)
                yield response
                place.go_on()
        except (RpcFailure, RequestsBroken) as error:
            _abort(context, error)
        finally:
            place.give_up()

    def _enter(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> tuple[RequestStream, CallPlace]:
        """Admits a call. Ends it where its client is gone, or the client has no place left."""
        try:
            client = self._clients.find(context.peer())
            if client is None:
                raise RequestsBroken
            place = self._shares.take(client, context.cancel)
            if not context.add_callback(place.give_up):
                place.give_up()
                place.give_up()
                raise RequestsBroken
        except (RpcFailure, RequestsBroken) as error:
            _abort(context, error)
        requests = RequestStream(messages, context, _MAX_REQUEST_BYTES)
        requests.place = place
        return requests, place


def _abort(context: grpc.ServicerContext, error: RpcFailure | RequestsBroken) -> NoReturn:
    code = error.code if isinstance(error, RpcFailure) else grpc.StatusCode.CANCELLED
    context.abort(code, str(error))
