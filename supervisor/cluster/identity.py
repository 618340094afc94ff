"""The identity of this node in the cluster, and how a node's own address is recognised.

Masters, filers and volume servers know one address: that of this process. The child has another one, on loopback. Both
are a `NodeIdentity`, and the relay translates between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.records import dataclass
from supervisor.wire.server_address import BadServerAddress, ServerAddress, join_host_port

if TYPE_CHECKING:
    from native_handlers.pb import master_pb2


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """The sender of a heartbeat. `ip` has no brackets. With an empty `id` the master uses ip:port."""

    ip: str
    port: int
    grpc_port: int
    public_url: str
    id: str = ""
    data_center: str = ""
    rack: str = ""

    @property
    def http(self) -> str:
        """`ip:port`, the name under which the master lists a volume server."""
        return join_host_port(self.ip, self.port)

    def stamp(self, beat: master_pb2.Heartbeat) -> None:
        """Puts this identity into `beat`, in place of any other."""
        self.stamp_short(beat)
        beat.grpc_port = self.grpc_port
        beat.public_url = self.public_url
        beat.id = self.id

    def stamp_short(self, beat: master_pb2.Heartbeat) -> None:
        """Puts the part of the identity that deltas have into `beat`: address, data center and rack."""
        beat.ip = self.ip
        beat.port = self.port
        beat.data_center = self.data_center
        beat.rack = self.rack

    @classmethod
    def of_heartbeat(cls, beat: master_pb2.Heartbeat) -> NodeIdentity:
        """The sender of `beat`, which must have an ip."""
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
    """Whether two addresses name one server. The HTTP endpoint decides, because either text may lack the gRPC port.

    Source: weed/pb/server_address.go (Equals). A comparison of the texts would make servers reconnect for ever.
    """
    return left.http == right.http


def parse_address(text: str) -> ServerAddress | None:
    """The address in `text`; None where `text` is no address."""
    try:
        return ServerAddress.parse(text)
    except BadServerAddress:
        return None
