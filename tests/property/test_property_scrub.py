"""Records that are examined many at a time are sound where the parser of one record says so."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native_handlers.format.crc import crc32c, legacy_form
from native_handlers.format.errors import FormatError
from native_handlers.format.needle import Needle, encode_needle, parse_needle
from native_handlers.format.ttl import Ttl
from native_handlers.storage.volume.record_facts import are_sound

MOST_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.binary(max_size=20),
        "mime": st.binary(max_size=20),
        "last_modified_s": st.integers(0, 2**40 - 1),
        "ttl": st.builds(Ttl, st.integers(0, 255), st.integers(0, 6)),
        "pairs": st.binary(max_size=300),
    },
)


@st.composite
def needles(draw):
    data = draw(st.binary(max_size=300))
    fields = draw(MOST_FIELDS)
    needle = Needle(needle_id=draw(st.integers(0, 2**64 - 1)), cookie=7, data=data, append_at_ns=5, **fields)
    for field in fields:
        setattr(needle, f"has_{field.removesuffix('_s')}", True)
    needle.is_compressed = draw(st.booleans())
    needle.checksum = crc32c(data)
    if draw(st.booleans()):
        needle.checksum = legacy_form(needle.checksum)
    return needle


def parses(record, size, version):
    try:
        return parse_needle(record, version).size == size
    except FormatError:
        return False


@pytest.mark.parametrize("version", [2, 3])
@given(st.lists(needles(), min_size=1, max_size=8), st.data())
@settings(deadline=None)
def test_sound_records_are_those_that_the_parser_takes(version, written, data):
    records = [bytearray(encode_needle(needle, version)) for needle in written]
    sizes = [needle.size for needle in written]
    for number in data.draw(st.sets(st.integers(0, len(records) - 1))):
        for at in data.draw(st.lists(st.integers(0, len(records[number]) - 1), min_size=1, max_size=3)):
            records[number][at] ^= data.draw(st.integers(1, 255))
    gaps = data.draw(st.lists(st.integers(0, 40), min_size=len(records), max_size=len(records)))
    content, heads = b"", []
    for record, gap in zip(records, gaps, strict=True):
        content += bytes(gap)
        heads.append(len(content))
        content += record
    found = are_sound(np.frombuffer(content, np.uint8), np.array(heads), np.array(sizes, np.int32), version)
    for record, size, is_sound in zip(records, sizes, found.tolist(), strict=True):
        is_parsed = parses(bytes(record), size, version)
        assert is_parsed or not is_sound
        # A body that ends before the fields that its flags name is left to the parser. Only damage makes one.
        if record == encode_needle(written[records.index(record)], version):
            assert is_sound


@pytest.mark.parametrize("version", [2, 3])
@given(needles())
@settings(deadline=None)
def test_no_byte_is_damaged_unseen(version, needle):
    record = encode_needle(needle, version)
    heads, sizes = np.array([0]), np.array([needle.size], np.int32)
    for at in range(len(record)):
        damaged = record[:at] + bytes((record[at] ^ 0x15,)) + record[at + 1 :]
        if are_sound(np.frombuffer(damaged, np.uint8), heads, sizes, version)[0]:
            assert parses(damaged, needle.size, version), at


def test_records_of_version_1_are_left_to_the_parser():
    record = encode_needle(Needle(needle_id=1, data=b"some", checksum=crc32c(b"some")), 1)
    assert parses(record, 4, 1)
    assert not are_sound(np.frombuffer(record, np.uint8), np.array([0]), np.array([4], np.int32), 1)[0]
