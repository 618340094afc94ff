"""TTL, replica placement, super block, file ids, index rows, volume names: tables read both ways."""

from __future__ import annotations

import pytest

from native_handlers.format import types
from native_handlers.format.errors import (
    BadCollection,
    BadFileId,
    BadReplicaPlacement,
    BadTtl,
    BadVolumeName,
    Corrupt,
    Truncated,
    UnsupportedOffsetWidth,
    UnsupportedVersion,
)
from native_handlers.format.fid import FileId, parse_file_id, parse_needle_id_cookie
from native_handlers.format.idx import IdxEntry, encode_entry, iter_entries, parse_entry, row_bytes
from native_handlers.format.replica_placement import ReplicaPlacement
from native_handlers.format.super_block import SuperBlock, parse_super_block, super_block_size
from native_handlers.format.ttl import EMPTY_TTL, Ttl, parse_ttl
from native_handlers.format.volume_name import format_volume_name, parse_volume_name


class TestTtl:
    @pytest.mark.parametrize(
        ("text", "stored", "normal"),
        [
            ("", "0000", ""),
            ("5m", "0501", "5m"),
            ("5", "0501", "5m"),
            ("+5m", "0501", "5m"),
            ("90m", "5a01", "90m"),
            ("120m", "0202", "2h"),
            ("24h", "0103", "1d"),
            ("7d", "0104", "1w"),
            ("8d", "0803", "8d"),
            ("30d", "0105", "1M"),
            ("365d", "0106", "1y"),
            ("256h", "0a03", "10d"),
            ("257h", "0a03", "10d"),
            ("300m", "0502", "5h"),
            ("301m", "0502", "5h"),
            ("255y", "ff06", "255y"),
            ("256y", "0000", ""),
            ("0m", "0000", ""),
            ("-3m", "0000", ""),
            ("3x", "0000", ""),
        ],
    )
    def test_text_to_bytes_and_back(self, text, stored, normal):
        ttl = parse_ttl(text)
        assert ttl.to_bytes().hex() == stored
        assert Ttl.from_bytes(bytes.fromhex(stored)) == ttl
        assert Ttl.from_uint32(ttl.to_uint32()) == ttl
        assert str(ttl) == normal

    @pytest.mark.parametrize("text", ["m", "abc", "1.5h", "0x5m", " 5m", "5 m", "\u0665m"])
    def test_bad_counts(self, text):
        with pytest.raises(BadTtl, match="expected a count"):
            parse_ttl(text)

    def test_lengths(self):
        minutes = [Ttl(2, unit).minutes for unit in range(8)]
        assert minutes == [0, 2, 120, 2880, 20160, 86400, 1051200, 0]
        assert Ttl(1, 1).seconds == 60

    def test_a_unit_without_a_count_is_nothing_on_the_wire(self):
        assert Ttl(0, 3).to_uint32() == 0
        assert Ttl(3, 4).to_uint32() == 0x0304
        assert not EMPTY_TTL
        assert Ttl(1, 1)

    def test_truncated(self):
        with pytest.raises(Truncated):
            Ttl.from_bytes(b"\x01")


class TestReplicaPlacement:
    @pytest.mark.parametrize(
        ("text", "byte", "copies", "normal"),
        [
            ("", 0, 1, "000"),
            ("1", 1, 2, "001"),
            ("10", 10, 2, "010"),
            ("001", 1, 2, "001"),
            ("210", 210, 4, "210"),
            ("0019", 1, 2, "001"),
        ],
    )
    def test_text_to_byte_and_back(self, text, byte, copies, normal):
        placement = ReplicaPlacement.parse(text)
        assert placement.to_byte() == byte
        assert ReplicaPlacement.from_byte(byte) == placement
        assert placement.copy_count == copies
        assert str(placement) == normal

    @pytest.mark.parametrize(("text", "message"), [("00!", "unknown replication type: 00!"), ("300", "unexpected")])
    def test_bad(self, text, message):
        with pytest.raises(BadReplicaPlacement, match=message):
            ReplicaPlacement.parse(text)

    def test_every_byte_survives(self):
        assert all(ReplicaPlacement.from_byte(byte).to_byte() == byte for byte in range(256))


class TestSuperBlock:
    CASES = (
        (SuperBlock(), "0300000000000000"),
        (SuperBlock(2, ReplicaPlacement(0, 0, 1), Ttl(3, 3), 258), "0201030301020000"),
        (SuperBlock(3, ReplicaPlacement(1, 2, 3), EMPTY_TTL, 0, b"xyz"), "037b00000000000378797a"),
    )

    @pytest.mark.parametrize(("block", "text"), CASES)
    def test_both_ways(self, block, text):
        raw = bytes.fromhex(text)
        assert block.encode() == raw
        assert parse_super_block(raw) == block
        assert parse_super_block(raw + b"rest") == block
        assert block.size_bytes == super_block_size(raw) == len(raw)
        for length in range(len(raw)):
            with pytest.raises(Truncated):
                parse_super_block(raw[:length])

    def test_version_1_has_no_extra_part(self):
        block = parse_super_block(bytes.fromhex("0100000000000003") + b"xyz")
        assert (block.size_bytes, block.extra) == (8, b"")

    @pytest.mark.parametrize("version", [0, 4])
    def test_other_versions(self, version):
        with pytest.raises(UnsupportedVersion):
            parse_super_block(bytes([version]) + b"\0" * 7)
        with pytest.raises(UnsupportedVersion):
            SuperBlock(version).encode()

    def test_extra_too_long(self):
        with pytest.raises(Corrupt, match="65535 bytes"):
            SuperBlock(extra=b"x" * 65535).encode()


