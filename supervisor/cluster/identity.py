"""Who this node is to the cluster, and how an address is recognised as its own.

The master, filers and peers know one address: ours. The child has another one, on loopback. Both are a
`NodeIdentity`; the relay translates between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.wire.server_address import BadServerAddress, ServerAddress, join_host_port

if TYPE_CHECKING:
    from native_handlers.pb import master_pb2


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """What a heartbeat says about the sender. `ip` has no brackets; an empty `id` lets the master use ip:port."""

    ip: str
    port: int
    grpc_port: int
    public_url: str
    id: str = ""
    data_center: str = ""
    rack: str = ""

    @property
    def http(self) -> str:
        """``ip:port``, the name under which the master lists a volume server."""
        return join_host_port(self.ip, self.port)

    def stamp(self, beat: master_pb2.Heartbeat) -> None:
        """Makes `beat` one of ours; whatever identity it carried is gone."""
        self.stamp_short(beat)
        beat.grpc_port = self.grpc_port
        beat.public_url = self.public_url
        beat.id = self.id

    def stamp_short(self, beat: master_pb2.Heartbeat) -> None:
        """Sets the part of the identity that deltas carry: address, data center and rack."""
        beat.ip = self.ip
        beat.port = self.port
        beat.data_center = self.data_center
        beat.rack = self.rack

    @classmethod
    def of_heartbeat(cls, beat: master_pb2.Heartbeat) -> NodeIdentity:
        """The sender of `beat`, which must carry an ip."""
        return cls(
            ip=beat.ip,
            port=beat.port,
            grpc_port=beat.grpc_port,
            public_url=beat.public_url,
            id=beat.id,
            data_center=beat.data_center,
            rack=beat.rack,
        )


def is_same_server(left: ServerAddress, right: ServerAddress) -> bool:
    """Whether two addresses name one server: the HTTP endpoint decides, for either form may lack the gRPC port.

    Source: weed/pb/server_address.go, Equals. A comparison of the texts made servers reconnect for ever.
    """
    return left.http == right.http


def parse_address(text: str) -> ServerAddress | None:
    """The address in `text`, or None where a peer sent something that is not one."""
    try:
        return ServerAddress.parse(text)
    except BadServerAddress:
        return None
