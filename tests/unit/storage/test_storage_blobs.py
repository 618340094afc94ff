"""Records are read at a caller's offset, and stored byte for byte."""

from __future__ import annotations

import os
from contextlib import closing

import pytest
from support.files import PlannedFiles, broken
from support.stores import open_at

from native_handlers.format.crc import crc32c, legacy_form
from native_handlers.format.errors import FormatError
from native_handlers.format.idx import iter_entries
from native_handlers.format.needle import Needle, actual_size, encode_needle
from native_handlers.format.ttl import Ttl
from native_handlers.format.types import to_bytes_offset
from native_handlers.storage.check import check_directory
from native_handlers.storage.model import errors
from native_handlers.storage.volume import blobs

COOKIE = 0xC0FFEE


@pytest.fixture
def files():
    return PlannedFiles(is_lasting=False, short_write_bytes=9)


@pytest.fixture(params=[3, 2, 1], ids="v{}".format)
def version(request):
    return request.param


@pytest.fixture
def volume(tmp_path, files, clock, version, opened):
    return opened(tmp_path, clock_ns=clock, files=files, volumes=()).allocate_volume(7, version=version)


def store_needle(volume, needle_id=1, data=b"payload", **fields):
    """Stores a needle. Returns the record's offset in bytes and the size of its body."""
    needle = Needle(needle_id=needle_id, cookie=COOKIE, data=data, **fields)
    offset = volume.write(needle).offset
    return offset, needle.size


def rows_of(tmp_path):
    return list(iter_entries((tmp_path / "7.idx").read_bytes(), 4))


def record(needle_id=1, data=b"payload", version=3, **fields):
    """A record as another server has it, and the size of its body."""
    needle = Needle(needle_id=needle_id, cookie=COOKIE, data=data, append_at_ns=77, **fields)
    needle.checksum = crc32c(data)
    return encode_needle(needle, version), needle.size


def state_of(volume, tmp_path):
    return (tmp_path / "7.dat").read_bytes(), (tmp_path / "7.idx").read_bytes(), volume.report()


class TestReadBlob:
    def test_a_record_as_it_is_on_disk(self, volume, tmp_path, version):
        offset, size = store_needle(volume)
        dat = (tmp_path / "7.dat").read_bytes()
        assert volume.read_blob(offset, size) == dat[offset:] == dat[offset : offset + actual_size(size, version)]

    def test_any_place_and_size_within_the_file(self, volume, tmp_path):
        store_needle(volume, data=b"x" * 100)
        dat = (tmp_path / "7.dat").read_bytes()
        assert volume.read_blob(3, 5) == dat[3 : 3 + actual_size(5, volume.version)]
        assert volume.read_blob(0, -1) == dat[: actual_size(-1, volume.version)]

    @pytest.mark.parametrize(("offset", "size"), [(1 << 40, 64), (8, 10_000), (8, 2**31 - 1), (2**63 - 1, 1)])
    def test_beyond_the_end_nothing_is_read(self, volume, files, offset, size):
        store_needle(volume)
        files.plan["read"] = broken()
        with pytest.raises(errors.BadRecordRange, match=r"^EOF$"):
            volume.read_blob(offset, size)
        assert files.plan
        files.plan.clear()

    def test_before_the_start(self, volume):
        with pytest.raises(errors.BadRecordRange, match=r"^readat .*/7.dat: negative offset$"):
            volume.read_blob(-8, 64)

    @pytest.mark.parametrize("size", [-29, -500, -(2**31)])
    def test_a_size_that_no_record_has(self, volume, size):
        store_needle(volume)
        with pytest.raises(errors.BadRecordRange, match=f"^invalid needle size {size}$"):
            volume.read_blob(8, size)

    def test_a_failing_disk(self, volume, files):
        offset, size = store_needle(volume)
        files.plan["read"] = broken()
        with pytest.raises(errors.ReadFailed):
            volume.read_blob(offset, size)
        assert volume.read_blob(offset, size)

    def test_a_file_that_was_cut(self, volume, tmp_path):
        offset, size = store_needle(volume)
        whole = (tmp_path / "7.dat").read_bytes()
        os.truncate(tmp_path / "7.dat", offset + 20)
        with pytest.raises(errors.BadRecordRange, match=r"^EOF$"):
            volume.read_blob(offset, size)
        (tmp_path / "7.dat").write_bytes(whole)

    def test_a_closed_volume(self, volume):
        volume.close()
        with pytest.raises(errors.VolumeClosed):
            volume.read_blob(8, 5)
        with pytest.raises(errors.VolumeClosed):
            volume.read_meta(8, 5)


