"""How many copies a volume has and where: ``xyz`` = copies in other data centres, in other racks, in the same rack.

Source: weed/storage/super_block/replica_placement.go.
"""

from __future__ import annotations

from dataclasses import field
from typing import Self

from native_handlers.format.errors import BadReplicaPlacement
from native_handlers.records import dataclass


@dataclass(frozen=True, slots=True)
class ReplicaPlacement:
    """The numbers of copies beyond the first. On disk it is one byte: 100 * data centres + 10 * racks + same rack."""

    diff_data_center: int = 0
    diff_rack: int = 0
    same_rack: int = 0
    copy_count: int = field(init=False, repr=False, compare=False)
    """The number of all copies, the first included."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "copy_count", self.diff_data_center + self.diff_rack + self.same_rack + 1)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses a placement. Fewer than three digits are padded with zeros on the left; more are ignored.

        Raises:
            BadReplicaPlacement: a character is below "0", or the combined value is above 255.
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

    def __str__(self) -> str:
        return "".join(chr(ord("0") + count) for count in (self.diff_data_center, self.diff_rack, self.same_rack))


NO_REPLICATION = ReplicaPlacement()
