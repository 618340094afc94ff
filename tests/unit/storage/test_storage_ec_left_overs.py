"""Shards beside a .dat at a start: only a whole volume makes them useless."""

from __future__ import annotations

import os
import shutil
from contextlib import closing

import pytest
from support.coded_volumes import put_coded_volume
from support.stores import open_at

from native_handlers.format.crc import crc32c
from native_handlers.format.needle import Needle
from native_handlers.format.super_block import SuperBlock
from native_handlers.format.vif import parse_volume_info
from native_handlers.storage.check import check_directory
from native_handlers.storage.model.report import FindingKind

VID = 7
MIB = 1 << 20
NUMBERS = range(1, 6)

pytestmark = pytest.mark.damage("doubtful files are what the tests are about")


def data_of(number):
    return bytes((number,)) * 3000


@pytest.fixture
def coded(disk):
    """A directory with the sound shards of a volume, without the volume. Its .dat and .idx are in `aside`."""
    needles = (
        Needle(needle_id=number, cookie=5, data=data_of(number), checksum=crc32c(data_of(number))) for number in NUMBERS
    )
    aside = disk.parent / "aside"
    aside.mkdir()
    put_coded_volume(disk, VID, *needles)
    with closing(open_at(disk)) as store:
        store.ec_work.decode("", VID, was_open=False)
    for name in ("7.dat", "7.idx"):
        (disk / name).rename(aside / name)
    return disk


def shards_in(path):
    return {one.name: one.stat().st_size for one in path.glob("7.ec[0-9]*")}


def coded_length(path):
    return parse_volume_info((path / "7.vif").read_bytes()).dat_file_size


def lose_index(path):
    (path / "7.ecx").unlink()


def zeros_beside_an_index(path):
    (path / "7.dat").write_bytes(bytes(20 * MIB))


def zeros_without_an_index(path):
    lose_index(path)
    (path / "7.dat").write_bytes(bytes(20_000))


def zeros_of_the_coded_length(path):
    (path / "7.dat").write_bytes(bytes(coded_length(path)))
    os.truncate(path / "7.ec03", 100)


def an_unfinished_copy(path):
    (path / "7.dat").write_bytes(SuperBlock(version=3).encode() + b"\1" * (20 * MIB))
    (path / "7.note").write_text("copying")


def a_part_of_a_dat(path):
    shutil.copy(path.parent / "aside" / "7.dat", path)
    lose_index(path)
    os.truncate(path / "7.dat", 9000)
    shutil.copy(path.parent / "aside" / "7.idx", path)


def a_dat_without_its_index(path):
    lose_index(path)
    shutil.copy(path.parent / "aside" / "7.dat", path)


def a_dat_with_something_behind_its_records(path):
    for name in ("7.dat", "7.idx"):
        shutil.copy(path.parent / "aside" / name, path)
    os.truncate(path / "7.dat", 20 * MIB)


def a_whole_volume_with_a_note(path):
    for name in ("7.dat", "7.idx"):
        shutil.copy(path.parent / "aside" / name, path)
    lose_index(path)
    (path / "7.note").write_text("copying")


DOUBTS = [
    (zeros_beside_an_index, "7.dat has no super block"),
    (zeros_without_an_index, "7.dat has no super block"),
    (zeros_of_the_coded_length, "7.dat has no super block"),
    (an_unfinished_copy, "7.note lies beside it"),
    (a_part_of_a_dat, "7.idx references end="),
    (a_dat_without_its_index, "there is no 7.idx"),
    (a_dat_with_something_behind_its_records, "behind its last record: zeros to the end"),
    (a_whole_volume_with_a_note, "7.note lies beside it"),
]


@pytest.mark.parametrize(("leave", "why"), DOUBTS, ids=[leave.__name__ for leave, _ in DOUBTS])
def test_a_dat_that_may_be_no_whole_volume_removes_no_shard(coded, leave, why):
    leave(coded)
    before, has_index = shards_in(coded), (coded / "7.ecx").exists()
    assert f"its shards stay, for its .dat may be no whole volume ({why}" in str(check_directory(coded))
    with closing(open_at(coded)) as store:
        assert shards_in(coded) == before
        assert (coded / "7.ecx").exists() == has_index
        (kept,) = [one for one in store.findings if one.kind is FindingKind.SHARDS_KEPT]
        assert kept.base == coded / "7"
        assert why in kept.detail
        if has_index:
            assert all(bytes(store.ec_reader.read_needle(VID, one, 5).data) == data_of(one) for one in NUMBERS)


def test_shards_go_beside_a_whole_volume_also_where_records_lie_behind_its_index(coded):
    a_whole_volume_with_a_note(coded)
    (coded / "7.note").unlink()
    os.truncate(coded / "7.idx", 16 * 3)
    assert "its shards are not whole; the next start removes them" in str(check_directory(coded))
    with closing(open_at(coded)) as store:
        assert not shards_in(coded)
        assert FindingKind.SHARDS_KEPT not in {one.kind for one in store.findings}
        assert not store.find_volume(VID).is_read_only
    assert check_directory(coded).is_healthy


