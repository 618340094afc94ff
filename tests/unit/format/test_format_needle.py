"""Needle records: golden bytes worked by hand in docs/formats.md, both ways, and everything that can be wrong."""

from __future__ import annotations

import google_crc32c
import pytest

from native_handlers.format import crc
from native_handlers.format.errors import ChecksumMismatch, Corrupt, NeedleTooWide, Truncated, UnsupportedVersion
from native_handlers.format.needle import (
    Needle,
    actual_size,
    encode_needle,
    etag,
    padding_size,
    parse_needle,
    parse_needle_header,
    parse_needle_tail,
)
from native_handlers.format.ttl import Ttl

HELLO_CRC = 0x9A71BB4C  # CRC-32C of b"hello"


def hello(**changes) -> Needle:
    needle = Needle(needle_id=0x01, cookie=0x637037D6, data=b"hello", checksum=HELLO_CRC)
    for name, value in changes.items():
        setattr(needle, name, value)
    return needle


def everything() -> Needle:
    needle = hello(
        name=b"a.txt",
        mime=b"text/plain",
        last_modified_s=0x0166666666,
        ttl=Ttl(3, 3),
        pairs=b'{"k":"v"}',
        append_at_ns=0x1122334455667788,
    )
    needle.has_name = needle.has_mime = needle.has_last_modified = True
    needle.has_ttl = needle.has_pairs = needle.is_compressed = True
    return needle


GOLDEN = [
    pytest.param(hello(), 1, "637037d6 0000000000000001 00000005 68656c6c6f 9a71bb4c 00000000000000", id="v1"),
    pytest.param(
        hello(),
        2,
        "637037d6 0000000000000001 0000000a 00000005 68656c6c6f 00 9a71bb4c 0000",
        id="v2",
    ),
    pytest.param(
        hello(append_at_ns=0x0102030405060708),
        3,
        "637037d6 0000000000000001 0000000a 00000005 68656c6c6f 00 9a71bb4c 0102030405060708 0000",
        id="v3",
    ),
    pytest.param(
        everything(),
        3,
        "637037d6 0000000000000001 0000002d 00000005 68656c6c6f 3f"
        "05 612e747874 0a 746578742f706c61696e 0166666666 0303 0009 7b226b223a2276227d"
        "9a71bb4c 1122334455667788 0000002d000000",
        id="v3-all-fields",
    ),
    pytest.param(
        Needle(needle_id=0x0102030405060708, cookie=0x0A0B0C0D),
        2,
        "0a0b0c0d 0102030405060708 00000000 00000000 01020304",
        id="v2-empty",
    ),
    pytest.param(
        Needle(needle_id=7, cookie=9, append_at_ns=1),
        3,
        "00000009 0000000000000007 00000000 00000000 0000000000000001 00000000",
        id="v3-tombstone",
    ),
]


@pytest.mark.parametrize(("needle", "version", "text"), GOLDEN)
class TestGolden:
    def test_encodes(self, needle, version, text):
        assert encode_needle(needle, version).hex() == text.replace(" ", "")

    def test_parses_with_anything_behind_it(self, needle, version, text):
        record = bytes.fromhex(text)
        expected = encode_needle(needle, version) and needle
        assert parse_needle(record, version) == expected
        assert parse_needle(record + b"\xff" * 40, version) == expected

    def test_every_shorter_prefix_is_truncated(self, needle, version, text):
        record = bytes.fromhex(text)
        encode_needle(needle, version)
        for length in range(len(record) - padding_size(needle.size, version)):
            with pytest.raises(Truncated):
                parse_needle(record[:length], version)

    def test_length_is_the_actual_size(self, needle, version, text):
        assert len(bytes.fromhex(text)) == len(encode_needle(needle, version)) == actual_size(needle.size, version)

    def test_padding_is_not_looked_at(self, needle, version, text):
        record = bytearray.fromhex(text)
        encode_needle(needle, version)
        padding = padding_size(needle.size, version)
        record[-padding:] = b"\xaa" * padding
        assert parse_needle(bytes(record), version) == needle


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("size", range(20))
def test_padding_is_one_to_eight_bytes(size, version):
    assert 1 <= padding_size(size, version) <= 8
    assert actual_size(size, version) % 8 == 0


@pytest.mark.parametrize("version", [1, 2, 3])
def test_legacy_checksum_is_accepted_and_reported_in_the_plain_form(version):
    needle = hello(checksum=crc.legacy_form(HELLO_CRC))
    parsed = parse_needle(encode_needle(needle, version), version)
    assert parsed.checksum == HELLO_CRC


@pytest.mark.parametrize("version", [1, 2, 3])
def test_wrong_checksum_names_both(version):
    record = encode_needle(hello(checksum=1), version)
    with pytest.raises(ChecksumMismatch, match="got 9a71bb4c, want 00000001"):
        parse_needle(record, version)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_flipped_payload_bit_is_found(version):
    record = bytearray(encode_needle(hello(), version))
    record[21] ^= 1
    with pytest.raises(ChecksumMismatch):
        parse_needle(bytes(record), version)


@pytest.mark.parametrize("version", [2, 3])
def test_empty_payload_loses_its_metadata(version):
    needle = everything()
    needle.data = b""
    parsed = parse_needle(encode_needle(needle, version), version)
    assert (parsed.size, parsed.flags, parsed.name, parsed.ttl) == (0, 0, b"", None)


