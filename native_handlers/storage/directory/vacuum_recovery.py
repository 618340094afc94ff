"""Finishes or undoes a vacuum that a crash interrupted, before any volume of a directory is opened.

A commit renames .cpd over .dat and .cpx over .idx. Between the two renames the old index would belong to new data. So a
.cpc file exists from before the first rename until after the second and marks the commit as decided. With a .cpc the
missing renames are done; without it the temporary files are removed. Source: weed/storage/volume_vacuum.go
(reconcileCompactState, finishCompactSwap), disk_location.go:reconcileCompactStates.

Wilful differences: the files that would replace the volume are checked first, and moved aside where they are no volume.
Temporary files stay where the volume itself is no volume without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.format.errors import BadVolumeName
from native_handlers.format.volume_name import parse_volume_name
from native_handlers.storage.directory.index_users import is_vacuumed
from native_handlers.storage.disk.aside import move_aside
from native_handlers.storage.model.errors import DiskUnreadable
from native_handlers.storage.model.report import Finding, FindingKind
from native_handlers.storage.volume.compaction_swap import finish_swap
from native_handlers.storage.volume.dat_head import super_block_of
from native_handlers.storage.volume.paths import VolumePaths
from native_handlers.storage.volume.soundness import why_not_a_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from native_handlers.storage.system.files import Files

_TRACES = (".cpc", ".cpd", ".cpx")


def _is_never(_: VolumePaths) -> bool:
    """There is no other data directory with the same index directory."""
    return False


def recover_compactions(  # noqa: PLR0913, PLR0917  two directories, and what is known of them
    files: Files,
    data_dir: Path,
    index_dir: Path,
    loaded: Collection[int],
    offset_width_bytes: int,
    here: Sequence[str],
    is_other_vacuum: Callable[[VolumePaths], bool] = _is_never,
) -> list[Finding]:
    """Recovers every volume in the directories except the `loaded` ones, whose vacuum may be under way.

    Args:
        here: the names in `data_dir` now. Where there are findings, other names may be there afterwards.
        is_other_vacuum: see `recover_compaction`.

    Raises DiskUnreadable; every volume is then unchanged or recovered.
    """
    findings = []
    try:
        for name in _names_with_traces(files, here, index_dir if index_dir != data_dir else None):
            try:
                collection, volume_id = parse_volume_name(name)
            except BadVolumeName:
                continue
            if volume_id not in loaded:
                paths = VolumePaths(data_dir, index_dir, collection, volume_id)
                findings += recover_compaction(files, paths, offset_width_bytes, is_other_vacuum)
    except OSError as error:
        raise DiskUnreadable(data_dir, error) from error
    return findings


def _names_with_traces(files: Files, here: Sequence[str], index_dir: Path | None) -> list[str]:
    """The names of volumes with such files and a file among those `here`, in the data directory: other files of an
    index directory may belong to another data directory.
    """
    names = [*here, *files.list_directory(index_dir)] if index_dir is not None else here
    traces = {name[:-4] for name in names if name.endswith(_TRACES)}
    return sorted(traces.intersection(name[:-4] for name in here)) if traces else []


def recover_compaction(
    files: Files,
    paths: VolumePaths,
    offset_width_bytes: int,
    is_other_vacuum: Callable[[VolumePaths], bool] = _is_never,
) -> list[Finding]:
    """Recovers one volume that is not open. Raises OSError; it is then unchanged or recovered.

    Args:
        is_other_vacuum: whether files of a vacuum in the index directory are those of another data directory's volume
            of the name.
    """
    if not is_vacuumed(files, paths) and is_other_vacuum(paths):
        return []
    return _recover(files, paths, offset_width_bytes)


def why_not_finished(files: Files, paths: VolumePaths, offset_width_bytes: int) -> str | None:
    """The reason against finishing a decided vacuum (.cpc), or None.

    Checks whether the files that would get the names .dat and .idx belong together. Changes nothing. Raises OSError.
    """
    dat, idx = _first(files, paths, ".cpd"), _first(files, paths, ".cpx")
    if dat is None and idx is None:
        return None
    if idx is None:
        return "there is no .cpx, which gets its name after .cpd"
    return why_not_a_pair(files, dat or paths.file(".dat"), idx, offset_width_bytes)


def why_not_undone(files: Files, paths: VolumePaths) -> str | None:
    """The reason why the temporary files of an undecided vacuum are not removed, or None where they are."""
    if super_block_of(files, paths.file(".dat")) is None:
        return "they stay, for there is no .dat that is a volume's"
    return None


def _recover(files: Files, paths: VolumePaths, offset_width_bytes: int) -> list[Finding]:
    base = paths.base
    temporary = [*paths.sidecars(".cpd"), *paths.sidecars(".cpx")]
    orphans = [path for path in temporary if files.facts(path) is not None]
    if files.facts(paths.file(".cpc")) is not None:
        why = why_not_finished(files, paths, offset_width_bytes)
        if why is None:
            return [Finding(FindingKind.COMPACTION_FINISHED, base, finish_swap(files, paths))]
        moved = ", ".join(move_aside(files, path) for path in (*orphans, paths.file(".cpc")))
        files.sync_directory(paths.data_dir)
        return [Finding(FindingKind.COMPACTION_ASIDE, base, f"{why}; {moved}")]
    if not orphans:
        return []
    names = ", ".join(path.name for path in orphans)
    why = why_not_undone(files, paths)
    if why is not None:
        return [Finding(FindingKind.COMPACTION_ASIDE, base, f"{names}: {why}")]
    for path in (*orphans, *paths.sidecars(".ldb"), *paths.sidecars(".rdb")):
        files.unlink(path)
    return [Finding(FindingKind.COMPACTION_UNDONE, base, names)]


def _first(files: Files, paths: VolumePaths, extension: str) -> Path | None:
    return next((path for path in paths.sidecars(extension) if files.facts(path) is not None), None)
