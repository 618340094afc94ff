"""Other volume servers, as native RPC handlers use them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.self_calls import MARK_KEY, SelfMark
from native_handlers.grpc.status_text import go_error_text
from native_handlers.pb.methods import volume_server
from native_handlers.pb.volume_server_pb2 import PingRequest
from supervisor.wire.server_address import BadServerAddress, ServerAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.pb.methods import ServiceClient
    from supervisor.cluster.dial import Dial

PROBE_LIMIT_S = 10.0
"""How long a server may take to answer the Ping that shows whether it is this server."""
_UNSURE = frozenset({grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED})
"""This server itself may answer with these codes, when it is too busy to check the mark of the call."""


class DialledVolumeServers:
    """Implements `native_handlers.grpc.node.VolumeServers`. `dial` may block.

    There is a new connection for each use: connections carry whole volumes, which must not wait for each other, and are
    rare. Every call carries `mark`, by which this server recognises its own calls.
    """

    def __init__(self, dial: Dial, mark: SelfMark | None = None) -> None:
        self._dial = dial
        self.mark = mark or SelfMark()

    @contextmanager
    def open_volume_server(self, address: str) -> Iterator[ServiceClient]:
        try:
            channel = self._dial(ServerAddress.parse(address))
        except BadServerAddress as error:
            raise RpcFailure(str(error)) from error
        except OSError as error:
            # This server's certificate may be being replaced. Nothing was found out, and trying again may help.
            text = f"no channel to volume server {address}: {error}"
            raise RpcFailure(text, grpc.StatusCode.UNAVAILABLE) from error
        with channel:
            yield volume_server(channel, ((MARK_KEY, self.mark.text),))

    def is_self(self, error: grpc.RpcError) -> bool:
        return self.mark.is_refusal(error)

    def leads_here(self, address: str) -> bool:
        """Whether the server at `address` is this process. A server that cannot be reached is not. Blocks.

        Raises:
            RpcFailure: `address` is no address; or UNAVAILABLE, the answer was unclear and trying again may help.
        """
        with self.open_volume_server(address) as server:
            try:
                server.Ping(PingRequest(), timeout=PROBE_LIMIT_S)
            except grpc.RpcError as error:
                if self.mark.is_refusal(error):
                    return True
                if error.code() in _UNSURE:
                    text = f"whether {address} is this server itself could not be found out: {go_error_text(error)}"
                    raise RpcFailure(text, grpc.StatusCode.UNAVAILABLE) from error
            return False
