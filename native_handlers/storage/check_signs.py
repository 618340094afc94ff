"""What lies beside a volume's .dat and .idx and tells how it fared, or what the next start will do about it.

Looks only. The counterpart of the findings that opening makes of the same signs: `compact_recovery`,
`DiskLocation.load`, `volume_open`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.errors import FormatError
from native_handlers.format.replica_placement import ReplicaPlacement
from native_handlers.storage.session_mark import SessionMark

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.format.vif import VolumeInfo
    from native_handlers.storage.files import Files
    from native_handlers.storage.volume_paths import VolumePaths

SIGN_EXTENSIONS = (".dat", ".idx", ".vif", ".note", ".cpd", ".cpx", ".cpc")
"""Any of these in the data directory speaks of a volume."""


class Signs(NamedTuple):
    """`problems` are for somebody to do something about, if only to start the server; `notes` are to be known."""

    problems: list[str]
    notes: list[str]


def find_signs(files: Files, paths: VolumePaths, info: VolumeInfo) -> Signs:
    """Raises OSError when a directory cannot be asked."""
    problems, notes = [], []
    if files.facts(paths.file(".note")) is not None:
        problems.append("a copy of it was not finished (.note); the next start removes it")
    if files.facts(paths.file(".cpc")) is not None:
        problems.append("a vacuum was interrupted after it was decided on (.cpc); the next start finishes it")
    elif _exists(files, [*paths.sidecars(".cpd"), *paths.sidecars(".cpx")]):
        problems.append("a vacuum was interrupted (.cpd, .cpx); the next start undoes it")
    if files.facts(paths.file(".cut")) is not None:
        notes.append(".cut holds records that were cut off after the machine went down")
    if _exists(files, paths.sidecars(".ecx")):
        notes.append("erasure coding shards lie beside it; it is served read-only")
    if info.replication:
        try:
            ReplicaPlacement.parse(info.replication)
        except FormatError as error:
            problems.append(f".vif: {error}; it is not loaded")
    if info.files:
        storage = info.files[0]
        notes.append(f"its data is in remote storage {storage.backend_name} as {storage.key}, and is not examined")
    return Signs(problems, notes)


def mode_problem(files: Files, dat: Path) -> str | None:
    """What the permissions of .dat forbid. As upstream goes by its owner's bits, so does opening."""
    facts = files.facts(dat)
    if facts is None or (facts.is_readable_by_owner and facts.is_writable_by_owner):
        return None
    if not facts.is_readable_by_owner:
        return ".dat has no read permission; it is not loaded"
    return ".dat has no write permission; it is served read-only"


def directory_notes(files: Files, directory: Path) -> tuple[str, ...]:
    """Raises OSError when the session mark cannot be read."""
    if SessionMark(files, directory).cut_since_s is None:
        return ()
    return ("the machine went down while this directory was served; the next start examines what was written last",)


def _exists(files: Files, paths: list[Path]) -> bool:
    return any(files.facts(path) is not None for path in paths)
