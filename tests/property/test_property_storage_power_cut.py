"""The store and power cuts: at every file operation, with everything that the disk may then hold.

A scenario runs once on a `PowerCutFiles`, which keeps what is on disk at each step together with what had been
promised by then. From each of those the directories that a cut may leave are made and opened.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.files import UnsyncedFiles
from support.power_cut_files import DiskModel, PowerCutFiles, after_cut, all_after_cut
from support.stores import open_at
from support.waiting import LIMIT_S, wait_until

from native_handlers.format import crc
from native_handlers.format.needle import Needle, encode_needle
from native_handlers.storage.check import check_directory
from native_handlers.storage.disk.session_mark import SESSION_FILE_NAME
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import CookieMismatch, Deleted, NotFound, ReadOnly
from native_handlers.storage.store_state import ServerState

if TYPE_CHECKING:
    from collections.abc import Iterator

COOKIE = 0xC0FFEE
VID = 7
MISSING = None
FULLY, DELETES_ONLY = "all", "but deletes"
FORBIDDEN = {"": (), FULLY: ("write", "write_blob", "delete"), DELETES_ONLY: ("write", "write_blob")}
"""The operations that a mark refuses."""
OTHER_BOOT = b"00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Facts:
    """The decisions of operators. A change is promised once it was acknowledged; until then the old value may stay."""

    mark: frozenset[str] = frozenset({""})
    placement: frozenset[str] = frozenset({"000"})
    state: frozenset[ServerState] = frozenset({ServerState()})


@dataclass
class Promise:
    """`allowed` maps a needle id to all allowed results of a read. `is_whole`: the volume itself must be there. `facts`
    are the other promises, each with all allowed values.
    """

    allowed: dict[int, set[bytes | None]] = field(default_factory=dict)
    is_whole: bool = False
    is_dropping: bool = False
    facts: Facts = field(default_factory=Facts)

    def copy(self) -> Promise:
        allowed = {needle_id: set(choices) for needle_id, choices in self.allowed.items()}
        return Promise(allowed, self.is_whole, self.is_dropping, self.facts)


class Scenario:
    """Runs operations and gathers a (disk, promise) for each point at which the power may fail."""

    def __init__(self, directory: Path, width: int) -> None:
        self.directory, self.width = directory, width
        self.files = PowerCutFiles(directory)
        self.promise = Promise()
        self.now: dict[int, bytes | None] = {}
        self.points: list[tuple[DiskModel, Promise]] = []
        self.files.on_step = self._record
        self.store = open_at(directory, offset_width_bytes=width, files=self.files)

    def _record(self) -> None:
        self.points.append((self.files.disk.copy(), self.promise.copy()))

    def allocate(self, version: int) -> None:
        self.store.allocate_volume(VID, version=version)
        self.promise.is_whole = True

    def write(self, needle_id: int, data: bytes, *, fsync: bool) -> None:
        self._may_become(needle_id, data)
        write(self.store, needle_id, data, fsync=fsync)
        if fsync:
            self._all_is_synced()

    def write_together(self, first: int, needles: dict[int, bytes]) -> None:
        """Threads write `needles` with one pair of syncs: all of them wait while a thread writes the needle `first`."""
        volume = self.store.find_volume(VID)
        is_writing, may_go_on = threading.Event(), threading.Event()

        def hold() -> None:
            self.files.on_step = self._record
            is_writing.set()
            assert may_go_on.wait(LIMIT_S)
            self._record()

        for needle_id, data in {first: b"first", **needles}.items():
            self._may_become(needle_id, data)
        self.files.on_step = hold
        with ThreadPoolExecutor(1 + len(needles)) as threads:
            try:
                writes = [threads.submit(write, self.store, first, b"first", fsync=True)]
                assert is_writing.wait(LIMIT_S)
                writes += [threads.submit(write, self.store, *needle, fsync=True) for needle in needles.items()]
                wait_until(lambda: volume.waiting_writes == len(needles))
            finally:
                may_go_on.set()
            for one in writes:
                one.result()
        self._all_is_synced()

    def delete(self, needle_id: int) -> None:
        self._may_become(needle_id, MISSING)
        self.store.get_volume(VID).delete(needle_id, COOKIE)

    def write_blob(self, needle_id: int, data: bytes) -> None:
        needle = Needle(needle_id=needle_id, cookie=COOKIE, data=data, checksum=crc.crc32c(data))
        volume = self.store.find_volume(VID)
        blob = encode_needle(needle, volume.version)
        self._may_become(needle_id, data)
        volume.write_blob(needle_id, blob, needle.size)

    def sync(self) -> None:
        self.store.sync()
        self._all_is_synced()

    def vacuum(self, *meanwhile) -> None:
        """A whole vacuum, with the operations of `meanwhile` between the copy and its commit."""
        compaction = self.store.find_volume(VID).compaction
        list(compaction.run(CompactionOptions()))
        for step in meanwhile:
            take(self, step)
        compaction.commit()
        self._all_is_synced()

    def mark(self, how: str) -> None:
        with self._changing("mark", how):
            if how:
                self.store.mark_readonly(self.store.get_volume(VID), can_delete=how == DELETES_ONLY, persist=True)
            else:
                self.store.mark_writable(self.store.get_volume(VID))

    def configure(self, replication: str) -> None:
        with self._changing("placement", replication):
            self.store.configure_volume(VID, replication)

    def set_state(self, *, maintenance: bool) -> None:
        version = self.store.state.version
        with self._changing("state", ServerState(maintenance, version + 1)):
            self.store.set_state(ServerState(maintenance, version))

    @contextmanager
    def _changing(self, name: str, value: object) -> Iterator[None]:
        facts = self.promise.facts
        self.promise.facts = replace(facts, **{name: getattr(facts, name) | {value}})
        yield
        self.promise.facts = replace(facts, **{name: frozenset({value})})

    def drop(self) -> None:
        self.promise.is_dropping = True
        self.store.delete_volume(VID, only_empty=False)
        self.promise = Promise(facts=self.promise.facts)

    def _may_become(self, needle_id: int, data: bytes | None) -> None:
        self.promise.allowed.setdefault(needle_id, {MISSING}).add(data)
        self.now[needle_id] = data

    def _all_is_synced(self) -> None:
        self.promise.allowed = {needle_id: {data} for needle_id, data in self.now.items()}

    def end(self) -> None:
        self._record()
        self.store.close()
        self._record()


def write(store, needle_id, data, *, fsync):
    store.get_volume(VID).write(Needle(needle_id=needle_id, cookie=COOKIE, data=data), fsync=fsync)


def mark_of(volume) -> str:
    """The mark of `volume` in its .vif."""
    if not volume.marks.is_on_disk:
        return ""
    return DELETES_ONLY if volume.info.read_only_can_delete else FULLY


def read(store, needle_id) -> bytes | None:
    """The data of a needle, None for a 404. No checksum covers the header of a record: a cut that loses the sector
    which ends in the middle of the header may change only the cookie, and the needle is then under another one. Only
    unsynced needles can be so.
    """
    try:
        return store.get_volume(VID).read(needle_id, cookie=COOKIE).needle.data
    except (NotFound, Deleted, CookieMismatch):
        return MISSING


def make(directory: Path, contents: dict[str, bytes]) -> None:
    directory.mkdir()
    for name, content in contents.items():
        if name == SESSION_FILE_NAME and content:
            # The machine has been started again.
            (directory / name).write_bytes(OTHER_BOOT + content[len(OTHER_BOOT) :])
        else:
            (directory / name).write_bytes(content)


def examine(directory: Path, width: int, promise: Promise) -> None:
    """Opens the directory that a cut left, and compares it with `promise`. The volume must take writes again, and open
    a second time.
    """
    store = open_at(directory, offset_width_bytes=width, files=UnsyncedFiles())
    volume = store.find_volume(VID)
    state = store.state
    assert state in promise.facts.state
    mark, placement = "", "000"
    if promise.is_whole and not promise.is_dropping:
        assert volume is not None, store.findings
    if volume is None:
        volume = store.allocate_volume(VID)
        found = {}
    else:
        found = {needle_id: read(store, needle_id) for needle_id in promise.allowed}
        for needle_id, data in found.items():
            assert data in promise.allowed[needle_id], (needle_id, data, promise.allowed[needle_id], store.findings)
        if promise.is_whole and not promise.is_dropping:
            mark, placement = mark_of(volume), str(volume.replica_placement)
            assert mark in promise.facts.mark
            assert placement in promise.facts.placement
    assert volume.is_read_only == bool(mark), volume.read_only_reasons.text
    if mark:
        store.mark_writable(store.get_volume(VID))
    had_findings = bool(store.findings)
    write(store, 99, b"after the cut", fsync=True)
    store.close()
    report = check_directory(directory, offset_width_bytes=width)
    assert report.is_healthy or had_findings, str(report)
    store = open_at(directory, offset_width_bytes=width, files=UnsyncedFiles())
    assert store.findings == []
    assert {needle_id: read(store, needle_id) for needle_id in found} == found
    assert read(store, 99) == b"after the cut"
    assert str(store.find_volume(VID).replica_placement) == placement
    assert store.state == state
    store.close()


def examine_all(tmp_path: Path, scenario: Scenario) -> int:
    """Every cut of `scenario` with every possible rest. Equal directories are examined once."""
    seen = set()
    for disk, promise in scenario.points:
        for contents in all_after_cut(disk):
            allowed = str(sorted(promise.allowed.items()))
            key = (tuple(sorted(contents.items())), allowed, promise.is_whole, promise.facts)
            if key in seen:
                continue
            seen.add(key)
            directory = tmp_path / str(len(seen))
            make(directory, contents)
            try:
                examine(directory, scenario.width, promise)
            except BaseException as error:
                error.add_note(f"case {len(seen)}: { {name: len(data) for name, data in contents.items()} }")
                raise
            shutil.rmtree(directory)
    return len(seen)


def scenario_of(tmp_path: Path, width: int = 4) -> Scenario:
    directory = tmp_path / "live"
    directory.mkdir()
    return Scenario(directory, width)


@pytest.mark.slow
def test_a_first_allocation(tmp_path):
    """Slow: hundreds of directories are made and opened."""
    scenario = scenario_of(tmp_path)
    scenario.allocate(3)
    scenario.end()
    assert examine_all(tmp_path, scenario) > 10


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("width", [4, 5])
@pytest.mark.slow
def test_synced_writes(tmp_path, version, width):
    """Slow: hundreds of directories are made and opened."""
    scenario = scenario_of(tmp_path, width)
    scenario.allocate(version)
    scenario.points.clear()
    scenario.write(1, b"a" * 700, fsync=True)
    scenario.write(1, b"b" * 1200, fsync=True)
    scenario.end()
    assert examine_all(tmp_path, scenario) > 10


@pytest.mark.slow
def test_a_batch_of_synced_writes(tmp_path):
    """Slow: hundreds of directories are made and opened."""
    scenario = scenario_of(tmp_path)
    scenario.allocate(3)
    scenario.write(1, b"a" * 700, fsync=True)
    scenario.points.clear()
    scenario.write_together(4, {1: b"b" * 500, 2: b"c" * 900, 3: b"d"})
    scenario.end()
    assert examine_all(tmp_path, scenario) > 30


@pytest.mark.slow
def test_synced_and_other_writes(tmp_path):
    """Slow: hundreds of directories are made and opened."""
    scenario = scenario_of(tmp_path)
    scenario.allocate(3)
    scenario.points.clear()
    scenario.write(1, b"a" * 700, fsync=True)
    scenario.write(1, b"b" * 500, fsync=False)
    scenario.write(2, b"c" * 100, fsync=False)
    scenario.write(3, b"d" * 10, fsync=True)
    scenario.end()
    assert examine_all(tmp_path, scenario) > 50


@pytest.mark.slow
def test_deletions(tmp_path):
    """A deletion is on disk with the next sync. Slow: hundreds of directories are made and opened."""
    scenario = scenario_of(tmp_path)
    scenario.allocate(3)
    scenario.points.clear()
    scenario.write(1, b"a" * 700, fsync=True)
    scenario.delete(1)
    scenario.write(2, b"c" * 600, fsync=True)
    scenario.delete(2)
    scenario.sync()
    scenario.end()
    assert examine_all(tmp_path, scenario) > 30


@pytest.mark.slow
def test_a_volume_that_is_deleted(tmp_path):
    """Slow: examines the disk as it is after each step."""
    scenario = scenario_of(tmp_path)
    scenario.allocate(3)
    scenario.write(1, b"a" * 700, fsync=True)
    scenario.points.clear()
    scenario.drop()
    scenario.end()
    assert examine_all(tmp_path, scenario) > 5


@pytest.mark.slow
def test_marks_placement_and_state(tmp_path):
    """Each is on disk once it was acknowledged; until then it is as before or as after. Slow: as above."""
    scenario = scenario_of(tmp_path)
    scenario.allocate(3)
    scenario.write(1, b"a" * 100, fsync=True)
    scenario.points.clear()
    scenario.mark(FULLY)
    scenario.configure("001")
    scenario.mark("")
    scenario.set_state(maintenance=True)
    scenario.write(1, b"b" * 100, fsync=True)
    scenario.end()
    assert examine_all(tmp_path, scenario) > 20


@pytest.mark.slow
@pytest.mark.parametrize("how", [FULLY, DELETES_ONLY])
def test_a_mark_over_what_was_never_synced(tmp_path, how):
    """A torn record under the mark is repaired as elsewhere. Slow: as above."""
    scenario = scenario_of(tmp_path)
    scenario.allocate(3)
    scenario.write(1, b"a" * 100, fsync=True)
    scenario.points.clear()
    scenario.write(2, b"b" * 100, fsync=False)
    scenario.mark(how)
    if how == DELETES_ONLY:
        scenario.delete(1)
    scenario.end()
    assert examine_all(tmp_path, scenario) > 20


@pytest.mark.slow
def test_a_record_that_comes_whole(tmp_path):
    """As a write without fsync: the record is there with the next sync of the volume. Slow: hundreds of directories are
    opened.
    """
    scenario = scenario_of(tmp_path)
    scenario.allocate(3)
    scenario.points.clear()
    scenario.write_blob(1, b"a" * 100)
    scenario.write_blob(1, b"b" * 700)
    scenario.write(2, b"c", fsync=True)
    scenario.end()
    assert examine_all(tmp_path, scenario) > 20


@pytest.mark.slow
@pytest.mark.parametrize("width", [4, 5])
def test_a_vacuum(tmp_path, width):
    """The old volume or the new one, each with all acknowledged needles. Slow: as above."""
    scenario = scenario_of(tmp_path, width)
    scenario.allocate(3)
    scenario.write(1, b"a" * 100, fsync=True)
    scenario.write(2, b"b" * 10, fsync=True)
    scenario.delete(1)
    scenario.sync()
    scenario.points.clear()
    scenario.vacuum(("write", 3, b"c", 20, True))
    scenario.write(4, b"e" * 50, fsync=True)
    scenario.end()
    assert examine_all(tmp_path, scenario) > 50


needle_ids = st.integers(1, 4)
changes = (
    st.tuples(st.just("write"), needle_ids, st.binary(min_size=1, max_size=8), st.integers(1, 300), st.booleans()),
    st.tuples(st.just("delete"), needle_ids),
    st.tuples(st.just("write_blob"), needle_ids, st.binary(min_size=1, max_size=600)),
)
operations = st.lists(
    st.one_of(
        *changes,
        st.lists(st.one_of(*changes), max_size=3).map(lambda steps: ("vacuum", *steps)),
        st.tuples(st.just("sync")),
        st.tuples(st.just("mark"), st.sampled_from(["", FULLY, DELETES_ONLY])),
        st.tuples(st.just("configure"), st.sampled_from(["000", "001", "010"])),
        st.tuples(st.just("set_state"), st.booleans()),
    ),
    min_size=1,
    max_size=25,
)


def take(scenario: Scenario, step) -> None:
    """Runs one of `operations` in `scenario`. An operation that the volume's mark forbids is refused, and changes
    nothing.
    """
    if step[0] in FORBIDDEN[mark_of(scenario.store.find_volume(VID))]:
        before = scenario.promise.copy(), dict(scenario.now)
        with pytest.raises(ReadOnly):
            do(scenario, *step)
        scenario.promise, scenario.now = before
    else:
        do(scenario, *step)


def do(scenario: Scenario, what: str, *how) -> None:
    match what, how:
        case "write", (needle_id, unit, times, fsync):
            scenario.write(needle_id, unit * times, fsync=fsync)
        case "set_state", (maintenance,):
            scenario.set_state(maintenance=maintenance)
        case _:
            getattr(scenario, what)(*how)


@settings(suppress_health_check=list(HealthCheck), deadline=None)
@given(operations, st.sampled_from([2, 3]), st.sampled_from([4, 5]), st.data())
def test_any_run_of_operations(steps, version, width, data):
    with tempfile.TemporaryDirectory() as name:
        scenario = scenario_of(Path(name), width)
        scenario.allocate(version)
        for step in steps:
            take(scenario, step)
        scenario.end()
        disk, promise = scenario.points[data.draw(st.integers(0, len(scenario.points) - 1), "cut")]
        contents = after_cut(disk, lambda options: options[data.draw(st.integers(0, len(options) - 1))])
        make(Path(name) / "cut", contents)
        examine(Path(name) / "cut", width, promise)
