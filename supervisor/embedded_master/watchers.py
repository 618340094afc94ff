"""The KeepConnected streams of an embedded master: they tell clients where volumes are, and each change.

When the topology changes, each stream compares what it has told with the present state. Nothing is queued; a slow
client is only told later. Source: weed/server/master_grpc_server.go (KeepConnected).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.pb import master_pb2
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import grpc

    from supervisor.embedded_master.topology import Topology

_LOOK_UP_S = 5.0  # how long a stream sleeps before it checks that its client is still there


@dataclass(frozen=True, slots=True)
class _Holding:
    """The volumes of one server that a client was told."""

    location: master_pb2.Location
    volume_ids: frozenset[int]
    ec_volume_ids: frozenset[int]


def serve_watcher(topology: Topology, leader: str, context: grpc.ServicerContext) -> Iterator[bytes]:
    """The messages for one client, until it goes: first all locations, then each change."""
    context.add_callback(topology.touch)  # wakes this stream when its client goes
    told: Mapping[str, _Holding] = {}
    version = topology.wait_for_change(-1, 0)
    is_first = True
    while context.is_active():
        now = _holdings(topology)
        messages = _changes(told, now)
        if is_first:
            messages = messages or [master_pb2.VolumeLocation()]
            messages[0].leader = leader
        for message in messages:
            yield master_pb2.KeepConnectedResponse(volume_location=message).SerializeToString()
        told, is_first = now, False
        version = topology.wait_for_change(version, _LOOK_UP_S)


def _holdings(topology: Topology) -> Mapping[str, _Holding]:
    return {
        node.identity.http: _Holding(
            location=master_pb2.Location(
                url=node.identity.http,
                public_url=node.identity.public_url,
                grpc_port=node.identity.grpc_port,
                data_center=node.identity.data_center,
            ),
            volume_ids=frozenset(node.held.volume_ids),
            ec_volume_ids=frozenset(key[1] for key in node.held.ec_shards),
        )
        for node in topology.nodes()
    }


def _changes(told: Mapping[str, _Holding], now: Mapping[str, _Holding]) -> list[master_pb2.VolumeLocation]:
    changes = []
    nothing: frozenset[int] = frozenset()
    for name in sorted({*told, *now}):
        before, after = told.get(name), now.get(name)
        known = after or before
        if known is None or before == after:
            continue
        old_ids, old_ec_ids = (before.volume_ids, before.ec_volume_ids) if before else (nothing, nothing)
        new_ids, new_ec_ids = (after.volume_ids, after.ec_volume_ids) if after else (nothing, nothing)
        changes.append(
            master_pb2.VolumeLocation(
                url=known.location.url,
                public_url=known.location.public_url,
                grpc_port=known.location.grpc_port,
                data_center=known.location.data_center,
                new_vids=sorted(new_ids - old_ids),
                deleted_vids=sorted(old_ids - new_ids),
                new_ec_vids=sorted(new_ec_ids - old_ec_ids),
                deleted_ec_vids=sorted(old_ec_ids - new_ec_ids),
            )
        )
    return changes
