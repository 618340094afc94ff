"""Messages that are assembled around their large field equal protobuf's bytes."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from native_handlers.format import crc
from native_handlers.format.needle import FLAG_IS_COMPRESSED, Needle
from native_handlers.grpc.message_bytes import message_around, pieces_of
from native_handlers.grpc.read_all import response_of
from native_handlers.pb import volume_server_pb2 as pb

lengths = st.sampled_from([0, 1, 127, 128, 129, 16_383, 16_384, 2_097_151, 2_097_152])
"""Lengths at which the size of the length prefix changes."""
FRAGMENTS = [
    b"\x0a\x02ab",
    b"\x0a\x02\xc3\xa9",
    b"\x0a\x06abcdef",
    b"\x10\x01",
    b"\x1b",
    b"\x1c",
    b"\x0b",
    b"\x0c",
    b"\x9b\x06",
    b"\x9c\x06",
    b"\x00",
    b"\x80",
    b"\x0a\x7f",
    b"\x15abcd",
    b"\x11abcdefgh",
    b"\xff\xff\xff\xff\x0f",
]
payloads = st.one_of(st.binary(max_size=300), lengths.map(bytes))


@given(content=payloads, collection=st.text(max_size=20), number=st.integers(0, 2**32 - 1))
def test_any_field_between_others(content, collection, number):
    whole = pb.WriteNeedleBlobRequest(volume_id=number, needle_id=5, size=-3, needle_blob=content)
    before = pb.WriteNeedleBlobRequest(volume_id=number, needle_id=5, size=-3)
    field = pb.WriteNeedleBlobRequest.NEEDLE_BLOB_FIELD_NUMBER
    assert message_around(field, content, before=before.SerializeToString()) == whole.SerializeToString()
    alone = pb.ReadNeedleBlobResponse(needle_blob=content)
    assert message_around(1, content) == alone.SerializeToString()


@given(content=st.binary(max_size=9), number=st.integers(1, 2**29 - 1))
def test_any_number_of_a_field(content, number):
    """A message that does not know the field keeps the field as it came."""
    message = message_around(number, content)
    known = {field.number for field in pb.VolumeUnmountRequest.DESCRIPTOR.fields}
    if number not in known and not 19_000 <= number <= 19_999:
        assert pb.VolumeUnmountRequest.FromString(message).SerializeToString() == message


@given(
    volume_id=st.integers(0, 2**32 - 1),
    needle=st.builds(
        Needle,
        needle_id=st.integers(0, 2**64 - 1),
        cookie=st.integers(0, 2**32 - 1),
        data=st.one_of(payloads, payloads.map(memoryview)),
        flags=st.integers(0, 255),
        name=st.binary(max_size=20),
        mime=st.binary(max_size=20),
        last_modified_s=st.integers(0, 2**40 - 1),
        checksum=st.integers(0, 2**32 - 1),
    ),
)
def test_a_needle(volume_id, needle):
    assert (
        response_of(volume_id, needle)
        == pb.ReadAllNeedlesResponse(
            volume_id=volume_id,
            needle_id=needle.needle_id,
            cookie=needle.cookie,
            needle_blob=bytes(needle.data),
            needle_blob_compressed=bool(needle.flags & FLAG_IS_COMPRESSED),
            last_modified=needle.last_modified_s,
            crc=crc.legacy_form(needle.checksum),
            name=needle.name,
            mime=needle.mime,
        ).SerializeToString()
    )


@given(
    fids=st.lists(st.text(max_size=200), max_size=60),
    skips=st.lists(st.booleans(), max_size=3),
    unknown=st.binary(max_size=300),
    least=st.integers(1, 500),
)
def test_a_message_cut_into_pieces_is_the_whole_when_they_are_merged(fids, skips, unknown, least):
    flags = b"".join(pb.BatchDeleteRequest(skip_cookie_check=skip).SerializeToString() or b"\x10\x00" for skip in skips)
    # Fields that this version does not know; one of them is inside a group.
    strange = message_around(900, unknown) + b"\x9b\x06" + message_around(1, unknown) + b"\x9c\x06"
    whole = strange + pb.BatchDeleteRequest(file_ids=fids).SerializeToString() + flags + strange
    pieces = list(pieces_of(whole, least, 1 << 20))
    assert b"".join(pieces) == whole
    assert all(len(piece) >= least for piece in pieces[:-1])
    merged = pb.BatchDeleteRequest()
    for piece in pieces:
        merged.MergeFromString(piece)
    assert merged == pb.BatchDeleteRequest.FromString(whole)


@given(
    fids=st.lists(st.text(max_size=200) | st.sampled_from(["x" * 99, "\u00e9" * 60, "\U0001f600" * 30]), max_size=20),
    skips=st.booleans(),
    unknown=st.binary(max_size=300),
    least=st.integers(1, 500),
    longest=st.integers(20, 150),
)
def test_long_fields_of_a_message_in_pieces_are_cut_and_the_others_are_whole(fids, skips, unknown, least, longest):
    group = b"\x9b\x06" + message_around(1, unknown) + b"\x9c\x06"
    parts = [message_around(900, unknown), group, pb.BatchDeleteRequest(file_ids=fids).SerializeToString(), group]
    whole = b"".join(parts) + pb.BatchDeleteRequest(skip_cookie_check=skips).SerializeToString()
    pieces = list(pieces_of(whole, least, longest))
    assert all(len(piece) <= least + longest + 20 for piece in pieces)
    merged = pb.BatchDeleteRequest()
    for piece in pieces:
        merged.MergeFromString(piece)
    assert merged.skip_cookie_check == skips
    assert len(merged.file_ids) == len(fids)
    for found, fid in zip(merged.file_ids, fids, strict=True):
        is_long = len(fid.encode()) > longest
        assert found == fid[: len(found)]
        assert longest - 3 <= len(found.encode()) <= longest if is_long else found == fid


@given(
    data=st.binary(max_size=60) | st.lists(st.sampled_from(FRAGMENTS), max_size=20).map(b"".join),
    least=st.integers(1, 20),
    longest=st.sampled_from([1 << 20, 1 << 20, 4]),
)
def test_pieces_of_any_bytes_are_refused_where_the_whole_is(data, least, longest):
    pieces = list(pieces_of(data, least, longest))
    is_refused = not all(map(is_message, pieces))
    if longest > len(data):
        assert is_refused != is_message(data)
        assert data.startswith(b"".join(pieces))
        assert is_refused or b"".join(pieces) == data
    elif is_refused:
        # What is cut off of a text, or is in a group that is left out, may have been why.
        assert not is_message(data)


@pytest.mark.parametrize(
    "bad", [b"\x0b" * 200, b"\x0b\x0c" * 200 + b"\x0b" + b"\x10\x01" * 200, b"\x0a\xff\x7f" + b"a" * 400, b"\x80" * 400]
)
def test_little_is_taken_of_what_is_no_field(bad):
    good = pb.BatchDeleteRequest(file_ids=["a"] * 5).SerializeToString()
    [*whole, last] = pieces_of(good + bad, 64, 100)
    assert all(map(is_message, whole))
    assert not is_message(last)
    assert len(last) < len(good) + 100


def test_a_group_of_many_fields_is_left_out():
    rest = pb.BatchDeleteRequest(file_ids=["a"], skip_cookie_check=True).SerializeToString()
    assert list(pieces_of(b"\x9b\x06" + b"\x10\x01" * 500 + b"\x9c\x06" + rest, 1 << 20, 100)) == [rest]


def is_message(data):
    try:
        pb.BatchDeleteRequest.FromString(data)
    except DecodeError:
        return False
    return True
