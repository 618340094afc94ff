"""What opening a volume does for each kind of damage: repairs, read-only volumes, files that stay."""

from __future__ import annotations

import json
import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from support.stores import open_at, place

from native_handlers.format.crc import crc32c
from native_handlers.format.idx import encode_entry, iter_entries
from native_handlers.format.needle import Needle, encode_needle
from native_handlers.format.types import TOMBSTONE_SIZE
from native_handlers.format.vif import EcShardConfig, RemoteFile, VolumeInfo, encode_volume_info
from native_handlers.storage.directory.location import LocationConfig
from native_handlers.storage.model import errors
from native_handlers.storage.model.report import FindingKind

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.store import Store

COOKIE = 0xC0FFEE


def put(store: Store, needle_id: int, data: bytes | None = None) -> None:
    store.get_volume(7).write(
        Needle(needle_id=needle_id, cookie=COOKIE, data=b"x" * needle_id if data is None else data)
    )


def get(store: Store, needle_id: int) -> bytes:
    return bytes(store.get_volume(7).read(needle_id, cookie=COOKIE).needle.data)


def kinds(store: Store) -> list[FindingKind]:
    return [finding.kind for finding in store.findings]


@pytest.fixture(params=[4, 5], ids=["4-byte", "5-byte"])
def width(request):
    return request.param


@pytest.fixture
def made(tmp_path, width):
    """A directory with volume 7: needles 1 to 9, of which 4 is deleted and 5 written twice. Returns it closed."""
    store = open_at(tmp_path, offset_width_bytes=width)
    store.allocate_volume(7)
    for needle_id in range(1, 10):
        put(store, needle_id)
    store.get_volume(7).delete(4, COOKIE)
    put(store, 5, b"again")
    store.close()
    return tmp_path


EXPECTED = {needle_id: b"x" * needle_id for needle_id in range(1, 10) if needle_id != 4} | {5: b"again"}


def check_all(store: Store, expected=EXPECTED) -> None:
    for needle_id, data in expected.items():
        assert get(store, needle_id) == data
    with pytest.raises(errors.Deleted):
        store.get_volume(7).read(4, cookie=None)


def check_writable_and_clean_afterwards(store: Store) -> None:
    put(store, 100)
    store.close()
    again = open_at(store.locations[0].path)
    assert again.findings == []
    check_all(again)
    assert get(again, 100) == b"x" * 100
    again.close()


def cut(path: Path, length: int) -> None:
    os.truncate(path, path.stat().st_size - length)


def row_length(width: int) -> int:
    return 12 + width


