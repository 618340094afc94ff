"""What the sender of a file says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from native_handlers.format.volume_name import format_volume_name

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file that is sent here. `extension` and `collection` are no more than parts of a name.

    Args:
        is_coded: of an erasure-coded volume.
        disk_type: for a file of a volume that is not here: the type of disk that it will be on, as the sender has it;
            empty where it names none.
        disk_id: for one of an erasure-coded volume, 0 for any.
        mounted_disk_ids: where shards of that volume are mounted.
    """

    volume_id: int
    collection: str
    extension: str
    is_coded: bool = False
    disk_type: str = ""
    disk_id: int = 0
    mounted_disk_ids: Sequence[int] = ()

    @property
    def name(self) -> str:
        return format_volume_name(self.collection, self.volume_id) + self.extension
