"""How many copies a volume has and where: ``xyz`` = other data centres, other racks, same rack.

Source: weed/storage/super_block/replica_placement.go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from native_handlers.format.errors import BadReplicaPlacement


@dataclass(frozen=True, slots=True)
class ReplicaPlacement:
    """Numbers of copies beyond the first. One byte on disk: 100 * data centres + 10 * racks + same rack."""

    diff_data_center: int = 0
    diff_rack: int = 0
    same_rack: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """The placement in `text`; fewer than three digits are padded with zeros on the left, more are ignored.

        Raises:
            BadReplicaPlacement: a character below "0", or a combined value above 255.
        """
        padded = text.rjust(3, "0")
        counts = [ord(char) - ord("0") for char in padded]
        if min(counts) < 0:
            raise BadReplicaPlacement(text, f"unknown replication type: {padded}")
        placement = cls(*counts[:3])
        if placement._value > 0xFF:
            raise BadReplicaPlacement(text, f"unexpected replication type: {padded}")
        return placement

    @classmethod
    def from_byte(cls, value: int) -> Self:
        return cls(value // 100, value // 10 % 10, value % 10)

    @property
    def _value(self) -> int:
        return self.diff_data_center * 100 + self.diff_rack * 10 + self.same_rack

    def to_byte(self) -> int:
        return self._value & 0xFF

    @property
    def copy_count(self) -> int:
        """All copies, the first included."""
        return self.diff_data_center + self.diff_rack + self.same_rack + 1

    def __str__(self) -> str:
        return "".join(chr(ord("0") + count) for count in (self.diff_data_center, self.diff_rack, self.same_rack))


NO_REPLICATION = ReplicaPlacement()
