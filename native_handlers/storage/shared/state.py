"""The common state of the processes that share a volume: a few pages at the head of a file in memory.

One number, `SEQUENCE`, says which of two slots holds the present state. Changing it makes a new state valid: a process
that dies before the change leaves the old state whole; a process that dies after it has finished. Tables that change
seldom (the place of the index, the reasons for refusing writes) have two copies in the same way, and the state has
their numbers. Only the holder of the volume's lock writes; reading needs no lock. Byte by byte: docs/sharing.md.
"""

from __future__ import annotations

import json
import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.storage.volume.paths import VolumePaths
from native_handlers.storage.volume.state import VolumeProgress

if TYPE_CHECKING:
    from native_handlers.storage.system.files import Files

HEAD_BYTES = 32 << 10
_MAGIC = 0x7765656473686173
"""Changes with the layout. All processes of a server have one version, so nothing is ever converted."""

SEQUENCE, BUSY, INTACT, HELD = 1, 2, 3, 4
"""Indexes of 8-byte words. BUSY is the process that works under the lock, 0 when the last one finished properly. INTACT
is the oldest generation of the index whose memory was not freed. HELD is not 0 while only the process that opened the
volume may write: that process alone changes HELD, without the lock."""

_SLOTS_AT, _SLOT_BYTES = 256, 128
_TABLES_AT, _TABLE_BYTES = 512, 256
_TEXTS_AT, _TEXT_BYTES = 1024, 2048
_CONFIG_AT = 8192
_MASK = (1 << 64) - 1


class CommittedState(NamedTuple):
    """The present state of a shared volume. The ends are the committed ones: the files may be longer."""

    sequence: int
    dat_end_bytes: int
    idx_end_bytes: int
    last_append_at_ns: int
    modified_at_s: int
    last_modified_s: int
    sync_failed_end_bytes: int
    files_generation: int
    index_generation: int
    texts_generation: int
    is_closed: int

    @property
    def progress(self) -> VolumeProgress:
        """How far the volume is written. Its fields stand together, in the order of `VolumeProgress`."""
        return VolumeProgress._make(tuple(self)[_PROGRESS])

    def at(self, progress: VolumeProgress) -> CommittedState:
        """This state with another progress."""
        return CommittedState._make((self.sequence, *progress, *tuple(self)[_PROGRESS.stop :]))


class IndexTable(NamedTuple):
    """The places of the index's columns, their counters, and the identity of the volume's files.

    `rows_end_bytes` is the part of .idx that they cover. Offsets are in the file in memory; a count of 0 means no
    columns.
    """

    base_at: int
    base_count: int
    recent_at: int
    recent_count: int
    rows_end_bytes: int
    file_count: int
    content_bytes: int
    deleted_count: int
    deleted_bytes: int
    max_needle_id: int
    dat_device: int
    dat_inode: int
    idx_device: int
    idx_inode: int
    is_writable: int


class RefusalTexts(NamedTuple):
    """The reasons why the volume refuses writes; None where it does not."""

    no_write_or_delete: str | None
    no_write_can_delete: str | None


_PROGRESS = slice(1, 1 + len(VolumeProgress._fields))
_STATE = struct.Struct(f"<{len(CommittedState._fields)}QQ")
_TABLE = struct.Struct(f"<{len(IndexTable._fields)}Q")


class ShareLost(Exception):
    """The descriptor is no shared volume, or one of another version."""


