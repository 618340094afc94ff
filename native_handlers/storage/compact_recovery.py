"""Finishes or undoes a vacuum that a crash interrupted, before any volume of a directory is opened.

A commit renames .cpd over .dat and .cpx over .idx. Between the two, an old index would go with new data, so a .cpc
file marks from before the first rename until after the second that the decision has been made: with it, whatever
rename is missing is done; without it, the temporary files go. Source: weed/storage/volume_vacuum.go
(reconcileCompactState, finishCompactSwap), disk_location.go:reconcileCompactStates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.format.errors import BadVolumeName
from native_handlers.format.volume_name import parse_volume_name
from native_handlers.storage.errors import DiskUnreadable
from native_handlers.storage.report import Finding, FindingKind
from native_handlers.storage.volume_paths import VolumePaths

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from native_handlers.storage.files import Files

_TRACES = (".cpc", ".cpd", ".cpx")


def recover_compactions(files: Files, data_dir: Path, index_dir: Path, loaded: Collection[int]) -> list[Finding]:
    """Recovers every volume in the directories but the `loaded` ones, whose vacuum may be under way.

    Raises DiskUnreadable; every volume is then as before, or recovered.
    """
    try:
        return _recover_all(files, data_dir, index_dir, loaded)
    except OSError as error:
        raise DiskUnreadable(data_dir, error) from error


def _recover_all(files: Files, data_dir: Path, index_dir: Path, loaded: Collection[int]) -> list[Finding]:
    findings = []
    for name in _names_with_traces(files, data_dir, index_dir):
        try:
            collection, volume_id = parse_volume_name(name)
        except BadVolumeName:
            continue
        if volume_id not in loaded:
            findings += _recover(files, VolumePaths(data_dir, index_dir, collection, volume_id))
    return findings


def _names_with_traces(files: Files, data_dir: Path, index_dir: Path) -> list[str]:
    """Of volumes that lie in `data_dir`: what else is in an index directory may be another data directory's."""
    here = files.list_directory(data_dir)
    names = [*here, *files.list_directory(index_dir)] if index_dir != data_dir else here
    ours = {name[:-4] for name in here}
    return sorted({name[:-4] for name in names if name.endswith(_TRACES)} & ours)


def _recover(files: Files, paths: VolumePaths) -> list[Finding]:
    base = paths.base
    if files.facts(paths.file(".cpc")) is not None:
        done = _finish(files, paths)
        return [Finding(FindingKind.COMPACTION_FINISHED, base, done)]
    temporary = [*paths.sidecars(".cpd"), *paths.sidecars(".cpx")]
    orphans = [path for path in temporary if files.facts(path) is not None]
    if not orphans:
        return []
    for path in (*orphans, *paths.sidecars(".ldb"), *paths.sidecars(".rdb")):
        files.unlink(path)
    return [Finding(FindingKind.COMPACTION_UNDONE, base, ", ".join(path.name for path in orphans))]


def _finish(files: Files, paths: VolumePaths) -> str:
    renamed = []
    for source in (*paths.sidecars(".cpd"), *paths.sidecars(".cpx")):
        target = source.with_suffix({".cpd": ".dat", ".cpx": ".idx"}[source.suffix])
        if files.facts(source) is not None:
            files.rename(source, target)
            files.sync_directory(target.parent)
            renamed.append(f"{source.name} -> {target.name}")
    for extension in (".ldb", ".rdb", ".sdx"):
        for path in paths.sidecars(extension):
            files.unlink(path)
    files.unlink(paths.file(".cpc"))
    files.sync_directory(paths.data_dir)
    return ", ".join(renamed) or "both renames were done"
