"""Gives fetched files of an erasure-coded volume their names, and keeps what was deleted deleted."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from native_handlers.grpc.checks import errors_as_upstream
from native_handlers.grpc.context import RpcFailure
from native_handlers.storage.erasure_coding.files_on_disk import checksum_paths
from native_handlers.storage.erasure_coding.index_files import deleted_ids_in, has_same_needles, journal_rows
from native_handlers.storage.erasure_coding.names import shard_extension
from native_handlers.storage.erasure_coding.shard_arrival import (
    ReplacementUnfinished,
    recover_shard_arrivals,
    replace_coding,
)
from native_handlers.storage.model.file_kinds import SHARDS_ARRIVED
from native_handlers.storage.system.files import remove_unfinished
from native_handlers.storage.transfer.receive import StagedFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from native_handlers.grpc.ec_codings import ComparedCodings
    from native_handlers.grpc.ec_fetch import FetchedFiles
    from native_handlers.grpc.ec_place import ShardPlace
    from native_handlers.storage.erasure_coding.files_on_disk import EcFiles

_NAMING_ORDER = {".vif": 0, ".ecx": 2}
"""The .vif tells the coding of shards, and the .ecx makes them readable."""


def give_names(place: ShardPlace, fetched: FetchedFiles, codings: ComparedCodings, journal: Sequence[int]) -> None:
    """Gives the files their names, the index last. What the present index or journal has as deleted stays deleted, and
    so does what the new ones have.

    Where the files replace those of an older coding, a crash leaves the files of the one or those of the other; see
    `shard_arrival`.

    Args:
        journal: the ids of the source's journal.

    Raises RpcFailure: no file has changed, except where a name could not be given; the text then says so.
    """
    store = place.store
    store.ec.note_files(place.location.disk_id, place.collection, place.volume_id)
    with errors_as_upstream("write file"):
        index_dir = place.index_dir()
        ecx, ecj = (place.path(index_dir, extension) for extension in (".ecx", ".ecj"))
        index, complete = fetched.index, _without_staying(place, fetched, codings)
        deleted = [*journal, *(index.deleted() if index is not None else [])]
        if codings.replaced and deleted:
            # The deletions of the older coding are not those of this one.
            staged = StagedFile(place.files, ecj)
            fetched.complete.append(staged)
            complete.append(staged)
            staged.write(journal_rows(dict.fromkeys(deleted)))
            staged.complete()
    if not codings.replaced:
        # Deletions come before the index with which the shards can be read.
        with errors_as_upstream("write file"):
            if index is not None:
                deleted += deleted_ids_in(place.files, ecx, store.offset_width_bytes).tolist()
            if deleted:
                coding = codings.source or place.coding_of(place.look()) or 0
                store.ec_work.merge_journal(place.collection, place.volume_id, ecj, deleted, coding)
    with errors_as_upstream("commit copied file"):
        ordered = sorted(complete, key=lambda one: _NAMING_ORDER.get(one.target.suffix, 1))
        if codings.replaced:
            _replace(place, ordered, codings.replaced)
        else:
            for file in ordered:
                file.publish()
        for volume in store.ec.copies(place.volume_id) if index in complete else ():
            if volume.place.index(".ecx") == ecx:
                volume.reopen_index()


def _without_staying(place: ShardPlace, fetched: FetchedFiles, codings: ComparedCodings) -> list[StagedFile]:
    """The files that get their names. Raises OSError, and RpcFailure where an index that stays is of another coding."""
    named, width = [], place.store.offset_width_bytes
    for file in fetched.complete:
        facts = place.files.facts(file.target) if file.target.suffix in codings.stays else None
        is_there = facts is not None and facts.size_bytes > 0
        if is_there and file is fetched.index and not has_same_needles(place.files, (file.path, file.target), width):
            raise RpcFailure(f"{file.target} belongs to a different encode run: that of the source has other needles")
        if not is_there and not (file.target.suffix == ".vif" and ".vif" in codings.stays):
            named.append(file)
    return named


def _replace(place: ShardPlace, complete: Sequence[StagedFile], replaced: Sequence[EcFiles]) -> None:
    """Puts the files in place of those of older codings. Where that ends early, the next operation on the volume does
    the rest. Raises OSError as `replace_coding`.
    """
    own = (place.location.path, place.location.idx_path)
    removes = _paths_of(place, replaced)
    for file in complete:
        file.close_complete()
    waiting = [(file.target, file.path) for file in complete]
    try:
        replace_coding(place.files, place.path(own[0], SHARDS_ARRIVED), own, waiting, removes)
    except ReplacementUnfinished:
        place.store.ec.finish_first(place.volume_id, partial(_finish, place))
        raise
    except OSError:
        for _, path in waiting:
            remove_unfinished(place.files, path)
        raise


def _finish(place: ShardPlace) -> None:
    """Does the rest of what `_replace` has begun. Raises OSError."""
    location = place.location
    directories = [(one.path, one.idx_path) for one in place.store.locations]
    own = (location.path, location.idx_path)
    location.check_in_service()
    location.findings.add(recover_shard_arrivals(place.files, own, directories, lambda one: one == place.volume_id))


def _paths_of(place: ShardPlace, replaced: Sequence[EcFiles]) -> list[Path]:
    """The files of older codings: of each disk first its index, last its .vif. Without those in an index directory that
    are another disk's. Raises OSError.
    """
    removes = []
    locations = [found.location for found in replaced]
    others = [one for one in place.look_at_index_users() if one.location not in locations]
    for found in replaced:
        paths = [*found.on_either_side(".ecx"), *found.on_either_side(".ecj"), *checksum_paths(place.files, found)]
        paths += [found.path(shard_extension(shard)) for shard in found.shard_ids]
        if not found.has_volume:
            paths += found.on_either_side(".vif")
        is_shared = found.location.idx_path != found.location.path and bool(place.users_beside(found, others))
        removes += [path for path in paths if not is_shared or path.parent == found.location.path]
    return removes
