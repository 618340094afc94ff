from __future__ import annotations

import datetime
import ipaddress
import queue
import threading

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.waiting import LIMIT_S as DEADLINE_S
from support.waiting import until

from native_handlers.pb import master_pb2, volume_server_pb2
from native_handlers.pb.methods import master as master_client
from supervisor.cluster.dial import dial_insecure
from supervisor.cluster.identity import NodeIdentity
from supervisor.cluster.master_view import MasterView
from supervisor.cluster.node_model import NodeModel
from supervisor.cluster.relay import MasterRelay
from supervisor.wire.server_address import ServerAddress

OURS = NodeIdentity("10.0.0.9", 8080, 18080, "public.example:80")
CHILD = NodeIdentity("127.0.0.1", 40001, 40002, "127.0.0.1:40001")


class Child:
    """A volume server as its master sees it: an open heartbeat stream and calls."""

    def __init__(self, address):
        self.channel = dial_insecure(address)
        self.master = master_client(self.channel)
        self.outbox = queue.Queue()
        self.responses = []
        self.call = None

    def connect(self):
        self.call = self.master.SendHeartbeat(iter(self.outbox.get, None))
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def _read(self):
        try:
            for response in self.call:
                self.responses.append(response)
        except grpc.RpcError:
            pass
        self.responses.append(None)

    def beat(self, *volumes, **fields):
        full = {
            "ip": CHILD.ip, "port": CHILD.port, "grpc_port": CHILD.grpc_port, "public_url": CHILD.public_url,
            "max_volume_counts": {"": 8}, "location_uuids": ["u1"],
        }  # fmt: skip
        self.outbox.put(master_pb2.Heartbeat(**(full | {"volumes": volumes, "has_no_volumes": not volumes} | fields)))

    def say(self, **fields):
        self.outbox.put(master_pb2.Heartbeat(**fields))

    def close(self):
        self.outbox.put(None)
        self.channel.close()


def volume(volume_id, **fields):
    return master_pb2.VolumeInformationMessage(id=volume_id, version=3, **fields)


@pytest.fixture
def model():
    return NodeModel(["native", "child"])


@pytest.fixture
def view(fake_master):
    return MasterView([fake_master.address])


@pytest.fixture
def left():
    return threading.Event()


@pytest.fixture
def relay(model, view, left):
    relay = MasterRelay(model, OURS, view, dial_insecure, on_child_leave=left.set)
    relay.start()
    yield relay
    relay.stop()


@pytest.fixture
def child(relay):
    child = Child(relay.address)
    yield child
    child.close()


def held(model):
    return model.snapshot().volume_ids


async def test_the_childs_volumes_and_facts_reach_the_model_whole(model, child, relay):
    unknown = volume(1, size=5).SerializeToString() + b"\xf8\x07\x2a"  # field 127, which no stub of ours knows
    child.connect()
    child.beat(master_pb2.VolumeInformationMessage.FromString(unknown), max_file_key=9)
    child.say(ec_shards=[master_pb2.VolumeEcShardInformationMessage(id=4, ec_index_bits=6)])
    await until(lambda: model.snapshot().ec_shards)
    snapshot = model.snapshot()
    assert snapshot.volumes[0, 1].message.SerializeToString() == unknown
    assert dict(snapshot.facts.max_volume_counts) == {"": 8}
    assert snapshot.facts.max_file_key == 9
    assert relay.child == CHILD
    assert relay.is_child_connected


async def test_it_is_answered_at_once_and_whenever_the_real_master_speaks(view, child):
    child.connect()
    await until(lambda: child.responses)
    assert child.responses[0].volume_digest_supported
    view.note_response(master_pb2.HeartbeatResponse(volume_size_limit=77, preallocate=True, leader="other:1"))
    await until(lambda: child.responses and child.responses[-1].volume_size_limit == 77)
    assert child.responses[-1].preallocate
    assert all(not response.leader for response in child.responses)


async def test_deltas_and_changes_are_taken_over(model, child):
    child.connect()
    child.beat(volume(1), volume(2))
    child.say(new_volumes=[master_pb2.VolumeShortInformationMessage(id=3, version=3, collection="c")])
    await until(lambda: held(model) == {1, 2, 3})
    child.say(deleted_volumes=[master_pb2.VolumeShortInformationMessage(id=1)])
    await until(lambda: held(model) == {2, 3})
    child.say(changed_volumes=[volume(3, collection="c", size=10)])
    await until(lambda: model.snapshot().volumes[0, 3].message.size == 10)
    child.say(new_ec_shards=[master_pb2.VolumeEcShardInformationMessage(id=4, ec_index_bits=6)])
    child.say(deleted_ec_shards=[master_pb2.VolumeEcShardInformationMessage(id=4, ec_index_bits=2)])
    child.say(state=volume_server_pb2.VolumeServerState(maintenance=True, version=2))
    await until(lambda: model.snapshot().state)
    assert [shards.ec_index_bits for shards in model.snapshot().ec_shards.values()] == [4]


