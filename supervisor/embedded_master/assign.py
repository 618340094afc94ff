"""Assigns file ids, and makes volumes for them. The calls block, so they run in threads.

Source: weed/server/master_server_handlers.go (dirAssignHandler), weed/topology/volume_growth.go.
"""

from __future__ import annotations

import hmac
import json
import logging
import random
import secrets
import threading
import time
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING

import grpc

from native_handlers.format.fid import FileId
from native_handlers.pb import master_pb2, volume_server_pb2
from native_handlers.pb.methods import volume_server
from native_handlers.records import dataclass
from supervisor.cluster.channels import ChannelCache
from supervisor.embedded_master.config import AssignRefused
from supervisor.embedded_master.layouts import is_wanted, writable
from supervisor.embedded_master.options import CURRENT_VERSION
from supervisor.wire.server_address import ServerAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from native_handlers.format.replica_placement import ReplicaPlacement
    from native_handlers.pb.methods import ServiceClient
    from supervisor.config.config import JwtKey
    from supervisor.embedded_master.config import EmbeddedMasterConfig
    from supervisor.embedded_master.layouts import Replicas
    from supervisor.embedded_master.options import VolumeOptions
    from supervisor.embedded_master.state_file import MasterState
    from supervisor.embedded_master.topology import Topology, VolumeNode

_log = logging.getLogger(__name__)
_ALLOCATE_S = 10.0
MAX_COUNT = 1_000_000  # file ids per request, so that one request cannot use up the sequence


@dataclass(frozen=True, slots=True)
class Assignment:
    """`count` file ids from `fid` on, their holders with wanted ones first, and a write token ("" without a key)."""

    fid: FileId
    count: int
    nodes: tuple[VolumeNode, ...]
    token: str


class Assigner:
    """Picks writable volumes, and makes new ones. Thread-safe."""

    def __init__(self, config: EmbeddedMasterConfig, state: MasterState, topology: Topology) -> None:
        self._config = config
        self._state = state
        self._topology = topology
        self._channels = ChannelCache(config.dial)
        self._growing = threading.Lock()  # one growth at a time: the next caller finds the volumes of the last one

    def assign(self, options: VolumeOptions, count: int) -> Assignment:
        """File ids in a writable volume. Where there is none, makes volumes first.

        Raises:
            AssignRefused: no volume is writable and none can be made, `count` is too high, or the state cannot be
                written.
        """
        if count > MAX_COUNT:
            raise AssignRefused(f"count {count} is too high: at most {MAX_COUNT} file ids at once")
        replicas = self._pick(options)
        try:
            first_key = self._state.take_file_keys(count)
        except OSError as error:
            raise AssignRefused(f"the master's state cannot be written: {error}") from error
        fid = FileId(replicas.volume_id, first_key, secrets.randbits(32))
        wanted_first = sorted(replicas.nodes, key=lambda node: not is_wanted(node, options))
        return Assignment(fid, count, tuple(wanted_first), self.write_token(str(fid)))

    def grow(self, options: VolumeOptions, count: int) -> int:
        """Makes `count` volumes, or fewer where slots run out. Returns how many were made.

        Raises:
            AssignRefused: no volume could be made.
        """
        with self._growing:
            return self._grow(options, count)

    def write_token(self, file_id: str) -> str:
        """A token that allows writing `file_id`; "" where no key is configured."""
        return _token(self._config.write_key, file_id)

    def read_token(self, file_id: str) -> str:
        """A token that allows reading `file_id`; "" where no key is configured."""
        return _token(self._config.read_key, file_id)

    def free_slots(self, options: VolumeOptions) -> int:
        """How many more volumes of these options fit, without their copies."""
        return sum(max(0, node.free_slots(options.disk_type)) for node in self._wanted_nodes(options))

    def close(self) -> None:
        """Closes the channels to volume servers."""
        self._channels.close()

    def _pick(self, options: VolumeOptions) -> Replicas:
        for attempt in range(2):
            found = writable(self._topology.nodes(), options, self._config.volume_size_limit_bytes)
            if found:
                return random.choice(found)
            with self._growing:
                is_still_lacking = not writable(self._topology.nodes(), options, self._config.volume_size_limit_bytes)
                if is_still_lacking and attempt == 0:
                    self._grow(options, self._config.volumes_per_growth)
        raise self._nothing_writable(options, "")

    def _grow(self, options: VolumeOptions, count: int) -> int:
        made = 0
        for _ in range(count):
            nodes = choose_nodes(
                self._wanted_nodes(options), options.replication, lambda node: node.free_slots(options.disk_type)
            )
            if not nodes:
                break
            try:
                self._make_volume(self._take_volume_id(), options, nodes)
            except AssignRefused as refusal:
                if not made:
                    raise
                _log.warning("made %d volumes of %d: %s", made, count, refusal)
                break
            made += 1
        if not made:
            raise self._nothing_writable(options, " and no free volumes left")
        return made

    def _take_volume_id(self) -> int:
        try:
            return self._state.take_volume_id()
        except OSError as error:
            raise AssignRefused(f"the master's state cannot be written: {error}") from error

    def _wanted_nodes(self, options: VolumeOptions) -> list[VolumeNode]:
        return [node for node in self._topology.nodes() if is_wanted(node, options)]

    def _make_volume(self, volume_id: int, options: VolumeOptions, nodes: list[VolumeNode]) -> None:
        """Makes one volume on all `nodes`. If a node refuses, deletes the volume on the others."""
        request = volume_server_pb2.AllocateVolumeRequest(
            volume_id=volume_id,
            collection=options.collection,
            replication=str(options.replication),
            ttl=str(options.ttl),
            disk_type=options.disk_type,
            version=CURRENT_VERSION,
        )
        made: list[VolumeNode] = []
        for node in nodes:
            try:
                self._client(node).AllocateVolume(request, timeout=_ALLOCATE_S)
            except grpc.RpcError as failure:
                self._take_back(volume_id, made)
                why = f"{node.identity.http} could not make volume {volume_id}: {failure.details()}"
                raise AssignRefused(why) from failure
            made.append(node)
        for node in made:
            self._topology.add_volume(node, _new_volume(volume_id, options))
        _log.info("made volume %d on %s", volume_id, ", ".join(node.identity.http for node in made))

    def _take_back(self, volume_id: int, nodes: list[VolumeNode]) -> None:
        request = volume_server_pb2.VolumeDeleteRequest(volume_id=volume_id, only_empty=True)
        for node in nodes:
            try:
                self._client(node).VolumeDelete(request, timeout=_ALLOCATE_S)
            except grpc.RpcError as failure:
                _log.warning("volume %d stays on %s: %s", volume_id, node.identity.http, failure.details())

    def _client(self, node: VolumeNode) -> ServiceClient:
        address = ServerAddress(node.identity.ip, node.identity.port, node.identity.grpc_port)
        return volume_server(self._channels.to(address))

    def _nothing_writable(self, options: VolumeOptions, why: str) -> AssignRefused:
        where = ""
        if options.data_center or options.rack or options.data_node:
            where = f" in DataCenter:{options.data_center} Rack:{options.rack} DataNode:{options.data_node}"
        tail = f"{why} for {options}" if why else ""
        return AssignRefused(
            f"failed to find writable volumes for collection:{options.collection} "
            f"replication:{options.replication} ttl:{options.ttl} error: No writable volumes{where}{tail}"
        )


