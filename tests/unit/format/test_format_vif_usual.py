"""A .vif as servers write it is read without protobuf's parser, and says the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native_handlers.format import vif
from native_handlers.format.errors import BadVolumeInfo
from native_handlers.format.vif import VolumeInfo, encode_volume_info, parse_volume_info

NUMBERS = st.sampled_from(
    [0, 1, 3, -1, 2**32 - 1, 2**32, 1.0, 1.5, "3", "0", "-1", "07", "9" * 18, "9" * 19, "9" * 20, ""]
)
TEXTS = st.sampled_from(["", "000", "001", "\ud800", "ä", 7, None, True])
BOOLS = st.sampled_from([True, False, None, 0, "true"])
ANY = NUMBERS | TEXTS | BOOLS | st.sampled_from([[], [{}], {}, [1]])
FIELDS = {
    "files": st.sampled_from([[], None, [{}], {}, [{"key": "k"}]]),
    "version": NUMBERS,
    "replication": TEXTS,
    "bytesOffset": NUMBERS,
    "bytes_offset": NUMBERS,
    "BytesOffset": NUMBERS,
    "datFileSize": NUMBERS,
    "expireAtSec": NUMBERS,
    "DestroyTime": NUMBERS,
    "readOnly": BOOLS,
    "ecShardConfig": st.sampled_from([None, {}, {"dataShards": 10}]),
    "readOnlyCanDelete": BOOLS,
    "other": ANY,
}


def outcome(parse, text):
    try:
        return parse(text)
    except BadVolumeInfo:
        return "refused"


@given(st.fixed_dictionaries({}, optional=FIELDS), st.booleans(), st.sampled_from(["", " ", "\ufeff", "x"]))
def test_it_says_what_protobufs_parser_says(fields, is_text, before):
    text = before + json.dumps(fields)
    data = text if is_text else text.encode("utf-8", "surrogatepass")
    assert outcome(parse_volume_info, data) == outcome(vif.parse_by_protobuf, data)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"[[", b'{"version":1,"version":2}', b"\xff{}", b"[" * 100_000, b'{"version":NaN}']
)
def test_what_is_unusual_is_left_to_protobufs_parser(data):
    assert outcome(parse_volume_info, data) == outcome(vif.parse_by_protobuf, data)


def test_what_servers_write_needs_no_protobuf(monkeypatch):
    monkeypatch.setattr(vif.json_format, "Parse", None)
    info = VolumeInfo(version=3, replication="001", bytes_offset=4, expire_at_s=1_700_000_000, read_only=True)
    text = encode_volume_info(info).encode()
    assert parse_volume_info(text) == info
    assert parse_volume_info(text) is parse_volume_info(bytes(bytearray(text))), "volumes share it"