class TestIndex:
    def test_a_healthy_volume_has_no_findings(self, made):
        store = open_at(made)
        assert store.findings == []
        check_all(store)
        check_writable_and_clean_afterwards(store)

    @pytest.mark.parametrize("rows", [1, 2, 5, 11])
    def test_rows_that_are_missing_are_entered(self, made, width, rows):
        before = (made / "7.idx").read_bytes()
        cut(made / "7.idx", rows * row_length(width))
        store = open_at(made)
        assert kinds(store) == [FindingKind.IDX_BEHIND]
        assert (made / "7.idx").read_bytes() == before
        check_all(store)
        check_writable_and_clean_afterwards(store)

    def test_a_lost_index_is_rebuilt(self, made):
        before = (made / "7.idx").read_bytes()
        (made / "7.idx").unlink()
        store = open_at(made)
        assert kinds(store) == [FindingKind.IDX_LOST, FindingKind.IDX_BEHIND]
        assert (made / "7.idx").read_bytes() == before
        check_all(store)
        check_writable_and_clean_afterwards(store)

    def test_a_partial_row_is_cut(self, made, width):
        cut(made / "7.idx", 5)
        store = open_at(made)
        assert kinds(store) == [FindingKind.IDX_ROW_CUT, FindingKind.IDX_BEHIND]
        check_all(store)
        check_writable_and_clean_afterwards(store)

    def test_an_index_beside_the_data_outranks_the_index_directory(self, made, tmp_path):
        other = tmp_path / "idx"
        other.mkdir()
        store = open_at(place(made, other))
        check_all(store)
        put(store, 50)
        store.close()
        assert not (other / "7.idx").exists()

    def test_new_volumes_have_their_index_in_the_index_directory(self, tmp_path):
        (tmp_path / "d").mkdir()
        (tmp_path / "i").mkdir()
        store = open_at(place(tmp_path / "d", tmp_path / "i"))
        store.allocate_volume(7)
        put(store, 1)
        store.close()
        assert sorted(path.name for path in (tmp_path / "i").iterdir()) == ["7.idx"]
        store = open_at(place(tmp_path / "d", tmp_path / "i"))
        assert get(store, 1) == b"x"
        store.delete_volume(7, only_empty=False)
        assert list((tmp_path / "i").iterdir()) == []
        store.close()

    def test_rows_in_any_order_are_understood(self, made, width):
        rows = list(iter_entries((made / "7.idx").read_bytes(), width))
        by_id = sorted(rows, key=lambda row: row.needle_id)
        (made / "7.idx").write_bytes(b"".join(encode_entry(*row, width) for row in by_id))
        store = open_at(made)
        assert store.findings == []
        check_all(store)
        store.close()

    @pytest.mark.damage("the row stays")
    def test_a_row_beyond_the_data_makes_it_read_only(self, made, width):
        row = encode_entry(1, 1 << 20, 100, width)
        content = (made / "7.idx").read_bytes()
        (made / "7.idx").write_bytes(row + content)
        store = open_at(made)
        assert set(kinds(store)) == {FindingKind.MADE_READ_ONLY}
        assert get(store, 9) == b"x" * 9
        with pytest.raises(errors.ReadOnly):
            put(store, 50)
        assert (made / "7.idx").read_bytes() == row + content
        store.mark_writable(store.get_volume(7))
        put(store, 50)
        assert get(store, 50) == b"x" * 50
        store.close()

    @pytest.mark.damage("the row stays")
    def test_a_last_row_that_lies_makes_it_read_only(self, made, width):
        content = (made / "7.idx").read_bytes()
        last = list(iter_entries(content, width))[-1]
        lie = (last.needle_id, last.offset, last.size - 1)
        (made / "7.idx").write_bytes(content[: -row_length(width)] + encode_entry(*lie, width))
        store = open_at(made)
        assert kinds(store) == [FindingKind.MADE_READ_ONLY]
        with pytest.raises(errors.ReadOnly):
            put(store, 50)
        store.close()

    def test_a_last_row_of_another_id_does_not(self, made, width):
        """WriteNeedleBlob leaves such rows; upstream accepts them too."""
        content = (made / "7.idx").read_bytes()
        last = list(iter_entries(content, width))[-1]
        row = encode_entry(last.needle_id + 1, last.offset, last.size, width)
        (made / "7.idx").write_bytes(content[: -row_length(width)] + row)
        store = open_at(made)
        assert kinds(store) == []
        put(store, 50)
        store.close()

    def test_rows_overwritten_at_the_head_are_restored(self, made, width):
        content = (made / "7.idx").read_bytes()
        tombstones = b"".join(encode_entry(needle_id, 0, TOMBSTONE_SIZE, width) for needle_id in (8, 9))
        (made / "7.idx").write_bytes(tombstones + content[2 * row_length(width) :])
        store = open_at(made)
        assert kinds(store) == [FindingKind.IDX_HEAD_REPAIRED]
        assert get(store, 1) == b"x"
        assert get(store, 2) == b"xx"
        put(store, 50)
        store.close()
        assert open_at_and_close(made) == []

    @pytest.mark.parametrize(
        "head",
        [
            pytest.param([20], id="a-needle-of-no-record"),
            pytest.param([2], id="a-needle-behind-the-lost-records"),
            pytest.param([9], id="rows-not-in-step"),
        ],
    )
    def test_a_deletion_at_the_head_restores_no_deleted_needle(self, made, width, head):
        """Needle 1 was deleted before the volume was coded, and `head` in the shards: it was decoded long ago."""
        rows = list(iter_entries((made / "7.idx").read_bytes(), width))
        left = [row for row in rows if row.needle_id not in {1, *head}]
        if head == [9]:
            left = [*left[1:], left[0], *(row for row in rows if row.needle_id == 9)]
        content = [(needle_id, 0, TOMBSTONE_SIZE) for needle_id in head]
        content += [(row.needle_id, row.offset, row.size) for row in left]
        (made / "7.idx").write_bytes(b"".join(encode_entry(*row, width) for row in content))
        store = open_at(made)
        with pytest.raises(errors.NotFound):
            get(store, 1)
        store.close()


def open_at_and_close(path: Path) -> list[FindingKind]:
    store = open_at(path)
    found = kinds(store)
    store.close()
    return found


