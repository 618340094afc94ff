"""Codecs: encoded data parses back, and arbitrary bytes raise only this package's errors."""

from __future__ import annotations

import struct

from hypothesis import event, given
from hypothesis import strategies as st

from native_handlers.format.cached_needle import try_parse_cached_needle
from native_handlers.format.crc import crc32c, legacy_form
from native_handlers.format.errors import FormatError
from native_handlers.format.fid import FileId, parse_file_id
from native_handlers.format.idx import IdxEntry, encode_entry, iter_entries
from native_handlers.format.needle import (
    FLAG_HAS_LAST_MODIFIED,
    FLAG_HAS_MIME,
    FLAG_HAS_NAME,
    FLAG_HAS_TTL,
    FLAG_IS_COMPRESSED,
    Needle,
    actual_size,
    encode_needle,
    parse_needle,
)
from native_handlers.format.replica_placement import ReplicaPlacement
from native_handlers.format.super_block import SuperBlock, parse_super_block
from native_handlers.format.ttl import Ttl, parse_ttl
from native_handlers.format.vif import VolumeInfo, encode_volume_info, parse_volume_info

uint16, uint32, uint64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
versions = st.sampled_from([1, 2, 3])


@st.composite
def needles(draw) -> Needle:
    data = draw(st.binary(max_size=300))
    needle = Needle(draw(uint64), draw(uint32), data, checksum=crc32c(data), append_at_ns=draw(uint64))
    needle.is_compressed, needle.is_chunk_manifest = draw(st.booleans()), draw(st.booleans())
    needle.has_name, needle.name = draw(st.sampled_from([(False, b""), (True, b""), (True, b"a.txt")]))
    needle.has_mime, needle.mime = draw(st.sampled_from([(False, b""), (True, b""), (True, b"text/plain")]))
    needle.has_last_modified, needle.last_modified_s = draw(st.sampled_from([(False, 0), (True, 2**40 - 1)]))
    needle.has_ttl, needle.ttl = draw(st.sampled_from([(False, None), (True, Ttl(3, 4)), (True, Ttl(255, 255))]))
    needle.has_pairs, needle.pairs = draw(st.sampled_from([(False, b""), (True, b""), (True, b"{}" * 400)]))
    return needle


@given(needles(), versions, st.binary(max_size=40))
def test_needles_survive_with_anything_behind_them(needle, version, rest):
    record = encode_needle(needle, version)
    assert len(record) == actual_size(needle.size, version)
    parsed = parse_needle(record + rest, version)
    assert encode_needle(parsed, version) == record
    assert (parsed.needle_id, parsed.cookie, parsed.data) == (needle.needle_id, needle.cookie, needle.data)
    if version > 1 and needle.data:
        needle.append_at_ns = parsed.append_at_ns
        assert parsed == needle


@given(st.binary(max_size=200), versions)
def test_arbitrary_bytes_are_a_needle_or_a_format_error(raw, version):
    try:
        parsed = parse_needle(raw, version)
    except FormatError:
        return
    assert parsed.size + 16 <= len(raw)