async def test_a_digest_that_differs_makes_it_ask_for_the_full_list(model, child):
    child.connect()
    child.beat(volume(1))
    await until(lambda: held(model) == {1})
    child.say(volume_digest=model.snapshot().digest)
    child.say(volume_digest=12345)
    await until(lambda: child.responses and child.responses[-1].resend_full_volume_list)
    assert sum(response.resend_full_volume_list for response in child.responses) == 1


async def test_a_broken_stream_takes_nothing_away_and_the_next_full_list_replaces(model, relay, child):
    child.connect()
    child.beat(volume(1), volume(2))
    await until(lambda: held(model) == {1, 2})
    child.close()
    await until(lambda: not relay.is_child_connected)
    assert held(model) == {1, 2}
    again = Child(relay.address).connect()
    await until(lambda: again.responses)
    assert held(model) == {1, 2}
    again.beat(volume(2), volume(3))
    await until(lambda: held(model) == {2, 3})
    again.close()


async def test_a_goodbye_is_for_the_supervisor_to_judge(model, child, left):
    child.connect()
    child.beat(volume(1))
    child.say(ip=CHILD.ip, port=CHILD.port, public_url=CHILD.public_url, has_no_volumes=True)
    await until(left.is_set)
    assert held(model) == {1}


async def test_an_honest_empty_list_is_no_goodbye(model, child, left):
    child.connect()
    child.beat(volume(1))
    child.beat(volume_digest=0)
    await until(lambda: not held(model))
    assert not left.is_set()


async def test_a_newer_stream_replaces_the_old_one(model, relay, child):
    child.connect()
    child.beat(volume(1))
    await until(lambda: held(model) == {1})
    newer = Child(relay.address).connect()
    newer.beat(volume(2))
    await until(lambda: held(model) == {2})
    await until(lambda: child.responses and child.responses[-1] is None)
    assert relay.is_child_connected
    newer.close()


async def test_a_hand_over_is_not_reported(model, relay, child):
    child.connect()
    child.beat(volume(1, size=9), volume(2))
    await until(lambda: held(model) == {1, 2})
    with model.suppress_removals([1]):
        child.say(deleted_volumes=[master_pb2.VolumeShortInformationMessage(id=id_) for id_ in (1, 2)])
        await until(lambda: 2 not in held(model))
        assert model.snapshot().volumes[0, 1].message.size == 9
        model.source("native").change_volumes([volume(1, size=9)])
    assert held(model) == {1}


async def test_a_hand_over_that_loses_the_volume_is_reported_at_its_end(model, relay, child):
    child.connect()
    child.beat(volume(1))
    await until(lambda: held(model) == {1})
    with model.suppress_removals([1]):
        child.beat()
        await until(lambda: not model.source("child").volumes)
        assert held(model) == {1}
    assert held(model) == set()


def answer_once(response, seen=None):
    def answer(requests, context):
        request = next(requests)
        if seen is not None:
            seen.append(request)
        yield response.SerializeToString()

    return answer


def introduce(relay, child):
    child.connect()
    child.beat(volume(1))
    return until(lambda: relay.child is not None)


OUR_LOCATION = {"url": "10.0.0.9:8080", "public_url": "public.example:80", "grpc_port": 18080, "data_center": "dc"}
OTHER_LOCATION = {"url": "10.0.0.7:8080", "public_url": "10.0.0.7:8080", "grpc_port": 18080, "data_center": "dc"}
CHILD_LOCATION = {
    "url": "127.0.0.1:40001", "public_url": "127.0.0.1:40001", "grpc_port": 40002, "data_center": "dc",
}  # fmt: skip


def locations(*rows):
    return [master_pb2.Location(**row) for row in rows]


async def test_the_child_finds_itself_in_look_ups(fake_master, relay, child):
    await introduce(relay, child)
    answer = master_pb2.LookupVolumeResponse()
    answer.volume_id_locations.add(volume_or_file_id="1", locations=locations(OUR_LOCATION, OTHER_LOCATION), auth="jwt")
    answer.volume_id_locations.add(volume_or_file_id="2", error="volume id 2 not found")
    fake_master.answers["LookupVolume"] = answer_once(answer)
    got = child.master.LookupVolume(master_pb2.LookupVolumeRequest(volume_or_file_ids=["1", "2"]), timeout=DEADLINE_S)
    assert list(got.volume_id_locations[0].locations) == locations(CHILD_LOCATION, OTHER_LOCATION)
    assert got.volume_id_locations[0].auth == "jwt"
    assert got.volume_id_locations[1] == answer.volume_id_locations[1]


