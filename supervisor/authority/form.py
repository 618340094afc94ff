"""The form in which a volume is open: what one engine opens after the other engine has closed it."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from native_handlers.records import dataclass


class Mark(Enum):
    """A mark of a volume that is not in its files, so a hand-over must carry it."""

    WRITABLE = "none"
    READ_ONLY = "read-only"
    READ_ONLY_CAN_DELETE = "read-only, but for deletes"


@dataclass(frozen=True, slots=True)
class Shards:
    """The open shards of an erasure-coded volume: their collection and their ids.

    `disk_type`: the type that heartbeats give for their disk, where the mount named a type. No file has it. "" stands
    for the disk's own type.
    """

    collection: str = ""
    ids: tuple[int, ...] = ()
    disk_type: str = ""


@dataclass(frozen=True, slots=True)
class VolumeForm:
    """A volume with its mark, its shards, or both. Both are open between the coding of a volume and its deletion.

    `has_data`: whether the volume itself is open. Otherwise only shards are open.
    """

    has_data: bool = True
    mark: Mark = Mark.WRITABLE
    shards: Shards = Shards()

    @property
    def unsaved(self) -> VolumeForm:
        """The part of this form that an engine with the open volume cannot report."""
        return VolumeForm(mark=self.mark, shards=Shards(disk_type=self.shards.disk_type))

    def with_unsaved(self, known: VolumeForm) -> VolumeForm:
        """This form, completed from `known` by the part that an engine does not report."""
        mark = known.mark if self.mark is Mark.WRITABLE else self.mark
        disk_type = self.shards.disk_type or (known.shards.disk_type if self.shards.ids else "")
        return replace(self, mark=mark, shards=replace(self.shards, disk_type=disk_type))

    def with_mark(self, mark: Mark) -> VolumeForm:
        return replace(self, mark=mark)

    def with_disk_type(self, disk_type: str) -> VolumeForm:
        return replace(self, shards=replace(self.shards, disk_type=disk_type))


PLAIN = VolumeForm()
"""The form of a volume for which a hand-over carries nothing."""
