"""Shards of volumes whose bytes never change: their hashes are those that Go's server once gave, and are kept here."""

import pytest
from support.golden_volumes import DAT_BYTES, HASHES, hashes_of, write_golden_volume
from support.stores import open_at

from native_handlers.storage.erasure_coding import kernel

VID = 7


def code(directory, name):
    """The hashes of the files, after the volume was coded by a store."""
    write_golden_volume(directory, VID, name)
    store = open_at(directory)
    store.ec_work.generate(store.find_volume(VID), "")
    store.close()
    return hashes_of(directory, VID)


@pytest.mark.parametrize("name", DAT_BYTES)
def test_shards_are_byte_for_byte_those_of_go(tmp_path, name):
    assert code(tmp_path, name) == HASHES[name]


@pytest.mark.parametrize("name", ["small", "above_a_row"])
def test_numpy_gives_the_same_bytes(tmp_path, monkeypatch, name):
    monkeypatch.setenv(kernel.NO_KERNEL_VARIABLE, "1")
    assert code(tmp_path, name) == HASHES[name]


def test_there_are_hashes_of_every_volume_and_no_other():
    assert HASHES.keys() == DAT_BYTES.keys()
    assert [DAT_BYTES[name] - (10 << 20) for name in ("below_a_row", "a_row", "above_a_row")] == [-8, 0, 8]


@pytest.mark.parametrize("name", DAT_BYTES)
def test_lost_shards_are_made_anew_with_the_bytes_of_go(tmp_path, name):
    code(tmp_path, name)
    for shard in (0, 4, 9, 12):
        (tmp_path / f"{VID}.ec{shard:02d}").unlink()
    store = open_at(tmp_path)
    assert store.ec_work.rebuild_missing("", VID, ignores_checksums=False) == [0, 4, 9, 12]
    store.close()
    assert hashes_of(tmp_path, VID) == HASHES[name]