def test_a_long_name_is_cut_and_a_long_mime_or_pairs_refused():
    needle = hello(name=b"n" * 300)
    needle.has_name = True
    assert parse_needle(encode_needle(needle, 3), 3).name == b"n" * 255
    needle = hello(mime=b"m" * 256)
    needle.has_mime = True
    with pytest.raises(NeedleTooWide, match="MIME type is 256 bytes"):
        encode_needle(needle, 3)
    needle = hello(pairs=b"p" * 65536)
    needle.has_pairs = True
    with pytest.raises(NeedleTooWide, match="pairs is 65536 bytes"):
        encode_needle(needle, 3)


def test_flag_without_ttl_stores_the_empty_ttl():
    needle = hello()
    needle.has_ttl = True
    assert parse_needle(encode_needle(needle, 3), 3).ttl == Ttl(0, 0)


def corrupt_body(position: int, value: int) -> bytes:
    record = bytearray(encode_needle(everything(), 3))
    record[position] = value
    return bytes(record)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        pytest.param(corrupt_body(19, 200), "index out of range 1", id="payload"),
        pytest.param(corrupt_body(19, 0), "says that its payload is empty", id="no-payload"),
        pytest.param(corrupt_body(26, 200), "index out of range 2", id="name"),
        pytest.param(corrupt_body(32, 200), "index out of range 3", id="mime"),
        pytest.param(corrupt_body(50, 200), "index out of range 7", id="pairs"),
        pytest.param(b"\0" * 12 + b"\xff\xff\xff\xff" + b"\0" * 40, "size -1 is negative", id="negative"),
        pytest.param(b"\0" * 15 + b"\x03" + b"\0" * 40, "no room for a payload length", id="tiny-body"),
    ],
)
def test_contradicting_lengths_are_corrupt(record, message):
    with pytest.raises(Corrupt, match=message):
        parse_needle(record, 3)


def test_body_that_ends_at_a_field_border_is_accepted():
    body = b"\0\0\0\x05hello\x02"
    record = b"\0" * 15 + bytes([len(body)]) + body + HELLO_CRC.to_bytes(4, "big") + b"\0" * 16
    parsed = parse_needle(record, 3)
    assert parsed.has_name
    assert parsed.name == b""


@pytest.mark.parametrize("version", [0, 4, 255])
def test_unknown_versions_are_refused(version):
    with pytest.raises(UnsupportedVersion, match=f"version {version}"):
        encode_needle(hello(), version)
    with pytest.raises(UnsupportedVersion):
        parse_needle(b"\0" * 64, version)


def test_header_and_tail_alone():
    record = encode_needle(hello(append_at_ns=5), 3)
    assert parse_needle_header(record) == (0x637037D6, 1, 10)
    with pytest.raises(Truncated):
        parse_needle_header(record[:15])
    needle = Needle()
    parse_needle_tail(needle, record[26:], 3)
    assert (needle.checksum, needle.append_at_ns) == (HELLO_CRC, 5)
    with pytest.raises(Truncated):
        parse_needle_tail(needle, record[26:37], 3)


def test_flags_are_set_and_cleared_one_by_one():
    needle = Needle()
    names = ["is_compressed", "has_name", "has_mime", "has_last_modified", "has_ttl", "has_pairs", "is_chunk_manifest"]
    bits = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x80]
    for name, bit in zip(names, bits, strict=True):
        setattr(needle, name, True)
        assert needle.flags == bit
        assert getattr(needle, name)
        setattr(needle, name, False)
        assert needle.flags == 0


def test_etag_is_the_checksum_in_hex():
    assert etag(hello()) == "9a71bb4c"
    assert etag(hello(checksum=0xAB)) == "000000ab"


def test_crc_in_pieces_equals_crc_of_the_whole():
    assert crc.crc32c(b"hello") == HELLO_CRC
    assert crc.crc32c_extend(crc.crc32c_extend(0, b"hel"), memoryview(b"lo")) == HELLO_CRC
    assert crc.legacy_form(0) == 0xA282EAD8


@pytest.mark.parametrize("length", [0, 1, 32 * 1024, 32 * 1024 + 1, 1 << 20])
def test_crc_of_a_view_is_that_of_its_bytes(length):
    """Short views are copied, and arrays are made over long ones."""
    data = bytes(range(256)) * (length // 256) + bytes(range(length % 256))
    whole = crc.crc32c(data)
    assert crc.crc32c(memoryview(data)) == whole
    assert crc.crc32c(memoryview(bytearray(b"." + data + b"."))[1:-1]) == whole
    assert whole == google_crc32c.value(data)


def test_a_long_view_goes_in_steps(monkeypatch):
    """The C routine keeps the interpreter while it works on memory that is no `bytes`."""
    lengths, extend = [], google_crc32c.extend

    def noted(value, data):
        lengths.append(len(data))
        return extend(value, data)

    monkeypatch.setattr(google_crc32c, "extend", noted)
    data = bytes(range(256)) * 4097
    assert crc.crc32c_extend(5, memoryview(data)) == extend(5, data)
    assert sum(lengths) == len(data)
    assert max(lengths) <= 256 * 1024


def test_another_crc_does_not_match():
    assert not crc.matches(HELLO_CRC, HELLO_CRC + 1)
