"""The .vif text and the heartbeat hash, whose vectors come from upstream's implementation."""

from __future__ import annotations

import json

import pytest
from google.protobuf import json_format

from native_handlers.format.errors import BadVolumeInfo
from native_handlers.format.report_hash import report_hash_of_message
from native_handlers.format.vif import (
    EcShardConfig,
    RemoteFile,
    VolumeInfo,
    encode_volume_info,
    parse_volume_info,
    volume_info_message,
)
from native_handlers.pb import master_pb2, volume_server_pb2

FULL = VolumeInfo(
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


@pytest.mark.parametrize("info", [VolumeInfo(), VolumeInfo(version=3, bytes_offset=4), FULL])
def test_vif_round_trip(info):
    assert parse_volume_info(encode_volume_info(info)) == info


@pytest.mark.parametrize("info", [VolumeInfo(), VolumeInfo(version=3, bytes_offset=4), FULL])
def test_the_message_says_what_the_text_says(info):
    message = volume_info_message(info)
    assert message == json_format.Parse(encode_volume_info(info), volume_server_pb2.VolumeInfo())
    assert message.HasField("ec_shard_config") == (info is FULL)


def test_vif_text_has_upstreams_names_and_kinds():
    fields = json.loads(encode_volume_info(VolumeInfo(version=3, bytes_offset=4)))
    assert fields == {
        "files": [],
        "version": 3,
        "replication": "",
        "bytesOffset": 4,
        "datFileSize": "0",
        "expireAtSec": "0",
        "readOnly": False,
        "ecShardConfig": None,
        "readOnlyCanDelete": False,
    }


RUST_PLAIN = b"""{
  "files": [],
  "version": 3,
  "replication": "001",
  "bytesOffset": 4,
  "datFileSize": "0",
  "expireAtSec": "1700000000",
  "readOnly": true,
  "readOnlyCanDelete": true
}"""
RUST_FULL = b"""{
  "files": [
    {
      "backendType": "s3",
      "backendId": "default",
      "key": "k/1.dat",
      "offset": "0",
      "fileSize": "1099511627776",
      "modifiedTime": "1700000000",
      "extension": ".dat"
    }
  ],
  "version": 3,
  "replication": "001",
  "bytesOffset": 5,
  "datFileSize": "1099511627776",
  "expireAtSec": "1700000000",
  "readOnly": true,
  "ecShardConfig": {
    "dataShards": 10,
    "parityShards": 4,
    "encodeTsNs": "1700000000000000000"
  },
  "readOnlyCanDelete": true
}"""
RUST_OLD = b'{"read_only":true}'
"""As its first versions wrote it."""


@pytest.mark.parametrize(
    ("text", "info"),
    [
        (
            RUST_PLAIN,
            VolumeInfo(
                version=3,
                replication="001",
                bytes_offset=4,
                expire_at_s=1_700_000_000,
                read_only=True,
                read_only_can_delete=True,
            ),
        ),
        (RUST_FULL, FULL),
        (RUST_OLD, VolumeInfo(read_only=True)),
    ],
    ids=["plain", "full", "old"],
)
def test_vif_of_upstreams_rust_server(text, info):
    """It leaves an unset ecShardConfig out. Source: seaweed-volume/src/storage/volume.rs, VifVolumeInfo."""
    assert parse_volume_info(text) == info


def test_vif_text_is_that_of_upstreams_rust_server():
    """Where nothing is unset, to the byte."""
    assert encode_volume_info(FULL).encode() == RUST_FULL


def test_backend_name():
    assert FULL.files[0].backend_name == "s3.default"


@pytest.mark.parametrize(
    ("text", "info"),
    [
        ("{}", VolumeInfo()),
        ('{"bytes_offset": 4, "datFileSize": 7}', VolumeInfo(bytes_offset=4, dat_file_size=7)),
        ('{"BytesOffset": 5, "DestroyTime": "9"}', VolumeInfo(bytes_offset=5, expire_at_s=9)),
        ('{"version": 2, "BytesOffset": 4, "readOnly": true}', VolumeInfo(version=2, bytes_offset=4, read_only=True)),
    ],
)
def test_vif_other_spellings(text, info):
    assert parse_volume_info(text) == info


@pytest.mark.parametrize("text", [b"", b"{", b'{"version": "x"}', b'{"nosuch": 1}', b"\xff\xfe", b"[]"])
def test_vif_that_is_none(text):
    with pytest.raises(BadVolumeInfo, match="oldFormat"):
        parse_volume_info(text)


FULL_MESSAGE = master_pb2.VolumeInformationMessage(
    id=42,
    size=1 << 30,
    collection="c",
    file_count=7,
    delete_count=2,
    deleted_byte_count=99,
    read_only=True,
    replica_placement=10,
    version=3,
    ttl=3 << 8,
    compact_revision=5,
    modified_at_second=1700000000,
    remote_storage_name="s3",
    remote_storage_key="k/1.dat",
    disk_type="ssd",
    disk_id=2,
)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (master_pb2.VolumeInformationMessage(), 10988706248825469653),
        (master_pb2.VolumeInformationMessage(id=1), 2035849960016744285),
        (FULL_MESSAGE, 2748844479819636032),
    ],
)
def test_report_hash_vectors(message, expected):
    assert report_hash_of_message(message) == expected


def test_a_ttl_unit_without_count_is_dropped():
    plain = report_hash_of_message(master_pb2.VolumeInformationMessage(id=1))
    assert report_hash_of_message(master_pb2.VolumeInformationMessage(id=1, ttl=3)) == plain


def test_counts_are_pinned_at_32_bits():
    pinned = master_pb2.VolumeInformationMessage(id=1, file_count=2**32 - 1, delete_count=2**32 - 1)
    beyond = master_pb2.VolumeInformationMessage(id=1, file_count=2**40, delete_count=2**40)
    assert report_hash_of_message(beyond) == report_hash_of_message(pinned)