class TestData:
    def torn(self, length: int) -> bytes:
        return encode_needle(Needle(needle_id=200, cookie=COOKIE, data=b"t" * 300), 3)[:length]

    @pytest.mark.parametrize("length", [1, 8, 15, 16, 20, 200, 327])
    def test_an_unfinished_record_is_cut(self, made, length):
        size = (made / "7.dat").stat().st_size
        with (made / "7.dat").open("ab") as dat:
            dat.write(self.torn(length))
        store = open_at(made)
        assert kinds(store) == [FindingKind.DAT_TAIL_CUT]
        assert (made / "7.dat").stat().st_size == size
        check_all(store)
        check_writable_and_clean_afterwards(store)

    def test_whole_records_before_an_unfinished_one_are_entered(self, made):
        whole = Needle(needle_id=60, cookie=COOKIE, data=b"whole", checksum=crc32c(b"whole"), append_at_ns=1)
        with (made / "7.dat").open("ab") as dat:
            dat.write(encode_needle(whole, 3) + self.torn(100))
        store = open_at(made)
        assert kinds(store) == [FindingKind.IDX_BEHIND, FindingKind.DAT_TAIL_CUT]
        assert get(store, 60) == b"whole"
        check_writable_and_clean_afterwards(store)

    def test_zeros_at_the_end_are_cut(self, made):
        with (made / "7.dat").open("ab") as dat:
            dat.write(bytes(4096))
        store = open_at(made)
        assert kinds(store) == [FindingKind.DAT_TAIL_CUT]
        check_writable_and_clean_afterwards(store)

    @pytest.mark.parametrize(
        "tail",
        [
            pytest.param(bytes(64) + b"\1" * 64, id="zeros-then-more"),
            pytest.param(b"\xff" * 64, id="negative-size"),
            pytest.param(encode_needle(Needle(needle_id=1, data=b"wrong sum", checksum=5), 3), id="wrong-checksum"),
        ],
    )
    @pytest.mark.damage("it stays")
    def test_what_is_no_record_is_kept_and_makes_it_read_only(self, made, tail):
        with (made / "7.dat").open("ab") as dat:
            dat.write(tail)
        content = (made / "7.dat").read_bytes()
        store = open_at(made)
        assert kinds(store) == [FindingKind.MADE_READ_ONLY]
        check_all(store)
        with pytest.raises(errors.ReadOnly):
            put(store, 50)
        assert (made / "7.dat").read_bytes() == content
        store.close()

    @pytest.mark.damage("it stays")
    def test_a_torn_record_with_a_whole_one_behind_its_header_is_kept(self, made, width):
        """A header with a false length must not cost the records after it, with an index or without one."""
        rows = list(iter_entries((made / "7.idx").read_bytes(), width))
        with (made / "7.dat").open("r+b") as dat:
            dat.seek(rows[2].offset * 8 + 12)
            dat.write((2**30).to_bytes(4, "big"))
        content = (made / "7.dat").read_bytes()
        (made / "7.idx").unlink()
        store = open_at(made)
        assert FindingKind.MADE_READ_ONLY in kinds(store)
        assert (made / "7.dat").read_bytes() == content
        assert get(store, 2) == b"xx"
        store.close()

    @pytest.mark.damage("that volume cannot be read")
    def test_a_missing_super_block_and_a_bad_version_fail_that_volume_alone(self, made):
        store = open_at(made)
        store.allocate_volume(8)
        store.close()
        (made / "7.dat").write_bytes(b"\3\0\0")
        store = open_at(made)
        assert (kinds(store), [v.id for v in store.volumes()]) == ([FindingKind.NOT_LOADED], [8])
        store.close()
        (made / "7.dat").write_bytes(b"\x09" + bytes(100))
        store = open_at(made)
        assert "version 9 is not supported" in store.findings[0].detail
        store.close()

    def test_data_without_write_permission_is_read_only(self, made):
        (made / "7.dat").chmod(0o444)
        store = open_at(made)
        assert kinds(store) == [FindingKind.MADE_READ_ONLY]
        check_all(store)
        with pytest.raises(errors.VolumeLoadFailed, match="no write permission"):
            store.mark_writable(store.get_volume(7))
        (made / "7.dat").chmod(0o644)
        store.mark_writable(store.get_volume(7))
        put(store, 50)
        store.close()


