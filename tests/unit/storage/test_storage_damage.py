"""Damaged records: every way of reading raises an error, which is logged once a volume and counted each time."""

from __future__ import annotations

import logging
import os
import struct
from contextlib import closing

import pytest
from support.coded_volumes import put_coded_volume
from support.stores import open_at

from native_handlers.format.errors import ChecksumMismatch, Corrupt, FormatError, SizeMismatch
from native_handlers.format.needle import Needle
from native_handlers.grpc.needles import read_checked
from native_handlers.storage.model import errors
from native_handlers.storage.model.report import ReadFindingKind
from native_handlers.storage.system.files import NotCached
from native_handlers.storage.volume.append_log import first_row_after, walk_records
from native_handlers.storage.volume.damage import DamageKind

pytestmark = pytest.mark.damage("that is what it is about")
COOKIE = 0xC0FFEE
VID = 7
SMALL, LARGE = b"small", os.urandom((3 << 20) + 5)


def open_watched(path):
    store = open_at(path)
    store.seen = []
    store.add_damage_listener(store.seen.append)
    return store


@pytest.fixture(params=[1, 2, 3])
def version(request):
    return request.param


def make(path, *payloads, version=3):
    """A volume with these needles, ids from 1 on, and a last needle that is never damaged."""
    with closing(open_watched(path)) as store:
        store.allocate_volume(VID, version=version)
        for needle_id, data in enumerate((*payloads, b"last"), 1):
            store.get_volume(VID).write(Needle(needle_id=needle_id, cookie=COOKIE, data=data))


def damage_row(path, number, size):
    """Changes the size in the row."""
    with (path / "7.idx").open("r+b") as file:
        file.seek(number * 16 + 12)
        file.write(struct.pack(">i", size))


def damage_payload(path, data):
    raw = bytearray((path / "7.dat").read_bytes())
    at = raw.index(data) + len(data) // 2
    raw[at] ^= 1
    (path / "7.dat").write_bytes(raw)


def findings(store):
    return [finding for finding in store.findings if finding.kind is ReadFindingKind.DAMAGED]


class TestRows:
    @pytest.mark.parametrize("cookie", [COOKIE, 1, None])
    @pytest.mark.parametrize("data", [SMALL, LARGE])
    def test_one_of_size_0_is_no_empty_needle_where_the_record_is_not(self, tmp_path, version, cookie, data):
        make(tmp_path, data, version=version)
        damage_row(tmp_path, 0, 0)
        with closing(open_watched(tmp_path)) as store:
            with pytest.raises(SizeMismatch):
                store.get_volume(VID).read(1, cookie=cookie)
            with pytest.raises((SizeMismatch, NotCached)):
                store.get_volume(VID).read(1, cookie=cookie, cached_only=True)
            assert store.get_volume(VID).try_read_cached(1, COOKIE) is None
            with pytest.raises(SizeMismatch):
                read_checked(store.get_volume(VID), 1)
            assert len(findings(store)) == 1
            assert {(one.needle_id, one.kind) for one in store.seen} == {(1, DamageKind.SIZE)}

    def test_one_that_says_more_than_the_record(self, tmp_path, version):
        make(tmp_path, SMALL, version=version)
        damage_row(tmp_path, 0, 12)
        with closing(open_watched(tmp_path)) as store, pytest.raises(SizeMismatch):
            store.get_volume(VID).read(1, cookie=COOKIE)

    def test_an_empty_needle_is_well_under_any_cookie(self, tmp_path, version):
        make(tmp_path, b"", version=version)
        with closing(open_watched(tmp_path)) as store:
            assert store.get_volume(VID).read(1, cookie=COOKIE).needle.data == b""
            for how in ({}, {"cached_only": True}, {"data": False}):
                assert store.get_volume(VID).read(1, cookie=1, **how).needle.data == b""
            assert (store.seen, findings(store)) == ([], [])

    def test_all_needles_and_the_tail_meet_it_too(self, tmp_path):
        make(tmp_path, SMALL)
        damage_row(tmp_path, 0, 0)
        with closing(open_watched(tmp_path)) as store:
            volume = store.find_volume(VID)
            with volume.open_log() as log:
                assert first_row_after(log, 0) == 0
            with pytest.raises(Corrupt), volume.open_log() as log:
                list(walk_records(log, 0))
            assert [one.kind for one in store.seen] == [DamageKind.STRUCTURE]


class TestPayloads:
    def read_large(self, store, how):
        read = store.get_volume(VID).read(1, cookie=COOKIE)
        try:
            if how == "check":
                read.check_payload()
            elif how == "load":
                read.load_payload(memoryview(bytearray(read.payload.length_bytes)))
            else:
                read.keep_payload(read.payload.read(0, read.payload.length_bytes))
        finally:
            read.release()

    @pytest.mark.parametrize("how", ["check", "load", "keep"])
    def test_of_large_needles(self, tmp_path, how):
        make(tmp_path, LARGE)
        damage_payload(tmp_path, LARGE)
        with closing(open_watched(tmp_path)) as store:
            with pytest.raises(ChecksumMismatch):
                self.read_large(store, how)
            assert [(one.volume_id, one.needle_id, one.kind) for one in store.seen] == [(VID, 1, DamageKind.CHECKSUM)]
            assert len(findings(store)) == 1

    @pytest.mark.parametrize("data", [SMALL, LARGE])
    def test_met_while_all_needles_are_read(self, tmp_path, data):
        make(tmp_path, data)
        damage_payload(tmp_path, data)
        with closing(open_watched(tmp_path)) as store:
            with pytest.raises(FormatError):
                list(store.find_volume(VID).live_needles(lambda: True))
            assert [one.kind for one in store.seen] == [DamageKind.CHECKSUM]

    def test_the_same_again_is_written_anew_and_reads_well(self, tmp_path):
        make(tmp_path, SMALL)
        damage_payload(tmp_path, SMALL)
        with closing(open_watched(tmp_path)) as store:
            written = store.get_volume(VID).write(Needle(needle_id=1, cookie=COOKIE, data=SMALL))
            assert not written.is_unchanged
            assert store.get_volume(VID).read(1, cookie=COOKIE).needle.data == SMALL


