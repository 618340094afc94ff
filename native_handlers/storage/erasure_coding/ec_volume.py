"""An erasure-coded volume that is open on one disk: some of its shards, its index, and the deletions since its coding.

Source: weed/storage/erasure_coding/ec_volume.go, ec_volume_delete.go, ec_shard.go.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from native_handlers.format.idx import IdxEntry, row_bytes
from native_handlers.format.types import CURRENT_VERSION, TOMBSTONE_SIZE
from native_handlers.format.volume_name import format_volume_name
from native_handlers.storage.erasure_coding.bitrot import load_checksums
from native_handlers.storage.erasure_coding.index_files import (
    ID_BYTES,
    check_whole,
    count_rows,
    find_row,
    fold_journal,
    journal_ids,
)
from native_handlers.storage.erasure_coding.layout import Layout
from native_handlers.storage.erasure_coding.names import load_info, ratio_of, shard_extension
from native_handlers.storage.model.errors import VolumeClosed
from native_handlers.storage.system.files import FileRetired, SharedFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from native_handlers.storage.erasure_coding.bitrot import Checksums, Protection
    from native_handlers.storage.system.files import Files


@dataclass(frozen=True, slots=True)
class EcPlace:
    """The places of an erasure-coded volume's files on one disk.

    Args:
        index_dir: the directory of .ecx and .ecj: beside the shards, the index directory, or one on another disk.
        disk_type: the disk type for heartbeats, in its wire form.
    """

    data_dir: Path
    index_dir: Path
    collection: str
    volume_id: int
    disk_id: int
    disk_type: str

    @property
    def name(self) -> str:
        return format_volume_name(self.collection, self.volume_id)

    @property
    def base(self) -> Path:
        return self.data_dir / self.name

    def shard(self, shard_id: int) -> Path:
        return self.data_dir / (self.name + shard_extension(shard_id))

    def index(self, extension: str) -> Path:
        """The path of ``.ecx`` or ``.ecj``."""
        return self.index_dir / (self.name + extension)

    def sidecars(self, extension: str) -> list[Path]:
        """The places of ``.vif`` or ``.ecsum``, the first choice first."""
        return list(dict.fromkeys(directory / (self.name + extension) for directory in (self.data_dir, self.index_dir)))


class EcShard:
    """An open shard file. It is closed when its volume has released it and the last read has ended."""

    def __init__(self, files: Files, place: EcPlace, shard_id: int) -> None:
        """Opens the file. Raises OSError."""
        self.id = shard_id
        self.path = place.shard(shard_id)
        self._file = SharedFile.open(files, self.path, os.O_RDONLY)
        try:
            self.size_bytes = files.facts_of(self._file.fd).size_bytes
        except OSError:
            self._file.release()
            raise

    def read_into(self, buffer: memoryview, offset_bytes: int, *, cached_only: bool = False) -> bool:
        """Fills `buffer` and returns True. Returns False where the shard ends before, or was closed.

        Raises:
            OSError: the disk failed.
            NotCached: `cached_only`, and memory does not hold all of the bytes.
        """
        try:
            with held(self._file):
                if cached_only:
                    self._file.read_cached_into(buffer, offset_bytes)
                    return True
                return self._file.read_into(buffer, offset_bytes) == len(buffer)
        except FileRetired:
            return False

    def read(self, length_bytes: int, offset_bytes: int) -> bytes:
        """The bytes at `offset_bytes`, fewer only at the end of the file. Raises OSError, or FileRetired when the shard
        is closed.
        """
        with held(self._file):
            return self._file.read(length_bytes, offset_bytes)

    def close(self) -> None:
        """Releases the file."""
        self._file.release()


@contextmanager
def held(file: SharedFile) -> Iterator[SharedFile]:
    """Keeps a file open inside the block. Raises FileRetired where it is closed."""
    file.retain()
    try:
        yield file
    finally:
        file.release()


class EcVolume:
    """The open shards of one volume on one disk. Safe from any thread."""

    def __init__(self, files: Files, place: EcPlace, offset_width_bytes: int) -> None:
        """Opens the index. No shard is open yet.

        Raises:
            OSError: FileNotFoundError where there is no .ecx; nothing stays open.
        """
        self.place = place
        self.id, self.collection = place.volume_id, place.collection
        self.disk_type = place.disk_type
        self._files, self._width = files, offset_width_bytes
        self.shards: dict[int, EcShard] = {}
        """By id. Replaced as a whole: readers take no lock."""
        self.deleted: set[int] = set()
        """The ids that were deleted since the volume was coded."""
        # Protects the journal, and the open index while it is replaced.
        self._lock = threading.Lock()
        info = load_info(files, place.sidecars(".vif"))
        config = info.ec_shard_config if info is not None else None
        self.ratio = ratio_of(info)
        self.version = (info.version if info is not None else 0) or CURRENT_VERSION
        self.dat_bytes = info.dat_file_size if info is not None else 0
        """The length of the .dat when it was coded; 0 where it is not known."""
        self.expire_at_s = info.expire_at_s if info is not None else 0
        self.encode_ts_ns = config.encode_ts_ns if config is not None else 0
        """Tells two encodings of a volume apart; 0 where the .vif has none."""
        self._ecx = SharedFile.open(files, place.index(".ecx"), os.O_RDONLY)
        try:
            facts = files.facts_of(self._ecx.fd)
            self.created_at_s, self.ecx_bytes = facts.modified_at_s, facts.size_bytes
            self._journal: SharedFile | None = self._open_journal()
        except OSError:
            self._ecx.release()
            raise

    def _open_journal(self) -> SharedFile:
        journal = SharedFile.open(self._files, self.place.index(".ecj"), os.O_RDWR | os.O_CREAT)
        try:
            content = journal.read(self._files.facts_of(journal.fd).size_bytes, 0)
        except OSError:
            journal.release()
            raise
        self.deleted.update(journal_ids(content))
        return journal

    # ---- facts

    @property
    def layout(self) -> Layout:
        """The layout of the blocks."""
        if self.dat_bytes > 0:
            return Layout.of_dat(self.dat_bytes, self.ratio.data)
        return Layout.of_shard(self.shard_bytes, self.ratio.data)

    @property
    def shard_bytes(self) -> int:
        """The length of a shard; 0 while none is open."""
        return next((shard.size_bytes for shard in self.shards.values()), 0)

    @property
    def file_count(self) -> int:
        """The number of needles in the index, deleted ones included."""
        return self.ecx_bytes // row_bytes(self._width)

    @property
    def is_expired(self) -> bool:
        return 0 < self.expire_at_s < time.time()

    def counts(self) -> tuple[int, int, int]:
        """Live needles, deleted ones, and the sum of all sizes, as upstream counts them: deletions since the coding
        count as live. Reads the whole index. Raises as `read_index`.
        """
        return count_rows(self.read_index(), self._width)

    def read_index(self) -> bytes:
        """The .ecx. Raises OSError, VolumeClosed, or BadEcIndex where its last row is partial."""
        content = self.read_rows()
        check_whole(content, self._width, self.place.index(".ecx"))
        return content

    def read_rows(self) -> bytes:
        """The .ecx as it is now, with a partial row if there is one. Raises OSError, VolumeClosed."""
        try:
            with held(self._ecx) as file:
                return file.read(self._files.facts_of(file.fd).size_bytes, 0)
        except FileRetired as error:
            raise VolumeClosed(self.id) from error

    def checksums(self) -> tuple[Protection, Checksums | None]:
        """The content of the .ecsum. Raises OSError."""
        return load_checksums(self._files, self.place.sidecars(".ecsum"), self.ratio)

    # ---- shards

    def add_shard(self, shard: EcShard) -> None:
        """Adds an open shard; an open shard with the same id is closed."""
        old = self.shards.get(shard.id)
        self.shards = dict(sorted({**self.shards, shard.id: shard}.items()))
        if old is not None:
            old.close()

    def drop_shard(self, shard_id: int) -> bool:
        """Closes a shard. Returns whether it was open."""
        shard = self.shards.get(shard_id)
        if shard is None:
            return False
        self.shards = {one: other for one, other in self.shards.items() if one != shard_id}
        shard.close()
        return True

    # ---- needles

    def find(self, needle_id: int, *, cached_only: bool = False) -> IdxEntry | None:
        """The needle's row, with the size of a deletion where the needle was deleted; None where there is none.

        Raises:
            VolumeClosed, OSError.
            NotCached: `cached_only`, and memory does not hold the needed part of the index.
        """
        try:
            with held(self._ecx) as file:
                read = partial(_read_cached, self._files, file) if cached_only else file.read
                entry = find_row(read, self.ecx_bytes, needle_id, self._width)
        except FileRetired as error:
            raise VolumeClosed(self.id) from error
        if entry is not None and needle_id in self.deleted:
            return entry._replace(size=TOMBSTONE_SIZE)
        return entry

    def delete(self, needle_id: int) -> None:
        """Records a deletion, durably. An absent or deleted needle is a success.

        Raises:
            VolumeClosed, OSError: the needle is not deleted.
        """
        entry = self.find(needle_id)
        if entry is None:
            return
        with self._lock:
            if needle_id in self.deleted:
                return
            if entry.size >= 0:
                self._append(needle_id)
            self.deleted.add(needle_id)

    def merge_journal(self, needle_ids: Sequence[int]) -> None:
        """Records deletions from another server. Raises VolumeClosed, OSError: none of them is recorded."""
        with self._lock:
            new = [needle_id for needle_id in dict.fromkeys(needle_ids) if needle_id not in self.deleted]
            if new:
                self._append(*new)
                self.deleted.update(new)

    def _append(self, *needle_ids: int) -> None:
        journal = self._journal
        if journal is None:
            raise VolumeClosed(self.id)
        # The end is read anew, because the same volume on another disk of this server may share the file. A partial id
        # at the end was never acknowledged.
        end = self._files.facts_of(journal.fd).size_bytes // ID_BYTES * ID_BYTES
        try:
            content = b"".join(needle_id.to_bytes(ID_BYTES, "big") for needle_id in needle_ids)
            self._files.write(journal.fd, [content], end)
            self._files.sync(journal.fd)
        except OSError:
            self._files.truncate(journal.fd, end)
            raise

    def fold(self) -> None:
        """Writes the deletions into the .ecx. Errors as `fold_journal`; the volume goes on with the files that are
        there.
        """
        with self._lock:
            if self._journal is None:
                raise VolumeClosed(self.id)
            fold_journal(self._files, self.place.index(".ecx"), self.place.index(".ecj"), self._width)
            ecx = SharedFile.open(self._files, self.place.index(".ecx"), os.O_RDONLY)
            old_ecx, old_journal = self._ecx, self._journal
            self._ecx, self._journal = ecx, self._open_journal()
            old_ecx.release()
            old_journal.release()

    def sync(self) -> None:
        """Puts the journal on disk. Raises OSError."""
        with self._lock:
            if self._journal is not None:
                self._files.sync(self._journal.fd)

    def close(self) -> None:
        """Releases all files; reads keep them open until they end. May be called again."""
        with self._lock:
            journal, self._journal = self._journal, None
        if journal is None:
            return
        shards, self.shards = self.shards, {}
        for shard in shards.values():
            shard.close()
        journal.release()
        self._ecx.release()


def _read_cached(files: Files, file: SharedFile, length_bytes: int, offset_bytes: int) -> bytes:
    return files.read_cached(file.fd, length_bytes, offset_bytes)
