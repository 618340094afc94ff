"""Where a new volume's copies go. Pure: nodes in, nodes out.

Source of the rule: weed/topology/volume_growth.go, findEmptySlotsForOneVolume. Wilful difference: the freest server
wins, where upstream draws lots by weight; a small cluster fills evenly, and tests can tell what will happen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from native_handlers.format.replica_placement import ReplicaPlacement
    from supervisor.cluster.embedded_master.topology import VolumeNode


def choose_nodes(
    nodes: Iterable[VolumeNode], placement: ReplicaPlacement, free_slots: Callable[[VolumeNode], int]
) -> list[VolumeNode]:
    """One node for each copy, the main one first; empty where the placement cannot be met."""
    freest_first = sorted((node for node in nodes if free_slots(node) > 0), key=free_slots, reverse=True)
    for main in freest_first:
        groups = _groups(main, freest_first, placement)
        if all(len(group) >= count for group, count in groups):
            return [main, *(node for group, count in groups for node in group[:count])]
    return []


def _groups(
    main: VolumeNode, nodes: Sequence[VolumeNode], placement: ReplicaPlacement
) -> list[tuple[list[VolumeNode], int]]:
    """The candidates for the copies beside `main`'s, with how many of them are needed."""
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
