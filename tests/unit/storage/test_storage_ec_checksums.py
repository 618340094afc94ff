"""The checksums of shards (.ecsum): how a coding makes them, and what a scrub and a rebuilding do with them."""

import errno
import os

import pytest
from support import stores
from support.coded_volumes import put_coded_volume
from support.files import PlannedFiles, broken

from native_handlers.format.crc import crc32c
from native_handlers.format.needle import Needle
from native_handlers.storage.erasure_coding import bitrot
from native_handlers.storage.erasure_coding.errors import RebuildFailed

VID = 7
MIB = 1 << 20
NUMBERS = range(1, 6)


def needle(number):
    data = bytes((number,)) * 3000
    return Needle(needle_id=number, cookie=5, data=data, checksum=crc32c(data))


def code(directory):
    put_coded_volume(directory, VID, *map(needle, NUMBERS))


def spoil(path, at):
    """Changes one byte of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_a_scrub_names_what_is_broken(disk):
    """Slow: codes a volume and damages it several times."""
    code(disk)
    store = stores.open_at(disk)
    read = []

    def scrub():
        return store.ec_work.scrubber(store.ec_reader, store.ec.find(VID), read.append)

    for found in (scrub().index(), scrub().local(), scrub().full(checks_deleted=True), scrub().checksums()):
        assert not found.is_broken, found.errors
    assert sum(read) > 14 * MIB
    with (disk / "7.ec00").open("r+b") as shard:
        shard.seek(100)
        shard.write(b"\xff")
    for found in (scrub().local(), scrub().full(checks_deleted=False)):
        assert "needle 1 on " in found.errors[0]
    found = scrub().checksums()
    assert found.broken_shards == {0: MIB}
    assert "shard 0: checksum mismatch at block 0 (offset 0)" in found.errors[0]
    store.ec.unmount(VID, 0)
    assert not scrub().local().is_broken
    assert scrub().full(checks_deleted=False).broken_shards.keys() == {0}
    os.truncate(disk / "7.ecx", 16 * 5 - 3)
    assert any("index file of size" in error for error in scrub().index().errors)
    store.close()


@pytest.mark.slow
def test_shards_without_checksums_get_them_by_a_rebuild(disk):
    """Slow: codes a volume."""
    code(disk)
    expected = bitrot.parse_checksums((disk / "7.ecsum").read_bytes())
    (disk / "7.ecsum").unlink()
    (disk / "7.ec03").unlink()
    store = stores.open_at(disk)
    assert store.ec_work.rebuild_missing("", VID, ignores_checksums=False) == [3]
    assert bitrot.parse_checksums((disk / "7.ecsum").read_bytes()) == expected
    store.close()


def test_shards_that_do_not_fit_get_no_checksums(disk):
    """Checksums of wrong shards would confirm the wrong data."""
    code(disk)
    (disk / "7.ecsum").unlink()
    spoil(disk / "7.ec12", at=77)
    (disk / "7.ec03").unlink()
    store = stores.open_at(disk)
    assert store.ec_work.rebuild_missing("", VID, ignores_checksums=False) == [3]
    assert not (disk / "7.ecsum").exists()
    store.close()


def test_checksums_that_nobody_can_read_stop_a_rebuilding_unless_they_are_to_be_ignored(disk):
    """Upstream: unsafe_ignore_sidecar of VolumeEcShardsRebuild."""
    code(disk)
    whole = (disk / "7.ec03").read_bytes()
    spoil(disk / "7.ecsum", at=20)
    spoilt = (disk / "7.ecsum").read_bytes()
    (disk / "7.ec03").unlink()
    store = stores.open_at(disk)
    with pytest.raises(RebuildFailed, match="pass unsafeIgnoreSidecar to override"):
        store.ec_work.rebuild_missing("", VID, ignores_checksums=False)
    assert not (disk / "7.ec03").exists()
    assert (disk / "7.ecsum").read_bytes() == spoilt
    assert store.ec_work.rebuild_missing("", VID, ignores_checksums=True) == [3]
    assert (disk / "7.ec03").read_bytes() == whole
    store.close()


def test_checksums_that_are_to_be_ignored_exclude_no_shard(disk):
    """A shard that differs from its checksum is otherwise made anew."""
    code(disk)
    spoil(disk / "7.ec12", at=77)
    (disk / "7.ec03").unlink()
    spoilt = (disk / "7.ec12").read_bytes()
    store = stores.open_at(disk)
    assert store.ec_work.rebuild_missing("", VID, ignores_checksums=True) == [3]
    assert (disk / "7.ec12").read_bytes() == spoilt
    assert sorted(store.ec_work.rebuild_missing("", VID, ignores_checksums=False)) == [12]
    assert (disk / "7.ec12").read_bytes() != spoilt
    store.close()


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_a_coding_whose_checksums_cannot_be_written_fails_and_leaves_nothing(disk, operation):
    """Upstream goes on without them. The disk that refuses them is that of the shards."""
    files = PlannedFiles()
    store = stores.open_at(disk, files=files)
    store.allocate_volume(VID)
    store.get_volume(VID).write(needle(1))
    files.matches = lambda path: ".ecsum" in path.name
    files.plan[operation] = broken(errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        store.ec_work.generate(store.find_volume(VID), "")
    assert sorted(path.name for path in disk.glob("7.*")) == ["7.dat", "7.idx", "7.vif"]
    files.plan.clear()
    store.ec_work.generate(store.find_volume(VID), "")
    assert (disk / "7.ecsum").exists()
    store.close()