async def test_the_child_finds_itself_among_ec_shard_holders(fake_master, relay, child):
    await introduce(relay, child)
    answer = master_pb2.LookupEcVolumeResponse(volume_id=4)
    answer.shard_id_locations.add(shard_id=2, locations=locations(OTHER_LOCATION, OUR_LOCATION))
    fake_master.answers["LookupEcVolume"] = answer_once(answer)
    got = child.master.LookupEcVolume(master_pb2.LookupEcVolumeRequest(volume_id=4), timeout=DEADLINE_S)
    assert list(got.shard_id_locations[0].locations) == locations(OTHER_LOCATION, CHILD_LOCATION)


async def test_read_only_marks_name_us(fake_master, relay, child):
    await introduce(relay, child)
    seen = []
    fake_master.answers["VolumeMarkReadonly"] = answer_once(master_pb2.VolumeMarkReadonlyResponse(), seen)
    request = master_pb2.VolumeMarkReadonlyRequest(ip=CHILD.ip, port=CHILD.port, volume_id=3, is_readonly=True)
    child.master.VolumeMarkReadonly(request, timeout=DEADLINE_S)
    got = master_pb2.VolumeMarkReadonlyRequest.FromString(seen[0])
    assert (got.ip, got.port, got.volume_id, got.is_readonly) == ("10.0.0.9", 8080, 3, True)


async def test_keep_connected_is_passed_on_with_addresses_changed(fake_master, relay, child):
    await introduce(relay, child)
    seen = []

    def answer(requests, context):
        seen.append(master_pb2.KeepConnectedRequest.FromString(next(requests)))
        for location in (OUR_LOCATION, OTHER_LOCATION):
            message = master_pb2.VolumeLocation(**location, leader=str(fake_master.address), new_vids=[1])
            yield master_pb2.KeepConnectedResponse(volume_location=message).SerializeToString()
        next(requests)

    fake_master.answers["KeepConnected"] = answer
    requests = queue.Queue()
    requests.put(master_pb2.KeepConnectedRequest(client_type="volumeServer", client_address="127.0.0.1:40001.40002"))
    call = child.master.KeepConnected(iter(requests.get, None), timeout=DEADLINE_S)
    ours, others = next(call).volume_location, next(call).volume_location
    assert seen[0].client_address == "10.0.0.9:8080.18080"
    assert (ours.url, ours.grpc_port, list(ours.new_vids)) == ("127.0.0.1:40001", 40002, [1])
    assert others.url == "10.0.0.7:8080"
    assert ours.leader == others.leader == str(relay.address)
    requests.put(None)
    call.cancel()


async def test_the_configuration_names_the_relay_and_is_remembered_for_hard_times(fake_master, view, child, relay):
    request = master_pb2.GetMasterConfigurationRequest()
    first = child.master.GetMasterConfiguration(request, timeout=DEADLINE_S)
    assert (first.leader, first.volume_size_limit_m_b) == (str(relay.address), 30)
    assert view.leader == fake_master.address
    fake_master.stop()
    again = child.master.GetMasterConfiguration(request, timeout=DEADLINE_S)
    assert again == first


async def test_the_configuration_has_this_servers_own_tiers(fake_master, view, child):
    own = master_pb2.StorageBackend(type="s3", id="cold", properties={"bucket": "own"})
    told = master_pb2.StorageBackend(type="s3", id="cold", properties={"bucket": "the master's"})
    view.own_backends = (own,)
    fake_master.configuration.storage_backends.append(told)
    answer = child.master.GetMasterConfiguration(master_pb2.GetMasterConfigurationRequest(), timeout=DEADLINE_S)
    assert list(answer.storage_backends) == [own]


async def test_without_any_answer_yet_a_dead_master_is_unavailable(fake_master, child):
    fake_master.stop()
    with pytest.raises(grpc.RpcError) as failure:
        child.master.GetMasterConfiguration(master_pb2.GetMasterConfigurationRequest(), timeout=DEADLINE_S)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_leader_learnt_from_the_configuration_gets_the_next_calls(fake_master, second_master, child):
    fake_master.configuration.leader = str(second_master.address)
    child.master.GetMasterConfiguration(master_pb2.GetMasterConfigurationRequest(), timeout=DEADLINE_S)
    second_master.answers["ListClusterNodes"] = answer_once(master_pb2.ListClusterNodesResponse())
    child.master.ListClusterNodes(master_pb2.ListClusterNodesRequest(), timeout=DEADLINE_S)
    assert [name for name, _ in second_master.requests] == ["ListClusterNodes"]


