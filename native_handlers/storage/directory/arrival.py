"""The protocol by which a volume that was copied here replaces other copies. A crash leaves the old volume or the new
one, complete.

1. The files arrive under other names (`7.dat.arriving`). Files with the final names are not touched, and are served.
2. When all files are on disk and were checked to be a volume, the record `7.arrived` is put on disk. It holds the sizes
  of the files, and the copies elsewhere on this server that the volume replaces. From here on the new volume counts.
3. The files get their final names, other files of the old volume are removed, and the record is removed last.

A start that finds the record repeats step 3, from wherever it was interrupted. A start that finds arriving files
without a record removes them: they are incomplete. A record that does not fit its files is moved aside together with
them, and no other file is touched. Go's server knows neither name, and leaves both files alone.

Upstream deletes the old volume first, and marks the new one with a `.note` until it is complete. Source:
weed/server/volume_grpc_copy.go (VolumeCopy).
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadVolumeName, FormatError
from native_handlers.format.volume_name import parse_volume_name
from native_handlers.records import dataclass
from native_handlers.storage.disk.aside import move_aside
from native_handlers.storage.model.file_kinds import ARRIVED, ARRIVING, VOLUME_EXTENSIONS
from native_handlers.storage.model.report import Finding, FindingKind
from native_handlers.storage.system.files import read_file, replace_file
from native_handlers.storage.volume.info_file import has_shards, is_coded, load_volume_info, may_name_object
from native_handlers.storage.volume.paths import VolumePaths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from native_handlers.storage.system.files import Files

Directories = tuple[Path, Path]
"""A data directory and its index directory."""
_log = logging.getLogger(__name__)


class BadArrivalRecord(Exception):
    """The text of an `.arrived` file is not a record, or does not fit the files beside it."""


@dataclass(frozen=True, slots=True)
class ArrivalRecord:
    """The decision that an arrived volume takes its place.

    Args:
        sizes_bytes: by extension, of the files that arrived: .dat and .idx, and .vif where the source had one; .idx and
            .vif of a volume whose data lies in a remote tier.
        replaces: the places of other copies on this server, of any collection, which go when the new one has its name.
    """

    sizes_bytes: Mapping[str, int]
    replaces: tuple[VolumePaths, ...] = ()

    def encode(self, data_dir: Path) -> bytes:
        """The text of a record in `data_dir`. That directory's own name is left out, because a directory may be moved
        as a whole.
        """
        replaces = [
            {"data": "" if one.data_dir == data_dir else str(one.data_dir), "collection": one.collection}
            for one in self.replaces
        ]
        return json.dumps({"arrived": 1, "sizes": dict(self.sizes_bytes), "replaces": replaces}).encode()


def parse_arrival_record(text: bytes, paths: VolumePaths, directories: Sequence[Directories]) -> ArrivalRecord:
    """Parses the record of the volume at `paths`. Places outside of `directories` are left out: this server may have
    had other directories then.

    Raises BadArrivalRecord.
    """
    index_of = {**dict(directories), paths.data_dir: paths.index_dir}
    try:
        parsed = json.loads(text)
        sizes = {str(extension): int(size) for extension, size in parsed["sizes"].items()}
        named = [(Path(one["data"] or paths.data_dir), str(one["collection"])) for one in parsed["replaces"]]
        kind = parsed["arrived"]
        places = [
            VolumePaths(data_dir, index_of[data_dir], collection, paths.volume_id)
            for data_dir, collection in named
            if data_dir in index_of
        ]
        replaces = tuple(other for other in places if other.base != paths.base)
    except (ValueError, KeyError, TypeError, AttributeError, FormatError) as error:
        raise BadArrivalRecord(f"it cannot be parsed: {error!r}") from error
    if kind != 1:
        raise BadArrivalRecord(f"it is of an unknown kind, {kind!r}")
    is_whole = {".dat", ".idx"} <= sizes.keys() or {".vif", ".idx"} <= sizes.keys()
    if not is_whole or not sizes.keys() <= set(VOLUME_EXTENSIONS):
        raise BadArrivalRecord(f"it names {', '.join(sizes) or 'no files'}")
    return ArrivalRecord(sizes, replaces)


def staged(paths: VolumePaths) -> VolumePaths:
    """The paths of a volume's files while they arrive. The directories are the final ones."""
    return replace(paths, suffix=ARRIVING)


def remove_staged(files: Files, paths: VolumePaths) -> None:
    """Removes the arriving files of the volume at `paths`. Raises OSError."""
    for extension in VOLUME_EXTENSIONS:
        path = staged(paths).file(extension)
        files.unlink(path)
        files.unlink(path.with_name(path.name + ".tmp"))


def decide(files: Files, paths: VolumePaths, replaces: Iterable[VolumePaths]) -> ArrivalRecord:
    """Puts the decision on disk that the arrived files are the volume.

    Raises OSError; then the decision is not made, and existing copies stay.
    """
    sizes = {}
    for extension in VOLUME_EXTENSIONS:
        found = files.facts(staged(paths).file(extension))
        if found is not None:
            sizes[extension] = found.size_bytes
    record = ArrivalRecord(sizes, tuple(replaces))
    path = paths.file(ARRIVED)
    for directory in dict.fromkeys((paths.data_dir, paths.index_dir)):
        files.sync_directory(directory)
    try:
        replace_file(files, path, record.encode(paths.data_dir))
    except OSError:
        # The record may have its name without being on disk. It is removed, so that no start finds it later.
        for left in (path, path.with_name(path.name + ".tmp")):
            files.unlink(left)
        files.sync_directory(paths.data_dir)
        raise
    return record