@given(needles(), versions, st.data())
def test_a_flipped_bit_is_found_or_harmless(needle, version, data):
    record = bytearray(encode_needle(needle, version))
    record[data.draw(st.integers(0, len(record) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        parsed = parse_needle(bytes(record), version)
    except FormatError:
        return
    assert parsed.data == needle.data or parsed.size == 0, "no wrong payload is ever returned"


CACHED_FLAGS = FLAG_IS_COMPRESSED | FLAG_HAS_NAME | FLAG_HAS_MIME | FLAG_HAS_LAST_MODIFIED | FLAG_HAS_TTL


@st.composite
def records(draw) -> tuple[bytes, int, int]:
    """A record, whole, damaged or absent, with the size in its index row and its version."""
    needle, version = draw(needles()), draw(versions)
    if draw(st.booleans()):
        needle.flags &= CACHED_FLAGS
    needle.checksum = draw(st.sampled_from([needle.checksum] * 3 + [legacy_form(needle.checksum), 1]))
    record = bytearray(encode_needle(needle, version))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        record[draw(st.integers(0, len(record) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.sampled_from([len(record)] * 4 + [draw(st.integers(0, len(record)))]))
    size = draw(st.sampled_from([needle.size] * 4 + [needle.size - 1, needle.size + 1, 0, -1]))
    return draw(st.sampled_from([bytes(record[:cut])] * 9 + [draw(st.binary(max_size=60))])), size, version


@given(records())
def test_the_short_parser_reads_a_record_as_the_long_one_does(given_record):
    record, size, version = given_record
    cached = try_parse_cached_needle(record, size, version)
    event("cached" if cached else "left")
    if cached is None:
        return
    parsed = parse_needle(record, version)
    assert parsed.size == size
    assert not any((parsed.has_pairs, parsed.is_chunk_manifest))
    assert cached.is_compressed == parsed.is_compressed
    assert cached[:5] == (parsed.cookie, parsed.data, parsed.name, parsed.mime, parsed.last_modified_s)
    has_end = parsed.ttl is not None and parsed.has_last_modified
    assert cached.expires_at_ns == (parsed.ttl.expires_at_ns(parsed.append_at_ns) if has_end else 0)
    assert cached.checksum == parsed.checksum == crc32c(parsed.data)


@given(needles(), st.sampled_from([2, 3]))
def test_the_short_parser_takes_every_sound_needle_without_pairs_that_is_no_manifest(needle, version):
    needle.flags &= CACHED_FLAGS
    record = encode_needle(needle, version)
    assert (try_parse_cached_needle(record, needle.size, version) is not None) == bool(needle.data)


@given(st.binary(max_size=40))
def test_arbitrary_bytes_are_a_super_block_or_a_format_error(raw):
    try:
        block = parse_super_block(raw)
    except FormatError:
        return
    assert raw.startswith(block.encode()) or block.version == 1


@given(versions, st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), uint16)
def test_super_blocks_survive(version, placement, count, unit, revision):
    block = SuperBlock(version, ReplicaPlacement.from_byte(placement), Ttl(count, unit), revision)
    assert parse_super_block(block.encode()) == block


@given(uint32, uint64, uint32)
def test_file_ids_survive(volume_id, needle_id, cookie):
    fid = FileId(volume_id, needle_id, cookie)
    if needle_id:
        assert parse_file_id(str(fid)) == fid


@given(st.text(max_size=40))
def test_arbitrary_text_is_parsed_or_a_format_error(text):
    for parse in (parse_file_id, parse_ttl, ReplicaPlacement.parse, parse_volume_info):
        try:
            parse(text)
        except FormatError:
            continue


@given(st.lists(st.tuples(uint64, uint32, st.integers(-(2**31), 2**31 - 1)), max_size=20), st.sampled_from([4, 5]))
def test_index_rows_survive(rows, width):
    raw = b"".join(encode_entry(*row, width) for row in rows)
    assert list(iter_entries(raw, width)) == [IdxEntry(*row) for row in rows]


@given(uint64, st.integers(0, 2**40 - 1), st.integers(-1, 2**31 - 1))
def test_five_byte_rows_are_four_byte_rows_with_a_byte_between(needle_id, offset, size):
    raw = encode_entry(needle_id, offset, size, 5)
    assert raw == struct.pack(">QIBi", needle_id, offset % 2**32, offset // 2**32, size)


@given(st.integers(1, 10**6), st.sampled_from("mhdwMy"))
def test_a_ttl_is_never_longer_than_asked_for(count, unit):
    minutes = count * {"m": 1, "h": 60, "d": 1440, "w": 10080, "M": 43200, "y": 525600}[unit]
    ttl = parse_ttl(f"{count}{unit}")
    assert ttl.minutes <= minutes
    assert parse_ttl(str(ttl)).minutes == ttl.minutes
    if count <= 255:
        assert ttl.minutes == minutes


@given(uint32, uint32, st.integers(-(2**63), 2**63 - 1), uint64, st.text(max_size=10), st.booleans())
def test_volume_information_survives(version, width, size, expires, replication, read_only):
    info = VolumeInfo((), version, replication, width, size, expires, read_only)
    try:
        text = encode_volume_info(info).encode()
    except UnicodeEncodeError:
        return
    assert parse_volume_info(text) == info
