"""One process's part in a volume that several processes read and write: how it follows, locks, publishes.

Readers compare one shared number on each look-up and, when it has moved, read the rows that .idx has gained. Writers
hold a lock that the kernel takes back from the dead; who gets it brings itself up to date first, and repairs the files
when the last holder did not finish. docs/sharing.md has the protocol, and what each death leaves.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from native_handlers.format.idx import iter_entries
from native_handlers.format.types import TOMBSTONE_SIZE
from native_handlers.storage.errors import ReadFailed
from native_handlers.storage.index_base import empty_base
from native_handlers.storage.needle_index import Counters, Layers
from native_handlers.storage.share_repair import repair_files
from native_handlers.storage.shared_index import SharedNeedleIndex, give_back, map_columns, write_columns
from native_handlers.storage.shared_state import BUSY, INTACT, SEQUENCE, GateTexts, IndexTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.storage.files import Files
    from native_handlers.storage.index_base import Base
    from native_handlers.storage.shared_state import SharedState, State
    from native_handlers.storage.volume_open import Opened
    from native_handlers.storage.write_gate import WriteGate


class FilesSwapped(Exception):
    """Other files are the volume's now, or it was closed: what was open is not to be used any more."""


class VolumeShare:
    """A volume's shared head, this process's lock on it, and what this process has seen of it."""

    def __init__(self, files: Files, fd: int, state: SharedState, offset_width_bytes: int) -> None:
        """`fd` is a description of the file in memory that is this process's own."""
        self.files, self.fd, self.state, self.width = files, fd, state, offset_width_bytes
        self._gate: WriteGate | None = None
        self._seen: State | None = None
        self._texts = GateTexts(None, None)
        # Protects _seen and _texts, and makes following and publishing one step each for this process's threads.
        self._mutex = threading.RLock()
        self._publish_at_entries = 0
        self.publish_error: OSError | None = None
        """Why the last merge of the index could not be published; None when it was."""

    def bind(self, gate: WriteGate) -> None:
        """The gate that is to say what all processes know, and whose changes they are to hear of."""
        self._gate = gate

    @property
    def _has_high(self) -> bool:
        return self.width == 5

    # ---- following

    def follow(self, opened: Opened) -> None:
        """Brings `opened`, its index and the gate up to what is committed.

        Raises:
            FilesSwapped: `opened` is of other files than the volume has now.
            ReadFailed: .idx could not be read; nothing changed.
        """
        with self._mutex:
            while not self._follow_once(opened):
                pass

    def look(self, opened: Opened) -> None:
        """The same, where there is anything new."""
        if self.state.words[SEQUENCE] != getattr(opened.index, "sequence", -1):
            self.follow(opened)

    def _follow_once(self, opened: Opened) -> bool:
        index = opened.index
        assert isinstance(index, SharedNeedleIndex)
        state = self.state.read()
        if state.is_closed or state.files_generation != opened.files_generation:
            raise FilesSwapped
        start, layers, counters = opened.idx_end_bytes, index.layers, index.counters
        if index.sequence < 0 or layers.generation != state.index_generation:
            table = self.state.read_table(state)
            if not self.state.is_present(state):
                return False
            try:
                layers = self._map_layers(table, state)
            except OSError as error:
                raise ReadFailed(opened.idx.path, 0, error) from error
            start, counters = table.rows_end_bytes, _counters(table)
        if not self._follow_gate(state):
            return False
        rows = self._read_rows(opened, start, state.idx_end_bytes)
        replay = SharedNeedleIndex(layers, counters, self.state.words, index.follow)
        for needle_id, offset, size in iter_entries(rows, self.width):
            if size == TOMBSTONE_SIZE:
                replay.delete(needle_id)
            else:
                replay.put(needle_id, offset, size)
        if self.state.words[INTACT] > layers.generation:
            # The old needles were looked up in memory that was given back meanwhile.
            index.sequence = -1
            return False
        index.layers, index.counters = layers, counters
        _set_facts(opened, state)
        self._seen = state
        index.sequence = state.sequence
        return True

    def _map_layers(self, table: IndexTable, state: State) -> Layers:
        if self.fd < 0:
            # Closed here meanwhile; a descriptor of -1 would map anything.
            raise FilesSwapped
        parts = [
            map_columns(self.fd, start, count, has_high=self._has_high) if count else None
            for start, count in ((table.base_at, table.base_count), (table.recent_at, table.recent_count))
        ]
        base = parts[0] or empty_base(has_high=self._has_high)
        return Layers(base, parts[1], {}, state.index_generation)

    def _follow_gate(self, state: State) -> bool:
        if self._gate is None or (self._seen is not None and self._seen.gate_generation == state.gate_generation):
            return True
        try:
            texts = self.state.read_texts(state)
        except ValueError:
            if self.state.is_present(state):
                raise
            return False
        if not self.state.is_present(state):
            return False
        self._gate.adopt(*texts)
        self._texts = texts
        return True

    def _read_rows(self, opened: Opened, start: int, end: int) -> bytes:
        if start == end:
            return b""
        try:
            rows = self.files.read(opened.idx.fd, end - start, start)
            if len(rows) != end - start:
                raise OSError(f"{len(rows)} bytes of rows, {end - start} were committed")
        except OSError as error:
            raise ReadFailed(opened.idx.path, start, error) from error
        return rows

    # ---- the lock

    def lock(self) -> State:
        """Waits for the lock, and returns the state that the last holder committed. Raises OSError."""
        self.files.wait_lock(self.fd)
        return self.state.read()

    def unlock(self) -> None:
        self.files.unlock(self.fd)

    @property
    def was_left_busy(self) -> bool:
        """Whether the last holder of the lock did not finish."""
        return self.state.words[BUSY] != 0

    def begin(self) -> None:
        """From now on a death of this process means that the files are to be looked at."""
        self.state.words[BUSY] = os.getpid()

    def is_swapped(self, opened: Opened) -> bool:
        """Whether the volume's paths lead to other files than the state says; under the lock. Raises OSError."""
        table = self.state.read_table(self.state.read())
        there = [self.files.facts(file.path) for file in (opened.dat, opened.idx)]
        known = [(table.dat_device, table.dat_inode), (table.idx_device, table.idx_inode)]
        return [facts and facts.identity for facts in there] != known

    def repair(self, opened: Opened) -> str | None:
        """Repairs the files and commits what they hold now; under the lock. Returns why that is not possible.

        `opened` is then as of the last commit, and its index as it was.

        Raises OSError; it is to be done again.
        """
        state = self.state.read()
        _set_facts(opened, state)
        repaired = repair_files(self.files, opened, self.width)
        if repaired.problem is not None:
            self._seen = state
            return repaired.problem
        index = opened.index
        assert isinstance(index, SharedNeedleIndex)
        # Whatever this process entered of an append that it did not finish is forgotten.
        index.sequence = -1
        self._commit(
            state._replace(
                dat_end_bytes=repaired.dat_end_bytes,
                idx_end_bytes=repaired.idx_end_bytes,
                last_append_at_ns=repaired.last_append_at_ns,
            )
        )
        return None

    def finish(self, opened: Opened | None, *, is_sound: bool) -> None:
        """The end of the work under the lock. Unless `is_sound` the next holder looks at the files.

        What is new in `opened` and in the gate is committed; an index that has grown is merged and published.
        """
        try:
            if not is_sound:
                if opened is not None and isinstance(opened.index, SharedNeedleIndex):
                    opened.index.sequence = -1
                return
            if opened is not None:
                with self._mutex:
                    self._save(opened)
                    self._publish_if_full(opened)
            self.state.words[BUSY] = 0
        finally:
            self.unlock()

    # ---- publishing

    @contextmanager
    def publishing(self, opened: Opened) -> Iterator[None]:
        """What is done to `opened` and its index in here is committed at the end; under the lock."""
        with self._mutex:
            yield
            self._save(opened)

    def _save(self, opened: Opened) -> None:
        assert self._seen is not None
        state = _with_facts(self._seen, opened)
        state = self._save_gate(state)
        if state != self._seen:
            assert isinstance(opened.index, SharedNeedleIndex)
            opened.index.sequence = self._commit(state).sequence

    def _save_gate(self, state: State) -> State:
        if self._gate is None or self._gate.texts == self._texts:
            return state
        self._texts = GateTexts(*self._gate.texts)
        self.state.write_texts(state.gate_generation + 1, self._texts)
        return state._replace(gate_generation=state.gate_generation + 1)

    def _commit(self, state: State) -> State:
        self._seen = self.state.commit(state)
        return self._seen

    def _publish_if_full(self, opened: Opened) -> None:
        entries = len(opened.index.layers.delta)
        if not opened.index.is_delta_full or entries < self._publish_at_entries:
            return
        index = opened.index
        assert isinstance(index, SharedNeedleIndex)
        try:
            self._publish(opened, index, files_generation=opened.files_generation)
            self._publish_at_entries, self.publish_error = 0, None
        except OSError as error:
            # No memory: the index is as right as before and takes more of it. To be tried again when it has doubled.
            self._publish_at_entries, self.publish_error = 2 * entries, error

    def adopt(self, opened: Opened, *, files_generation: int) -> None:
        """Makes `opened`, whose index is this process's own, the shared volume; under the lock.

        Raises OSError; the shared volume is as before.
        """
        private = opened.index
        index = SharedNeedleIndex(private.layers, private.counters, self.state.words, lambda: self.follow(opened))
        with self._mutex:
            self._seen = self.state.read()
            self._publish(opened, index, files_generation=files_generation)
            opened.share, opened.files_generation = self, files_generation
            # Last: readers take what is here without a lock, and it must be whole.
            opened.index = index

    def _publish(self, opened: Opened, index: SharedNeedleIndex, *, files_generation: int) -> None:
        """Writes the index without a dict as columns, commits that, and gives the old columns back."""
        state = self._seen
        assert state is not None
        generation = state.index_generation + 1
        old = self.state.read_table(state)
        settled = index.layers.settled()
        is_same_base = settled.base is index.layers.base and index.layers.generation == state.index_generation > 0
        base_at = old.base_at if is_same_base else self._write(settled.base)
        recent_at = self._write(settled.recent) if settled.recent is not None else 0
        counters = index.counters
        table = IndexTable(
            base_at,
            len(settled.base),
            recent_at,
            len(settled.recent) if settled.recent is not None else 0,
            opened.idx_end_bytes,
            counters.file_count,
            counters.content_bytes,
            counters.deleted_count,
            counters.deleted_bytes,
            counters.max_needle_id,
            *self.files.facts_of(opened.dat.fd).identity,
            *self.files.facts_of(opened.idx.fd).identity,
            int(opened.is_writable),
        )
        new = state._replace(index_generation=generation, files_generation=files_generation)
        layers = self._map_layers(table, new)
        self.state.write_table(generation, table)
        new = self._commit(self._save_gate(_with_facts(new, opened)))
        index.layers = layers
        index.sequence = new.sequence
        self.state.words[INTACT] = generation
        try:
            give_back(self.files, self.fd, table, has_high=self._has_high)
        except OSError as error:
            # The new columns stand; the next publication gives back what this one could not.
            self.publish_error = error

    def _write(self, base: Base) -> int:
        return write_columns(self.files, self.fd, base) if len(base) else 0

    def retire(self) -> None:
        """Tells every process that the volume is closed; under the lock."""
        with self._mutex:
            self._commit(self.state.read()._replace(is_closed=1))

    def release(self) -> None:
        """Takes this process out: closes its descriptor, and with it gives the lock back."""
        with self._mutex:
            fd, self.fd = self.fd, -1
        if fd >= 0:
            self.files.close(fd)


def _counters(table: IndexTable) -> Counters:
    return Counters(
        table.file_count, table.content_bytes, table.deleted_count, table.deleted_bytes, table.max_needle_id
    )


def _set_facts(opened: Opened, state: State) -> None:
    opened.dat_end_bytes, opened.idx_end_bytes = state.dat_end_bytes, state.idx_end_bytes
    opened.last_append_at_ns, opened.modified_at_s = state.last_append_at_ns, state.modified_at_s
    opened.last_modified_s, opened.doubtful_end_bytes = state.last_modified_s, state.doubtful_end_bytes


def _with_facts(state: State, opened: Opened) -> State:
    return state._replace(
        dat_end_bytes=opened.dat_end_bytes,
        idx_end_bytes=opened.idx_end_bytes,
        last_append_at_ns=opened.last_append_at_ns,
        modified_at_s=opened.modified_at_s,
        last_modified_s=opened.last_modified_s,
        doubtful_end_bytes=opened.doubtful_end_bytes,
    )
