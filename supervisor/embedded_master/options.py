"""The kind of volume that an assign or grow request wants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.format.errors import BadReplicaPlacement, BadTtl
from native_handlers.format.replica_placement import ReplicaPlacement
from native_handlers.format.ttl import Ttl, parse_ttl
from native_handlers.http_model.go_json import encode_json
from native_handlers.records import dataclass
from supervisor.embedded_master.config import AssignRefused

if TYPE_CHECKING:
    from native_handlers.pb import master_pb2

CURRENT_VERSION = 3  # of new volumes


@dataclass(frozen=True, slots=True)
class VolumeOptions:
    """A layout (collection, replication, TTL, disk type on the wire) and the allowed places. Empty means any place."""

    collection: str
    replication: ReplicaPlacement
    ttl: Ttl
    disk_type: str
    data_center: str = ""
    rack: str = ""
    data_node: str = ""

    @classmethod
    def parse(  # noqa: PLR0913, PLR0917  a request's fields
        cls,
        collection: str,
        replication: str,
        ttl: str,
        disk_type: str,
        data_center: str,
        rack: str,
        data_node: str,
        default: ReplicaPlacement,
    ) -> VolumeOptions:
        """The options in the texts of a request.

        Raises:
            AssignRefused: a text is malformed. The message has upstream's words.
        """
        try:
            placement = ReplicaPlacement.parse(replication) if replication else default
            wire_type = "" if disk_type.lower() == "hdd" else disk_type.lower()
            return cls(collection, placement, parse_ttl(ttl), wire_type, data_center, rack, data_node)
        except (BadReplicaPlacement, BadTtl) as error:
            raise AssignRefused(str(error)) from error

    def matches(self, volume: master_pb2.VolumeInformationMessage) -> bool:
        """Whether `volume` has this layout."""
        return (
            volume.collection == self.collection
            and volume.replica_placement == self.replication.to_byte()
            and volume.ttl == self.ttl.to_uint32()
            and volume.disk_type == self.disk_type
        )

    def __str__(self) -> str:
        """The JSON that upstream's messages show. Source: weed/topology/volume_growth.go (VolumeGrowOption)."""
        placement = {
            "node": self.replication.same_rack,
            "rack": self.replication.diff_rack,
            "dc": self.replication.diff_data_center,
        }
        rows: dict[str, object] = {
            "collection": self.collection,
            "replication": {name: count for name, count in placement.items() if count},
            "ttl": {"Count": self.ttl.count, "Unit": self.ttl.unit},
            "disk": self.disk_type,
            "dataCenter": self.data_center,
            "rack": self.rack,
            "dataNode": self.data_node,
            "version": CURRENT_VERSION,
        }
        return encode_json({name: value for name, value in rows.items() if value != ""}).decode()
