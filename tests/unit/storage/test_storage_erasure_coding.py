"""Erasure-coded volumes in a store: several disks, crashes at every step, the files that a start keeps and removes."""

import errno
import os
import shutil
import time
from contextlib import suppress
from functools import partial

import pytest
from support import stores
from support.coded_volumes import FakeRemote
from support.files import PlannedFiles, broken, path_of
from support.made_once import put_files

from native_handlers.format.crc import crc32c
from native_handlers.format.needle import Needle
from native_handlers.format.vif import EcShardConfig, VolumeInfo, encode_volume_info, parse_volume_info
from native_handlers.storage.erasure_coding import decode_volume, encode, layout, rebuild
from native_handlers.storage.erasure_coding.errors import EcMountFailed, EcRefused, NoLiveNeedles
from native_handlers.storage.erasure_coding.remote import (
    FRESH_WITH_ALL_S,
    FRESH_WITH_FEW_S,
    FRESH_WITH_SOME_S,
    ShardLocations,
    ShardUnreachable,
)
from native_handlers.storage.model.errors import Deleted, DiskUnavailable, StorageError
from native_handlers.storage.system.files import OsFiles

VID = 7
MIB = 1 << 20


NAMING = ("sync", "sync_directory", "rename", "unlink")
"""The operations that change names or sync: the steps after which a crash leaves something else."""


def cut_files():
    return PlannedFiles(steps_of=NAMING)


def open_at(*directories, files=None, **fields):
    return stores.open_at(*directories, files=files or cut_files(), **fields)


def needle(number, size=3000):
    data = bytes((number,)) * size
    return Needle(needle_id=number, cookie=5, data=data, checksum=crc32c(data))


def filled(store, count=5):
    store.allocate_volume(VID)
    for number in range(1, count + 1):
        store.get_volume(VID).write(needle(number))
    return store


def mount_all(store, shards=range(14)):
    for shard in shards:
        store.ec.mount("", VID, shard)


def check(store, numbers, *, coded):
    for number in numbers:
        if coded:
            data = store.ec_reader.read_needle(VID, number, 5).data
        else:
            read = store.get_volume(VID).read(number, cookie=5)
            data = read.needle.data
            read.release()
        assert bytes(data) == bytes((number,)) * 3000


def code(directory, *, keeps_dat=False):
    """Puts a coded volume with the needles 1 to 5 into a directory."""
    put_files(directory, ("five needles", keeps_dat), partial(make_coded, keeps_dat=keeps_dat))


def make_coded(directory, *, keeps_dat):
    store = filled(open_at(directory))
    store.ec_work.generate(store.find_volume(VID), "")
    mount_all(store)
    if not keeps_dat:
        store.delete_volume(VID, only_empty=False)
    store.close()


def test_a_coded_volume_is_read_deleted_and_opened_again(disk):
    code(disk)
    store = open_at(disk)
    assert store.locations[0].ec_shard_count == 14
    (report,) = store.ec.reports()
    assert (report.file_count, report.delete_count, len(report.shard_sizes)) == (5, 0, 14)
    check(store, range(1, 6), coded=True)
    told = []
    store.ec.add_listener(lambda: told.append(1))
    size = store.ec_reader.delete_needle(VID, 2, 5)
    assert size > 3000
    with pytest.raises(Deleted):
        store.ec_reader.read_needle(VID, 2, 5)
    with pytest.raises(StorageError, match="unexpected cookie 6"):
        store.ec_reader.delete_needle(VID, 3, 6)
    store.close()
    (disk / "7.ecj").write_bytes((disk / "7.ecj").read_bytes() + b"torn")
    store = open_at(disk)
    with pytest.raises(Deleted):
        store.ec_reader.read_needle(VID, 2, 5)
    store.ec_reader.delete_needle(VID, 3, 0)
    assert (disk / "7.ecj").read_bytes() == (2).to_bytes(8, "big") + (3).to_bytes(8, "big")
    check(store, (1, 4, 5), coded=True)
    store.close()


