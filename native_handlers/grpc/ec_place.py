"""The place of an erasure-coded volume's files on one disk of this server, and what is there now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.format.volume_name import format_volume_name
from native_handlers.records import dataclass
from native_handlers.storage.erasure_coding.files_on_disk import EcFiles, info_on, look
from native_handlers.storage.erasure_coding.names import encode_ts_of, ratio_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from native_handlers.format.vif import VolumeInfo
    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.store import Store
    from native_handlers.storage.system.files import Files


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """One volume on one disk. The caller is inside `exclusive` of the volume."""

    store: Store
    location: DiskLocation
    collection: str
    volume_id: int

    @property
    def files(self) -> Files:
        return self.store.ec.files

    def path(self, directory: Path, extension: str) -> Path:
        """The path of the volume's file with that extension in `directory`."""
        return directory / (format_volume_name(self.collection, self.volume_id) + extension)

    def index_dir(self) -> Path:
        """The directory of the index that the shards on this disk use, or will use. Raises OSError."""
        return self.index_dir_on(self.location)

    def index_dir_on(self, location: DiskLocation) -> Path:
        """As `index_dir`, of a disk of this server."""
        own = (location.path, location.idx_path)
        in_use = next((one.place.index_dir for one in self._opened(location) if one.place.index_dir in own), None)
        if in_use is not None:
            return in_use
        facts = self.files.facts(self.path(location.path, ".ecx"))
        return location.path if facts is not None and facts.size_bytes else location.idx_path

    def look(self) -> EcFiles:
        """The volume's files on this disk. Raises OSError, DiskUnavailable."""
        return look(self.files, self.location, self.collection, self.volume_id)

    def look_at_index_users(self) -> list[EcFiles]:
        """The volume's files on this disk, and on the disks in service with the same index directory. Raises as
        `look`.
        """
        locations = [
            one
            for one in self.store.locations
            if one is self.location or (one.idx_path == self.location.idx_path and not one.is_unavailable)
        ]
        return [look(self.files, one, self.collection, self.volume_id) for one in locations]

    def coding_of(self, found: EcFiles) -> int | None:
        """The time of the coding of the files on a disk: that of the .vif, or of the volume that is open there; None
        where there is neither. Raises OSError.
        """
        info = info_on(self.files, found)
        times = [one.encode_ts_ns for one in self._opened(found.location)]
        return max(times if info is None else [encode_ts_of(info), *times], default=None)

    def users_beside(self, found: EcFiles, disks: Iterable[EcFiles]) -> list[EcFiles]:
        """Those of the other `disks` that have shards or a coding, and whose index lies in the index directory of the
        disk of `found`. The files of an index there are theirs. Raises OSError.
        """
        return [
            one
            for one in disks
            if one.location is not found.location
            and (one.shard_ids or self.coding_of(one) is not None)
            and self.index_dir_on(one.location) == found.location.idx_path
        ]

    def has_nothing(self, found: EcFiles, disks: Iterable[EcFiles]) -> bool:
        """Whether a disk has neither shards nor a coding of the volume, and no index that is not another disk's. Raises
        OSError.
        """
        if found.shard_ids or self.coding_of(found) is not None:
            return False
        is_beside_data = self.index_dir_on(found.location) != found.location.idx_path
        return not found.has_index or (not is_beside_data and bool(self.users_beside(found, disks)))

    def shared_coding_of(self, found: EcFiles, disks: Iterable[EcFiles]) -> int | None:
        """The coding of the disks with whose index the shards on a disk without .vif are read; None where there is
        none. Raises OSError.
        """
        if self.index_dir_on(found.location) != found.location.idx_path:
            return None
        times = [time for one in self.users_beside(found, disks) if (time := self.coding_of(one)) is not None]
        return max(times, default=None)

    def differs(self, found: EcFiles, info: VolumeInfo | None) -> bool:
        """Whether the files on a disk cannot be of the coding of `info`: the coded .dat had another length, or the
        shards are others in number. Raises OSError.
        """
        here = info_on(self.files, found)
        facts = [(one.dat_bytes, one.ratio) for one in self._opened(found.location)]
        if here is not None:
            facts.append((here.dat_file_size, ratio_of(here)))
        dat_bytes, ratio = info.dat_file_size if info is not None else 0, ratio_of(info)
        return any((one[0] > 0 < dat_bytes and one[0] != dat_bytes) or one[1] != ratio for one in facts)

    def is_open(self, found: EcFiles) -> bool:
        """Whether a volume has shards on that disk open, or an index in a directory of that disk."""
        directories = {found.location.path, found.location.idx_path}
        copies = (one for one in self.store.ec.copies(self.volume_id) if one.collection == self.collection)
        return any(one.place.disk_id == found.location.disk_id or one.place.index_dir in directories for one in copies)

    def _opened(self, location: DiskLocation) -> Iterator[EcVolume]:
        for one in self.store.ec.copies(self.volume_id):
            if one.collection == self.collection and self.store.locations[one.place.disk_id] is location:
                yield one