def finish_arrival(files: Files, paths: VolumePaths, record: ArrivalRecord) -> None:
    """Does step 3, from wherever it was interrupted. The volume and the replaced ones must not be open.

    A replaced copy that cannot be removed is logged: the new volume counts in any case.

    Raises OSError: the next call, or the next start, does the rest.
    """
    keep_doubtful_info(files, paths)
    arriving, final = staged(paths), {extension: paths.file(extension) for extension in VOLUME_EXTENSIONS}
    for path in paths.owned(keep_vif=True):
        if path not in final.values():
            files.unlink(path)
    keeps_vif = shares_vif(files, paths)
    for extension in (".vif", ".dat", ".idx"):
        source = arriving.file(extension)
        if files.facts(source) is None:
            continue
        if extension == ".vif" and keeps_vif:
            files.unlink(source)
        else:
            files.rename(source, final[extension])
    if ".vif" not in record.sizes_bytes and not keeps_vif:
        files.unlink(final[".vif"])
    if ".dat" not in record.sizes_bytes:
        files.unlink(final[".dat"])
    for directory in dict.fromkeys((paths.index_dir, paths.data_dir)):
        files.sync_directory(directory)
    for other in record.replaces:
        _remove_replaced(files, other, paths)
    files.unlink(paths.file(ARRIVED))
    files.sync_directory(paths.data_dir)


def keep_doubtful_info(files: Files, paths: VolumePaths) -> None:
    """Moves a .vif aside that cannot be parsed and may say where the data of a volume is. Raises OSError."""
    if may_name_object(files, paths, load_volume_info(files, paths.file(".vif")), beside_shards=True):
        _log.warning("%s cannot be parsed, and is replaced: %s", paths.base, move_aside(files, paths.file(".vif")))
        files.sync_directory(paths.data_dir)


def shares_vif(files: Files, paths: VolumePaths) -> bool:
    """Whether the .vif that is here belongs to erasure coding shards too."""
    return has_shards(files, paths) and is_coded(files, paths)


def _remove_replaced(files: Files, paths: VolumePaths, arrived: VolumePaths) -> None:
    """Removes the copy at `paths`, without what the arrived volume has now under the same path: both may have their
    .idx in one directory.
    """
    kept = {arrived.file(extension) for extension in VOLUME_EXTENSIONS}
    try:
        keep_doubtful_info(files, paths)
        for path in paths.owned(keep_vif=has_shards(files, paths)):
            if path not in kept:
                files.unlink(path)
        for directory in dict.fromkeys((paths.data_dir, paths.index_dir)):
            files.sync_directory(directory)
    except OSError as error:
        _log.error("%s was replaced by a copy, and could not be removed: %s", paths.base, error)


def recover_arrivals(
    files: Files, own: Directories, all_of: Sequence[Directories], is_wanted: Callable[[int], bool]
) -> list[Finding]:
    """Finishes decided arrivals of volumes that are not open.

    Args:
        own: the directories to search.
        all_of: every pair of directories of this server; places of a record outside of them are left out.
        is_wanted: tells by volume id which volumes to finish.

    Raises OSError: a directory cannot be read or changed. Each volume is unchanged or finished.
    """
    findings = []
    data_dir, index_dir = own
    for name in sorted(name for name in files.list_directory(data_dir) if name.endswith(ARRIVED)):
        try:
            collection, volume_id = parse_volume_name(name.removesuffix(ARRIVED))
        except BadVolumeName:
            continue
        paths = VolumePaths(data_dir, index_dir, collection, volume_id)
        if is_wanted(volume_id) and paths.file(ARRIVED).name == name:
            findings.append(_recover(files, paths, all_of))
    return findings


def read_arrival_record(files: Files, paths: VolumePaths, directories: Sequence[Directories]) -> ArrivalRecord:
    """Reads the record of the volume at `paths` and checks that it fits the files. Changes nothing.

    Raises BadArrivalRecord and OSError.
    """
    try:
        text = read_file(files, paths.file(ARRIVED)) or b""
    except IsADirectoryError as error:
        raise BadArrivalRecord("it is a directory") from error
    record = parse_arrival_record(text, paths, directories)
    _check_fit(files, paths, record)
    return record


def _recover(files: Files, paths: VolumePaths, directories: Sequence[Directories]) -> Finding:
    try:
        record = read_arrival_record(files, paths, directories)
    except BadArrivalRecord as doubt:
        moved = [move_aside(files, path) for path in _pieces(paths) if files.facts(path) is not None]
        files.sync_directory(paths.data_dir)
        return Finding(FindingKind.ARRIVAL_DOUBTFUL, paths.base, f"{doubt}; {', '.join(moved)}")
    finish_arrival(files, paths, record)
    return Finding(FindingKind.ARRIVAL_FINISHED, paths.base, f"{paths.file(ARRIVED).name} was still there")


def _pieces(paths: VolumePaths) -> list[Path]:
    """The arrived files, and their record last: after a crash between them the next start finds the record."""
    return [*(staged(paths).file(extension) for extension in VOLUME_EXTENSIONS), paths.file(ARRIVED)]


def _check_fit(files: Files, paths: VolumePaths, record: ArrivalRecord) -> None:
    """Raises BadArrivalRecord unless the files in the record exist, arriving or under their final names."""
    for extension, size_bytes in record.sizes_bytes.items():
        arriving = files.facts(staged(paths).file(extension))
        found = arriving or files.facts(paths.file(extension))
        if found is None:
            raise BadArrivalRecord(f"there is no {extension}")
        # The .vif may be that of shards, which stays.
        if found.size_bytes != size_bytes and (arriving is not None or extension != ".vif"):
            raise BadArrivalRecord(f"its {extension} has {size_bytes} bytes, that which is there {found.size_bytes}")