class TestInfo:
    def test_it_is_written_once_with_upstreams_names(self, made, width):
        fields = json.loads((made / "7.vif").read_text())
        assert (fields["version"], fields["bytesOffset"], fields["expireAtSec"]) == (3, width, "0")
        (made / "7.vif").unlink()
        open_at(made, offset_width_bytes=width).close()
        assert json.loads((made / "7.vif").read_text()) == fields

    def test_an_empty_one_counts_as_absent(self, made, width):
        (made / "7.vif").write_bytes(b"")
        open_at(made, offset_width_bytes=width).close()
        assert json.loads((made / "7.vif").read_text())["version"] == 3

    @pytest.mark.damage("it stays")
    def test_one_that_cannot_be_parsed_is_left_alone(self, made, width):
        (made / "7.vif").write_bytes(b"{")
        store = open_at(made, offset_width_bytes=width)
        assert kinds(store) == [FindingKind.VIF_UNREADABLE]
        check_all(store)
        store.close()
        assert (made / "7.vif").read_bytes() == b"{"

    @pytest.mark.damage("the last one is no replication")
    def test_its_replication_outranks_the_super_block(self, made, width):
        (made / "7.vif").write_text(encode_volume_info(VolumeInfo(bytes_offset=width, replication="010")))
        store = open_at(made)
        assert str(store.find_volume(7).replica_placement) == "010"
        store.close()
        (made / "7.vif").write_text(encode_volume_info(VolumeInfo(bytes_offset=width, replication="x!!")))
        store = open_at(made)
        assert kinds(store) == [FindingKind.NOT_LOADED]
        store.close()

    def test_another_offset_width_stops_the_store(self, made, width):
        other = 9 - width
        with pytest.raises(
            errors.OffsetWidthMismatch, match=f"{width}-byte offsets, this server runs with {other}-byte"
        ):
            open_at(made, offset_width_bytes=other)
        store = open_at(made)
        assert store.offset_width_bytes == width, "taken from the .vif, and the directory was not left locked"
        store.close()

    def test_read_only_volumes_are_not_repaired_until_made_writable(self, made, width):
        store = open_at(made)
        store.mark_readonly(store.get_volume(7), persist=True)
        store.close()
        cut(made / "7.idx", row_length(width))
        content = (made / "7.idx").read_bytes()
        store = open_at(made)
        assert kinds(store) == [FindingKind.NOT_REPAIRED]
        assert (made / "7.idx").read_bytes() == content
        store.mark_writable(store.get_volume(7))
        check_all(store)
        check_writable_and_clean_afterwards(store)

    def test_the_time_of_expiry_follows_the_ttl(self, tmp_path):
        store = open_at(tmp_path)
        store.allocate_volume(7, ttl="1d")
        made_at_s = int((tmp_path / "7.vif").stat().st_mtime)
        expires_s = int(json.loads((tmp_path / "7.vif").read_text())["expireAtSec"])
        assert abs(expires_s - made_at_s - 86400) <= 2
        store.close()


