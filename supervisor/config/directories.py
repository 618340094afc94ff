"""The -dir list with what -max, -minFreeSpace, -disk and -tags say of each entry, checked on disk.

Source: weed/command/volume.go (startVolumeServer, parseVolumeTags), weed/util/file_util.go (TestFolderWritable),
weed/util/tag.go, weed/storage/types/volume_disk_type.go.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, TypeVar

from supervisor.cli.config import DirectoryConfig
from supervisor.cli.errors import BadValue
from supervisor.cli.go_values import parse_decimal
from supervisor.cli.home_paths import absolute
from supervisor.cli.sizes import parse_min_free_space

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from supervisor.cli.values import FlagValues

T = TypeVar("T")
_OWNER_WRITE = stat.S_IWUSR
_MAX_COUNT = (1 << 31) - 1


def read_directories(values: FlagValues, environ: Mapping[str, str], cwd: Path) -> tuple[DirectoryConfig, ...]:
    """One entry per directory; problems are noted in `values` and the result is then of no use."""
    texts = (values.text("dir") or _temporary_directory(environ)).split(",")
    paths = [absolute(text, cwd) for text in texts]
    _check_paths(values, paths)
    maxima = _per_directory(values, "max", len(paths), _parse_max)
    reserve_flag = "minFreeSpace" if values.text("minFreeSpace") else "minFreeSpacePercent"
    reserves = _per_directory(values, reserve_flag, len(paths), parse_min_free_space)
    disk_types = _per_directory(values, "disk", len(paths), disk_type)
    tags = split_tags(values.text("tags"), len(paths))
    if values.problems:
        return ()
    return tuple(map(DirectoryConfig, paths, maxima, disk_types, tags, reserves))


def read_idx_directory(values: FlagValues, cwd: Path) -> Path | None:
    """-dir.idx; None where index files lie beside the volumes."""
    text = values.text("dir.idx")
    if not text:
        return None
    path = absolute(text, cwd)
    why = why_not_writable(path)
    if why:
        values.note("dir.idx", f"{path} {why}")
    return path


def disk_type(text: str) -> str:
    """The wire form: "" for hdd, everything else in lower case."""
    lowered = text.strip().lower()
    return "" if lowered == "hdd" else lowered


def split_tags(text: str, directory_count: int) -> list[tuple[str, ...]]:
    """One group goes to all directories, otherwise group by group; directories without a group have no tags."""
    groups = [_normalise(group) for group in text.split(",")] if text.strip() else []
    if len(groups) == 1:
        return groups * directory_count
    return (groups + [()] * directory_count)[:directory_count]


def why_not_writable(path: Path) -> str | None:
    """What is wrong with a directory that volumes shall live in, to follow its name; None if nothing is.

    Upstream looks at the owner's write bit only; that this user may write is asked as well.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return "does not exist (it is not created for you: mkdir it, or mount it, first)"
    except OSError as error:
        return f"cannot be examined: {error.strerror}"
    if not stat.S_ISDIR(status.st_mode):
        return "is not a directory"
    if not status.st_mode & _OWNER_WRITE or not os.access(path, os.W_OK | os.X_OK):
        return "is not writable"
    return None


def _check_paths(values: FlagValues, paths: list[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in paths:
        why = why_not_writable(path)
        if why:
            values.note("dir", f"{path} {why}")
            continue
        real = path.resolve()
        if real in seen:
            values.note("dir", f"{path} is the same directory as {seen[real]}; name each directory once")
        seen[real] = path


def _per_directory(values: FlagValues, name: str, count: int, parse: Callable[[str], T]) -> list[T]:
    """One value is copied for all directories; otherwise there must be as many as directories."""
    parsed = []
    for text in values.text(name).split(","):
        try:
            parsed.append(parse(text))
        except BadValue as error:
            values.note(name, str(error))
            return []
    if len(parsed) == 1:
        return parsed * count
    if len(parsed) != count:
        values.note(name, f"{len(parsed)} values, but -dir names {count}; give one value, or one per directory")
    return parsed


def _parse_max(text: str) -> int:
    count = parse_decimal(text)
    if not 0 <= count <= _MAX_COUNT:
        raise BadValue(text, "a count of volumes, 0 or more")
    return count


def _normalise(group: str) -> tuple[str, ...]:
    tags = (tag.strip().lower() for tag in group.split(":"))
    return tuple(dict.fromkeys(tag for tag in tags if tag))


def _temporary_directory(environ: Mapping[str, str]) -> str:
    """Go's os.TempDir: TMPDIR, else /tmp."""
    return environ.get("TMPDIR") or "/tmp"
