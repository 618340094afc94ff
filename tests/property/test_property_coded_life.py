"""A volume against a plain dict through its whole life: writes and deletes, vacuums, codings, deletions in the shards,
rebuilding, decoding, and openings between any two of them. The server has one disk, or two with an index on each or one
for both; then shards move between the disks, and those of one disk are closed while a needle is deleted. Nothing fails
here, so nothing may be lost or come back.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.stores import open_at, place

from native_handlers.format.needle import Needle
from native_handlers.storage.check import check_directory
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import Deleted, NotFound

VID = 7
COOKIE = 0xC0FFEE
SHARDS = range(14)
NEEDLES = range(1, 4)
needle_ids = st.sampled_from(NEEDLES)
lost_shards = st.sets(st.sampled_from(SHARDS), max_size=4)
LAYOUTS = {"one disk": 1, "own indexes": 2, "shared index": 2}
"""The number of disks."""


class LifeOfAVolume(RuleBasedStateMachine):
    """`model` has the content of each living needle."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="life-of-a-volume-"))
        self.model: dict[int, bytes] = {}
        self.is_coded = False

    @initialize(
        layout=st.sampled_from(sorted(LAYOUTS)),
        version=st.sampled_from([2, 3]),
        width=st.sampled_from([4, 5]),
        order=st.permutations(NEEDLES),
        deleted=st.sets(st.sampled_from(NEEDLES), max_size=1),
    )
    def begin(self, layout, version, width, order, deleted):
        self.width = width
        self.disks = [self.directory / name for name in ("a", "b")[: LAYOUTS[layout]]]
        self.index = self.directory / "index" if layout == "shared index" else None
        self.open()
        self.store.allocate_volume(VID, version=version)
        for needle_id in order:
            self.write(needle_id, b"first")
        for needle_id in deleted:
            self.delete(needle_id)

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            for disk in self.disks:
                report = check_directory(disk, index_path=self.index, offset_width_bytes=self.width)
                assert report.is_healthy, str(report)
        shutil.rmtree(self.directory)

    def open(self):
        places = [place(disk, self.index) for disk in self.disks]
        self.store = open_at(*places, offset_width_bytes=self.width)

    @property
    def volume(self):
        return self.store.get_volume(VID)

    # ---- a regular volume

    @precondition(lambda self: not self.is_coded)
    @rule(needle_id=needle_ids, data=st.sampled_from([b"", b"x", b"ab" * 500]))
    def write(self, needle_id, data):
        self.volume.write(Needle(needle_id=needle_id, cookie=COOKIE, data=data))
        self.model[needle_id] = data

    @precondition(lambda self: not self.is_coded)
    @rule(needle_id=needle_ids)
    def delete(self, needle_id):
        self.volume.delete(needle_id, COOKIE)
        self.model.pop(needle_id, None)

    @precondition(lambda self: not self.is_coded)
    @rule(between=st.sets(needle_ids, max_size=1))
    def vacuum(self, between):
        for _ in self.volume.compaction.run(CompactionOptions()):
            pass
        for needle_id in between:
            self.delete(needle_id)
        self.store.commit_compaction(self.store.get_volume(VID))

    @precondition(lambda self: not self.is_coded)
    @rule()
    def mount_anew(self):
        self.store.unmount_volume(VID)
        self.store.mount_volume(VID)

    @precondition(lambda self: not self.is_coded and self.model)
    @rule()
    def code(self):
        self.store.mark_readonly(self.store.get_volume(VID))
        self.store.ec_work.generate(self.volume, "")
        for shard in SHARDS:
            self.store.ec.mount("", VID, shard)
        self.store.delete_volume(VID, only_empty=False)
        self.is_coded = True

    # ---- a coded one

    @precondition(lambda self: self.is_coded and len(self.model) > 1)
    @rule(which=st.integers(0, len(NEEDLES) - 1))
    def delete_in_the_shards(self, which):
        living = sorted(self.model)
        needle_id = living[which % len(living)]
        self.store.ec_reader.delete_needle(VID, needle_id, COOKIE)
        del self.model[needle_id]

    @precondition(lambda self: self.is_coded and len(self.disks) > 1)
    @rule(moved=st.sets(st.sampled_from(SHARDS)))
    def move_shards(self, moved):
        for shard in sorted(moved):
            name = f"{VID}.ec{shard:02d}"
            source = next(disk for disk in self.disks if (disk / name).exists())
            target = next(disk for disk in self.disks if disk != source)
            self.store.ec.unmount(VID, shard)
            (source / name).rename(target / name)
            self.store.ec.mount("", VID, shard)

    @precondition(lambda self: self.is_coded and len(self.store.ec.copies(VID)) > 1 and len(self.model) > 1)
    @rule(which=st.integers(0, len(NEEDLES) - 1), closed=st.integers(0, 1))
    def delete_without_one_disk(self, which, closed):
        needle_id = sorted(self.model)[which % len(self.model)]
        shards = list(self.store.ec.copies(VID)[closed].shards)
        for shard in shards:
            self.store.ec.unmount(VID, shard)
        self.store.ec.delete(self.store.ec.find(VID), needle_id)
        del self.model[needle_id]
        self.each_disk_hides_what_was_deleted()
        for shard in shards:
            self.store.ec.mount("", VID, shard)

    @precondition(lambda self: self.is_coded)
    @rule(lost=lost_shards)
    def rebuild(self, lost):
        for shard in lost:
            self.store.ec.unmount(VID, shard)
        self.store.ec_work.delete_shards("", VID, sorted(lost))
        assert sorted(self.store.ec_work.rebuild_missing("", VID, ignores_checksums=False)) == sorted(lost)
        for shard in lost:
            self.store.ec.mount("", VID, shard)

    @precondition(lambda self: self.is_coded)
    @rule()
    def decode(self):
        self.store.ec_work.decode("", VID, was_open=False)
        self.store.mount_volume(VID)
        for shard in SHARDS:
            self.store.ec.unmount(VID, shard)
        self.store.ec_work.delete_shards("", VID, SHARDS)
        self.is_coded = False

    @precondition(lambda self: not self.is_coded)
    @rule()
    def lose_the_index(self):
        """The .dat tells what was deleted. It does not tell empty files from deletions."""
        self.store.close()
        found = [path for directory in (*self.disks, self.index) if directory for path in directory.glob(f"{VID}.idx")]
        assert len(found) == 1
        found[0].unlink()
        self.open()
        self.model = {needle_id: data for needle_id, data in self.model.items() if data}

    # ---- both

    @rule()
    def open_anew(self):
        self.store.close()
        self.open()
        assert self.store.findings == []

    def _read(self, needle_id):
        try:
            if self.is_coded:
                return bytes(self.store.ec_reader.read_needle(VID, needle_id, COOKIE).data)
            read = self.volume.read(needle_id, cookie=COOKIE)
        except (NotFound, Deleted):
            return None
        data = bytes(read.needle.data)
        read.release()
        return data

    @invariant()
    def every_needle_is_as_it_was_left(self):
        if hasattr(self, "store"):
            assert {one: self._read(one) for one in NEEDLES} == {one: self.model.get(one) for one in NEEDLES}

    @invariant()
    def each_disk_hides_what_was_deleted(self):
        if hasattr(self, "store") and self.is_coded:
            for volume in self.store.ec.copies(VID):
                found = {one: volume.find(one) for one in NEEDLES}
                assert {one for one, entry in found.items() if entry is not None and entry.size >= 0} == set(self.model)


LifeOfAVolume.TestCase.settings = settings(
    settings(),
    max_examples=max(settings().max_examples // 2, 1),
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
)
TestLifeOfAVolume = pytest.mark.slow(LifeOfAVolume.TestCase)
"""Slow: each coding writes fourteen shards of 1 MiB."""
