"""Shards of volumes whose bytes never change: their hashes are those that Go's server once gave, and are kept here."""

import os

import pytest
from support.golden_volumes import (
    DAT_BYTES,
    HASHES,
    LARGE_ROWS_DAT_BYTES,
    LARGE_ROWS_HASHES,
    hashes_of,
    hashes_of_checksums,
    write_golden_volume,
    write_large_rows_volume,
)
from support.stores import open_at

from native_handlers.storage.erasure_coding import kernel
from native_handlers.storage.erasure_coding.encode import encode
from native_handlers.storage.erasure_coding.layout import DEFAULT_RATIO
from native_handlers.storage.system.files import OsFiles

VID = 7


def code(directory, name):
    """The hashes of the files, after the volume was coded by a store."""
    write_golden_volume(directory, VID, name)
    store = open_at(directory)
    store.ec_work.generate(store.find_volume(VID), "")
    store.close()
    return hashes_of(directory, VID)


@pytest.mark.parametrize("name", DAT_BYTES)
@pytest.mark.slow
def test_shards_are_byte_for_byte_those_of_go(tmp_path, name):
    """Slow: shards of several MB are made."""
    assert code(tmp_path, name) == HASHES[name]


@pytest.mark.parametrize("name", ["small", "above_a_row"])
@pytest.mark.slow
def test_numpy_gives_the_same_bytes(tmp_path, monkeypatch, name):
    """Slow: codes without the compiled kernel."""
    monkeypatch.setenv(kernel.NO_KERNEL_VARIABLE, "1")
    assert code(tmp_path, name) == HASHES[name]


class NoDisk(OsFiles):
    """Writes nothing, and reads holes without the page cache."""

    def write(self, fd, parts, offset_bytes):
        pass

    def read_into(self, fd, buffer, offset_bytes):
        if os.lseek(fd, offset_bytes, os.SEEK_DATA) < offset_bytes + len(buffer):
            return super().read_into(fd, buffer, offset_bytes)
        buffer[:] = bytes(len(buffer))
        return len(buffer)


@pytest.mark.slow
def test_blocks_of_1_gib_are_those_of_go(tmp_path):
    """Slow: 10 GiB are coded. The checksums are of the bytes that would be written."""
    write_large_rows_volume(tmp_path, VID)
    files = NoDisk()
    fd = files.open(tmp_path / f"{VID}.dat", os.O_RDONLY)
    try:
        checksums = encode(files, fd, LARGE_ROWS_DAT_BYTES, DEFAULT_RATIO, [-1] * DEFAULT_RATIO.total)
    finally:
        files.close(fd)
    assert hashes_of_checksums(checksums) == LARGE_ROWS_HASHES


def test_there_are_hashes_of_every_volume_and_no_other():
    assert HASHES.keys() == DAT_BYTES.keys()
    assert [DAT_BYTES[name] - (10 << 20) for name in ("below_a_row", "a_row", "above_a_row")] == [-8, 0, 8]


@pytest.mark.parametrize("name", DAT_BYTES)
@pytest.mark.slow
def test_lost_shards_are_made_anew_with_the_bytes_of_go(tmp_path, name):
    """Slow: shards of several MB are made twice."""
    code(tmp_path, name)
    for shard in (0, 4, 9, 12):
        (tmp_path / f"{VID}.ec{shard:02d}").unlink()
    store = open_at(tmp_path)
    assert store.ec_work.rebuild_missing("", VID, ignores_checksums=False) == [0, 4, 9, 12]
    store.close()
    assert hashes_of(tmp_path, VID) == HASHES[name]