def test_another_ratio_is_kept(disk):
    store = filled(open_at(disk))
    vif = disk / "7.vif"
    info = parse_volume_info(vif.read_bytes())
    vif.write_text(encode_volume_info(VolumeInfo(version=info.version, ec_shard_config=EcShardConfig(3, 2, 1))))
    store.ec_work.generate(store.find_volume(VID), "")
    assert len(list(disk.glob("7.ec[0-9]*"))) == 5
    mount_all(store, range(5))
    store.ec.unmount(VID, 0)
    store.ec.unmount(VID, 2)
    check(store, range(1, 6), coded=True)
    store.close()


@pytest.mark.slow
def test_a_mark_of_the_volume_leaves_the_coding_of_its_shards(disk):
    """The volume was opened before it was coded, and shares the .vif with its shards. Slow: codes a volume."""
    store = filled(open_at(disk))
    store.ec_work.generate(store.find_volume(VID), "")
    coded = parse_volume_info((disk / "7.vif").read_bytes())
    store.mark_readonly(store.get_volume(VID), persist=True)
    marked = parse_volume_info((disk / "7.vif").read_bytes())
    assert marked.read_only
    store.mark_writable(store.get_volume(VID))
    for info in (marked, parse_volume_info((disk / "7.vif").read_bytes())):
        assert (info.ec_shard_config, info.dat_file_size) == (coded.ec_shard_config, coded.dat_file_size)
    store.close()


WORKS = ("generate", "generate again", "rebuild", "decode", "decode again")


def prepared(directory, work):
    """The directory before `work`, with a store that is open on counting files."""
    code(directory, keeps_dat=work.startswith("generate"))
    if work == "generate":
        for path in directory.glob("7.ec*"):
            path.unlink()
    if work == "rebuild":
        store = open_at(directory)
        store.ec_reader.delete_needle(VID, 2, 0)
        store.close()
        for shard in (1, 12):
            (directory / f"7.ec{shard:02d}").unlink()
    if work.startswith("decode"):
        store = open_at(directory)
        if work == "decode again":
            store.ec_work.decode("", VID, was_open=False)
        store.ec_reader.delete_needle(VID, 2, 0)
        store.close()


def run(store, work):
    if work.startswith("generate"):
        store.ec_work.generate(store.find_volume(VID), "")
    elif work == "rebuild":
        assert store.ec_work.rebuild_missing("", VID, ignores_checksums=False) == [1, 12]
    else:
        store.ec_work.decode("", VID, was_open=False)


@pytest.mark.slow
@pytest.mark.parametrize("work", WORKS)
def test_a_cut_at_any_step(tmp_path, work):
    """The next start has the old state or the new one, and every needle. Slow: some fifty starts."""
    first = tmp_path / "first"
    first.mkdir()
    prepared(first, work)
    untouched = tmp_path / "untouched"
    shutil.copytree(first, untouched)
    files = cut_files()
    store = open_at(first, files=files)
    before = files.steps
    run(store, work)
    steps = files.steps - before
    assert steps > 5
    store.close()
    codings = set()
    for cut_at in range(1, steps + 1):
        directory = tmp_path / f"cut{cut_at}"
        shutil.copytree(untouched, directory)
        files = cut_files()
        store = open_at(directory, files=files)
        files.cut_at = files.steps + cut_at
        has_ended = False
        with suppress(OSError, StorageError):
            run(store, work)
            has_ended = True
        # The volume is there once its files have their names, whether or not its checksums stay then.
        assert not has_ended or (work.startswith("decode") and (directory / "7.dat").exists()), cut_at
        files.cut_at = None
        store.close()
        store = open_at(directory)
        assert not list(directory.glob("*.receiving"))
        shards = len(list(directory.glob("7.ec[0-9]*")))
        gone = () if work.startswith("generate") else (2,)
        alive = [number for number in range(1, 6) if number not in gone]
        if work.startswith("generate"):
            assert shards in {0, 14}, cut_at
            check(store, alive, coded=False)
            if shards == 14:
                check(store, alive, coded=True)
                codings.add(store.ec.find(VID).encode_ts_ns)
            else:
                codings.add(None)
            assert (store.ec.find(VID) is not None) == (shards == 14)
        else:
            assert 12 <= shards <= 14
            check(store, alive, coded=True)
            with pytest.raises(Deleted):
                store.ec_reader.read_needle(VID, 2, 5)
        if work.startswith("decode") and (directory / "7.dat").exists():
            store.mount_volume(VID)
            check(store, alive, coded=False)
        store.close()
        shutil.rmtree(directory)
    if work == "generate again":
        assert {coding_in(untouched), None} <= codings


