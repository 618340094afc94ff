"""After any accepted write the next start finds the volume sound: writable, without a finding, and with the same
needles.
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clocks import TickingClock
from support.stores import open_at

from native_handlers.format.crc import crc32c
from native_handlers.format.errors import FormatError
from native_handlers.format.needle import Needle, encode_needle
from native_handlers.storage.check import check_directory
from native_handlers.storage.disk.session_mark import SESSION_FILE_NAME
from native_handlers.storage.model.errors import StorageError
from native_handlers.storage.volume.append_log import walk_records

VID = 7
ids = st.sampled_from([1, 2, 3, 2**63, 2**64 - 1])
cookies = st.sampled_from([0, 1, 0xC0FFEE, 2**32 - 1])
payloads = st.sampled_from([b"", b"\0", b"a", b"1234567", b"x" * 300, bytes(40), b"y" * ((1 << 20) + 3)])
names = st.sampled_from([b"", b"name", b"n" * 255])


@dataclass
class Put:
    """An upload. With `is_from_tail`, the write of a tail receiver."""

    needle_id: int
    cookie: int
    data: bytes
    name: bytes
    fsync: bool
    is_from_tail: bool

    def run(self, store):
        needle = Needle(needle_id=self.needle_id, cookie=self.cookie, data=self.data)
        if self.name:
            needle.name, needle.has_name = self.name, True
        store.get_volume(VID).write(needle, check_cookie=not self.is_from_tail, fsync=self.fsync)


@dataclass
class Blob:
    """WriteNeedleBlob of a record with arbitrary content."""

    needle_id: int
    own_id: int
    cookie: int
    data: bytes
    append_at_ns: int

    def run(self, store):
        volume = store.find_volume(VID)
        needle = Needle(needle_id=self.own_id, cookie=self.cookie, data=self.data, append_at_ns=self.append_at_ns)
        needle.checksum = crc32c(self.data)
        blob = encode_needle(needle, volume.version)
        volume.write_blob(self.needle_id, blob, needle.size)


@dataclass
class Delete:
    needle_id: int
    cookie: int
    checksum: int

    def run(self, store):
        store.get_volume(VID).delete(self.needle_id, self.cookie, checksum=self.checksum)


@dataclass
class SetClock:
    """A change of the machine's clock."""

    to_ns: int

    def run(self, store):
        store.clock.now_ns = self.to_ns


times = st.sampled_from([0, 1, 10**18, 2**63, 2**64 - 1])
operations = st.lists(
    st.one_of(
        st.builds(Put, ids, cookies, payloads, names, st.booleans(), st.booleans()),
        st.builds(Blob, ids, ids, cookies, payloads, times),
        st.builds(Delete, ids, cookies, st.sampled_from([0, 2**32 - 1])),
        st.builds(SetClock, st.sampled_from([1, 10**18, 2 * 10**18])),
    ),
    min_size=1,
    max_size=12,
)


def open_clocked(path, clock):
    store = open_at(path, clock_ns=clock)
    store.clock = clock
    return store


def contents(store):
    """The content of each id: its cookie and payload, or the error."""
    found = {}
    for needle_id in (0, 1, 2, 3, 2**63, 2**64 - 1):
        try:
            read = store.get_volume(VID).read(needle_id, cookie=None)
        except (StorageError, FormatError) as error:
            found[needle_id] = type(error)
            continue
        data = read.needle.data if read.payload is None else read.payload.read(0, read.payload.length_bytes)
        found[needle_id] = (read.needle.cookie, bytes(data))
        read.release()
    return found


def run(store, steps):
    for step in steps:
        # A refused write leaves nothing; other tests check that.
        with suppress(StorageError, FormatError):
            step.run(store)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("ending", ["stopped", "power cut after a sync"])
@given(steps=operations, more=operations)
@settings(deadline=None)
def test_a_restart_finds_nothing(version, ending, steps, more):
    with TemporaryDirectory() as directory:
        path = Path(directory)
        with closing(open_clocked(path, TickingClock(10**9))) as store:
            store.allocate_volume(VID, version=version)
            run(store, steps)
            before = contents(store)
            size = store.find_volume(VID).size_bytes
        if ending != "stopped":
            (path / SESSION_FILE_NAME).write_text("another 0\n")
        with closing(open_clocked(path, TickingClock(10**9))) as store:
            volume = store.find_volume(VID)
            assert store.findings == []
            assert not volume.is_read_only
            assert volume.size_bytes == size
            assert contents(store) == before
            run(store, more)
            with volume.open_log() as log:
                list(walk_records(log, 0))
            assert not volume.is_damaged
        assert check_directory(path).is_healthy


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_record_whose_header_is_zeros(tmp_path, version, is_deleted):
    """The empty needle 0 with cookie 0: it looks like bytes that were never written, but a row names it."""
    with closing(open_clocked(tmp_path, TickingClock(10**9))) as store:
        store.allocate_volume(VID, version=version)
        Put(1, 1, b"a", b"", fsync=False, is_from_tail=False).run(store)
        Put(0, 0, b"", b"", fsync=False, is_from_tail=False).run(store)
        if is_deleted:
            Delete(0, 0, 0).run(store)
        before = contents(store)
    with closing(open_clocked(tmp_path, TickingClock(10**9))) as store:
        assert store.findings == []
        assert not store.find_volume(VID).is_read_only
        assert contents(store) == before
