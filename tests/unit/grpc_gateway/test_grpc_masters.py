"""The masters as handlers see them, before fake ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from support.grpc_nodes import failure_text

from native_handlers.pb import master_pb2 as pb
from native_handlers.pb.methods import MASTER_METHODS
from supervisor.cluster.dial import dial_insecure
from supervisor.cluster.master_view import MasterView
from supervisor.gateway.grpc_masters import ClusterMasters
from supervisor.wire.server_address import ServerAddress


class FakeMaster(grpc.GenericRpcHandler):
    """`answers` by RPC name: a message, or the text of an error."""

    def __init__(self, **answers) -> None:
        self.answers = answers
        self.marks: list[pb.VolumeMarkReadonlyRequest] = []
        self.server = grpc.server(ThreadPoolExecutor(4), handlers=[self], options=[("grpc.so_reuseport", 0)])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.address = ServerAddress("127.0.0.1", self.port - 1, self.port)

    def service(self, details):
        method = MASTER_METHODS[details.method.rpartition("/")[2]]

        def run(request, context):
            answer = self.answers.get(method.name, method.response_class())
            if isinstance(answer, str):
                context.abort(grpc.StatusCode.UNKNOWN, answer)
            if method.name == "VolumeMarkReadonly":
                self.marks.append(request)
            return answer

        return grpc.unary_unary_rpc_method_handler(
            run, method.request_class.FromString, method.response_class.SerializeToString
        )


@pytest.fixture
def start():
    """Makes fake masters, and a ClusterMasters over some of them."""
    closing = []

    class Start:
        def master(self, **answers) -> FakeMaster:
            fake = FakeMaster(**answers)
            closing.append(lambda: fake.server.stop(None).wait())
            return fake

        def masters(self, seeds, connected=None) -> ClusterMasters:
            view = MasterView([seed.address for seed in seeds])
            view.set_connected(connected.address if connected else None)
            masters = ClusterMasters(view, dial_insecure)
            closing.insert(0, masters.close)
            return masters

    yield Start()
    for close in closing:
        close()


REQUEST = pb.VolumeMarkReadonlyRequest(volume_id=3, is_readonly=True)


def test_seeds_and_the_connected_master_are_known(start):
    seed, other, stranger = start.master(), start.master(), start.master()
    masters = start.masters([seed], connected=other)
    assert masters.is_known(str(seed.address))
    assert masters.is_known(seed.address.http)
    assert masters.is_known(other.address.http)
    assert not masters.is_known(stranger.address.http)
    for junk in ("", "junk", "127.0.0.1:", "::", "127.0.0.1:99999"):
        assert not masters.is_known(junk)


def test_ping(start):
    seed = start.master(Ping=pb.PingResponse(start_time_ns=77))
    masters = start.masters([seed])
    assert masters.ping(str(seed.address), 5) == 77
    seed.answers["Ping"] = "tired"
    assert failure_text(lambda: masters.ping(str(seed.address), None)) == "rpc error: code = Unknown desc = tired"
    seed.server.stop(None).wait()
    assert failure_text(lambda: masters.ping(str(seed.address), 5)).startswith("rpc error: code = Unavailable desc = ")


def test_who_holds_a_volume(start):
    answer = pb.LookupVolumeResponse()
    answer.volume_id_locations.add(
        volume_or_file_id="3", locations=[pb.Location(url=url) for url in ("10.0.0.1:8080", "[::1]:8081", "junk")]
    )
    seed = start.master(LookupVolume=answer)
    masters = start.masters([seed])
    for ip, port, is_holder in (("10.0.0.1", 8080, True), ("::1", 8081, True), ("10.0.0.1", 8081, False)):
        assert masters.holds(3, ip, port, 5) is is_holder
    seed.answers["LookupVolume"] = pb.LookupVolumeResponse()
    assert not masters.holds(3, "10.0.0.1", 8080, 5)
    seed.answers["LookupVolume"] = "not the leader"
    told = failure_text(lambda: masters.holds(3, "10.0.0.1", 8080, 5))
    assert told == "rpc error: code = Unknown desc = not the leader"


def test_the_connected_master_is_told(start):
    seed, other = start.master(), start.master()
    start.masters([seed], connected=other).mark_readonly(REQUEST, None)
    assert (seed.marks, other.marks) == ([], [REQUEST])


def test_a_master_that_does_not_lead_sends_us_on(start):
    leader = start.master()
    answer = pb.GetMasterConfigurationResponse(leader=str(leader.address))
    follower = start.master(VolumeMarkReadonly="Not current leader", GetMasterConfiguration=answer)
    start.masters([follower], connected=follower).mark_readonly(REQUEST, 5)
    assert leader.marks == [REQUEST]


@pytest.mark.parametrize(
    ("configuration", "why"),
    [
        (pb.GetMasterConfigurationResponse(), "returned empty leader"),
        ("still electing", "rpc error: code = Unknown desc = still electing"),
    ],
)
def test_a_cluster_without_a_leader(start, configuration, why):
    follower = start.master(VolumeMarkReadonly="Not current leader", GetMasterConfiguration=configuration)
    masters = start.masters([follower], connected=follower)
    text = failure_text(lambda: masters.mark_readonly(REQUEST, 5))
    assert text.startswith(f"heartbeat master {follower.address.http} rejected mark-readonly and leader lookup failed:")
    assert why in text


def test_other_refusals_are_passed_on(start):
    seed = start.master(VolumeMarkReadonly="no such volume")
    text = failure_text(lambda: start.masters([seed]).mark_readonly(REQUEST, 5))
    assert text == (
        f"grpc VolumeMarkReadonly with master {seed.address.http}: set volume 3 to read only on master: "
        "rpc error: code = Unknown desc = no such volume"
    )


def test_the_filers_that_the_master_lists(start):
    nodes = [pb.ListClusterNodesResponse.ClusterNode(address=address) for address in ("a:8888", "b:8888.18888")]
    master = start.master(ListClusterNodes=pb.ListClusterNodesResponse(cluster_nodes=nodes))
    assert start.masters([master]).filers() == ["a:8888", "b:8888.18888"]
    assert failure_text(start.masters([start.master(ListClusterNodes="no")]).filers).endswith("desc = no")
