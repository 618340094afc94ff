"""Every live needle in the order of .dat: with overwrites, deletions, growth, unmounting and damage."""

from __future__ import annotations

import os
from contextlib import closing

import pytest
from support.files import broken

from native_handlers.format.errors import FormatError
from native_handlers.format.needle import Needle
from native_handlers.storage.check import check_directory
from native_handlers.storage.model import errors
from native_handlers.storage.volume import live_needles

COOKIE = 0xC0FFEE


@pytest.fixture
def store(tmp_path, files, opened):
    return opened(tmp_path, files=files, volumes=())


@pytest.fixture(params=[3, 2, 1], ids="v{}".format)
def volume(request, store):
    return store.allocate_volume(7, version=request.param)


def write(volume, needle_id, data, **fields):
    return volume.write(Needle(needle_id=needle_id, cookie=COOKIE, data=data, **fields)).offset


def walk(volume, is_wanted=lambda: True):
    return [(needle.needle_id, bytes(needle.data)) for needle in volume.live_needles(is_wanted)]


def test_an_empty_volume(volume):
    assert walk(volume) == []


def test_the_order_is_that_of_dat_over_overwrites_and_deletions(volume, tmp_path):
    for needle_id, data in ((3, b"three"), (1, b"one"), (2, b"two"), (3, b"three again"), (4, b"")):
        write(volume, needle_id, data)
    volume.delete(1, COOKIE)
    assert walk(volume) == [(2, b"two"), (3, b"three again"), (4, b"")]
    assert check_directory(tmp_path).is_healthy


def test_what_was_deleted_stays_so_over_a_reload(store, volume):
    write(volume, 1, b"one")
    write(volume, 2, b"two")
    volume.delete(1, COOKIE)
    assert walk(volume) == [(2, b"two")]
    store.unmount_volume(7)
    store.mount_volume(7)
    assert walk(store.find_volume(7)) == [(2, b"two")]


def test_metadata_comes_with_it(store):
    volume = store.allocate_volume(7)
    write(volume, 1, b"zip", name=b"n", mime=b"m", last_modified_s=9, flags=0x0F)
    (needle,) = volume.live_needles(lambda: True)
    assert (needle.cookie, needle.name, needle.mime, needle.last_modified_s) == (COOKIE, b"n", b"m", 9)
    assert needle.is_compressed


def test_what_is_written_meanwhile_is_met_at_its_new_place(volume):
    for needle_id in (1, 2, 3):
        write(volume, needle_id, b"old")
    with closing(volume.live_needles(lambda: True)) as needles:
        assert next(needles).needle_id == 1
        write(volume, 2, b"new")
        write(volume, 4, b"added")
        volume.delete(3, COOKIE)
        assert [(needle.needle_id, bytes(needle.data)) for needle in needles] == [(2, b"new"), (4, b"added")]


@pytest.mark.parametrize("how", ["unmount", "delete", "close"])
def test_a_volume_that_goes_away_is_read_to_its_end(store, volume, files, how):
    for needle_id in (1, 2, 3):
        write(volume, needle_id, bytes([needle_id]) * 100)
    before = set(files.open_fds)
    with closing(volume.live_needles(lambda: True)) as needles:
        next(needles)
        if how == "unmount":
            store.unmount_volume(7)
        elif how == "delete":
            store.delete_volume(7, only_empty=False)
        else:
            volume.close()
        assert [needle.needle_id for needle in needles] == [2, 3]
    assert len(files.open_fds) == len(before) - 2, "both files are closed once the walk is over"
    with pytest.raises(errors.VolumeClosed):
        walk(volume)


def test_giving_up_early_lets_the_files_go(store, volume, files):
    for needle_id in (1, 2):
        write(volume, needle_id, b"x")
    needles = volume.live_needles(lambda: True)
    next(needles)
    store.unmount_volume(7)
    held = len(files.open_fds)
    needles.close()
    assert len(files.open_fds) == held - 1


def test_nobody_wants_it_any_more(volume):
    for needle_id in range(1, 6):
        write(volume, needle_id, b"x")
    answers = iter([True, True, False])
    assert [needle_id for needle_id, _ in walk(volume, lambda: next(answers))] == [1, 2]


def test_memory_is_that_of_a_window_or_one_needle(store, files, monkeypatch):
    monkeypatch.setattr(live_needles, "WINDOW_BYTES", 4096)
    volume = store.allocate_volume(7)
    write(volume, 1, b"a" * 100_000)
    for needle_id in range(2, 400):
        write(volume, needle_id, b"b" * 50)
    write(volume, 1, b"c" * 9_000)
    files.longest_read_bytes = 0
    assert len(walk(volume)) == 399
    assert files.longest_read_bytes < 9_100, "the body that was overwritten is passed over"


@pytest.mark.damage("it stays as the test made it")
def test_a_corrupt_needle_is_an_error_after_those_before_it(volume, tmp_path):
    write(volume, 1, b"first")
    offset = write(volume, 2, b"rotten")
    write(volume, 3, b"third")
    dat = bytearray((tmp_path / "7.dat").read_bytes())
    dat[dat.index(b"rotten", offset)] ^= 1
    (tmp_path / "7.dat").write_bytes(dat)
    needles = volume.live_needles(lambda: True)
    assert next(needles).needle_id == 1
    with pytest.raises(FormatError, match="invalid CRC for needle 2"):
        next(needles)


@pytest.mark.damage("it stays as the test made it")
def test_a_corrupt_needle_that_was_deleted_matters_to_nobody(volume, tmp_path):
    offset = write(volume, 2, b"rotten")
    write(volume, 3, b"third")
    volume.delete(2, COOKIE)
    dat = bytearray((tmp_path / "7.dat").read_bytes())
    dat[dat.index(b"rotten", offset)] ^= 1
    (tmp_path / "7.dat").write_bytes(dat)
    assert walk(volume) == [(3, b"third")]


@pytest.mark.parametrize("garbage", [b"\x01" * 40, b"\xff" * 40, b"\x01" * 9])
@pytest.mark.damage("it stays as the test made it")
def test_garbage_at_the_end_of_a_damaged_volume_ends_the_walk(store, volume, tmp_path, garbage):
    write(volume, 1, b"first")
    store.unmount_volume(7)
    with (tmp_path / "7.dat").open("ab") as dat:
        dat.write(garbage)
    os.chmod(tmp_path / "7.dat", 0o400)
    store.mount_volume(7)
    assert store.find_volume(7).is_read_only
    assert walk(store.find_volume(7)) == [(1, b"first")]


@pytest.mark.damage("it stays as the test made it")
def test_a_live_record_whose_size_lies_is_an_error(volume, tmp_path):
    offset = write(volume, 1, b"first")
    dat = bytearray((tmp_path / "7.dat").read_bytes())
    dat[offset + 12 : offset + 16] = b"\x7f\xff\xff\xff"
    (tmp_path / "7.dat").write_bytes(dat)
    with pytest.raises(FormatError, match="size 2147483647 at offset 8"):
        walk(volume)


def test_a_failing_disk(volume, files):
    write(volume, 1, b"first")
    files.plan["read"] = broken(after=0)
    with pytest.raises(errors.ReadFailed):
        walk(volume)
    files.plan.clear()
    assert len(walk(volume)) == 1
