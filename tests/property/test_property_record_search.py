"""The search for records gives what a look at each position gives; sums of ranges are those of their bytes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native_handlers.format.crc import crc32c, moved
from native_handlers.format.needle import Needle, encode_needle
from native_handlers.storage.volume.scan import MAX_RANGE_COST_BYTES, DatScan, RangeSums, holds_record

BYTES = random.Random(0).randbytes(5 << 18)


class Memory:
    """A file in memory."""

    def __init__(self, content):
        self.content, self.read_bytes = content, 0

    def read(self, _fd, length_bytes, offset_bytes):
        self.read_bytes += length_bytes
        return self.content[offset_bytes : offset_bytes + length_bytes]


def record(version):
    def make(data, checksum):
        return encode_needle(Needle(needle_id=1, cookie=2, data=data, checksum=crc32c(data) + checksum), version)

    return st.builds(make, st.binary(max_size=40), st.sampled_from([0, 0, 0, 1]))


@st.composite
def contents(draw):
    """A version, and pieces of records between other bytes."""
    version = draw(st.sampled_from([2, 3]))
    pieces = draw(st.lists(st.one_of(record(version), st.binary(max_size=9), st.sampled_from([bytes(8), bytes(24)]))))
    content = b"".join(pieces)
    return version, content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content


@given(contents())
def test_as_a_look_at_each_position(given_content):
    version, content = given_content
    memory = Memory(content)

    def is_record(at):
        found = next(iter(DatScan(memory, 0, version, at, len(content))), None)
        return found is not None and found.header.size > 0

    assert holds_record(memory, 0, version, 0, len(content)) == any(map(is_record, range(0, len(content), 8)))


@given(st.integers(0, 100), st.lists(st.tuples(st.integers(0, len(BYTES)), st.integers(0, len(BYTES))), min_size=1))
def test_the_sum_of_a_range(start, ranges):
    memory = Memory(BYTES)
    sums = RangeSums(lambda length, offset: memory.read(0, length, offset), start)
    for one, other in ranges:
        at, end = sorted((max(one, start), max(other, start)))
        assert sums.of(at, end - at) == crc32c(BYTES[at:end])
    assert memory.read_bytes <= len(BYTES) + len(ranges) * MAX_RANGE_COST_BYTES


@given(st.binary(), st.binary())
def test_a_moved_sum(one, other):
    assert moved(crc32c(one), len(other)) ^ crc32c(other) == crc32c(one + other)


@pytest.mark.parametrize("count", [0, 1, 1 << 20])
def test_a_sum_that_is_moved_by_zeros(count):
    assert moved(crc32c(b"x"), count) ^ crc32c(bytes(count)) == crc32c(b"x" + bytes(count))
