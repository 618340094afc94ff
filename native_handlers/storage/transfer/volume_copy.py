"""A volume that is being copied to this server. `arrival` has the protocol by which the copy replaces other copies.

Source: weed/server/volume_grpc_copy.go (VolumeCopy, checkCopyFiles, findLastAppendAtNsFromCopiedFiles). Upstream syncs
no file, deletes the present volume before the copy, and checks the sizes after the copy counts as complete.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.idx import parse_entry, row_bytes
from native_handlers.format.needle import parse_needle_header
from native_handlers.format.types import (
    CHECKSUM_BYTES,
    NEEDLE_HEADER_BYTES,
    TIMESTAMP_BYTES,
    VERSION_3,
)
from native_handlers.storage.directory.arrival import (
    ArrivalRecord,
    decide,
    finish_arrival,
    remove_staged,
    shares_vif,
    staged,
)
from native_handlers.storage.model.errors import CopyIncomplete
from native_handlers.storage.model.file_kinds import VOLUME_EXTENSIONS
from native_handlers.storage.model.report import FindingKind
from native_handlers.storage.transfer.receive import StagedFile
from native_handlers.storage.volume.open import open_volume
from native_handlers.storage.volume.row_place import place_of
from native_handlers.storage.volume.state import OpenRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.model.report import Finding
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths
    from native_handlers.storage.volume.volume import Volume

_log = logging.getLogger(__name__)


class CopyVerdict(NamedTuple):
    """The verdict on a volume that has arrived. `damage` is None if the volume is sound. `has_data`: this server can
    read its data.
    """

    damage: str | None
    has_data: bool


class ArrivingVolume:
    """A copy under way. `Store.begin_copy` makes it; `Store.mount_copy` or `Store.abandon_copy` ends it. For one
    thread.

    `paths` is where the volume will be, `staged` where its files are until then. `is_tiered`: its data lies in a remote
    tier, so that it has no .dat of its own. `claimed`: the open copies that it may replace, whose files this copy has
    claimed.
    """

    def __init__(
        self, files: Files, paths: VolumePaths, location: DiskLocation, width: int, claimed: Sequence[Volume] = ()
    ) -> None:
        """Touches no file."""
        self.claimed = list(claimed)
        self.paths, self.staged, self.location = paths, staged(paths), location
        self.is_tiered = False
        self._files, self._width = files, width
        self._record: ArrivalRecord | None = None

    def begin(self) -> None:
        """Removes arriving files of an earlier attempt. Raises OSError."""
        remove_staged(self._files, self.paths)

    def receive(self, extension: str) -> StagedFile:
        """Makes a file of the volume, which the caller writes and commits. Raises OSError."""
        return StagedFile(self._files, self.staged.file(extension), in_place=True)

    def check_sizes(self, dat_bytes: int, idx_bytes: int) -> None:
        """Compares the files' sizes with those that the source announced.

        Raises:
            CopyIncomplete: a size differs; upstream's text.
            OSError: a size cannot be read.
        """
        idx, dat = self.paths.file(".idx"), self.paths.file(".dat")
        found = self._files.facts(self.staged.file(".idx"))
        if found is None and idx_bytes:
            raise CopyIncomplete(f"stat idx file {idx} failed: stat {idx}: no such file or directory")
        if found is not None and found.size_bytes != idx_bytes:
            raise CopyIncomplete(
                f"idx file {idx} size [{found.size_bytes}] is not same as origin file size [{idx_bytes}]"
            )
        if self.is_tiered:
            return
        found = self._files.facts(self.staged.file(".dat"))
        if found is None:
            raise CopyIncomplete(f"get dat file info failed, stat {dat}: no such file or directory")
        if found.size_bytes != dat_bytes:
            raise CopyIncomplete(
                f"the dat file size [{found.size_bytes}] is not same as origin file size [{dat_bytes}]"
            )

    def examine(self) -> CopyVerdict:
        """Opens and closes the volume that has arrived. A tier that does not answer counts as wrong: nobody knows
        whether the object is there.

        Raises:
            OffsetWidthMismatch, VolumeLoadFailed: the volume cannot be served at all.
        """
        findings: list[Finding] = []
        request = OpenRequest(
            self._files,
            self.staged,
            self._width,
            int(time.time()),
            tiers=self.location.tiers,
            must_reach_tier=True,
        )
        opened = open_volume(request, findings)
        try:
            if opened.is_tiered != self.is_tiered:
                return CopyVerdict("its .vif does not say what its source said of where its data is", has_data=False)
            for finding in findings:
                if finding.kind is FindingKind.TIER_UNREACHABLE:
                    return CopyVerdict(finding.detail, has_data=False)
            return CopyVerdict(opened.damage, has_data=True)
        finally:
            opened.release()

    def decide(self, replaces: Iterable[VolumePaths]) -> None:
        """Writes the decision for the copy: from here on the copy counts, also after a crash. All files of the copy
        must be committed and examined before.

        Args:
            replaces: copies in other directories of this server, which the decision removes.

        Raises:
            OSError: the copy does not count; the present volume stays.
            CopyIncomplete: the same. Erasure-coded shards of the id are on this server, and their .vif would have to
                name the tier of the volume.
        """
        if self.is_tiered and shares_vif(self._files, self.paths):
            raise CopyIncomplete(f"{self.paths.base} has shards here, and its data is in a remote tier")
        self._sync_files()
        self._record = decide(self._files, self.paths, replaces)

    def finish_arrival(self) -> None:
        """Renames the files to their final names and removes the replaced files. See `arrival.finish_arrival`."""
        assert self._record is not None, "it was decided"
        finish_arrival(self._files, self.paths, self._record)

    def remove(self) -> None:
        """Removes all files of an undecided copy. Files of a decided copy stay: the next mount or start puts them in
        place. A file that cannot be removed is logged; the next start removes the file.
        """
        if self._record is not None:
            return
        try:
            remove_staged(self._files, self.paths)
        except OSError as error:
            _log.error("what is there of %s is no volume and could not be removed: %s", self.staged.name, error)

    def _sync_files(self) -> None:
        """Syncs the files, because examining them may have repaired them."""
        for extension in VOLUME_EXTENSIONS:
            path = self.staged.file(extension)
            if self._files.facts(path) is None:
                continue
            fd = self._files.open(path, os.O_RDONLY)
            try:
                self._files.sync(fd)
            finally:
                self._files.close(fd)

    def last_append_at_ns(self, version: int) -> int:
        """The append time of the record that the last index row names; a deletion counts. 0 where there is none.

        Raises:
            OSError, FormatError: the files cannot be read or parsed.
        """
        row = self._last_bytes(self.staged.file(".idx"), row_bytes(self._width))
        if version < VERSION_3 or not row:
            return 0
        entry = parse_entry(row, self._width)
        fd = self._files.open(self.staged.file(".dat"), os.O_RDONLY)
        try:
            end_bytes = self._files.facts_of(fd).size_bytes
            at = place_of(lambda length, offset: self._files.read(fd, length, offset), entry, self._width, end_bytes)
            if not at:
                return 0
            header = parse_needle_header(self._files.read(fd, NEEDLE_HEADER_BYTES, at))
            tail_at = at + NEEDLE_HEADER_BYTES + max(header.size, 0) + CHECKSUM_BYTES
            return int.from_bytes(self._files.read(fd, TIMESTAMP_BYTES, tail_at), "big")
        finally:
            self._files.close(fd)

    def _last_bytes(self, path: Path, length: int) -> bytes:
        """The last `length` bytes of a file; b"" for a shorter file."""
        fd = self._files.open(path, os.O_RDONLY)
        try:
            size = self._files.facts_of(fd).size_bytes
            return self._files.read(fd, length, size - length) if size >= length else b""
        finally:
            self._files.close(fd)