class TestFileId:
    @pytest.mark.parametrize(
        ("text", "fid", "normal"),
        [
            ("3,01637037d6", FileId(3, 1, 0x637037D6), "3,01637037d6"),
            ("3,1637037d6", FileId(3, 1, 0x637037D6), "3,01637037d6"),
            ("3,01637037D6", FileId(3, 1, 0x637037D6), "3,01637037d6"),
            ("3,01637037d6_2", FileId(3, 3, 0x637037D6), "3,03637037d6"),
            ("3,01637037d6_", FileId(3, 1, 0x637037D6), "3,01637037d6"),
            ("3,ffffffffffffffff00000001", FileId(3, 2**64 - 1, 1), "3,ffffffffffffffff00000001"),
            ("4294967299,0100000000", FileId(3, 1, 0), "3,0100000000"),
            ("7,000000000", FileId(7, 0, 0), "7,00000000"),
        ],
    )
    def test_text_to_id_and_back(self, text, fid, normal):
        assert parse_file_id(text) == fid
        assert str(fid) == normal

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "wrong fid format"),
            ("01637037d6", "wrong fid format"),
            (",01637037d6", "wrong fid format"),
            ("x,01637037d6", 'strconv.ParseUint: parsing "x": invalid syntax'),
            ("99999999999999999999,01637037d6", "value out of range"),
            ("9" * 5000 + ",01637037d6", "value out of range"),
            ("3,37037d6", "Invalid fid: 37037d6"),
            ("3,637037d6_1", "KeyHash is too short."),
            ("3," + "0" * 25, "KeyHash is too long."),
            ('3,"\x01637037d6', r'parsing "\"\x01": invalid syntax'),
            ("3,\xc3\xa4\xff637037d6", 'parsing "\xc3\xa4\\xff": invalid syntax'),
            ("3,zz637037d6", "Parse needleId error: needle id zz format error"),
            ("3,01637037dz", "Parse cookie error: needle cookie 637037dz format error"),
            ("3,+1637037d6", "Parse needleId error"),
            ("3,ffffffffffffffff00000001_1", f"delta 1 overflows needle id {'66' * 16}"),
            ("3,01637037d6_x", 'strconv.ParseUint: parsing "x": invalid syntax'),
        ],
    )
    def test_bad(self, text, message):
        with pytest.raises(BadFileId) as caught:
            parse_file_id(text)
        assert message in str(caught.value)

    def test_without_volume(self):
        assert parse_needle_id_cookie("0a637037d6_10") == (20, 0x637037D6)


class TestIndexRows:
    @pytest.mark.parametrize(
        ("entry", "width", "text"),
        [
            (IdxEntry(1, 1, 10), 4, "0000000000000001 00000001 0000000a"),
            (IdxEntry(2**64 - 1, 2**32 - 1, -1), 4, "ffffffffffffffff ffffffff ffffffff"),
            (IdxEntry(1, 1, 10), 5, "0000000000000001 00000001 00 0000000a"),
            (IdxEntry(7, 0x0102030405, -1), 5, "0000000000000007 02030405 01 ffffffff"),
        ],
    )
    def test_both_ways(self, entry, width, text):
        raw = bytes.fromhex(text)
        assert encode_entry(*entry, width) == raw
        assert parse_entry(raw, width) == entry
        assert list(iter_entries(raw + raw + raw[:-1], width)) == [entry, entry]
        assert len(raw) == row_bytes(width)
        with pytest.raises(Truncated):
            parse_entry(raw[:-1], width)

    @pytest.mark.parametrize("width", [0, 3, 6])
    def test_other_widths(self, width):
        with pytest.raises(UnsupportedOffsetWidth, match=f"offsets of {width} bytes"):
            encode_entry(1, 1, 1, width)
        with pytest.raises(UnsupportedOffsetWidth):
            iter_entries(b"", width)

    def test_units(self):
        assert types.max_volume_size_bytes(4) == 32 << 30
        assert types.max_volume_size_bytes(5) == 8 << 40
        assert types.to_bytes_offset(types.to_stored(4096)) == 4096
        assert [types.align_up(n) for n in (0, 1, 7, 8, 9)] == [0, 8, 8, 8, 16]


class TestVolumeName:
    @pytest.mark.parametrize(
        ("name", "collection", "volume_id"),
        [("7", "", 7), ("pictures_7", "pictures", 7), ("a_b_7", "a_b", 7)],
    )
    def test_both_ways(self, name, collection, volume_id):
        assert parse_volume_name(name) == (collection, volume_id)
        assert format_volume_name(collection, volume_id) == name

    @pytest.mark.parametrize("name", ["", "x", "a_", "_7", "7_a", "a_-1"])
    def test_bad(self, name):
        with pytest.raises(BadVolumeName, match="no volume file name"):
            parse_volume_name(name)

    @pytest.mark.parametrize("collection", ["../x", "a/b", "/x", "/", "a\0b"])
    def test_no_name_leads_out_of_its_directory(self, collection):
        with pytest.raises(BadCollection, match=r"^invalid collection "):
            format_volume_name(collection, 7)