class TestReadMeta:
    @pytest.mark.parametrize("length", [1, 7, 3 << 20])
    def test_all_but_the_payload(self, volume, clock, version, length):
        fields = {"name": b"n", "mime": b"m/x", "ttl": Ttl(3, 3), "last_modified_s": 1234, "flags": 0x1E}
        offset, size = store_needle(volume, data=b"x" * length, **fields)
        needle = volume.read_meta(offset, size)
        assert (needle.needle_id, needle.cookie, needle.checksum) == (1, COOKIE, crc32c(b"x" * length))
        assert not needle.data
        assert needle.append_at_ns == (clock.now_ns if version == 3 else 0)
        if version > 1:
            assert (needle.name, needle.mime, needle.ttl, needle.last_modified_s) == (b"n", b"m/x", Ttl(3, 3), 1234)

    def test_a_deletion_by_its_index_row(self, volume, clock, tmp_path):
        store_needle(volume)
        clock.now_ns += 5
        volume.delete(1, COOKIE, checksum=9)
        row = rows_of(tmp_path)[-1]
        assert row.size < 0
        needle = volume.read_meta(to_bytes_offset(row.offset), row.size)
        assert (needle.cookie, needle.checksum, needle.last_modified_s, needle.ttl) == (COOKIE, 9, 0, None)
        assert needle.append_at_ns == (clock.now_ns if volume.version == 3 else 0)

    def test_another_size_is_looked_for_where_old_servers_wrapped(self, volume):
        offset, size = store_needle(volume)
        with pytest.raises(errors.BadRecordRange, match=r"^EOF$"):
            volume.read_meta(offset, size + 1)

    def test_outside_of_the_file(self, volume):
        store_needle(volume)
        with pytest.raises(errors.BadRecordRange, match=r"^EOF$"):
            volume.read_meta(1 << 40, 64)
        with pytest.raises(errors.BadRecordRange, match="negative offset"):
            volume.read_meta(-8, 64)

    @pytest.mark.parametrize("version", [3, 2], ids="v{}".format, indirect=True)
    @pytest.mark.parametrize("length", [0x7FFFFFFF, 0xFFFFFFFF])
    def test_a_record_that_lies_about_its_payload(self, volume, tmp_path, length):
        offset, size = store_needle(volume)
        whole = (tmp_path / "7.dat").read_bytes()
        (tmp_path / "7.dat").write_bytes(whole[: offset + 16] + length.to_bytes(4, "big") + whole[offset + 20 :])
        with pytest.raises(
            errors.BadRecordRange, match=f"^invalid needle meta size -[0-9]+: DataSize={length}, size={size}, "
        ):
            volume.read_meta(offset, size)
        (tmp_path / "7.dat").write_bytes(whole)

    @pytest.mark.parametrize("version", [3, 2], ids="v{}".format, indirect=True)
    def test_metadata_that_does_not_fit(self, volume, tmp_path):
        offset, size = store_needle(volume, name=b"name", flags=2)
        whole = (tmp_path / "7.dat").read_bytes()
        at = offset + 16 + 4 + len(b"payload") + 1
        (tmp_path / "7.dat").write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
        with pytest.raises(FormatError, match="index out of range 2"):
            volume.read_meta(offset, size)
        (tmp_path / "7.dat").write_bytes(whole)


def test_with_wider_offsets_nothing_wraps(tmp_path):
    with closing(open_at(tmp_path, offset_width_bytes=5)) as store:
        volume = store.allocate_volume(7)
        offset, size = store_needle(volume)
        expected = f"^size mismatch for entry at offset {offset}: found id 1 size {size}, expected size {size + 1}$"
        with pytest.raises(errors.BadRecordRange, match=expected):
            volume.read_meta(offset, size + 1)