def coding_in(directory):
    return parse_volume_info((directory / "7.vif").read_bytes()).ec_shard_config.encode_ts_ns


def test_shards_on_a_disk_without_index_are_opened(disk, other_disk):
    code(disk)
    for shard in range(5, 14):
        shutil.move(disk / f"7.ec{shard:02d}", other_disk)
    store = open_at(disk, other_disk)
    assert [sorted(volume.shards) for volume in store.ec.copies(VID)] == [list(range(5)), list(range(5, 14))]
    assert [location.ec_shard_count for location in store.locations] == [5, 9]
    assert {path.name for path in other_disk.glob("7.*")} >= {"7.ecx", "7.vif"}
    check(store, range(1, 6), coded=True)
    store.close()


@pytest.mark.damage("shards of other lengths lie beside the .dat")
def test_shards_are_kept_unless_the_whole_dat_is_there(disk):
    code(disk, keeps_dat=True)
    shards = sorted(disk.glob("7.ec[0-9]*"))
    (disk / "7.ec03").write_bytes(bytes(2 * MIB))
    open_at(disk).close()
    assert sorted(disk.glob("7.ec[0-9]*")) == shards, "unequal lengths: what they are cannot be told"
    for path in shards:
        os.truncate(path, 5)
    (disk / "7.dat").rename(disk / "7.aside")
    (disk / "7.dat").write_bytes((disk / "7.aside").read_bytes()[:8])
    open_at(disk).close()
    assert sorted(disk.glob("7.ec[0-9]*")) == shards, "an empty .dat is no source"
    (disk / "7.aside").rename(disk / "7.dat")
    store = open_at(disk)
    assert not list(disk.glob("7.ec[0-9]*"))
    assert not store.find_volume(VID).is_read_only
    store.close()


def test_shards_that_a_power_cut_made_shorter_go_while_the_dat_is_there(disk):
    code(disk, keeps_dat=True)
    os.truncate(disk / "7.ec03", 4096)
    os.truncate(disk / "7.ec05", 0)
    store = open_at(disk)
    assert not [path for path in disk.glob("7.ec[0-9]*") if path.stat().st_size]
    check(store, range(1, 6), coded=False)
    store.close()


def test_shards_are_on_disk_before_their_dat_goes(disk):
    synced = set()

    def note(operation, target):
        if operation == "sync":
            synced.add(path_of(target).name)
        if operation == "unlink" and target.name == "7.dat":
            assert len({name for name in synced if ".ec" in name and name[-2:].isdigit()}) == 14

    files = PlannedFiles(before=note)
    store = filled(open_at(disk, files=files))
    store.ec_work.generate(store.find_volume(VID), "")
    mount_all(store, range(3, 14))
    synced.clear()
    store.delete_volume(VID, only_empty=False)
    assert not (disk / "7.dat").exists()
    store.close()