@pytest.mark.parametrize("tail", [bytes(5000), b"part of a record"], ids=["zeros", "a part of a record"])
def test_shards_go_in_one_start_when_the_end_of_the_dat_was_repaired(coded, tail):
    """A power cut while the volume was coded, and written to."""
    a_whole_volume_with_a_note(coded)
    (coded / "7.note").unlink()
    with (coded / "7.dat").open("ab") as dat:
        dat.write(tail)
    with closing(open_at(coded)) as store:
        assert not shards_in(coded)
        assert FindingKind.SHARDS_KEPT not in {one.kind for one in store.findings}
        for number in NUMBERS:
            read = store.get_volume(VID).read(number, cookie=5)
            assert bytes(read.needle.data) == data_of(number)
            read.release()


class TestADatOnAnotherDisk:
    @pytest.fixture
    def few(self, coded):
        """Three of the shards."""
        for shard in range(3, 14):
            (coded / f"7.ec{shard:02d}").unlink()
        return coded

    def test_that_is_a_whole_volume_removes_few_shards(self, few, other_disk):
        for name in ("7.dat", "7.idx"):
            shutil.copy(few.parent / "aside" / name, other_disk)
        assert (other_disk / "7.dat").stat().st_size == coded_length(few)
        with closing(open_at(few, other_disk)) as store:
            assert not shards_in(few)
            assert store.findings == []

    def test_that_may_be_none_removes_none(self, few, other_disk):
        (other_disk / "7.dat").write_bytes(bytes(coded_length(few)))
        with closing(open_at(few, other_disk)) as store:
            assert len(shards_in(few)) == 3
            (kept,) = store.findings
            assert kept.kind is FindingKind.SHARDS_KEPT
            assert kept.detail == f"{other_disk / '7.dat'}: 7.dat has no super block"


class TestTheInfoOfShardsWhoseIndexIsElsewhere:
    """Without their .vif, shards of another ratio could not be read, and shards of other codings would be mixed in."""

    @pytest.fixture
    def split(self, coded, other_disk):
        """The other disk has the index and a shard."""
        for name in ("7.ecx", "7.ec13"):
            (coded / name).rename(other_disk / name)
        shutil.copy(coded / "7.vif", other_disk)
        return coded

    @pytest.mark.parametrize("more", [b"", b"\1" * MIB], ids=["removed", "moved aside"])
    def test_stays_when_an_unfinished_copy_goes(self, coded, more):
        """Another server has the index."""
        lose_index(coded)
        (coded / "7.dat").write_bytes(SuperBlock(version=3).encode() + more)
        (coded / "7.note").write_text("copying")
        vif = (coded / "7.vif").read_bytes()
        open_at(coded).close()
        assert not (coded / "7.dat").exists()
        assert (coded / "7.vif").read_bytes() == vif

    @pytest.mark.parametrize("more", [b"", b"\1" * MIB], ids=["removed", "moved aside"])
    def test_stays_with_the_shards_when_another_disk_has_the_index(self, split, other_disk, more):
        (split / "7.dat").write_bytes(SuperBlock(version=3).encode() + more)
        (split / "7.note").write_text("copying")
        vif = (split / "7.vif").read_bytes()
        with closing(open_at(split, other_disk)) as store:
            assert (split / "7.vif").read_bytes() == vif
            assert not (split / "7.dat").exists()
            assert [len(one.shards) for one in store.ec.copies(VID)] == [13, 1]
            for number in NUMBERS:
                assert bytes(store.ec_reader.read_needle(VID, number, 5).data) == data_of(number)

    def test_stays_when_the_volume_is_deleted(self, coded):
        """Another server has the index."""
        lose_index(coded)
        vif = (coded / "7.vif").read_bytes()
        with closing(open_at(coded)) as store:
            for name in ("7.dat", "7.idx"):
                shutil.copy(coded.parent / "aside" / name, coded)
            store.mount_volume(VID)
            store.delete_volume(VID, only_empty=False)
        assert not (coded / "7.dat").exists()
        assert (coded / "7.vif").read_bytes() == vif

    def test_goes_with_a_volume_beside_empty_shards(self, coded):
        """They are what a distribution that failed leaves."""
        lose_index(coded)
        for path in coded.glob("7.ec[0-9]*"):
            path.write_bytes(b"")
        with closing(open_at(coded)) as store:
            for name in ("7.dat", "7.idx"):
                shutil.copy(coded.parent / "aside" / name, coded)
            store.mount_volume(VID)
            store.delete_volume(VID, only_empty=False)
        assert not (coded / "7.vif").exists()
