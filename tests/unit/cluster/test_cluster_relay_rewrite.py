from __future__ import annotations

import pytest

from native_handlers.pb import master_pb2
from native_handlers.pb.methods import MASTER_METHODS
from supervisor.cluster.identity import NodeIdentity
from supervisor.cluster.relay_rewrite import REWRITES, RelayNames
from supervisor.wire.server_address import ServerAddress

OURS = NodeIdentity("fe80::9", 8080, 18080, "public:80")
CHILD = NodeIdentity("127.0.0.1", 40001, 40002, "")
RELAY = ServerAddress("127.0.0.1", 5000, 5000)
SPOKEN = RelayNames(OURS, CHILD, RELAY)
SILENT = RelayNames(OURS, None, RELAY)
UNKNOWN_FIELD = b"\xf8\x07\x2a"  # field 127


def rewrite(rpc, direction, message, names):
    method = MASTER_METHODS[rpc]
    change = getattr(REWRITES[method.path], direction)
    data = change(message.SerializeToString() + UNKNOWN_FIELD, names)
    assert UNKNOWN_FIELD in data
    return type(message).FromString(data)


def look_up(url):
    response = master_pb2.LookupVolumeResponse()
    response.volume_id_locations.add(volume_or_file_id="1", locations=[master_pb2.Location(url=url, grpc_port=9)])
    return response


def url_of(response):
    (location,) = response.volume_id_locations[0].locations
    return (location.url, location.public_url, location.grpc_port)


@pytest.mark.parametrize("url", ["[fe80::9]:8080", "[FE80::9]:8080", "[fe80::9]:8080.18080"])
def test_our_address_is_recognised_however_it_is_written(url):
    assert url_of(rewrite("LookupVolume", "response", look_up(url), SPOKEN)) == (
        "127.0.0.1:40001", "127.0.0.1:40001", 40002,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("url", "names"),
    [("[fe80::9]:8080", SILENT), ("[fe80::9]:8081", SPOKEN), ("", SPOKEN), ("nonsense", SPOKEN)],
)
def test_all_else_stays(url, names):
    assert url_of(rewrite("LookupVolume", "response", look_up(url), names)) == (url, "", 9)


def test_a_child_that_has_not_spoken_marks_volumes_under_its_own_name():
    request = master_pb2.VolumeMarkReadonlyRequest(ip="127.0.0.1", port=40001, volume_id=1)
    assert rewrite("VolumeMarkReadonly", "request", request, SILENT).port == 40001
    changed = rewrite("VolumeMarkReadonly", "request", request, SPOKEN)
    assert (changed.ip, changed.port, changed.volume_id) == ("fe80::9", 8080, 1)


def test_only_the_childs_own_address_is_hidden_from_the_master():
    request = master_pb2.KeepConnectedRequest(client_address="10.0.0.1:40001")
    assert rewrite("KeepConnected", "request", request, SPOKEN).client_address == "10.0.0.1:40001"
    request.client_address = "127.0.0.1:40001.40002"
    assert rewrite("KeepConnected", "request", request, SPOKEN).client_address == "[fe80::9]:8080.18080"


def test_a_leader_is_named_only_where_there_is_one():
    response = master_pb2.GetMasterConfigurationResponse(leader="10.0.0.1:9333", volume_size_limit_m_b=7)
    changed = rewrite("GetMasterConfiguration", "response", response, SPOKEN)
    assert (changed.leader, changed.volume_size_limit_m_b) == ("127.0.0.1:5000.5000", 7)
    response.leader = ""
    assert not rewrite("GetMasterConfiguration", "response", response, SPOKEN).leader


def test_updates_without_a_location_pass():
    update = master_pb2.KeepConnectedResponse(
        cluster_node_update=master_pb2.ClusterNodeUpdate(node_type="filer", address="10.0.0.1:8888")
    )
    assert rewrite("KeepConnected", "response", update, SPOKEN).cluster_node_update == update.cluster_node_update
    told = master_pb2.KeepConnectedResponse(volume_location=master_pb2.VolumeLocation(url="10.0.0.7:8080"))
    assert rewrite("KeepConnected", "response", told, SPOKEN).volume_location == told.volume_location


def test_a_child_does_not_remember_where_volumes_are():
    """An entry without holders, for the same number, replaces the child's cached entry; the contract tests show Go's
    reaction.
    """
    response = look_up("10.0.0.7:8080")
    response.volume_id_locations.add(volume_or_file_id="12", error="volume id 12 not found")
    response.volume_id_locations.add(volume_or_file_id="3,01637037d6", locations=[master_pb2.Location(url="a:1")])
    told = rewrite("LookupVolume", "response", response, SPOKEN).volume_id_locations
    assert [(one.volume_or_file_id, len(one.locations), one.error) for one in told] == [
        ("1", 1, ""),
        ("12", 0, "volume id 12 not found"),
        ("3,01637037d6", 1, ""),
        ("01", 0, ""),
    ]