def test_a_dat_is_on_disk_before_its_shards_have_names(disk):
    steps = []

    def note(operation, target):
        if operation in {"sync", "rename"}:
            steps.append((operation, path_of(target).name))

    store = filled(open_at(disk, files=PlannedFiles(before=note)))
    steps.clear()
    store.ec_work.generate(store.find_volume(VID), "")
    renamed = [number for number, (operation, name) in enumerate(steps) if operation == "rename" and ".ec" in name]
    assert len(renamed) >= 14
    assert ("sync", "7.dat") in steps[: renamed[0]]
    store.close()


def test_a_dat_that_cannot_be_put_on_disk_is_not_coded(disk):
    def fail(operation, target):
        if failing and operation == "sync" and path_of(target).name == "7.dat":
            raise OSError(errno.EIO, "the disk fails")

    failing = False
    store = filled(open_at(disk, files=PlannedFiles(before=fail)))
    failing = True
    with pytest.raises(StorageError):
        store.ec_work.generate(store.find_volume(VID), "")
    failing = False
    assert not list(disk.glob("7.ec*"))
    store.close()


@pytest.mark.parametrize("doomed", [[2], [5], [4, 5]], ids=["within", "last", "two-last"])
def test_what_is_deleted_while_the_dat_is_written_stays_deleted(disk, monkeypatch, doomed):
    """The last ones too: their records are not taken for writes that lack a row."""
    code(disk)
    store = open_at(disk)
    mount_all(store)
    write_dat = decode_volume.write_dat

    def delete_meanwhile(*arguments):
        write_dat(*arguments)
        for number in doomed:
            store.ec.delete(store.ec.find(VID), number)

    monkeypatch.setattr(decode_volume, "write_dat", delete_meanwhile)
    store.ec_work.decode("", VID, was_open=False)
    store.close()
    for path in disk.glob("7.ec*"):
        path.unlink()
    store = open_at(disk)
    check(store, [number for number in range(1, 6) if number not in doomed], coded=False)
    for number in doomed:
        with pytest.raises(Deleted):
            store.get_volume(VID).read(number, cookie=5)
    store.close()


def test_a_volume_whose_last_needle_is_deleted_meanwhile_is_not_decoded(disk, monkeypatch):
    code(disk)
    store = open_at(disk)
    mount_all(store)

    def delete_meanwhile(*_):
        for number in range(1, 6):
            store.ec.delete(store.ec.find(VID), number)

    monkeypatch.setattr(decode_volume, "write_dat", delete_meanwhile)
    with pytest.raises(NoLiveNeedles):
        store.ec_work.decode("", VID, was_open=False)
    assert not list(disk.glob("7.dat*"))
    store.close()