class TestSaying:
    def test_once_for_each_volume_and_again_after_an_operator_said_that_it_is_well(self, tmp_path, caplog):
        make(tmp_path, b"one one", b"two two")
        for data in (b"one one", b"two two"):
            damage_payload(tmp_path, data)
        with closing(open_watched(tmp_path)) as store:
            volume = store.find_volume(VID)
            assert not volume.is_damaged
            for _ in range(3):
                for needle_id in (1, 2):
                    with pytest.raises(ChecksumMismatch):
                        store.get_volume(VID).read(needle_id, cookie=COOKIE)
            assert volume.is_damaged
            assert len(store.seen) == 6
            assert [str(finding) for finding in findings(store)] == self.said(caplog)
            assert len(self.said(caplog)) == 1
            assert "needle 1: " in self.said(caplog)[0]
            store.mark_writable(store.get_volume(VID))
            assert not volume.is_damaged
            with pytest.raises(ChecksumMismatch):
                store.get_volume(VID).read(2, cookie=COOKIE)
            assert "needle 2: " in self.said(caplog)[1]
            store.unmount_volume(VID)
            store.mount_volume(VID)
            assert findings(store) == []

    @staticmethod
    def said(caplog):
        lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        return [line for line in lines if "is damaged and cannot be read" in line]

    def test_a_place_that_a_caller_names_proves_nothing(self, tmp_path):
        make(tmp_path, SMALL)
        with closing(open_watched(tmp_path)) as store:
            volume = store.find_volume(VID)
            with pytest.raises(errors.BadRecordRange):
                volume.read_meta(16, 5)
            volume.read_blob(16, 5)
            assert not volume.is_damaged


class TestShards:
    """Records of an erasure-coded volume. The needles are in the first shard, behind the super block."""

    @pytest.fixture
    def coded(self, tmp_path):
        put_coded_volume(tmp_path, VID, *(Needle(needle_id=one, cookie=COOKIE, data=SMALL) for one in (1, 2)))
        return tmp_path

    def flip(self, directory, at):
        path = directory / "7.ec00"
        raw = bytearray(path.read_bytes())
        raw[at] ^= 1
        path.write_bytes(raw)

    def fail(self, store, needle_id, error):
        with pytest.raises(error):
            store.ec_reader.read_needle(VID, needle_id, COOKIE)

    @pytest.mark.parametrize(
        ("at", "error", "kind"),
        [
            (8 + 20, ChecksumMismatch, DamageKind.CHECKSUM),
            (8 + 15, SizeMismatch, DamageKind.SIZE),
            (8 + 11, Corrupt, DamageKind.STRUCTURE),
        ],
        ids=["payload", "size", "id"],
    )
    @pytest.mark.slow
    def test_are_said_once_and_counted_each_time(self, coded, caplog, at, error, kind):
        """Slow: codes a volume."""
        self.flip(coded, at)
        with closing(open_watched(coded)) as store:
            assert store.damaged_count == 0
            for _ in range(3):
                self.fail(store, 1, error)
            assert [(one.volume_id, one.needle_id, one.kind) for one in store.seen] == [(VID, 1, kind)] * 3
            (found,) = store.findings
            assert (found.kind, found.base) == (ReadFindingKind.SHARDS_DAMAGED, coded / "7")
            assert "needle 1: " in found.detail
            assert [record.getMessage() for record in caplog.records].count(str(found)) == 1
            assert store.damaged_count == 1
            assert bytes(store.ec_reader.read_needle(VID, 2, COOKIE).data) == SMALL

    def test_are_said_again_after_a_shard_was_opened(self, coded):
        self.flip(coded, 8 + 20)
        with closing(open_watched(coded)) as store:
            self.fail(store, 1, ChecksumMismatch)
            self.flip(coded, 8 + 20)
            store.ec.mount("", VID, 0)
            assert (store.findings, store.damaged_count) == ([], 0)
            assert bytes(store.ec_reader.read_needle(VID, 1, COOKIE).data) == SMALL
            self.flip(coded, 8 + 20)
            self.fail(store, 1, ChecksumMismatch)
            assert store.damaged_count == 1
            store.ec.unmount(VID, 0)
            assert (store.findings, store.damaged_count) == ([], 0)
            assert bytes(store.ec_reader.read_needle(VID, 1, COOKIE).data) == SMALL, "the shard is computed"

    def test_go_with_the_volume(self, coded):
        self.flip(coded, 8 + 20)
        with closing(open_watched(coded)) as store:
            self.fail(store, 1, ChecksumMismatch)
            store.ec_work.delete_shards("", VID, range(14))
            assert (store.findings, store.damaged_count) == ([], 0)

    def test_an_absent_needle_or_another_cookie_is_no_damage(self, coded):
        with closing(open_watched(coded)) as store:
            with pytest.raises(errors.CookieMismatch):
                store.ec_reader.read_needle(VID, 1, 1)
            with pytest.raises(errors.NotFound):
                store.ec_reader.read_needle(VID, 9, COOKIE)
            assert (store.seen, store.findings) == ([], [])
