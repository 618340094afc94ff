"""Volume ids are found in the bytes of requests as a full decoding would find them."""

import tracemalloc

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from native_handlers.format.errors import BadFileId
from native_handlers.grpc.needles import parse_any_volume
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import VOLUME_SERVER_METHODS
from supervisor.authority.volume_ids import BadMessage, text_field, volume_ids_of
from supervisor.routing.registry import ROUTES, Protocol

IDS = st.integers(0, 2**32 - 1)


def found(message, field):
    return volume_ids_of(type(message).DESCRIPTOR, field, message.SerializeToString())


@pytest.mark.parametrize("route", [r for r in ROUTES if r.protocol is Protocol.GRPC and r.access.volume_id_in])
def test_every_rpc_has_the_field_that_its_route_names(route):
    request = VOLUME_SERVER_METHODS[route.name.removeprefix("grpc.")].request_class
    assert volume_ids_of(request.DESCRIPTOR, route.access.volume_id_in, b"") <= {0}


@given(volume_id=IDS, collection=st.text(max_size=20), preallocate=st.integers(0, 2**40))
def test_a_number_among_other_fields(volume_id, collection, preallocate):
    message = pb.AllocateVolumeRequest(volume_id=volume_id, collection=collection, preallocate=preallocate)
    assert found(message, "volume_id") == {volume_id}


@given(volume_ids=st.lists(IDS))
def test_lists_of_numbers(volume_ids):
    assert found(pb.ReadAllNeedlesRequest(volume_ids=volume_ids), "volume_ids") == set(volume_ids)


@given(volume_ids=st.lists(IDS, max_size=5))
def test_lists_of_file_ids(volume_ids):
    fids = [f"{volume_id},01637037d6" for volume_id in volume_ids]
    assert found(pb.BatchDeleteRequest(file_ids=[*fids, "nonsense", ""]), "file_ids") == set(volume_ids)


def test_no_more_of_a_long_file_id_is_copied_than_tells_its_volume():
    size = 4 << 20
    fids = ["7," + "x" * size, "0" * size + "8,01637037d6", "9" * size + ",01637037d6", "\u00e9" * size]
    message = pb.BatchDeleteRequest(file_ids=fids).SerializeToString()
    tracemalloc.start()
    try:
        assert volume_ids_of(pb.BatchDeleteRequest.DESCRIPTOR, "file_ids", message) == {7, 8}
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_field_inside_a_message():
    message = pb.ReceiveFileRequest(info=pb.ReceiveFileInfo(volume_id=7, ext=".dat"))
    assert found(message, "info.volume_id") == {7}


def test_a_later_message_of_a_stream_may_be_about_no_volume():
    def later(**fields):
        message = pb.ReceiveFileRequest(**fields)
        return volume_ids_of(message.DESCRIPTOR, "info.volume_id", message.SerializeToString(), is_first=False)

    assert later(file_content=b"x" * 100) == later() == set()
    assert later(info=pb.ReceiveFileInfo(volume_id=7)) == {7}
    assert later(info=pb.ReceiveFileInfo(ext=".dat")) == {0}


def test_text():
    message = pb.DeleteCollectionRequest(collection="pictures")
    assert text_field(type(message).DESCRIPTOR, "collection", message.SerializeToString()) == "pictures"
    assert text_field(type(message).DESCRIPTOR, "collection", b"") == ""


@pytest.mark.parametrize("data", [b"\x08", b"\x0a\x05ab", b"\x0f", b"\x80" * 11, b"\x09abc"])
def test_what_is_no_message_is_refused(data):
    with pytest.raises(BadMessage):
        volume_ids_of(pb.VolumeStatusRequest.DESCRIPTOR, "volume_id", data)


@given(data=st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data):
    try:
        assert len(volume_ids_of(pb.VolumeStatusRequest.DESCRIPTOR, "volume_id", data)) == 1
    except BadMessage:
        return


# ---- the volumes that are asked for are the ones that the decoded request is about


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


VARINTS = st.integers(0, 2**64 - 1).map(varint) | st.integers(0, 300).map(varint)
FID_TEXTS = st.sampled_from(
    [
        b"0" * 1500 + b"9,01aabbccdd",
        b"0" * 1500 + b",01",
        b"0" * 3000,
        b"7" * 1500 + b",01aabbccdd",
        b"8," + b"0" * 1500,
        b"7,01aabbccdd",
        b"0000000000000000000000007,01aabbccdd",
        b"4294967303,01aabbccdd",
        b"7",
        b"x,01",
    ]
)
NUMBERS = st.integers(1, 4)
FIELDS = st.one_of(
    st.builds(lambda number, value: varint(number << 3) + value, NUMBERS, VARINTS),
    st.builds(
        lambda number, value: varint(number << 3 | 2) + varint(len(value)) + value,
        NUMBERS,
        st.lists(VARINTS, max_size=3).map(b"".join) | FID_TEXTS,
    ),
    st.builds(lambda number, value: varint(number << 3 | 5) + value, NUMBERS, st.binary(min_size=4, max_size=4)),
)
MESSAGES = st.lists(FIELDS, max_size=5).map(b"".join)


def decoded(message_class, data):
    message = message_class()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return None
    return message


@given(data=MESSAGES)
@example(data=b"\x08\x07\x0a\x01\x08")
def test_the_volume_is_the_decoded_one(data):
    message = decoded(pb.VolumeStatusRequest, data)
    if message is not None:
        assert volume_ids_of(message.DESCRIPTOR, "volume_id", data) == {message.volume_id}


@given(data=MESSAGES)
def test_the_volumes_of_a_list_are_the_decoded_ones(data):
    message = decoded(pb.ReadAllNeedlesRequest, data)
    if message is not None:
        assert volume_ids_of(message.DESCRIPTOR, "volume_ids", data) == set(message.volume_ids)


@given(data=MESSAGES)
@example(data=b"\x0a\x23" + b"7".zfill(24) + b",01aabbccdd")
def test_the_volumes_of_file_ids_are_the_decoded_ones(data):
    message = decoded(pb.BatchDeleteRequest, data)
    if message is not None:
        assert volumes_of(message.file_ids) <= volume_ids_of(message.DESCRIPTOR, "file_ids", data)


LONGEST = 1000


def volumes_of(fids):
    """Those of file ids that may have a needle. No volume's number is longer than `LONGEST`, zeros aside."""
    found = set()
    for fid in fids:
        if len(fid.partition(",")[0].lstrip("0")) > LONGEST:
            continue
        try:
            found.add(parse_any_volume(fid)[0])
        except BadFileId:
            continue
    return found


VOLUME_TEXTS = st.integers(0, 2**66).map(str) | st.text(max_size=6) | st.sampled_from(["", "x", "+1", "007", " 7"])
FIDS = st.text(max_size=30) | st.builds("{},{}".format, VOLUME_TEXTS, st.sampled_from(["01637037d6", "01", "a,b", ""]))


@given(fid=FIDS)
@example(fid="x,01637037d6")
@example(fid="5")
@example(fid=",01637037d6")
def test_the_volume_of_a_file_id_is_that_of_the_handler(fid):
    named = found(pb.BatchDeleteRequest(file_ids=[fid]), "file_ids")
    assert named == found(pb.QueryRequest(from_file_ids=[fid]), "from_file_ids")
    try:
        assert named == {parse_any_volume(fid)[0]}
    except BadFileId as error:
        is_of_none = str(error) == "Wrong fid format."
        assert len(named) == (0 if is_of_none else 1), "what is wrong with a needle or cookie does not matter here"
