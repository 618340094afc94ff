"""The directory check: no finding for healthy volumes, an exact one for each kind of damage, no change of a file."""

from __future__ import annotations

import os

import pytest
from support.stores import open_at

from native_handlers.format.idx import encode_entry, iter_entries
from native_handlers.format.needle import Needle
from native_handlers.format.vif import RemoteFile, VolumeInfo, encode_volume_info
from native_handlers.storage.check import check_directory

pytestmark = pytest.mark.damage("it is what these tests are about")


@pytest.fixture(params=[4, 5], ids=["4-byte", "5-byte"])
def width(request):
    return request.param


@pytest.fixture
def made(tmp_path, width):
    store = open_at(tmp_path, offset_width_bytes=width)
    store.allocate_volume(7, collection="c")
    for needle_id in range(1, 6):
        store.get_volume(7).write(Needle(needle_id=needle_id, cookie=1, data=b"x" * 100))
    store.get_volume(7).delete(2, 1)
    store.close()
    return tmp_path


def problems(made) -> list[str]:
    before = {path: path.read_bytes() for path in made.iterdir()}
    report = check_directory(made)
    assert {path: path.read_bytes() for path in made.iterdir()} == before
    assert report.is_healthy == (not report.volumes[0].problems)
    return report.volumes[0].problems


def rows(made, width):
    return list(iter_entries((made / "c_7.idx").read_bytes(), width))


def put_rows(made, width, entries):
    (made / "c_7.idx").write_bytes(b"".join(encode_entry(*entry, width) for entry in entries))


def test_a_healthy_volume(made):
    report = check_directory(made)
    assert report.is_healthy
    check = report.volumes[0]
    assert (check.version, check.record_count, check.row_count) == (3, 6, 6)
    assert str(report) == f"{made}/c_7: ok (version 3, 6 records, 6 index rows, {check.dat_bytes} bytes)"
    assert str(check_directory(made, index_path=made)) == str(report)