class SharedState:
    """The mapped head. `words` are its first numbers; each is read and written atomically."""

    def __init__(self, fd: int, *, reads_only: bool = False) -> None:
        """Maps the head of `fd`, which must have HEAD_BYTES; with `reads_only` it cannot be written. Raises OSError,
        ValueError.
        """
        self._map = mmap.mmap(fd, HEAD_BYTES, access=mmap.ACCESS_READ if reads_only else mmap.ACCESS_DEFAULT)
        self._view = memoryview(self._map)
        self.words = self._view[:_SLOTS_AT].cast("Q")

    @classmethod
    def create(cls, files: Files, fd: int, paths: VolumePaths, offset_width_bytes: int) -> SharedState:
        """Makes the head of a new file in memory. Raises OSError."""
        where = [str(paths.data_dir), str(paths.index_dir), paths.collection, paths.volume_id, offset_width_bytes]
        config = json.dumps(where).encode()
        files.write(fd, [bytes(HEAD_BYTES)], 0)
        files.write(fd, [struct.pack("<I", len(config)), config], _CONFIG_AT)
        state = cls(fd)
        state.words[0] = _MAGIC
        return state

    @classmethod
    def attach(cls, fd: int, *, reads_only: bool = False) -> tuple[SharedState, VolumePaths, int]:
        """Maps the head of a file that another process made. Returns it with the volume's paths and offset width.

        Raises:
            ShareLost: the file is no shared volume.
        """
        try:
            state = cls(fd, reads_only=reads_only)
        except (OSError, ValueError) as error:
            raise ShareLost(f"descriptor {fd} is no shared volume: {error}") from error
        if state.words[0] != _MAGIC:
            raise ShareLost(f"descriptor {fd} is no shared volume of this version")
        (length,) = struct.unpack_from("<I", state._view, _CONFIG_AT)
        data, index, collection, volume_id, width = json.loads(bytes(state._view[_CONFIG_AT + 4 :][:length]))
        return state, VolumePaths(Path(data), Path(index), collection, volume_id), width

    def read(self) -> CommittedState:
        """The present state, from any thread. Tables with the state's numbers are valid while `is_present` is true."""
        while True:
            sequence = self.words[SEQUENCE]
            *fields, check = _STATE.unpack_from(self._view, _slot(sequence))
            # The sum detects a processor that sees another one's writes out of order.
            if check == sum(fields) & _MASK and fields[0] == sequence == self.words[SEQUENCE]:
                return CommittedState._make(fields)

    def commit(self, state: CommittedState) -> CommittedState:
        """Makes `state` the present one, under the next sequence number, and returns it with that number."""
        state = state._replace(sequence=self.words[SEQUENCE] + 1)
        _STATE.pack_into(self._view, _slot(state.sequence), *state, sum(state) & _MASK)
        self.words[SEQUENCE] = state.sequence
        return state

    def is_present(self, state: CommittedState) -> bool:
        return self.words[SEQUENCE] == state.sequence

    def read_table(self, state: CommittedState) -> IndexTable:
        """The table of the index of `state`. Valid if `state` is still present afterwards."""
        return IndexTable._make(_TABLE.unpack_from(self._view, _table(state.index_generation)))

    def write_table(self, generation: int, table: IndexTable) -> None:
        """Writes the table of a generation that no state names yet."""
        _TABLE.pack_into(self._view, _table(generation), *table)

    def read_texts(self, state: CommittedState) -> RefusalTexts:
        """The reasons for refusing writes. Valid if `state` is still present afterwards."""
        start = _TEXTS_AT + state.texts_generation % 2 * _TEXT_BYTES
        (length,) = struct.unpack_from("<I", self._view, start)
        length = min(length, _TEXT_BYTES - 4)
        no_write_or_delete, no_write_can_delete = json.loads(
            bytes(self._view[start + 4 : start + 4 + length]) or "[0,0]"
        )
        return RefusalTexts(no_write_or_delete or None, no_write_can_delete or None)

    def write_texts(self, generation: int, texts: RefusalTexts) -> None:
        """Writes the texts of a generation that no state names yet. Long texts are cut."""
        start = _TEXTS_AT + generation % 2 * _TEXT_BYTES
        # In JSON a character takes 6 bytes at most, or 12 beyond the first 65536.
        text = json.dumps([why and why[:80] for why in texts]).encode()
        struct.pack_into("<I", self._view, start, len(text))
        self._view[start + 4 : start + 4 + len(text)] = text


def _slot(sequence: int) -> int:
    return _SLOTS_AT + sequence % 2 * _SLOT_BYTES


def _table(generation: int) -> int:
    return _TABLES_AT + generation % 2 * _TABLE_BYTES