def test_a_coding_that_fails_at_a_name_leaves_no_shards(disk):
    files = PlannedFiles(is_lasting=False, matches=lambda path: str(path).endswith(".ec05"))
    store = filled(open_at(disk, files=files))
    files.plan["rename"] = (0, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        store.ec_work.generate(store.find_volume(VID), "")
    assert not list(disk.glob("7.ec*"))
    check(store, range(1, 6), coded=False)
    store.close()


def test_pages_of_old_shards_are_given_back_before_new_ones_are_written(disk):
    steps = []

    def note(operation, target):
        if operation in {"drop_cached", "write", "unlink"}:
            name = path_of(target).name
            steps.extend((operation, name) for _ in range(".ec" in name))

    files = PlannedFiles(before=note)
    store = filled(open_at(disk, files=files))
    store.ec_work.generate(store.find_volume(VID), "")
    assert {operation for operation, _ in steps} == {"write"}
    old = {path.name: path.read_bytes() for path in disk.glob("7.ec[0-9]*")}
    steps.clear()
    store.ec_work.generate(store.find_volume(VID), "")
    assert {name for operation, name in steps[:14] if operation == "drop_cached"} == old.keys()
    assert ("unlink", "7.ec00") in steps[14:]
    assert {path.name: path.read_bytes() for path in disk.glob("7.ec[0-9]*")} == old
    store.close()


def test_several_buffers_are_filled_by_one_read(tmp_path, monkeypatch):
    path = tmp_path / "some"
    path.write_bytes(bytes(range(100)))
    fd = os.open(path, os.O_RDONLY)
    read, counts = os.preadv, []

    def short(fd, buffers, offset):
        """Ends after seven bytes, as a read that a signal interrupts."""
        left, parts = 7, []
        for buffer in buffers:
            parts.append(buffer[:left])
            left -= len(parts[-1])
        counts.append(read(fd, parts, offset))
        return counts[-1]

    def fill():
        buffers = [bytearray(length) for length in (10, 0, 3, 60)]
        return OsFiles().read_into_each(fd, [memoryview(one) for one in buffers], 40), b"".join(buffers)

    try:
        assert fill() == (60, bytes(range(40, 100)) + bytes(13))
        monkeypatch.setattr(os, "preadv", short)
        assert fill() == (60, bytes(range(40, 100)) + bytes(13))
        assert len(counts) > 60 // 7
    finally:
        os.close(fd)


def test_shards_of_a_disk_out_of_service_are_not_asked(disk, other_disk):
    code(disk)
    for shard in range(10, 14):
        shutil.move(disk / f"7.ec{shard:02d}", other_disk)
    store = open_at(disk, other_disk)
    store.locations[1].health.problem = "why"
    assert [report.disk_id for report in store.ec.reports()] == [0]
    check(store, range(1, 6), coded=True)
    store.ec.unmount(VID, 0)
    with pytest.raises(ShardUnreachable, match="only 9 shards available"):
        check(store, range(1, 6), coded=True)
    store.locations[1].health.problem = ""
    check(store, range(1, 6), coded=True)
    store.locations[0].health.problem = "why"
    with pytest.raises(ShardUnreachable):
        check(store, range(1, 6), coded=True)
    store.locations[1].health.problem = "why"
    with pytest.raises(DiskUnavailable):
        check(store, range(1, 6), coded=True)
    store.locations[0].health.problem = store.locations[1].health.problem = ""
    store.close()


def test_a_fenced_teardown_keeps_what_is_not_older(disk):
    code(disk)
    store = open_at(disk)
    stamp = store.ec.find(VID).encode_ts_ns
    store.ec_work.tear_down("", VID, stamp)
    assert len(list(disk.glob("7.ec[0-9]*"))) == 14
    store.ec.unmount(VID, 0, stamp)
    assert len(store.ec.find(VID).shards) == 14
    store.ec_work.tear_down("", VID, stamp + 1)
    assert not list(disk.glob("7.*"))
    assert store.ec.find(VID) is None
    store.close()


def test_the_index_goes_with_the_last_shard_of_the_server(disk, other_disk):
    code(disk)
    shutil.move(disk / "7.ec00", other_disk)
    store = open_at(disk, other_disk)
    for shard in range(14):
        store.ec.unmount(VID, shard)
    store.ec_work.delete_shards("", VID, range(1, 14))
    assert (disk / "7.ecx").exists()
    assert not list(disk.glob("7.ecsum"))
    store.ec_work.delete_shards("", VID, [0])
    assert not [*disk.glob("7.*"), *other_disk.glob("7.*")]
    store.close()


def test_the_shards_of_a_volume_with_a_ttl_expire_as_long_after_the_coding(disk):
    store = open_at(disk)
    store.allocate_volume(VID, ttl="3h")
    store.get_volume(VID).write(needle(1))
    before_s = int(time.time())
    store.ec_work.generate(store.find_volume(VID), "")
    after_s = int(time.time())
    mount_all(store)
    expire_at_s = parse_volume_info((disk / "7.vif").read_bytes()).expire_at_s
    assert before_s <= expire_at_s - 3 * 3600 <= after_s
    assert store.ec.reports()[0].expire_at_s == expire_at_s
    store.close()


def test_mounting_says_why_no_disk_could_open_the_shard(disk, other_disk):
    code(disk)
    for name in ("7.ec03", "7.ecx", "7.vif"):
        shutil.copy(disk / name, other_disk / name)
    files = PlannedFiles()
    store = open_at(disk, other_disk, files=files)
    store.ec.unload(VID)
    files.matches = lambda path: path.name == "7.ec03"
    files.plan["open"] = broken(errno.EIO)
    with pytest.raises(EcMountFailed) as raised:
        store.ec.mount("", VID, 3)
    name, _, reasons = str(raised.value).partition(" load failures: ")
    assert name == "MountEcShards 7.3"
    assert sorted(reason.split(": ")[0] for reason in reasons.split("; ")) == sorted(map(str, (disk, other_disk)))
    assert reasons.count("Input/output error") == 2
    files.plan.clear()
    store.ec.mount("", VID, 3)
    store.close()


def test_mounting_says_what_is_missing(disk):
    code(disk)
    store = open_at(disk)
    with pytest.raises(EcMountFailed, match=r"MountEcShards 7\.20 not found on disk"):
        store.ec.mount("", VID, 20)
    with pytest.raises(EcMountFailed, match=r"MountEcShards 8\.0: no \.ecx index found on any local disk"):
        store.ec.mount("", 8, 0)
    store.ec.mount("", VID, 3, "ssd")
    assert store.ec.reports()[0].disk_type == "ssd"
    store.ec.unmount(VID, 30)
    store.ec.unmount(9, 0)
    store.close()


def test_what_would_overwrite_or_is_not_whole_is_not_decoded(disk):
    code(disk, keeps_dat=True)
    store = open_at(disk)
    store.ec.unmount(VID, 4)
    with pytest.raises(EcRefused, match="ec volume 7 missing shard 4"):
        store.ec_work.decode("", VID, was_open=False)
    with pytest.raises(EcRefused, match="ec volume 9 not found"):
        store.ec_work.decode("", 9, was_open=False)
    with pytest.raises(EcRefused, match="existing collection: unexpected input: c"):
        store.ec_work.decode("c", VID, was_open=False)
    with pytest.raises(EcRefused, match="existing collection: unexpected input: c"):
        store.ec_work.generate(store.find_volume(VID), "c")
    store.close()


@pytest.fixture
def decoded(disk):
    """A coded volume whose .dat was made again, and not yet opened. Its last needle was deleted."""
    code(disk)
    store = open_at(disk)
    store.ec.delete(store.ec.find(VID), 5)
    store.ec_work.decode("", VID, was_open=False)
    yield store
    store.close()


def test_a_decoding_is_done_again_where_the_dat_is_in_the_shards(decoded, disk):
    """As when a shell ended between the decoding and the mount."""
    dat = (disk / "7.dat").read_bytes()
    for left in (dat, dat[:1000], dat[:8]):
        (disk / "7.dat").write_bytes(left)
        decoded.ec_work.decode("", VID, was_open=False)
        assert (disk / "7.dat").read_bytes() == dat


def test_a_decoded_volume_that_a_search_for_new_files_has_opened_takes_writes_when_mounted(decoded):
    """A SIGHUP between the decoding and the mount, which comes before the shards are deleted."""
    decoded.load_new_volumes()
    assert decoded.get_volume(VID).is_read_only
    decoded.mount_volume(VID)
    assert not decoded.get_volume(VID).is_read_only
    decoded.get_volume(VID).write(needle(9))
    assert not decoded.findings
    decoded.mount_volume(VID)
    assert decoded.get_volume(VID).read(9, cookie=5).needle.needle_id == 9


def test_a_dat_that_was_written_to_since_is_not_replaced(decoded, disk):
    decoded.mount_volume(VID)
    decoded.get_volume(VID).write(Needle(cookie=5, needle_id=9, data=b"newer"))
    decoded.unmount_volume(VID)
    written = {name: (disk / name).read_bytes() for name in ("7.dat", "7.idx")}
    for was_open in (False, True):
        with pytest.raises(EcRefused, match=r"/7\.dat has what the shards of volume 7 do not hold; keep that volume"):
            decoded.ec_work.decode("", VID, was_open=was_open)
    assert {name: (disk / name).read_bytes() for name in written} == written


def test_a_dat_of_the_same_length_with_other_bytes_is_not_replaced(decoded, disk):
    dat = bytearray((disk / "7.dat").read_bytes())
    dat[4000] ^= 1
    (disk / "7.dat").write_bytes(dat)
    with pytest.raises(EcRefused, match="has what the shards of volume 7 do not hold"):
        decoded.ec_work.decode("", VID, was_open=False)
    assert (disk / "7.dat").read_bytes() == dat
    (disk / "7.dat").unlink()


def test_a_volume_that_is_open_elsewhere_is_not_made_a_second_time(disk, tmp_path):
    code(disk)
    other = stores.place(tmp_path / "other")
    store = open_at(disk, other)
    with pytest.raises(EcRefused, match=r"volume 7 is open here without .*/7\.dat"):
        store.ec_work.decode("", VID, was_open=True)
    (other.path / "7.dat").write_bytes(bytes(100))
    with pytest.raises(EcRefused, match=r"volume 7 is here as a regular volume too: .*other/7\.dat"):
        store.ec_work.decode("", VID, was_open=False)
    assert not (disk / "7.dat").exists()
    (other.path / "7.dat").unlink()
    store.close()


def test_shards_elsewhere_are_read_and_no_more_than_it_takes(disk):
    code(disk)
    store = open_at(disk)
    content = {shard: (disk / f"7.ec{shard:02d}").read_bytes() for shard in range(14)}
    for shard in range(14):
        if shard not in {1, 2, 3}:
            store.ec.unmount(VID, shard)
    remote = store.ec_reader.remote = FakeRemote({"a": {shard: content[shard] for shard in (0, 4, 5)}})
    check(store, range(1, 6), coded=True)
    assert (remote.read, remote.asked) == ([0] * 5, 1)
    remote.shards = {"b": {shard: content[shard] for shard in range(4, 14)}}
    remote.requests.clear()
    check(store, [1], coded=True)
    assert remote.asked == 2, "what was known did not do"
    assert len(remote.read) <= 3 + 7 + 3
    remote.shards = {"b": {shard: content[shard] for shard in range(4, 10)}}
    with pytest.raises(ShardUnreachable, match=r"cannot recover shard 7\.0: only 9 shards available"):
        check(store, [1], coded=True)
    store.close()


def test_what_is_known_of_holders_ages():
    now = 0.0
    known = ShardLocations(lambda: now)
    few, some, everything = ({"a": dict.fromkeys(range(count), b"")} for count in (9, 12, 14))
    for shards, limit_s in ((few, FRESH_WITH_FEW_S), (some, FRESH_WITH_SOME_S), (everything, FRESH_WITH_ALL_S)):
        remote = FakeRemote(shards)
        volume_id = len(shards["a"])
        for passed_s, asked in ((0, 1), (limit_s - 1, 1), (2, 2)):
            now += passed_s
            known.get(remote, volume_id, layout.DEFAULT_RATIO)
            assert remote.asked == asked
    remote.is_away = True
    now += 10 * FRESH_WITH_ALL_S
    assert len(known.get(remote, 14, layout.DEFAULT_RATIO)) == 14, "old news is better than none"
    with pytest.raises(ShardUnreachable):
        known.get(remote, 1, layout.DEFAULT_RATIO)


def test_pieces_are_of_one_size():
    assert layout.SMALL_BLOCK_BYTES % encode.PIECE_BYTES == 0
    assert rebuild.PIECE_BYTES == encode.PIECE_BYTES