def _new_volume(volume_id: int, options: VolumeOptions) -> master_pb2.VolumeInformationMessage:
    return master_pb2.VolumeInformationMessage(
        id=volume_id,
        collection=options.collection,
        replica_placement=options.replication.to_byte(),
        ttl=options.ttl.to_uint32(),
        version=CURRENT_VERSION,
        disk_type=options.disk_type,
    )


def _token(key: JwtKey, file_id: str) -> str:
    """A signed token. It is made by hand, because a JWT library refuses short keys, which upstream accepts.

    Source: weed/security/jwt.go (GenJwtForVolumeServer).
    """
    if not key.key:
        return ""
    claims: dict[str, object] = {"fid": file_id}
    if key.expires_after_s > 0:
        claims["exp"] = int(time.time()) + key.expires_after_s
    signed = b".".join(_base64url(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return b".".join((signed, _base64url(hmac.digest(key.key, signed, "sha256")))).decode()


def _base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


# ---- Where a new volume's copies go. Pure: nodes in, nodes out.
#
# Source of the rule: weed/topology/volume_growth.go (findEmptySlotsForOneVolume). Wilful difference: the server with
# the most free slots is chosen, where upstream chooses at random by weight. A small cluster fills evenly, and tests
# know the result.


def choose_nodes(
    nodes: Iterable[VolumeNode], placement: ReplicaPlacement, free_slots: Callable[[VolumeNode], int]
) -> list[VolumeNode]:
    """One node for each copy, the main copy's first. Empty where the placement is impossible."""
    freest_first = sorted((node for node in nodes if free_slots(node) > 0), key=free_slots, reverse=True)
    for main in freest_first:
        groups = _groups(main, freest_first, placement)
        if all(len(group) >= count for group, count in groups):
            return [main, *(node for group, count in groups for node in group[:count])]
    return []


def _groups(
    main: VolumeNode, nodes: Sequence[VolumeNode], placement: ReplicaPlacement
) -> list[tuple[list[VolumeNode], int]]:
    """The candidates for the other copies than `main`'s, with the number of copies that are needed of each group."""
    same_rack = [node for node in nodes if node is not main and _rack(node) == _rack(main)]
    same_center = [node for node in nodes if _center(node) == _center(main) and _rack(node) != _rack(main)]
    elsewhere = [node for node in nodes if _center(node) != _center(main)]
    return [
        (same_rack, placement.same_rack),
        (_one_per(same_center, _rack), placement.diff_rack),
        (_one_per(elsewhere, _center), placement.diff_data_center),
    ]


def _center(node: VolumeNode) -> str:
    return node.identity.data_center


def _rack(node: VolumeNode) -> tuple[str, str]:
    return (node.identity.data_center, node.identity.rack)


def _one_per(nodes: Iterable[VolumeNode], group_of: Callable[[VolumeNode], object]) -> list[VolumeNode]:
    """The first node of each group."""
    firsts: dict[object, VolumeNode] = {}
    for node in nodes:
        firsts.setdefault(group_of(node), node)
    return list(firsts.values())
