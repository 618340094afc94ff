"""The search for records behind the last row of an index: what it reads is bounded, whatever the bytes are.

A client chooses the bytes of an upload, and may know what is searched for.
"""

from __future__ import annotations

import os
import random
import struct
from contextlib import closing

import pytest
from support.files import PlannedFiles
from support.stores import open_at

from native_handlers.format.crc import crc32c
from native_handlers.format.needle import Needle, encode_needle
from native_handlers.storage.disk.session_mark import SESSION_FILE_NAME
from native_handlers.storage.model import errors
from native_handlers.storage.model.report import FindingKind
from native_handlers.storage.volume.scan import holds_record

KIB, MIB = 1 << 10, 1 << 20
FREE = 64 * MIB
"""So much work on candidates is free, beside the length that is searched."""


def torn(payload, claimed=None):
    """A record that ends with `payload`, and claims more of it."""
    claimed = claimed or 4 * len(payload)
    return struct.pack(">IQiI", 1, 1, claimed + 5, claimed) + payload + bytes(4)


def candidates(length, count):
    """So many heads, one at each multiple of 8 behind the head of `torn`, each with a payload of `length`."""
    return struct.pack(">II", length + 5, length) * count


def aligned(payload):
    """`payload` as it has to be for a record in it to begin at a multiple of 8."""
    return bytes(4) + payload


def sound(needle_id, data):
    return encode_needle(Needle(needle_id=needle_id, cookie=5, data=data, checksum=crc32c(data)), 3)


@pytest.fixture
def search(tmp_path):
    """Searches a file of these bytes. Returns the answer, and how many bytes were read."""

    def work(content):
        files = PlannedFiles()
        (tmp_path / "x.dat").write_bytes(content)
        fd = os.open(tmp_path / "x.dat", os.O_RDONLY)
        try:
            return holds_record(files, fd, 3, 0, len(content)), files.read_bytes
        finally:
            os.close(fd)

    return work


def test_candidates_without_end_count_as_a_record(search):
    content = torn(candidates(128 * KIB, 256 * KIB // 8))
    found, read_bytes = search(content)
    assert found
    assert read_bytes <= 3 * len(content) + FREE


def test_a_long_payload_is_not_read_again_for_each_candidate(search):
    """A few hundred wrong ones, each of which claims half of all bytes, hide no record and are none."""
    heads = b"".join(struct.pack(">IQii", 5, 5, 2 * MIB + 5 + at, 2 * MIB) + bytes(4) for at in range(300))
    content = torn(aligned(heads) + random.Random(1).randbytes(4 * MIB))
    found, read_bytes = search(content)
    assert not found
    assert read_bytes <= 3 * len(content) + FREE
    found, _ = search(content[:-4] + sound(3, b"x"))
    assert found


def test_what_nobody_chose_stays_far_below_the_bound(search):
    content = torn(random.Random(2).randbytes(8 * MIB))
    found, read_bytes = search(content)
    assert not found
    assert read_bytes <= 2 * len(content)


@pytest.mark.parametrize("length", [1, 64 * KIB, 3 * MIB + 5])
def test_a_record_behind_the_head_of_another_is_found(search, length):
    record = sound(3, random.Random(3).randbytes(length))
    assert search(torn(aligned(bytes(40) + record), 40 * MIB))[0]
    assert not search(torn(aligned(bytes(40) + record[:-1]), 40 * MIB)[:-5])[0]


class TestAtAStart:
    """What becomes of such bytes behind the last row."""

    @pytest.fixture
    def made(self, tmp_path):
        """A closed volume with a needle, and a torn upload behind it."""
        with closing(open_at(tmp_path)) as store:
            store.allocate_volume(7)
            store.get_volume(7).write(Needle(needle_id=1, cookie=5, data=b"here"))
        with (tmp_path / "7.dat").open("ab") as file:
            file.write(torn(candidates(64 * KIB, 128 * KIB // 8)))
        return tmp_path

    @pytest.mark.damage("it stays")
    def test_they_stay_and_nothing_more_is_written(self, made):
        files, content = PlannedFiles(), (made / "7.dat").read_bytes()
        with closing(open_at(made, files=files)) as store:
            assert [finding.kind for finding in store.findings] == [FindingKind.MADE_READ_ONLY]
            assert store.get_volume(7).read(1, cookie=5).needle.data == b"here"
            with pytest.raises(errors.ReadOnly):
                store.get_volume(7).write(Needle(needle_id=2, cookie=5, data=b"x"))
        assert (made / "7.dat").read_bytes() == content
        assert files.read_bytes < FREE + 8 * MIB

    def test_after_a_power_cut_they_are_kept(self, made):
        (made / SESSION_FILE_NAME).write_bytes(b"another-boot 0\n")
        content = (made / "7.dat").read_bytes()
        with closing(open_at(made)) as store:
            assert [finding.kind for finding in store.findings] == [FindingKind.DAT_TAIL_CUT]
        assert (made / "7.dat").read_bytes() + (made / "7.cut").read_bytes() == content

    @pytest.mark.damage("it stays")
    def test_what_stays_in_any_case_is_not_searched(self, made):
        """A record with a wrong checksum is damage, whatever comes behind it."""
        with (made / "7.dat").open("r+b") as file:
            file.truncate(os.path.getsize(made / "7.dat") - len(torn(candidates(64 * KIB, 128 * KIB // 8))))
            file.seek(0, os.SEEK_END)
            file.write(encode_needle(Needle(needle_id=2, data=b"wrong", checksum=1), 3) + b"\1" * 8 * MIB)
        files = PlannedFiles()
        with closing(open_at(made, files=files)) as store:
            assert [finding.kind for finding in store.findings] == [FindingKind.MADE_READ_ONLY]
        assert files.read_bytes < 4 * MIB