class TestStrangeDirectories:
    def test_an_unfinished_copy_is_removed(self, made):
        """Go's server leaves this state when it is killed during the copy of the .dat."""
        os.truncate(made / "7.dat", 100)
        (made / "7.idx").unlink()
        (made / "7.vif").unlink()
        (made / "7.note").write_text("copying")
        store = open_at(made)
        assert kinds(store) == [FindingKind.COPY_REMOVED]
        store.close()
        assert sorted(path.name for path in made.iterdir()) == [".weed-volume-py.lock", "vol_dir.uuid"]

    def test_but_not_the_vif_that_shards_share(self, made):
        (made / "7.note").write_text("copying")
        (made / "7.idx").unlink()
        (made / "7.ecx").write_bytes(b"")
        open_at(made).close()
        left = sorted(path.name for path in made.iterdir())
        assert left == [".weed-volume-py.lock", "7.ecx", "7.vif", "vol_dir.uuid"]

    @pytest.mark.parametrize(
        ("files", "width"), [((RemoteFile("s3", "cold", "k"),), 5), ((), 4)], ids=["tier", "stray"]
    )
    @pytest.mark.damage("the volume's tier is not known")
    def test_a_volume_in_a_tier_tells_the_width_of_its_offsets_and_a_stray_does_not(self, tmp_path, files, width):
        (tmp_path / "9.vif").write_text(encode_volume_info(VolumeInfo(bytes_offset=5, files=files)))
        (tmp_path / "9.idx").write_bytes(b"")
        with closing(open_at(tmp_path)) as store:
            assert store.offset_width_bytes == width

    @pytest.mark.parametrize("name", ["9.vif", "9.idx", "c_9.vif", "x.vif", "9.dat", "notes.txt", "9.ecx", "9.ec00"])
    @pytest.mark.damage("one of them is a .dat of two bytes")
    def test_strays_are_skipped_and_kept(self, made, name):
        (made / name).write_bytes(b"{}")
        store = open_at(made)
        assert store.findings == []
        assert [volume.id for volume in store.volumes()] == [7]
        store.close()
        assert (made / name).exists()
        assert not (made / "9.dat").exists() or name == "9.dat"

    @pytest.mark.damage("the remote volume has no index")
    def test_a_remote_volume_is_named_and_left_alone(self, made):
        remote = VolumeInfo(files=(RemoteFile("s3", "default", "k/9.dat"),))
        (made / "9.vif").write_text(encode_volume_info(remote))
        store = open_at(made)
        assert kinds(store) == [FindingKind.NOT_LOADED]
        assert "remote storage s3.default as k/9.dat" in store.findings[0].detail
        store.close()

    def test_a_volume_beside_its_shards_is_served_read_only_and_nothing_of_them_is_touched(self, made):
        shards = ["7.ecx", "7.ecj", "7.ec00", "7.ec13"]
        for name in shards:
            (made / name).write_bytes(b"" if name == "7.ecj" else bytes(1 << 20))
        store = open_at(made)
        check_all(store)
        assert store.find_volume(7).read_only_reasons.text == "its erasure coding shards lie beside it"
        assert kinds(store) == [FindingKind.MADE_READ_ONLY]
        assert store.locations[0].ec_slots == 1
        store.delete_volume(7, only_empty=False)
        store.close()
        assert all((made / name).exists() for name in [*shards, "7.vif"])
        assert not (made / "7.dat").exists()

    def test_a_volume_that_is_mounted_beside_its_shards_takes_writes(self, made):
        """The volume was decoded, and its shards are about to be deleted."""
        with closing(open_at(made)) as store:
            store.unmount_volume(7)
            for name in ("7.ecx", "7.ecj", "7.ec00", "7.ec13"):
                (made / name).write_bytes(b"" if name == "7.ecj" else bytes(1 << 20))
            store.mount_volume(7)
            assert not store.find_volume(7).is_read_only
            assert store.findings == []

    def test_a_mount_closes_no_volume_beside_shards_while_a_copy_of_it_arrives(self, made):
        """The copy replaces the volume, or leaves it as it is where the copying fails."""
        for name in ("7.ecx", "7.ecj", "7.ec00", "7.ec13"):
            (made / name).write_bytes(b"" if name == "7.ecj" else bytes(1 << 20))
        with closing(open_at(made)) as store:
            volume = store.find_volume(7)
            arriving = store.begin_copy(7, "", "", needed_bytes=1000)
            store.mount_volume(7)
            assert store.find_volume(7) is volume
            store.abandon_copy(arriving)
            check_all(store)

    def test_a_mount_closes_no_volume_beside_shards_whose_files_are_in_use(self, made):
        for name in ("7.ecx", "7.ecj", "7.ec00", "7.ec13"):
            (made / name).write_bytes(b"" if name == "7.ecj" else bytes(1 << 20))
        with closing(open_at(made)) as store:
            volume = store.find_volume(7)
            volume.claim.take("is being moved", holds_writes=True)
            store.mount_volume(7)
            assert store.find_volume(7) is volume
            volume.claim.give_up()
            store.mount_volume(7)
            assert store.find_volume(7) is not volume
            assert not store.find_volume(7).is_read_only

    def test_an_index_of_shards_without_a_shard_changes_nothing_for_the_volume_beside_it(self, made):
        (made / "7.ecx").write_bytes(b"x" * 100)
        with closing(open_at(made)) as store:
            check_all(store)
            assert not store.find_volume(7).is_read_only
            assert store.findings == []

    def test_an_empty_data_file_of_a_coded_volume_is_no_volume(self, made):
        (made / "9.dat").write_bytes(b"\3" + bytes(7))
        (made / "9.vif").write_text(encode_volume_info(VolumeInfo(ec_shard_config=EcShardConfig(10, 4, 1))))
        store = open_at(made)
        assert [volume.id for volume in store.volumes()] == [7]
        store.close()
        assert (made / "9.dat").exists()

    @pytest.mark.damage("the corrupt one stays")
    def test_a_corrupt_volume_does_not_hide_another_collections_of_the_same_id(self, made, width):
        for extension in (".dat", ".idx", ".vif"):
            (made / f"b_7{extension}").write_bytes((made / f"7{extension}").read_bytes())
            (made / f"a_7{extension}").write_bytes(b"")
        (made / "7.dat").unlink()
        (made / "7.idx").unlink()
        (made / "7.vif").unlink()
        store = open_at(made, offset_width_bytes=width)
        assert store.find_volume(7).collection == "b"
        check_all(store)
        store.close()

    def test_a_stale_index_hinders_a_new_volume_of_that_id(self, made):
        (made / "9.idx").write_bytes(bytes(17 * 16))
        store = open_at(made)
        with pytest.raises(errors.VolumeLoadFailed, match=r"9\.idx exists without its \.dat"):
            store.allocate_volume(9)
        assert not (made / "9.dat").exists()
        store.close()

    @pytest.mark.slow
    def test_many_volumes_load_in_parallel(self, tmp_path):
        """Slow: many volumes are made and opened."""
        store = open_at(place(tmp_path, max_volumes=100))
        for vid in range(1, 31):
            store.allocate_volume(vid)
        store.close()
        store = open_at(tmp_path)
        assert [volume.id for volume in store.volumes()] == list(range(1, 31))
        store.close()


