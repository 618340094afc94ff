"""Other volume servers as native RPC handlers see them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.context import RpcFailure
from native_handlers.pb.methods import volume_server
from supervisor.wire.server_address import BadServerAddress, ServerAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.pb.methods import ServiceClient
    from supervisor.cluster.dial import Dial


class VolumeServerPeers:
    """Implements `native_handlers.grpc.node.Peers`. `dial` may block.

    A connection for each use: they carry whole volumes, which must not wait for each other, and are rare.
    """

    def __init__(self, dial: Dial) -> None:
        self._dial = dial

    @contextmanager
    def open_volume_server(self, address: str) -> Iterator[ServiceClient]:
        try:
            channel = self._dial(ServerAddress.parse(address))
        except BadServerAddress as error:
            raise RpcFailure(str(error)) from error
        except OSError as error:
            # Our certificate is being replaced, perhaps: trying again helps, and nothing was found out.
            text = f"no channel to volume server {address}: {error}"
            raise RpcFailure(text, grpc.StatusCode.UNAVAILABLE) from error
        with channel:
            yield volume_server(channel)
