"""Every codec against damaged input: whole, cut at each length, with each single bit flipped, with data behind.

Damage is refused with a FormatError and nothing else, or gives a value that stands for exactly those bytes: encoding it
gives them again. Where a format itself loses something (padding, metadata that no flag names, other spellings of one
text), the table says at which bytes, and there the value must at least survive its own encoding.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from native_handlers.format.crc import crc32c
from native_handlers.format.errors import FormatError, Truncated
from native_handlers.format.fid import format_needle_id_cookie, parse_file_id, parse_needle_id_cookie
from native_handlers.format.idx import encode_entry, iter_entries, parse_entry
from native_handlers.format.needle import (
    Needle,
    encode_needle,
    padding_size,
    parse_needle,
)
from native_handlers.format.replica_placement import ReplicaPlacement
from native_handlers.format.report_hash import report_hash_of_message
from native_handlers.format.super_block import SuperBlock, parse_super_block
from native_handlers.format.ttl import Ttl, parse_ttl
from native_handlers.format.vif import EcShardConfig, RemoteFile, VolumeInfo, encode_volume_info, parse_volume_info
from native_handlers.format.volume_name import format_volume_name, parse_volume_name
from native_handlers.pb import master_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

HELLO = b"hello"


@dataclass(frozen=True)
class Codec:
    """One codec with one sample.

    Args:
        loose: bytes of the sample where a flip may give a value that other bytes stand for too.
    """

    name: str
    sample: bytes
    parse: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    loose: frozenset[int] = field(default_factory=frozenset)

    def __str__(self) -> str:
        return self.name


def text_codec(name: str, sample: str, parse: Callable[[str], Any], encode: Callable[[Any], str]) -> Codec:
    """Text has several spellings of one value, so all of it is loose. A flipped high bit makes a character of it."""
    return Codec(
        name,
        sample.encode(),
        lambda raw: parse(raw.decode("latin-1")),
        lambda value: encode(value).encode("latin-1"),
        frozenset(range(len(sample))),
    )


def needle(**changes) -> Needle:
    made = Needle(needle_id=0x0102, cookie=0x637037D6, data=HELLO, checksum=crc32c(HELLO), append_at_ns=5 << 40)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def all_fields() -> Needle:
    made = needle(name=b"a.txt", mime=b"text/plain", last_modified_s=1 << 32, ttl=Ttl(3, 3), pairs=b'{"k":"v"}')
    made.has_name = made.has_mime = made.has_last_modified = made.has_ttl = made.has_pairs = True
    return made


def needle_codec(made: Needle, version: int, name: str) -> Codec:
    record = encode_needle(made, version)
    end = len(record)
    padding = frozenset(range(end - padding_size(made.size, version), end))
    # Metadata has no checksum: a flag that is cleared leaves its field unread, and lengths shift what follows.
    body_end = 16 + made.size
    meta = frozenset() if version == 1 or not made.size else frozenset(range(20 + len(made.data), body_end))
    return Codec(
        f"needle-v{version}-{name}",
        record,
        lambda raw: parse_needle(raw, version),
        lambda value: encode_needle(replace(value), version),
        padding | meta,
    )


def encode_vif(info: VolumeInfo) -> bytes:
    return encode_volume_info(info).encode()


BINARY = [
    *(needle_codec(needle(), version, "plain") for version in (1, 2, 3)),
    *(needle_codec(all_fields(), version, "all-fields") for version in (2, 3)),
    *(needle_codec(Needle(needle_id=0x0102, cookie=9), version, "empty") for version in (1, 2, 3)),
    # The version byte: in version 1 there is no extra part, whatever its length field says.
    *(
        Codec(f"super-block-{name}", block.encode(), parse_super_block, SuperBlock.encode, frozenset({0, 6, 7}))
        for name, block in (
            ("plain", SuperBlock(3, ReplicaPlacement(0, 1, 2), Ttl(3, 4), 0x1234)),
            ("extra", SuperBlock(3, ReplicaPlacement(1, 0, 0), Ttl(0, 0), 7, b"xyz")),
            ("v1", SuperBlock(1, ReplicaPlacement(0, 0, 1), Ttl(5, 1), 2)),
            ("v2", SuperBlock(2, ReplicaPlacement(2, 1, 0), Ttl(255, 6), 65535)),
        )
    ),
    Codec(
        "idx-row-16", encode_entry(7, 0x01020304, 10, 4), lambda raw: parse_entry(raw, 4), lambda e: encode_entry(*e, 4)
    ),
    Codec(
        "idx-row-17",
        encode_entry(7, 0x0102030405, -1, 5),
        lambda raw: parse_entry(raw, 5),
        lambda e: encode_entry(*e, 5),
    ),
    Codec("ttl", b"\x03\x04", Ttl.from_bytes, Ttl.to_bytes),
]
FULL_INFO = VolumeInfo(
    files=(RemoteFile("s3", "default", "k/1.dat", 0, 2**40, 1700000000, ".dat"),),
    version=3,
    replication="001",
    bytes_offset=5,
    dat_file_size=2**40,
    expire_at_s=1700000000,
    read_only=True,
    ec_shard_config=EcShardConfig(10, 4, 1_700_000_000_000_000_000),
    read_only_can_delete=True,
)
TEXT = [
    text_codec("fid", "3,1a637037d6", parse_file_id, str),
    text_codec("fid-delta", "3,1a637037d6_12", parse_file_id, str),
    text_codec("id-and-cookie", "1a637037d6", parse_needle_id_cookie, lambda pair: format_needle_id_cookie(*pair)),
    text_codec("replica-placement", "012", ReplicaPlacement.parse, str),
    text_codec("ttl-text", "15d", parse_ttl, str),
    text_codec("volume-name", "pictures_17", parse_volume_name, lambda pair: format_volume_name(*pair)),
    Codec(
        "vif", encode_vif(FULL_INFO), parse_volume_info, encode_vif,
        frozenset(range(10_000)),
    ),
    Codec(
        "vif-old", b'{"version": 3, "BytesOffset": 4, "DestroyTime": "9"}', parse_volume_info,
        encode_vif, frozenset(range(10_000)),
    ),
]  # fmt: skip
ALL = [*BINARY, *TEXT]


def check_outcome(codec: Codec, raw: bytes, *, is_loose: bool) -> bool:
    """Whether `raw` was accepted; what was accepted stands for it."""
    try:
        value = codec.parse(raw)
    except FormatError:
        return False
    again = codec.encode(value)
    if not is_loose:
        assert again == raw
    assert codec.encode(codec.parse(again)) == again
    return True


def flips(raw: bytes):
    """(position, `raw` with one bit there flipped), for each bit."""
    for position in range(len(raw)):
        for bit in range(8):
            flipped = bytearray(raw)
            flipped[position] ^= 1 << bit
            yield position, bytes(flipped)


@pytest.mark.parametrize("codec", BINARY, ids=str)
class TestBinary:
    def test_whole(self, codec):
        assert codec.encode(codec.parse(codec.sample)) == codec.sample
        assert codec.encode(codec.parse(memoryview(codec.sample))) == codec.sample

    def test_with_data_behind(self, codec):
        for behind in (b"\0", b"\xff" * 9, codec.sample):
            assert codec.encode(codec.parse(codec.sample + behind)) == codec.sample

    def test_every_shorter_length_is_truncated(self, codec):
        needed = len(codec.sample)
        if codec.name.startswith("needle"):
            value = codec.parse(codec.sample)
            needed -= padding_size(value.size, int(codec.name[8]))
        for length in range(needed):
            with pytest.raises(Truncated):
                codec.parse(codec.sample[:length])

    def test_every_flipped_bit(self, codec):
        for position, raw in flips(codec.sample):
            check_outcome(codec, raw, is_loose=position in codec.loose or codec.name.startswith("needle"))


@pytest.mark.parametrize("codec", [one for one in BINARY if one.name.startswith("needle")], ids=str)
def test_a_flipped_bit_outside_of_metadata_and_padding_never_goes_unseen(codec):
    """The payload is the one that was stored, and identity and times are those of the bytes."""
    version = int(codec.name[8])
    whole = codec.parse(codec.sample)
    padding = padding_size(whole.size, version)
    for position, raw in flips(codec.sample):
        try:
            value = codec.parse(raw)
        except FormatError:
            continue
        assert value.data == whole.data
        if position not in codec.loose:
            assert codec.encode(value)[:-padding] == raw[:-padding]
        assert (value.needle_id, value.cookie) == (int.from_bytes(raw[4:12], "big"), int.from_bytes(raw[:4], "big"))


@pytest.mark.parametrize("codec", TEXT, ids=str)
class TestText:
    def test_whole(self, codec):
        assert check_outcome(codec, codec.sample, is_loose=True)

    def test_every_shorter_length(self, codec):
        for length in range(len(codec.sample)):
            check_outcome(codec, codec.sample[:length], is_loose=True)

    @pytest.mark.slow
    def test_every_flipped_bit(self, codec):
        """Slow: parses a text for each of its bits."""
        refused = sum(not check_outcome(codec, raw, is_loose=True) for _, raw in flips(codec.sample))
        assert refused, "a codec that takes everything checks nothing"

    def test_with_anything_behind(self, codec):
        for behind in (b"\0", b" ", b"x", b"_", b",", b"}", b"9" * 5000, "\u0663".encode(), b"\xff"):
            check_outcome(codec, codec.sample + behind, is_loose=True)


@pytest.mark.parametrize("width", [4, 5])
def test_rows_cut_at_each_length_are_the_whole_ones_before(width):
    rows = [encode_entry(number, number * 3, number * 5, width) for number in range(1, 5)]
    raw = b"".join(rows)
    for length in range(len(raw) + 1):
        assert len(list(iter_entries(raw[:length], width))) == length // len(rows[0])


MESSAGE = master_pb2.VolumeInformationMessage(
    id=42, size=1 << 30, collection="c", file_count=7, delete_count=2, deleted_byte_count=99, read_only=True,
    replica_placement=10, version=3, ttl=3 << 8 | 2, compact_revision=5, modified_at_second=1700000000,
    remote_storage_name="s3", remote_storage_key="k/1.dat", disk_type="ssd", disk_id=2,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("id", 32), ("size", 63), ("file_count", 32), ("delete_count", 32), ("deleted_byte_count", 63),
        ("replica_placement", 8), ("version", 8), ("ttl", 16), ("compact_revision", 32), ("modified_at_second", 63),
        ("disk_id", 32),
    ],
)  # fmt: skip
def test_every_bit_that_a_master_hears_changes_the_hash(name, bits):
    plain = report_hash_of_message(MESSAGE)
    seen = {plain}
    for bit in range(bits):
        changed = master_pb2.VolumeInformationMessage()
        changed.CopyFrom(MESSAGE)
        setattr(changed, name, getattr(MESSAGE, name) ^ 1 << bit)
        seen.add(report_hash_of_message(changed))
    assert len(seen) == bits + 1


@pytest.mark.parametrize("name", ["collection", "disk_type", "remote_storage_name"])
def test_every_bit_of_its_texts_changes_the_hash(name):
    plain = report_hash_of_message(MESSAGE)
    for position, raw in flips(getattr(MESSAGE, name).encode()):
        if raw[position] < 0x80:
            changed = master_pb2.VolumeInformationMessage()
            changed.CopyFrom(MESSAGE)
            setattr(changed, name, raw.decode())
            assert report_hash_of_message(changed) != plain


def test_every_flipped_bit_changes_a_checksum():
    payload = bytes(range(64))
    assert len({crc32c(raw) for _, raw in flips(payload)} | {crc32c(payload)}) == len(payload) * 8 + 1