async def test_unknown_calls_pass_in_every_shape_with_metadata_and_trailers(fake_master, child):
    def count_up(requests, context):
        context.set_trailing_metadata((("x-trailer", "t"), ("x-bin-bin", b"\x00\xff")))
        for request in requests:
            yield request + b"!"

    fake_master.answers["SomethingNew"] = count_up
    path = "/master_pb.Seaweed/SomethingNew"
    unary = child.channel.unary_unary(path)
    answer, call = unary.with_call(b"one", timeout=DEADLINE_S, metadata=(("x-amz-request-id", "r1"),))
    assert answer == b"one!"
    assert set(call.trailing_metadata()) >= {("x-trailer", "t"), ("x-bin-bin", b"\x00\xff")}
    assert fake_master.requests[-1][1]["x-amz-request-id"] == "r1"
    assert list(child.channel.unary_stream(path)(b"two", timeout=DEADLINE_S)) == [b"two!"]
    assert child.channel.stream_unary(path)(iter([b"three"]), timeout=DEADLINE_S) == b"three!"
    many = [b"%d" % number for number in range(50)]
    assert list(child.channel.stream_stream(path)(iter(many), timeout=DEADLINE_S)) == [one + b"!" for one in many]


async def test_errors_pass_with_code_text_and_details(fake_master, child):
    def fail(requests, context):
        context.set_trailing_metadata((("grpc-status-details-bin", b"why"),))
        context.abort(grpc.StatusCode.UNKNOWN, "raft.Server: Not current leader")
        yield b""

    fake_master.answers["Assign"] = fail
    with pytest.raises(grpc.RpcError) as failure:
        child.master.Assign(master_pb2.AssignRequest(), timeout=DEADLINE_S)
    assert failure.value.code() is grpc.StatusCode.UNKNOWN
    assert failure.value.details() == "raft.Server: Not current leader"
    assert ("grpc-status-details-bin", b"why") in failure.value.trailing_metadata()


async def test_deadline_and_cancellation_reach_the_master(fake_master, child):
    left_s, ended = [], threading.Event()

    def hang(requests, context):
        context.add_callback(ended.set)
        left_s.append(context.time_remaining())
        ended.wait(DEADLINE_S)
        yield b""

    fake_master.answers["VolumeList"] = hang
    call = child.master.VolumeList.future(master_pb2.VolumeListRequest(), timeout=DEADLINE_S)
    await until(lambda: left_s)
    assert 0 < left_s[0] <= DEADLINE_S * 1.02  # grpc rounds a timeout up, to two or three digits, at each hop
    call.cancel()
    await until(ended.is_set)


async def test_an_unreachable_leader_gives_way_to_the_next_seed(fake_master, second_master, model):
    view = MasterView([ServerAddress("127.0.0.1", 1, 1), second_master.address])
    relay = MasterRelay(model, OURS, view, dial_insecure)
    relay.start()
    child = Child(relay.address)
    request = master_pb2.GetMasterConfigurationRequest()
    with pytest.raises(grpc.RpcError):
        child.master.GetMasterConfiguration(request, timeout=DEADLINE_S)
    assert child.master.GetMasterConfiguration(request, timeout=DEADLINE_S).leader == str(relay.address)
    child.close()
    relay.stop()


async def test_strangers_are_refused(model, view):
    relay = MasterRelay(model, OURS, view, dial_insecure, is_allowed_caller=lambda caller, port: False)
    relay.start()
    child = Child(relay.address).connect()
    with pytest.raises(grpc.RpcError) as failure:
        child.master.GetMasterConfiguration(master_pb2.GetMasterConfigurationRequest(), timeout=DEADLINE_S)
    assert failure.value.code() is grpc.StatusCode.PERMISSION_DENIED
    await until(lambda: child.responses == [None])
    child.close()
    relay.stop()


@pytest.fixture
def key_pair():
    """A private key and a certificate that is its own authority, both as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "volume")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return pem, certificate.public_bytes(serialization.Encoding.PEM)


async def test_with_mutual_tls_only_a_child_with_a_certificate_is_served(fake_master, model, view, key_pair):
    key, certificate = key_pair
    relay = MasterRelay(model, OURS, view, dial_insecure)
    relay.start(grpc.ssl_server_credentials([key_pair], certificate, require_client_auth=True))
    request = master_pb2.GetMasterConfigurationRequest()
    with grpc.secure_channel(
        relay.address.grpc, grpc.ssl_channel_credentials(certificate, key, certificate)
    ) as channel:
        assert master_client(channel).GetMasterConfiguration(request, timeout=DEADLINE_S).leader == str(relay.address)
    without = grpc.ssl_channel_credentials(certificate)
    with grpc.secure_channel(relay.address.grpc, without) as channel, pytest.raises(grpc.RpcError):
        master_client(channel).GetMasterConfiguration(request, timeout=DEADLINE_S)
    relay.stop()
