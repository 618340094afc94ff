"""Writes the deletions of an erasure-coded volume from its journals into its indexes.

Source: weed/storage/erasure_coding/ec_volume_delete.go (RebuildEcxFile), which does so on one disk.

Wilful difference: the journals keep their rows. Upstream removes them. But for a decoding the shell collects the
journals of the other servers, and not their indexes (weed/ec/ec_decode.go), so what was folded elsewhere would be there
again. A row that is also in the index does no harm.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from native_handlers.storage.erasure_coding.index_files import journal_ids, with_deletions
from native_handlers.storage.system.files import read_file, replace_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from native_handlers.storage.erasure_coding.ec_set import EcVolumeSet
    from native_handlers.storage.erasure_coding.files_on_disk import EcFiles


def fold(ec: EcVolumeSet, found: Sequence[EcFiles], collection: str, volume_id: int) -> None:
    """Writes the deletions of one coding into each of its indexes on this server.

    No deletion is recorded meanwhile. A crash leaves each index old or new. The caller is inside `exclusive` of the
    volume.

    Args:
        found: the files of that coding on each disk.

    Raises:
        BadEcIndex: an index is damaged; nothing was changed.
        OSError: some indexes may lack the deletions. The journals have them.
    """
    indexes = [path for one in found for path in one.on_either_side(".ecx")]
    journals = [path for one in found for path in one.on_either_side(".ecj")]
    opened = [
        one for one in ec.copies(volume_id) if one.collection == collection and one.place.index(".ecx") in indexes
    ]
    groups = {id(one.deletions): one.deletions for one in opened}.values()
    with ExitStack() as stack:
        for deletions in groups:
            stack.enter_context(deletions.exclusive())
        deleted = {one for deletions in groups for one in deletions.ids}
        for path in dict.fromkeys(journals):
            deleted.update(journal_ids(read_file(ec.files, path) or b""))
        _write_indexes(ec, indexes, deleted)
        for volume in opened:
            volume.reopen_index()


def _write_indexes(ec: EcVolumeSet, paths: Sequence[Path], deleted: set[int]) -> None:
    contents = {path: read_file(ec.files, path) for path in dict.fromkeys(paths)}
    old = {path: content for path, content in contents.items() if content is not None}
    new = {path: with_deletions(content, deleted, ec.width, path) for path, content in old.items()}
    for path, content in new.items():
        if content != old[path]:
            replace_file(ec.files, path, content)
