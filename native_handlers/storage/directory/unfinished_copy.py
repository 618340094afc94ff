"""Decides at the start about a `.note` beside a volume's files.

Go's server, and earlier versions of this one, leave the note while they copy a volume. The .dat comes first, then .idx,
then .vif, and then the note is removed. So a note beside a part of a .dat is an unfinished copy, which is removed, as
upstream does. But a note beside a complete volume proves nothing, and such a volume is kept. All other files with a
note are moved aside. Source: weed/storage/disk_location.go (loadExistingVolume, removeVolumeFiles).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.super_block import SUPER_BLOCK_BYTES
from native_handlers.storage.disk.aside import move_aside
from native_handlers.storage.model.file_kinds import NOTE, VOLUME_EXTENSIONS
from native_handlers.storage.model.report import Finding, FindingKind
from native_handlers.storage.volume.index_place import with_index_found
from native_handlers.storage.volume.info_file import has_shard_index, has_shards, load_volume_info
from native_handlers.storage.volume.soundness import why_not_a_pair

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths


class NoteMeans(Enum):
    """The kinds of files beside a note, each with the action of a start."""

    UNFINISHED = "a copy of it was not finished (.note); the next start removes it"
    WHOLE = "a .note lies beside a whole volume; the next start moves the note aside"
    DOUBTFUL = "a .note lies beside files that are no whole volume; the next start moves all of them aside"


class NoteVerdict(NamedTuple):
    """A kind, and in `why` the reason against a complete volume."""

    means: NoteMeans
    why: str = ""


def judge_note(files: Files, paths: VolumePaths, offset_width_bytes: int) -> NoteVerdict:
    """Decides the kind of the files beside the note of the volume at `paths`. Changes nothing. Raises OSError."""
    dat = files.facts(paths.file(".dat"))
    if dat is None or dat.size_bytes <= SUPER_BLOCK_BYTES:
        return NoteVerdict(NoteMeans.UNFINISHED)
    idx = with_index_found(files, paths).file(".idx")
    has_idx = files.facts(idx) is not None
    # With shards, the .vif was here before the copy. Shards without their index may be of no use, so they do not speak
    # against a whole volume.
    has_vif = files.facts(paths.file(".vif")) is not None and not has_shard_index(files, paths)
    if not has_idx and not has_vif:
        return NoteVerdict(NoteMeans.UNFINISHED)
    if not has_vif:
        return NoteVerdict(NoteMeans.DOUBTFUL, "there is no .vif, which comes last")
    loaded = load_volume_info(files, paths.file(".vif"))
    if loaded.error is not None or loaded.info.bytes_offset not in {0, offset_width_bytes}:
        return NoteVerdict(NoteMeans.DOUBTFUL, "its .vif does not fit")
    why = why_not_a_pair(files, paths.file(".dat"), idx, offset_width_bytes)
    return NoteVerdict(NoteMeans.WHOLE) if why is None else NoteVerdict(NoteMeans.DOUBTFUL, why)


def act_on_note(
    files: Files, paths: VolumePaths, offset_width_bytes: int, *, keep_index_dir: bool
) -> tuple[bool, Finding]:
    """Acts by `judge_note`. Returns whether there is a volume to be opened. Raises OSError.

    The note is moved or removed last: after a crash before that the next start finds it.

    Args:
        keep_index_dir: leaves the files in the index directory, which are those of another data directory's volume.
    """
    verdict = judge_note(files, paths, offset_width_bytes)
    note = paths.file(NOTE)
    if verdict.means is NoteMeans.WHOLE:
        moved = move_aside(files, note)
        files.sync_directory(paths.data_dir)
        return True, Finding(FindingKind.NOTE_ASIDE, paths.base, moved)
    if verdict.means is NoteMeans.DOUBTFUL:
        own = _own_files(files, paths, keep_index_dir=keep_index_dir)
        moved = ", ".join(move_aside(files, path) for path in own)
        for directory in dict.fromkeys((paths.index_dir, paths.data_dir)):
            files.sync_directory(directory)
        return False, Finding(FindingKind.COPY_ASIDE, paths.base, f"{verdict.why}; {moved}")
    _remove(files, paths, keep_index_dir=keep_index_dir)
    return False, Finding(FindingKind.COPY_REMOVED, paths.base, "its .note was still there")


def _remove(files: Files, paths: VolumePaths, *, keep_index_dir: bool) -> None:
    """Removes an unfinished copy. Raises OSError. The note is removed last: after a crash before that the next start
    finds it.
    """
    own = paths.owned(keep_vif=has_shards(files, paths), keep_index_dir=keep_index_dir)
    for path in sorted(own, key=_is_note):
        files.unlink(path)


def _is_note(path: Path) -> bool:
    return path.suffix == NOTE


def _own_files(files: Files, paths: VolumePaths, *, keep_index_dir: bool) -> list[Path]:
    """The volume's files and, last, its note; without a .vif that shards share."""
    own = set(paths.owned(keep_vif=has_shards(files, paths), keep_index_dir=keep_index_dir))
    places = [path for extension in (*VOLUME_EXTENSIONS, NOTE) for path in paths.sidecars(extension)]
    return [path for path in places if path in own and files.facts(path) is not None]
