"""Finds the shards in directories, by volume, whether a server has them open or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.volume_name import format_volume_name
from native_handlers.storage.erasure_coding.errors import VerifyFailed
from native_handlers.storage.erasure_coding.layout import DEFAULT_RATIO, Ratio
from native_handlers.storage.erasure_coding.names import parse_shard_name, ratio_of, shard_extension
from native_handlers.storage.erasure_coding.rebuild import ShardFiles
from native_handlers.storage.volume.info_file import load_volume_info

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from native_handlers.storage.system.files import Files


class ShardSet(NamedTuple):
    """The shards of one volume.

    Args:
        directories: the directories that may hold files of the volume.
        empty: the shards of which there are empty files alone; they count as missing.
        copies: the files of shards that are in `files` already, from another directory, with their lengths.
    """

    collection: str
    volume_id: int
    files: ShardFiles
    directories: tuple[Path, ...]
    empty: tuple[int, ...]
    copies: tuple[tuple[int, Path, int], ...]

    @property
    def name(self) -> str:
        return format_volume_name(self.collection, self.volume_id)

    def sidecars(self, extension: str) -> list[Path]:
        """The possible paths of a file that belongs to all shards."""
        return [directory / (self.name + extension) for directory in self.directories]


def find_shard_sets(files: Files, directories: Sequence[Path]) -> list[ShardSet]:
    """The volumes with shard files in any of `directories`, also with empty ones alone. Of two files of one shard the
    first with content counts, and the other one is one of the `copies`.

    Raises OSError: a directory cannot be listed.
    """
    present: dict[tuple[str, int], dict[int, tuple[Path, int]]] = {}
    empty: dict[tuple[str, int], set[int]] = {}
    copies: dict[tuple[str, int], list[tuple[int, Path, int]]] = {}
    seen: set[tuple[int, int]] = set()
    for directory in directories:
        for name in sorted(files.list_directory(directory)):
            found = parse_shard_name(name)
            facts = None if found is None else files.facts(directory / name)
            if found is None or facts is None:
                continue
            shards = present.setdefault(found[0], {})
            if facts.size_bytes and facts.identity in seen:
                continue
            seen.add(facts.identity)
            if facts.size_bytes and found[1] in shards:
                copies.setdefault(found[0], []).append((found[1], directory / name, facts.size_bytes))
            elif facts.size_bytes:
                shards[found[1]] = directory / name, facts.size_bytes
            else:
                empty.setdefault(found[0], set()).add(found[1])
    return [
        ShardSet(
            *key,
            _files(directories[0], *key, shards),
            tuple(directories),
            tuple(sorted(empty.get(key, set()).difference(shards))),
            tuple(copies.get(key, ())),
        )
        for key, shards in sorted(present.items())
    ]


def _files(directory: Path, collection: str, volume_id: int, shards: dict[int, tuple[Path, int]]) -> ShardFiles:
    first = next((path for path, _ in shards.values()), None)
    base = (directory if first is None else first.parent) / format_volume_name(collection, volume_id)
    places = {shard: path for shard, (path, _) in shards.items()}
    for shard in range(DEFAULT_RATIO.total):
        places.setdefault(shard, directory / (base.name + shard_extension(shard)))
    return ShardFiles(base, shards, places)


def ratio_of_set(files: Files, found: ShardSet) -> Ratio:
    """The ratio in the first .vif of the volume; the default ratio without a .vif.

    Raises:
        VerifyFailed: a .vif cannot be parsed.
        OSError: a .vif cannot be read.
    """
    for path in found.sidecars(".vif"):
        loaded = load_volume_info(files, path)
        if loaded.error is not None:
            raise VerifyFailed(f"{path} cannot be parsed: {loaded.error}")
        if loaded.is_present:
            return ratio_of(loaded.info)
    return DEFAULT_RATIO
