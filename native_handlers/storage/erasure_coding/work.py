"""The operations on the files of whole erasure-coded volumes, as the store has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.storage.erasure_coding.decode_volume import check_decodable, decode
from native_handlers.storage.erasure_coding.generate import generate, sync_shards
from native_handlers.storage.erasure_coding.index_files import ID_BYTES, journal_ids, journal_rows
from native_handlers.storage.erasure_coding.loading import load_shards, without_index
from native_handlers.storage.erasure_coding.rebuild_volume import rebuild_missing
from native_handlers.storage.erasure_coding.removal import delete_shards, destroy, destroy_expired, tear_down
from native_handlers.storage.erasure_coding.scrub import EcScrubber
from native_handlers.storage.model.errors import DeleteFailed
from native_handlers.storage.system.files import read_file, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.erasure_coding.ec_set import EcVolumeSet
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.erasure_coding.reader import EcReader
    from native_handlers.storage.volume.volume import Volume


class EcWork:
    """Operations on the files of a store's erasure-coded volumes. Each method calls the function of its name."""

    def __init__(self, ec: EcVolumeSet) -> None:
        self._ec = ec

    def generate(self, volume: Volume, collection: str) -> None:
        generate(self._ec, volume, collection)

    def rebuild_missing(self, collection: str, volume_id: int, *, ignores_checksums: bool) -> list[int]:
        return rebuild_missing(self._ec, collection, volume_id, ignores_checksums=ignores_checksums)

    def decode(self, collection: str, volume_id: int, *, was_open: bool) -> None:
        decode(self._ec, collection, volume_id, was_open=was_open)

    def check_decodable(self, collection: str, volume_id: int) -> None:
        check_decodable(self._ec, collection, volume_id)

    def delete_shards(self, collection: str, volume_id: int, shard_ids: Sequence[int]) -> None:
        delete_shards(self._ec, collection, volume_id, shard_ids)

    def tear_down(self, collection: str, volume_id: int, encode_ts_ns: int) -> None:
        tear_down(self._ec, collection, volume_id, encode_ts_ns)

    def destroy(self, volumes: Sequence[EcVolume]) -> list[str]:
        return destroy(self._ec, volumes)

    def destroy_expired(self) -> list[str]:
        return destroy_expired(self._ec)

    def merge_journal(
        self, collection: str, volume_id: int, path: Path, needle_ids: Sequence[int], encode_ts_ns: int = 0
    ) -> None:
        merge_journal(self._ec, collection, volume_id, path, needle_ids, encode_ts_ns)

    def sync_before_delete(self, volume: Volume | None) -> None:
        """Calls `sync_shards` for a volume that is to be deleted. Raises DeleteFailed: then it must not be deleted."""
        if volume is None or not volume.is_in_service:
            # A disk out of service is not used; the deletion itself refuses, with the reason.
            return
        try:
            sync_shards(self._ec, volume.paths.base)
        except OSError as error:
            raise DeleteFailed(f"DeleteVolume {volume.id}", [f"its shards cannot be put on disk: {error}"]) from error

    def scrubber(self, reader: EcReader, volume: EcVolume, passed: Callable[[int], None]) -> EcScrubber:
        return EcScrubber(self._ec, reader, volume, passed)

    def load_shards(self, volume_id: int | None) -> None:
        load_shards(self._ec, volume_id)

    def without_index(self) -> list[tuple[DiskLocation, str, int]]:
        return without_index(self._ec)


def merge_journal(
    ec: EcVolumeSet, collection: str, volume_id: int, path: Path, needle_ids: Sequence[int], encode_ts_ns: int = 0
) -> None:
    """Adds ids to the .ecj at `path`, and to the open volumes with that file or of that coding, on any disk.

    Args:
        encode_ts_ns: the time of the coding to which the deletions belong; 0 where that is not known.

    Raises:
        OSError, VolumeClosed: the ids may have been added to some of them.
    """
    copies = [one for one in ec.copies(volume_id) if one.collection == collection]
    opened = [
        one
        for one in copies
        if one.place.index(".ecj") == path or 0 in {encode_ts_ns, one.encode_ts_ns} or one.encode_ts_ns == encode_ts_ns
    ]
    groups = {id(one.deletions): one.deletions for one in opened}.values()
    for deletions in groups:
        deletions.record(needle_ids)
    if not needle_ids or any(path in deletions.paths for deletions in groups):
        return
    old = read_file(ec.files, path) or b""
    # A partial id at the end was never acknowledged.
    whole = old[: len(old) // ID_BYTES * ID_BYTES]
    known = set(journal_ids(whole))
    new = (one for one in dict.fromkeys(needle_ids) if one not in known)
    replace_file(ec.files, path, whole + journal_rows(new))