class TestVolumeInATier:
    @pytest.fixture
    def size(self, made):
        return (made / "c_7.dat").stat().st_size

    @pytest.fixture
    def tiered(self, made, size, width):
        """The .vif names the object; a copy of the .dat is here."""
        file = RemoteFile("s3", "cold", "k/7.dat", 0, size, 1, ".dat")
        info = VolumeInfo(version=3, bytes_offset=width if width == 5 else 0, files=(file,))
        (made / "c_7.vif").write_text(encode_volume_info(info))
        return made

    DATA = "its data in remote storage s3.cold as k/7.dat"
    ROWS = "whether its 6 index rows lead to their records there"

    def test_is_said_not_to_be_examined(self, tiered, size):
        (tiered / "c_7.dat").unlink()
        report = check_directory(tiered)
        assert str(report) == "\n".join(
            (
                f"{tiered}/c_7: ok in what was examined (version 3, 0 records, 6 index rows, {size} bytes)",
                f"  not examined: {self.DATA}",
                f"  not examined: {self.ROWS}",
            )
        )
        assert report.as_data()["volumes"][0]["not_examined"] == [self.DATA, self.ROWS]
        assert report.is_healthy

    def test_is_compared_with_the_copy_that_was_kept_here(self, tiered, width):
        (check,) = check_directory(tiered).volumes
        assert (check.is_healthy, check.record_count, check.not_examined) == (True, 6, [self.DATA])
        put_rows(tiered, width, rows(tiered, width)[:-2])
        assert problems(tiered) == [".idx is behind: 2 records after the last one that it names"]

    def test_has_rows_behind_its_end(self, tiered, width, size):
        (tiered / "c_7.dat").unlink()
        good = rows(tiered, width)
        put_rows(tiered, width, [*good, (9, size // 8 - 16, 100), (10, size // 8, 0), (11, 0, 5), (12, 0, -1)])
        assert problems(tiered) == [
            f".idx row 7: needle 9 of size 100 at {size - 128} ends behind the {size} bytes of its data",
            f".idx row 8: needle a of size 0 at {size} ends behind the {size} bytes of its data",
            ".idx row 9: needle b has no offset",
        ]

    def test_has_an_index_that_is_not_whole(self, tiered, width):
        (tiered / "c_7.dat").unlink()
        with (tiered / "c_7.idx").open("ab") as idx:
            idx.write(b"part")
        assert problems(tiered) == [".idx ends with 4 bytes of a row"]
        (tiered / "c_7.idx").unlink()
        assert problems(tiered) == [".idx does not exist"]


def test_a_volume_on_disk_has_nothing_that_is_not_examined(made):
    assert check_directory(made).as_data()["volumes"][0]["not_examined"] == []


def test_an_empty_directory(tmp_path):
    report = check_directory(tmp_path)
    assert report.is_healthy
    assert str(report) == "no volumes"


def test_a_flipped_bit_costs_one_record(made, width):
    with (made / "c_7.dat").open("r+b") as dat:
        dat.seek(rows(made, width)[2].offset * 8 + 30)
        dat.write(b"?")
    found = problems(made)
    assert len(found) == 2
    assert "needle 3 has a wrong checksum" in found[0]
    assert "136 bytes skipped" in found[0]
    assert "row 3: needle 3 of size 105 should be at 280, there is no record" in found[1]


def test_a_row_that_leads_elsewhere(made, width):
    entries = rows(made, width)
    entries[0] = entries[0]._replace(offset=entries[1].offset)
    put_rows(made, width, entries)
    assert problems(made) == [".idx row 1: needle 1 of size 105 should be at 144, there is needle 2 of size 105"]


def test_rows_that_are_missing(made, width):
    put_rows(made, width, rows(made, width)[:-2])
    assert problems(made) == [".idx is behind: 2 records after the last one that it names"]
    put_rows(made, width, [])
    assert problems(made) == [".idx is behind: 6 records after the last one that it names"]
    (made / "c_7.idx").unlink()
    assert problems(made)[0] == ".idx does not exist"


def test_a_partial_row_and_a_torn_record(made):
    with (made / "c_7.idx").open("ab") as idx:
        idx.write(b"abc")
    with (made / "c_7.dat").open("ab") as dat:
        dat.write(b"abcdefgh")
    found = problems(made)
    assert found[0] == ".idx ends with 3 bytes of a row"
    assert "8 bytes of a header" in found[1]


def test_rows_without_an_offset(made, width):
    put_rows(made, width, [*rows(made, width), (9, 0, -1), (9, 0, 5)])
    assert problems(made) == [".idx row 8: needle 9 has no offset"]


def test_bad_info_and_bad_super_blocks(made, width):
    def found(which: int) -> str:
        return check_directory(made, offset_width_bytes=width).volumes[0].problems[which]

    (made / "c_7.vif").write_text("{")
    assert ".vif cannot be parsed" in found(0)
    (made / "c_7.vif").write_text(f'{{"bytesOffset": {9 - width}}}')
    assert found(0) == f".vif says {9 - width}-byte offsets, the check runs with {width}-byte ones"
    (made / "c_7.dat").write_bytes(b"\x09" * 100)
    assert "version 9 is not supported" in found(-1)


def test_problems_are_counted_beyond_those_that_are_listed(made, width):
    put_rows(made, width, [(needle_id, 2, 5) for needle_id in range(150)])
    report = check_directory(made)
    assert report.volumes[0].problem_count > 150 > len(report.volumes[0].problems)
    assert str(report).endswith("more")


def test_other_files_are_no_volumes(made):
    (made / "x.dat").write_bytes(b"")
    (made / "y_.dat").write_bytes(b"")
    assert [check.base.name for check in check_directory(made).volumes] == ["c_7"]
    os.truncate(made / "c_7.dat", 3)
    assert "super block needs 8 bytes" in check_directory(made).volumes[0].problems[0]
