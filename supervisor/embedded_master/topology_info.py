"""The topology in the form of VolumeList and /dir/status. Pure. Source: weed/topology (ToTopologyInfo, ToInfo)."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from native_handlers.pb import master_pb2
from supervisor.cluster.messages import shard_sizes
from supervisor.embedded_master.layouts import layout_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from supervisor.embedded_master.topology import VolumeNode

_SUMMED = (
    "volume_count", "max_volume_count", "free_volume_count", "active_volume_count", "remote_volume_count",
    "disk_total_bytes", "disk_free_bytes",
)  # fmt: skip


def topology_info(
    nodes: Sequence[VolumeNode], is_shown: Callable[[master_pb2.VolumeInformationMessage], bool]
) -> master_pb2.TopologyInfo:
    """The whole tree. `nodes` are in the order of their names. `is_shown` selects the volumes to list."""
    info = master_pb2.TopologyInfo(id="topo")
    for center, center_nodes in _grouped(nodes, lambda node: node.identity.data_center):
        center_info = info.data_center_infos.add(id=center)
        for rack, rack_nodes in _grouped(center_nodes, lambda node: node.identity.rack):
            rack_info = center_info.rack_infos.add(id=rack)
            for node in rack_nodes:
                _sum_up(rack_info.diskInfos, _add_node(rack_info, node, is_shown).diskInfos)
            _sum_up(center_info.diskInfos, rack_info.diskInfos)
        _sum_up(info.diskInfos, center_info.diskInfos)
    return info


def status_rows(nodes: Sequence[VolumeNode], size_limit_bytes: int) -> Mapping[str, object]:
    """The "Topology" of /dir/status."""
    centers = [
        {
            "Id": center,
            "Racks": [
                {"Id": rack, "DataNodes": [_node_row(node) for node in rack_nodes]}
                for rack, rack_nodes in _grouped(center_nodes, lambda node: node.identity.rack)
            ],
        }
        for center, center_nodes in _grouped(nodes, lambda node: node.identity.data_center)
    ]
    return {
        "Max": sum(sum(node.held.facts.max_volume_counts.values()) for node in nodes),
        "Free": sum(node.free_slots(disk_type) for node in nodes for disk_type in node.held.facts.max_volume_counts),
        "DataCenters": centers or None,
        "Layouts": layout_rows(nodes, size_limit_bytes) or None,
    }


def _grouped(nodes: Iterable[VolumeNode], name_of: Callable[[VolumeNode], str]) -> list[tuple[str, list[VolumeNode]]]:
    return [(name, list(group)) for name, group in groupby(sorted(nodes, key=name_of), key=name_of)]


def _add_node(
    rack: master_pb2.RackInfo,
    node: VolumeNode,
    is_shown: Callable[[master_pb2.VolumeInformationMessage], bool],
) -> master_pb2.DataNodeInfo:
    identity, held = node.identity, node.held
    info = rack.data_node_infos.add(id=identity.id or identity.http, address=identity.http)
    info.grpc_port = identity.grpc_port
    volumes = [volume.message for volume in held.volumes.values()]
    types = {*held.facts.max_volume_counts, *(volume.disk_type for volume in volumes)}
    types |= {row.disk_type for row in held.ec_shards.values()}
    for disk_type in sorted(types):
        disk = info.diskInfos[disk_type]
        here = [volume for volume in volumes if volume.disk_type == disk_type]
        disk.type = disk_type
        disk.volume_count = len(here)
        disk.max_volume_count = held.facts.max_volume_counts.get(disk_type, 0)
        disk.free_volume_count = node.free_slots(disk_type)
        disk.active_volume_count = sum(not volume.read_only for volume in here)
        disk.remote_volume_count = sum(bool(volume.remote_storage_name) for volume in here)
        disk.disk_total_bytes = held.facts.disk_total_bytes.get(disk_type, 0)
        disk.disk_free_bytes = held.facts.disk_free_bytes.get(disk_type, 0)
        disk.disk_id = min((volume.disk_id for volume in here), default=0)
        disk.volume_infos.extend(volume for volume in here if is_shown(volume))
        disk.ec_shard_infos.extend(row for row in held.ec_shards.values() if row.disk_type == disk_type)
        _describe_disks(disk, [tag for tag in held.facts.disk_tags if tag.type == disk_type])
    return info


def _describe_disks(disk: master_pb2.DiskInfo, tags: Sequence[master_pb2.DiskTag]) -> None:
    for tag in tags:
        disk.max_volume_count_by_disk[tag.disk_id] = tag.max_volume_count
        if tag.disk_id == disk.disk_id:
            disk.tags.extend(tag.tags)


def _sum_up(total: Mapping[str, master_pb2.DiskInfo], part: Mapping[str, master_pb2.DiskInfo]) -> None:
    for disk_type, disk in part.items():
        summed = total[disk_type]
        for field in _SUMMED:
            setattr(summed, field, getattr(summed, field) + getattr(disk, field))


def _node_row(node: VolumeNode) -> Mapping[str, object]:
    held = node.held
    return {
        "Url": node.identity.http,
        "PublicUrl": node.identity.public_url,
        "Volumes": len(held.volumes),
        "EcShards": sum(len(shard_sizes(row)) for row in held.ec_shards.values()),
        "Max": sum(held.facts.max_volume_counts.values()),
        "VolumeIds": f" {id_ranges(sorted(held.volume_ids))}",
    }


def id_ranges(ids: Sequence[int]) -> str:
    """`1-3 7` for 1, 2, 3, 7. `ids` must ascend."""
    runs: list[list[int]] = []
    for volume_id in ids:
        if runs and runs[-1][-1] == volume_id - 1:
            runs[-1].append(volume_id)
        else:
            runs.append([volume_id])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
