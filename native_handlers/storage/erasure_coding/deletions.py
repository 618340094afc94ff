"""The deletions of an erasure-coded volume since its coding: one set for all disks of a server.

Each index of the volume on this server has a journal (.ecj) beside it: one for each disk, or one that several disks
share. A deletion is written to every open journal before it counts. A journal that is opened later gets the rows that
it lacks. So each disk hides the deleted needles, also when it is the only one that stays.

Source: weed/storage/erasure_coding/ec_volume_delete.go; upstream writes to the journal of one disk.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from native_handlers.storage.erasure_coding.index_files import ID_BYTES, journal_ids, journal_rows
from native_handlers.storage.erasure_coding.names import encode_ts_of, load_info
from native_handlers.storage.model.errors import VolumeClosed
from native_handlers.storage.system.files import read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence
    from pathlib import Path

    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.system.files import Files

_log = logging.getLogger(__name__)


class _Journal:
    """An open .ecj. The caller serialises the calls.

    Attributes:
        disk_ids: the disks whose shards use the file.
        lacking: ids that are in other journals and not in this one, in order.
    """

    def __init__(self, files: Files, path: Path) -> None:
        """Opens the file, or makes it. Raises OSError."""
        self._files, self.path = files, path
        self.disk_ids: set[int] = set()
        self.lacking: dict[int, None] = {}
        self._fd = files.open(path, os.O_RDWR | os.O_CREAT)
        try:
            self.found = journal_ids(files.read(self._fd, files.facts_of(self._fd).size_bytes, 0))
            """The rows at the opening, until they are taken in."""
        except BaseException:
            self.close()
            raise

    def append(self, needle_ids: Sequence[int]) -> None:
        """Writes the ids that are lacking, and `needle_ids`, durably. Raises OSError: none of them is written."""
        rows = list(dict.fromkeys((*self.lacking, *needle_ids)))
        if not rows:
            return
        # A partial id at the end was never acknowledged.
        end = self._files.facts_of(self._fd).size_bytes // ID_BYTES * ID_BYTES
        try:
            self._files.write(self._fd, [journal_rows(rows)], end)
            self._files.sync(self._fd)
        except OSError:
            self._files.truncate(self._fd, end)
            raise
        self.lacking = {}

    def close(self) -> None:
        self._files.close(self._fd)


class Deletions:
    """The deletions of one coding of a volume on this server. Safe from any thread.

    Attributes:
        ids: the deleted needles. Readers take no lock.
    """

    def __init__(self, volume_id: int, is_in_service: Callable[[Path, Iterable[int]], bool]) -> None:
        """`is_in_service` tells of a journal, by its path and the ids of the disks that use it, whether it can be
        written to.
        """
        self.ids: set[int] = set()
        self._volume_id, self._is_in_service = volume_id, is_in_service
        # Protects the fields below, and changes of `ids`.
        self._lock = threading.RLock()
        self._journals: dict[Path, _Journal] = {}
        self._rows: dict[int, None] = {}
        """The ids that belong into each journal."""
        self._noted: deque[int] = deque()
        """Those of `note` that are not among them yet. Takes no lock."""

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Inside, no other thread records a deletion."""
        with self._lock:
            yield

    @property
    def paths(self) -> frozenset[Path]:
        """The open journals."""
        return frozenset(self._journals)

    # ---- journals

    def join(self, files: Files, path: Path, disk_id: int, elsewhere: Iterable[int]) -> None:
        """Opens the journal of a disk's index, if no other disk has opened it. Each journal then gets the rows that the
        others have.

        A row that cannot be written to one of them is logged. It stays in the others, and the next deletion and
        `write_lacking` try again.

        Args:
            files: those of the disk with its reserve: deletions go on while the disk is full.
            elsewhere: the ids in journals of this coding that are not open.

        Raises:
            OSError: the journal cannot be opened or read.
        """
        with self._lock:
            self._take_noted()
            journal = self._journals.get(path)
            if journal is None:
                journal = _Journal(files, path)
                self._take_in(journal, elsewhere)
            journal.disk_ids.add(disk_id)
            self._complete(self._served())

    def _take_in(self, journal: _Journal, elsewhere: Iterable[int]) -> None:
        found = dict.fromkeys(journal.found)
        new = {one: None for one in (*found, *elsewhere) if one not in self._rows}
        for other in self._journals.values():
            other.lacking |= new
        self._rows |= new
        self.ids.update(new)
        journal.lacking = {one: None for one in self._rows if one not in found}
        journal.found = []
        self._journals[journal.path] = journal

    def _complete(self, journals: Iterable[_Journal]) -> bool:
        """Writes what each of the journals lacks. Returns whether none lacks anything any more; a failure is logged."""
        is_whole = True
        for journal in journals:
            try:
                journal.append([])
            except OSError as error:
                is_whole = False
                _log.warning("ec volume %d: a journal lacks deletions of another disk: %s", self._volume_id, error)
        return is_whole

    def write_lacking(self, disk_id: int) -> bool:
        """Writes the rows that the journal of a disk in service lacks: those of the time when the disk was out of
        service, or could not be written to. Returns whether the journal lacks none any more.

        Does not wait for a deletion under way, which may hang at another disk.
        """
        mine = [one for one in list(self._journals.values()) if disk_id in one.disk_ids]
        if not self._noted and not any(one.lacking for one in mine):
            return True
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._take_noted()
            return self._complete(one for one in self._served() if disk_id in one.disk_ids)
        finally:
            self._lock.release()

    def note(self, needle_ids: Sequence[int]) -> None:
        """Hides needles at once. The journals get them with the next deletion, `write_lacking` or `leave`: for a disk
        that is out of service, and may hang with the lock held. The end of the process before that forgets them.
        """
        self._noted.extend(needle_ids)
        self.ids.update(needle_ids)

    def _take_noted(self) -> None:
        while self._noted:
            needle_id = self._noted.popleft()
            if needle_id not in self._rows:
                self._rows[needle_id] = None
                for journal in self._journals.values():
                    journal.lacking[needle_id] = None

    def _served(self) -> list[_Journal]:
        """The journals on disks in service."""
        return [one for one in self._journals.values() if self._is_in_service(one.path, one.disk_ids)]

    def leave(self, path: Path, disk_id: int) -> None:
        """Ends a disk's use of a journal. The last one closes the file, after the rows that the file lacks were
        written, if the disk is in service.
        """
        with self._lock:
            self._take_noted()
            journal = self._journals.get(path)
            if journal is None:
                return
            if journal.disk_ids == {disk_id} and self._is_in_service(path, [disk_id]):
                self._complete([journal])
            journal.disk_ids.discard(disk_id)
            if not journal.disk_ids:
                del self._journals[path]
                journal.close()

    # ---- deletions

    def record(self, needle_ids: Sequence[int]) -> None:
        """Records deletions durably, in every journal whose disk is in service.

        Raises:
            VolumeClosed: no journal can be written to. Nothing is recorded.
            OSError: the needles are not deleted here. A journal may have the rows, so the next start may find the
                needles deleted. The same call may be made again.
        """
        with self._lock:
            self._take_noted()
            new = dict.fromkeys(one for one in needle_ids if one not in self.ids)
            served = self._served()
            if not served:
                raise VolumeClosed(self._volume_id)
            for journal in served:
                journal.append(list(new))
            for journal in self._journals.values():
                if journal not in served:
                    journal.lacking |= new
            self._rows |= new
            self.ids.update(new)


def journals_of(  # noqa: PLR0913  what to do with a file that cannot be read
    files: Files,
    locations: Iterable[DiskLocation],
    name: str,
    encode_ts_ns: int,
    known: Container[Path],
    *,
    leaves_out_unreadable: bool = True,
) -> list[int]:
    """The ids in the .ecj files of one coding on any of the disks, except the `known` files.

    Args:
        leaves_out_unreadable: a file that cannot be read is logged, and is left out; else it raises OSError.
    """
    found: list[int] = []
    for location in locations:
        directories = tuple(dict.fromkeys((location.path, location.idx_path)))
        for path in (directory / (name + ".ecj") for directory in directories):
            if path in known:
                continue
            try:
                content = read_file(files, path)
                infos = (directory / (name + ".vif") for directory in directories)
                if content and encode_ts_of(load_info(files, infos)) == encode_ts_ns:
                    found += journal_ids(content)
            except OSError as error:
                if not leaves_out_unreadable:
                    raise
                _log.warning("%s: its deletions are not taken into account: %s", path, error)
    return found
