"""The paths of a volume's files. Source: weed/storage/volume.go (FileName), disk_location.go."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from native_handlers.format.volume_name import format_volume_name
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from pathlib import Path

_INDEX_SIDE = frozenset((".idx", ".cpx", ".ldb", ".cpldb", ".rdb", ".sdx"))
"""Extensions in the index directory; all others are in the data directory."""
_OWNED = (".idx", ".dat", ".vif", ".sdx", ".cpd", ".cpx", ".cpc", ".ldb", ".rdb", ".cut", ".note")
"""The files that are removed with a volume, in the order of removal. No erasure coding file is among them.

A crash after .idx leaves a whole volume, because .idx is rebuilt. A crash after .dat leaves no file that hinders a new
volume of that name. The other order would leave an .idx without its .dat, which is refused as damage."""

_CACHED_CHARS = 256
"""The longest name whose path is cached. No file has a longer one, but a call may name a collection of megabytes."""


@dataclass(frozen=True, slots=True)
class VolumePaths:
    """The files of one volume in one location. `index_dir` is `data_dir` unless -dir.idx is set.

    `suffix` ends the name of each file; it is not empty for files that arrive, see `arrival`.
    """

    data_dir: Path
    index_dir: Path
    collection: str
    volume_id: int
    suffix: str = ""

    @property
    def name(self) -> str:
        return format_volume_name(self.collection, self.volume_id)

    @property
    def base(self) -> Path:
        """The volume's path in the data directory, without extension. Findings and errors name the volume by it."""
        return _path(self.data_dir, self.name)

    def file(self, extension: str) -> Path:
        """The path of the file with that extension: ``.dat``, ``.idx`` and so on."""
        directory = self.index_dir if extension in _INDEX_SIDE else self.data_dir
        return _path(directory, self.name + extension + self.suffix)

    def text(self, extension: str) -> str:
        """As `file`, as text: for the first look at each of many volumes."""
        directory = self.index_dir if extension in _INDEX_SIDE else self.data_dir
        return f"{directory}/{self.name}{extension}{self.suffix}"

    def beside_data(self) -> VolumePaths:
        """The same volume with its index in the data directory."""
        return self if self.index_dir == self.data_dir else replace(self, index_dir=self.data_dir)

    def owned(self, *, keep_vif: bool, keep_index_dir: bool = False) -> list[Path]:
        """Every file that belongs to the volume alone, in both directories, in the order of removal.

        Args:
            keep_vif: without the .vif, which shards share.
            keep_index_dir: without the files that a volume of another data directory may have in the index directory.
        """
        left_out = {".vif"} if keep_vif else set()
        directories = [self.data_dir]
        if not keep_index_dir:
            directories.append(self.index_dir)
        elif self.index_dir == self.data_dir:
            left_out |= _INDEX_SIDE
        return [
            directory / (self.name + extension + self.suffix)
            for directory in dict.fromkeys(directories)
            for extension in _OWNED
            if extension not in left_out
        ]

    def sidecars(self, extension: str) -> list[Path]:
        """The places of a file that may lie in either directory, the data directory first."""
        directories = dict.fromkeys((self.data_dir, self.index_dir))
        return [_path(directory, self.name + extension + self.suffix) for directory in directories]


def _path(directory: Path, name: str) -> Path:
    return _cached_path(directory, name) if len(name) <= _CACHED_CHARS else directory / name


@lru_cache(maxsize=256)
def _cached_path(directory: Path, name: str) -> Path:
    """Making a path takes longer than most calls that use it. Opening a volume needs the same path several times."""
    return directory / name
