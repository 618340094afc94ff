"""The directory check: no finding for healthy volumes, an exact one for each kind of damage, no change of a file."""

from __future__ import annotations

import os

import pytest
from support.stores import open_at

from native_handlers.format.idx import encode_entry, iter_entries
from native_handlers.format.needle import Needle
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