class TestInterruptedVacuum:
    def test_without_the_marker_it_is_undone(self, made):
        (made / "7.cpd").write_bytes(b"half")
        (made / "7.cpx").write_bytes(b"half")
        store = open_at(made)
        assert kinds(store) == [FindingKind.COMPACTION_UNDONE]
        assert not (made / "7.cpd").exists()
        assert not (made / "7.cpx").exists()
        check_all(store)
        store.close()

    @pytest.mark.parametrize("renamed", [0, 1, 2])
    def test_with_the_marker_it_is_finished_wherever_it_stopped(self, made, renamed):
        old = {name: (made / name).read_bytes() for name in ("7.dat", "7.idx")}
        (made / "7.dat").rename(made / "7.cpd")
        (made / "7.idx").rename(made / "7.cpx")
        (made / "7.dat").write_bytes(old["7.dat"][:8])
        (made / "7.idx").write_bytes(old["7.idx"][:0])
        (made / "7.cpc").write_bytes(b"")
        if renamed >= 1:
            (made / "7.cpd").rename(made / "7.dat")
        if renamed >= 2:
            (made / "7.cpx").rename(made / "7.idx")
        store = open_at(made)
        assert kinds(store) == [FindingKind.COMPACTION_FINISHED]
        check_all(store)
        assert not any((made / f"7{extension}").exists() for extension in (".cpc", ".cpd", ".cpx"))
        store.close()

    @pytest.mark.damage("the interrupted vacuum stays")
    def test_that_of_a_loaded_volume_is_not_touched_on_a_rescan(self, made):
        store = open_at(made)
        (made / "7.cpd").write_bytes(b"in progress")
        store.load_new_volumes()
        assert (made / "7.cpd").exists()
        store.close()


class TestDirectories:
    def test_a_second_server_is_refused_and_told_who_holds_it(self, tmp_path):
        store = open_at(tmp_path)
        with pytest.raises(errors.DirectoryLocked, match=rf"in use by pid {os.getpid()}, localhost:8080"):
            open_at(tmp_path)
        store.close()
        open_at(tmp_path).close()

    def test_the_same_directory_twice_is_refused(self, tmp_path):
        with pytest.raises(errors.DirectoryLocked):
            open_at(tmp_path, tmp_path)
        open_at(tmp_path).close()

    @pytest.mark.parametrize("kind", ["missing", "file", "read-only"])
    def test_unusable_directories(self, tmp_path, kind):
        path = tmp_path / "d"
        why = {"missing": "does not exist", "file": "not a directory", "read-only": "may not write"}[kind]
        if kind == "file":
            path.write_bytes(b"")
        elif kind == "read-only":
            path.mkdir(mode=0o555)
        with pytest.raises(errors.DirectoryUnusable, match=why):
            open_at(LocationConfig(path, path, 8))

    def test_its_identity_is_kept_and_renewed_when_empty(self, tmp_path):
        open_at(tmp_path).close()
        first = (tmp_path / "vol_dir.uuid").read_text()
        assert len(first) == 36
        open_at(tmp_path).close()
        assert (tmp_path / "vol_dir.uuid").read_text() == first
        (tmp_path / "vol_dir.uuid").write_text("")
        store = open_at(tmp_path)
        assert store.location_uuids() == [(tmp_path / "vol_dir.uuid").read_text()] != [first]
        store.close()