class TestWriteBlob:
    def test_it_is_stored_as_it_is_but_for_its_append_time(self, volume, clock, version):
        blob, size = record(9, name=b"n", mime=b"m", last_modified_s=5, flags=0x0E, version=version)
        result = volume.write_blob(9, blob, size)
        assert not result.is_unchanged
        stored = volume.read_blob(result.offset, size)
        at = 16 + size + 4
        changed = stored[at : at + 8] if version == 3 else b""
        assert stored == blob[:at] + changed + blob[at + len(changed) :]
        if version == 3:
            assert int.from_bytes(changed, "big") == clock.now_ns
        read = volume.read(9, cookie=COOKIE)
        assert bytes(read.needle.data) == b"payload"

    @pytest.mark.parametrize("version", [3], ids="v{}".format, indirect=True)
    def test_append_times_grow_though_the_clock_does_not(self, volume):
        at_ns = []
        for needle_id in (1, 2, 3):
            blob, size = record(needle_id)
            offset = volume.write_blob(needle_id, blob, size).offset
            at_ns.append(volume.read_meta(offset, size).append_at_ns)
        store_needle(volume, 4)
        read = volume.read(4)
        assert at_ns == [at_ns[0], at_ns[0] + 1, at_ns[0] + 2]
        assert read.needle.append_at_ns == at_ns[2] + 1

    def test_the_same_again_is_not_written_again(self, volume, tmp_path, version):
        blob, size = record(version=version)
        first = volume.write_blob(1, blob, size)
        before = state_of(volume, tmp_path)
        again = volume.write_blob(1, blob, size)
        assert (again.is_unchanged, again.offset) == (True, first.offset)
        assert state_of(volume, tmp_path) == before

    def test_a_large_one_again_is_not_written_again(self, volume, version):
        blob, size = record(data=b"x" * (3 << 20), version=version)
        volume.write_blob(1, blob, size)
        assert volume.write_blob(1, blob, size).is_unchanged
        other, _ = record(data=b"x" * ((3 << 20) - 1) + b"y", version=version)
        assert not volume.write_blob(1, other, size).is_unchanged

    def test_it_replaces_what_is_there_whatever_its_cookie(self, volume, version):
        store_needle(volume, data=b"another")
        other = Needle(needle_id=1, cookie=5, data=b"payload", checksum=crc32c(b"payload"))
        blob = encode_needle(other, version)
        assert not volume.write_blob(1, blob, other.size).is_unchanged
        assert bytes(volume.read(1, cookie=5).needle.data) == b"payload"
        assert volume.report().delete_count == 1

    def test_a_deleted_needle_comes_back(self, volume, version):
        offset, size = store_needle(volume)
        blob = volume.read_blob(offset, size)
        volume.delete(1, COOKIE)
        assert not volume.write_blob(1, blob, size).is_unchanged
        assert bytes(volume.read(1, cookie=COOKIE).needle.data) == b"payload"

    def test_an_empty_record_is_an_empty_needle(self, volume, version):
        blob, size = record(data=b"", version=version)
        assert size == 0
        volume.write_blob(1, blob, 0)
        assert not volume.read(1).needle.data
        assert volume.write_blob(1, blob, 0).is_unchanged

    def test_a_checksum_in_the_old_form_stays(self, volume, version):
        needle = Needle(needle_id=1, cookie=COOKIE, data=b"payload", checksum=legacy_form(crc32c(b"payload")))
        blob = encode_needle(needle, version)
        offset = volume.write_blob(1, blob, needle.size).offset
        assert volume.read_meta(offset, needle.size).checksum == needle.checksum
        assert bytes(volume.read(1).needle.data) == b"payload"

    def test_what_is_no_record_is_refused_and_nothing_is_written(self, volume, tmp_path, version):
        store_needle(volume, 5)
        blob, size = record(version=version)
        before = state_of(volume, tmp_path)
        tail_end = 16 + size + (12 if version == 3 else 4)
        at = 18 + (0 if version == 1 else 4)
        torn = blob[:at] + bytes((blob[at] ^ 1,)) + blob[at + 1 :]
        for bad, its_size, why in (
            (b"", size, "needle 1 blob of 0 bytes is shorter than a needle header"),
            (blob[:15], size, "needle 1 blob of 15 bytes is shorter than a needle header"),
            (blob, size - 1, f"needle 1 size {size - 1} does not match its blob header size {size}"),
            (blob[:20], size, f"needle blob buffer too small: need {tail_end} bytes, have 20"),
            (blob[:-1], size, f"needle blob buffer too small: need {len(blob)} bytes, have {len(blob) - 1}"),
            (blob + b"x", size, f"needle blob of {len(blob) + 1} bytes has more than the {len(blob)} bytes"),
            (torn, size, "invalid CRC for needle 1"),
            (blob[:12] + b"\xff\xff\xff\xfb" + blob[16:], -5, "invalid needle size -5"),
            (blob[:12] + b"\x7f\xff\xff\xff" + blob[16:], 2**31 - 1, "needle blob buffer too small"),
        ):
            with pytest.raises(errors.BlobRefused) as refused:
                volume.write_blob(1, bad, its_size)
            assert str(refused.value).startswith(why)
            assert state_of(volume, tmp_path) == before

    @pytest.mark.parametrize("version", [3, 2], ids="v{}".format, indirect=True)
    @pytest.mark.parametrize("length", [0, 8, 0x7FFFFFFF])
    def test_lengths_that_contradict_one_another(self, volume, tmp_path, length, version):
        blob, size = record(version=version)
        bad = blob[:16] + length.to_bytes(4, "big") + blob[20:]
        before = state_of(volume, tmp_path)
        with pytest.raises(errors.BlobRefused):
            volume.write_blob(1, bad, size)
        assert state_of(volume, tmp_path) == before

    def test_a_read_only_volume(self, volume, tmp_path, version):
        volume.marks.mark_read_only(can_delete=True, persist=False)
        blob, size = record(version=version)
        before = state_of(volume, tmp_path)
        with pytest.raises(errors.ReadOnly, match=r"^volume 7 is read only$"):
            volume.write_blob(1, blob, size)
        assert state_of(volume, tmp_path) == before

    def test_a_closed_volume(self, volume, version):
        volume.close()
        with pytest.raises(errors.VolumeClosed):
            volume.write_blob(1, *record(version=version))

    def test_a_full_volume(self, volume, tmp_path, version, monkeypatch):
        monkeypatch.setattr("native_handlers.storage.volume.append.max_volume_size_bytes", lambda _: 200)
        blob, size = record(data=b"x" * 150, version=version)
        volume.write_blob(1, blob, size)
        before = state_of(volume, tmp_path)
        with pytest.raises((errors.SizeLimitExceeded, errors.AppendOffsetExceeded)):
            volume.write_blob(2, blob, size)
        assert state_of(volume, tmp_path) == before

    def test_a_failing_disk_leaves_nothing(self, volume, files, tmp_path, version):
        store_needle(volume, 5)
        blob, size = record(version=version)
        before = state_of(volume, tmp_path)[:2]
        files.plan["write"] = broken()
        with pytest.raises(errors.WriteFailed):
            volume.write_blob(1, blob, size)
        assert state_of(volume, tmp_path)[:2] == before
        volume.write_blob(1, blob, size)
        assert bytes(volume.read(1).needle.data) == b"payload"


def test_a_record_is_found_under_the_id_that_the_caller_names(tmp_path):
    """As in upstream, whose test suite copies a needle this way. `check` reports the record, because a rebuilt index
    would lack that id.
    """
    with closing(open_at(tmp_path)) as store:
        volume = store.allocate_volume(7)
        blob, size = record(1)
        volume.write_blob(2, blob, size)
        read = volume.read(2, cookie=COOKIE)
        assert (read.needle.needle_id, bytes(read.needle.data)) == (1, b"payload")
        with pytest.raises(errors.NotFound):
            volume.read(1)
        assert volume.write_blob(2, blob, size).is_unchanged
    (check,) = check_directory(tmp_path).volumes
    assert check.problems == []
    assert check.notes == [
        ".idx row 1: needle 2 is a record that carries the id of needle 1, as WriteNeedleBlob may store it"
    ]


def test_unsupported_versions_are_no_records():
    with pytest.raises(FormatError):
        blobs.parse_blob(1, record()[0], record()[1], 9)
