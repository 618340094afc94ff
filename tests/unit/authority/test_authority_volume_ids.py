"""Volume ids are found in requests of every RPC that names one, as a full decoding would find them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_a_field_inside_a_message():
    message = pb.ReceiveFileRequest(info=pb.ReceiveFileInfo(volume_id=7, ext=".dat"))
    assert found(message, "info.volume_id") == {7}


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
