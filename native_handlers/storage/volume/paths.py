"""Which file of a volume lies where. Source: weed/storage/volume.go (FileName), disk_location.go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from native_handlers.format.volume_name import format_volume_name

if TYPE_CHECKING:
    from pathlib import Path

_INDEX_SIDE = frozenset((".idx", ".cpx", ".ldb", ".cpldb", ".rdb", ".sdx"))
"""Extensions that follow the index directory; all others stay with the data."""
_OWNED = (".idx", ".dat", ".vif", ".sdx", ".cpd", ".cpx", ".cpc", ".ldb", ".rdb", ".cut", ".note")
"""What a destroyed volume leaves nothing of, in the order of removal. No erasure coding file is among them.

A crash after .idx leaves the volume whole, for .idx is made anew; one after .dat leaves nothing that hinders a new
volume of that name. The other way round there would be an .idx without its .dat, which is refused as damage.
"""


@dataclass(frozen=True, slots=True)
class VolumePaths:
    """The files of one volume in one location. `index_dir` is `data_dir` unless -dir.idx says otherwise."""

    data_dir: Path
    index_dir: Path
    collection: str
    volume_id: int

    @property
    def name(self) -> str:
        return format_volume_name(self.collection, self.volume_id)

    @property
    def base(self) -> Path:
        """What findings and errors call the volume: its path on the data side, without extension."""
        return self.data_dir / self.name

    def file(self, extension: str) -> Path:
        """The path of ``.dat``, ``.idx`` and so on."""
        directory = self.index_dir if extension in _INDEX_SIDE else self.data_dir
        return directory / (self.name + extension)

    def beside_data(self) -> VolumePaths:
        """The same volume with its index in the data directory."""
        return replace(self, index_dir=self.data_dir)

    def owned(self, *, keep_vif: bool) -> list[Path]:
        """Every file that belongs to the volume alone, in both directories, in the order to remove them in."""
        directories = dict.fromkeys((self.data_dir, self.index_dir))
        extensions = [extension for extension in _OWNED if not (keep_vif and extension == ".vif")]
        return [directory / (self.name + extension) for directory in directories for extension in extensions]

    def sidecars(self, extension: str) -> list[Path]:
        """Where a file that may lie on either side can be found, data side first."""
        directories = dict.fromkeys((self.data_dir, self.index_dir))
        return [directory / (self.name + extension) for directory in directories]
