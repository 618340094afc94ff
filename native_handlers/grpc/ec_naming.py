"""Gives fetched files of an erasure-coded volume their names, and keeps what was deleted deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.grpc.checks import errors_as_upstream
from native_handlers.storage.erasure_coding.files_on_disk import checksum_paths, remove_paths
from native_handlers.storage.erasure_coding.index_files import deleted_ids, journal_rows
from native_handlers.storage.erasure_coding.names import shard_extension
from native_handlers.storage.system.files import read_file
from native_handlers.storage.transfer.receive import StagedFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from native_handlers.grpc.ec_codings import ComparedCodings
    from native_handlers.grpc.ec_fetch import FetchedFiles
    from native_handlers.grpc.ec_place import ShardPlace
    from native_handlers.storage.erasure_coding.files_on_disk import EcFiles
    from native_handlers.storage.system.files import Files

_NAMING_ORDER = {".vif": 0, ".ecx": 2}
"""The .vif tells the coding of shards, and the .ecx makes them readable."""


def give_names(place: ShardPlace, fetched: FetchedFiles, codings: ComparedCodings, journal: Sequence[int]) -> None:
    """Gives the files their names, the index last. What the present index or journal has as deleted stays deleted, and
    so does what the new ones have.

    Where the files replace those of an older coding, the index of the older one is removed first: a crash between
    leaves shards without index, which are not opened.

    Args:
        journal: the ids of the source's journal.

    Raises RpcFailure: no file has changed, except where a name could not be given; the text then says so.
    """
    store, width = place.store, place.store.offset_width_bytes
    with errors_as_upstream("write file"):
        index_dir = place.index_dir()
        ecx, ecj = (place.path(index_dir, extension) for extension in (".ecx", ".ecj"))
        index = fetched.index
        deleted = [*journal, *(index.deleted(width) if index is not None else [])]
        if codings.replaced and deleted:
            # The deletions of the older coding are not those of this one.
            staged = StagedFile(place.files, ecj)
            fetched.complete.append(staged)
            staged.write(journal_rows(dict.fromkeys(deleted)))
            staged.complete()
    with errors_as_upstream("remove files of an older coding"):
        for found in codings.replaced:
            _remove(place.files, found)
    if not codings.replaced:
        # Deletions come before the index with which the shards can be read.
        with errors_as_upstream("write file"):
            if index is not None:
                deleted += deleted_ids(read_file(place.files, ecx) or b"", width)
            if deleted:
                coding = codings.source or place.coding_of(place.look()) or fetched.ask_coding()
                store.ec_work.merge_journal(place.collection, place.volume_id, ecj, deleted, coding)
    with errors_as_upstream("commit copied file"):
        for file in sorted(fetched.complete, key=lambda one: _NAMING_ORDER.get(one.target.suffix, 1)):
            file.publish()
        for volume in store.ec.copies(place.volume_id) if index is not None else ():
            if volume.place.index(".ecx") == ecx:
                volume.reopen_index()


def _remove(files: Files, found: EcFiles) -> None:
    """Removes an older coding: first its index, last its .vif. So no shard of it lies beside an index or a .vif of
    another coding, also after a crash. Raises OSError.
    """
    paths = [*found.on_either_side(".ecx"), *found.on_either_side(".ecj"), *checksum_paths(files, found)]
    paths += [found.path(shard_extension(shard)) for shard in found.shard_ids]
    if not found.has_volume:
        paths += found.on_either_side(".vif")
    remove_paths(files, paths)
