"""The -dir list with the values of -max, -minFreeSpace, -disk and -tags for each entry, checked on disk.

Source: weed/command/volume.go (startVolumeServer, parseVolumeTags), weed/util/file_util.go (TestFolderWritable),
weed/util/tag.go, weed/storage/types/volume_disk_type.go.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, TypeVar

from native_handlers.format.types import normal_disk_type
from supervisor.config.config import DirectoryConfig
from supervisor.config.errors import BadValue
from supervisor.config.go_values import parse_decimal
from supervisor.config.home_paths import absolute
from supervisor.config.sizes import parse_min_free_space

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from supervisor.config.values import FlagValues

T = TypeVar("T")
_OWNER_WRITE = stat.S_IWUSR
_MAX_COUNT = (1 << 31) - 1


def read_directories(values: FlagValues, environ: Mapping[str, str], cwd: Path) -> tuple[DirectoryConfig, ...]:
    """One entry per directory. If problems are noted in `values`, the result is empty."""
    texts = directory_texts(values, environ)
    if "" in texts:
        values.note("dir", f"{','.join(texts)!r} has an empty entry; name a directory there, or take the comma away")
    paths = [absolute(text, cwd) for text in texts]
    _check_paths(values, [path for text, path in zip(texts, paths, strict=True) if text])
    maxima = _per_directory(values, "max", len(paths), _parse_max)
    reserve_flag = "minFreeSpace" if values.text("minFreeSpace") else "minFreeSpacePercent"
    reserves = _per_directory(values, reserve_flag, len(paths), parse_min_free_space)
    disk_types = _per_directory(values, "disk", len(paths), normal_disk_type)
    tags = split_tags(values.text("tags"), len(paths))
    if values.problems:
        return ()
    return tuple(map(DirectoryConfig, paths, maxima, disk_types, tags, reserves))


def directory_texts(values: FlagValues, environ: Mapping[str, str]) -> list[str]:
    """The entries of -dir as given. An empty entry is refused later: it would mean the working directory."""
    if not values.text("dir") and not values.is_given("dir"):
        return [_temporary_directory(environ)]
    return values.text("dir").split(",")


def read_idx_directory(values: FlagValues, cwd: Path) -> Path | None:
    """-dir.idx; None where index files are beside the volumes."""
    text = values.text("dir.idx")
    if not text:
        return None
    path = absolute(text, cwd)
    why = why_not_writable(path)
    if why:
        values.note("dir.idx", f"{path} {why}")
    return path


def split_tags(text: str, directory_count: int) -> list[tuple[str, ...]]:
    """The tags of each directory. One group is for all directories; else group by group, the rest without tags."""
    groups = [_normalise(group) for group in text.split(",")] if text.strip() else []
    if len(groups) == 1:
        return groups * directory_count
    return (groups + [()] * directory_count)[:directory_count]


def why_not_writable(path: Path) -> str | None:
    """The reason why a directory cannot have volumes, as a text to follow its name; None without a reason.

    Upstream checks only the owner's write bit. This also checks that the present user may write.
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
    """The values of one flag. One value is copied for all directories; else there must be one per directory."""
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
    """The temporary directory as Go's os.TempDir: TMPDIR, else /tmp."""
    return environ.get("TMPDIR") or "/tmp"
