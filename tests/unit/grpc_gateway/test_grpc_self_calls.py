"""A server recognises its own calls, and forwards none that makes the backend fetch from this server."""

from __future__ import annotations

import grpc
import pytest
from support.grpc_gateway import Line, error_of
from support.waiting import LIMIT_S as T

from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.self_calls import MARK_KEY, REFUSAL_CODE, SelfMark
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.transfer.received_files import MountedVolume, RemoteObject
from supervisor.gateway.grpc_sources import CheckedBackend, NodePorts
from supervisor.gateway.grpc_volume_servers import DialledVolumeServers
from supervisor.routing.registry import ROUTES

OWN = "10.9.9.9:8080"
CHILD_PORT, OWN_GRPC_PORT = 19191, 19999
MISREAD = (
    "", "no address", ":1.19999", "localhost:.19999", "localhost:x.19999", "localhost:1.2.19999", "localhost:1..19999",
    "localhost:99999.19999", "localhost:1.+19999", "localhost:-1.19999", "localhost: 1.19999", "localhost:+24094",
)  # fmt: skip
REQUESTS = {
    "VolumeCopy": lambda source: pb.VolumeCopyRequest(volume_id=7, source_data_node=source),
    "VolumeEcShardsCopy": lambda source: pb.VolumeEcShardsCopyRequest(volume_id=8, source_data_node=source),
    "VolumeTailReceiver": lambda source: pb.VolumeTailReceiverRequest(volume_id=7, source_volume_server=source),
}
DOING = {"VolumeCopy": "copy a volume", "VolumeEcShardsCopy": "copy shards", "VolumeTailReceiver": "tail a volume"}


def dial(address):
    return grpc.insecure_channel(
        address.grpc, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    )


@pytest.fixture
def mark():
    return SelfMark()


@pytest.fixture
def own(open_gateway, backend, mark):
    """This server: a client of a gateway that forwards all. `backend.seen` has the forwarded calls."""

    @backend.on("Ping")
    def ping(_requests, _context):
        return b""

    @backend.on("VolumeTailSender")
    def tail(_requests, _context):
        return iter([b""])

    return open_gateway(backend=backend, mark=mark)


class TestItsOwnCalls:
    @pytest.mark.parametrize("name", ["Ping", "VolumeTailSender", "ReceiveFile", "ReadVolumeFileStatus", "VolumeCopy"])
    def test_they_are_refused_before_an_engine_hears_of_them(self, own, backend, mark, name):
        argument = iter([b""]) if name == "ReceiveFile" else b""
        metadata = [("x-other", "1"), (MARK_KEY, mark.text)]

        def call():
            answer = own.call(name)(argument, timeout=T, metadata=metadata)
            return answer if isinstance(answer, bytes) else list(answer)

        error = error_of(call)
        assert error.code() is REFUSAL_CODE
        assert error.details() == f"{name} was sent by this server to itself; it serves no calls of its own"
        assert mark.is_refusal(error)
        assert not SelfMark().is_refusal(error)
        assert backend.seen == []

    @pytest.mark.parametrize("text", ["", "0" * 32])
    def test_those_of_others_are_served(self, own, backend, text):
        own.call("Ping")(b"", timeout=T, metadata=[(MARK_KEY, text or SelfMark().text)])
        assert [name for name, _, _ in backend.seen] == ["Ping"]

    def test_every_process_has_another_mark(self):
        assert SelfMark() != SelfMark()


class TestWhoIsThere:
    @pytest.fixture
    def port(self, own):
        """Another port of this server, served by a TCP forwarder that knows nothing of gRPC."""
        line = Line(own.port)
        yield line.port
        line.cut()

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_itself_through_another_address(self, port, mark, host):
        assert DialledVolumeServers(dial, mark).leads_here(f"{host}:1.{port}")

    def test_another_server_at_the_same_address(self, port):
        assert not DialledVolumeServers(dial).leads_here(f"127.0.0.1:1.{port}")

    def test_calls_of_every_shape_carry_the_mark(self, port, mark):
        volume_servers = DialledVolumeServers(dial, mark)
        with volume_servers.open_volume_server(f"127.0.0.1:1.{port}") as server:
            for call in (
                lambda: server.Ping(pb.PingRequest(), timeout=T),
                lambda: server.Ping.future(pb.PingRequest(), timeout=T).result(),
                lambda: list(server.VolumeTailSender(pb.VolumeTailSenderRequest(), timeout=T)),
                lambda: list(server.undecoded.CopyFile(pb.CopyFileRequest(), timeout=T)),
            ):
                assert volume_servers.is_self(error_of(call))

    def test_nobody(self, mark):
        assert not DialledVolumeServers(dial, mark).leads_here("127.0.0.1:1.1")

    @pytest.mark.parametrize(
        "code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED]
    )
    def test_a_server_that_is_too_busy_to_say(self, backend, mark, code):
        @backend.on("Ping")
        def ping(_requests, context):
            context.abort(code, "busy")

        with pytest.raises(RpcFailure) as caught:
            DialledVolumeServers(dial, mark).leads_here(f"127.0.0.1:1.{backend.port}")
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        assert "is this server itself could not be found out" in caught.value.message


class Probe:
    """Finds this server at the addresses `own`; `failure` is raised instead."""

    def __init__(self):
        self.own = {"self:1.2"}
        self.asked = []
        self.failure = None

    def leads_here(self, address):
        self.asked.append(address)
        if self.failure is not None:
            raise self.failure
        return address in self.own


class TestForwarded:
    @pytest.fixture
    def probe(self):
        return Probe()

    @pytest.fixture
    def client(self, open_gateway, backend, probe):
        for name in (*REQUESTS, "ReceiveFile", "VolumeDelete", "Query"):

            @backend.on(name)
            def answer(requests, _context, name=name):
                self.messages = list(requests) if name == "ReceiveFile" else [requests]
                return iter([b""]) if name in {"VolumeCopy", "Query"} else b""

        self.maintenance = None

        def check_maintenance():
            if self.maintenance is not None:
                raise self.maintenance

        def check(engine):
            ports = NodePorts(OWN, OWN_GRPC_PORT, lambda: CHILD_PORT)
            mounted = {
                7: MountedVolume("pics", 3, "001", is_read_only=False),
                9: MountedVolume("pics", 3, "001", is_read_only=False, is_bare=True),
                10: MountedVolume("pics", 3, "001", is_read_only=False, remote_object=RemoteObject("s3.cold", "k")),
            }.get
            return CheckedBackend(engine, probe, ports, mounted, check_maintenance, 4)

        return open_gateway(backend=backend, check=check)

    def run(self, client, name, source):
        answer = client.call(name)(REQUESTS[name](source).SerializeToString(), timeout=T)
        return answer if isinstance(answer, bytes) else list(answer)

    def test_the_table_names_fields_that_there_are(self):
        sources = {route.rpc_name: route.source for route in ROUTES if route.source is not None}
        assert set(sources) == set(REQUESTS)
        for name, source in sources.items():
            assert getattr(REQUESTS[name]("x"), source.field) == "x"
            assert source.doing == DOING[name]

    @pytest.mark.parametrize("name", REQUESTS)
    @pytest.mark.parametrize(
        "source",
        [
            "self:1.2",
            f"localhost:1.{CHILD_PORT}",
            f"127.0.0.2:{CHILD_PORT - 10000}",
            # Where no probe comes through, these lead here all the same.
            f"localhost:1.{OWN_GRPC_PORT}",
            f"127.0.0.9:1.{OWN_GRPC_PORT}",
            f"0.0.0.0:1.{OWN_GRPC_PORT}",
            f"[::]:1.{OWN_GRPC_PORT}",
            f"[::1]:1.{OWN_GRPC_PORT}",
            f"::1:1.{OWN_GRPC_PORT}",
            f" localhost:1.{OWN_GRPC_PORT} ",
        ],
    )
    def test_a_source_that_is_this_server_or_its_child(self, client, backend, name, source):
        error = error_of(lambda: self.run(client, name, source))
        text = f"volume server {OWN} cannot {DOING[name]} from itself"
        assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, text)
        assert backend.seen == []

    def test_a_volume_that_is_not_here_is_missed_first(self, client, backend):
        request = pb.VolumeTailReceiverRequest(volume_id=8, source_volume_server="self:1.2")
        error = error_of(lambda: client.call("VolumeTailReceiver")(request.SerializeToString(), timeout=T))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, "receiver not found volume id 8")
        assert backend.seen == []

    @pytest.mark.parametrize("name", REQUESTS)
    @pytest.mark.parametrize(
        ("source", "told"),
        [
            ("other:1.2", "other:1.2"),
            (f"192.0.2.1:1.{CHILD_PORT}", f"192.0.2.1:1.{CHILD_PORT}"),
            ("other:8080", "other:8080.18080"),
            (" other:8080/ ".strip("/ "), "other:8080.18080"),
            ("::1:1.2", "[::1]:1.2"),
        ],
    )
    def test_another_source_is_told_in_the_usual_form(self, client, backend, name, source, told):
        self.run(client, name, source)
        assert [seen for seen, _, _ in backend.seen] == [name]
        assert self.messages == [REQUESTS[name](told).SerializeToString()]

    @pytest.mark.parametrize("name", REQUESTS)
    @pytest.mark.parametrize("source", MISREAD)
    def test_what_go_might_read_in_another_way_is_not_forwarded(self, client, backend, name, source):
        """Go's server accepts some of these, and ends on others."""
        error = error_of(lambda: self.run(client, name, source))
        assert "is not a server address" in error.details()
        assert backend.seen == []

    @pytest.mark.parametrize("name", REQUESTS)
    def test_fields_that_nobody_knows_hide_no_source(self, client, backend, name):
        request = REQUESTS[name]("self:1.2").SerializeToString() + bytes.fromhex("9b069c06")
        error = error_of(lambda: list(client.call(name)(request, timeout=T)))
        assert "from itself" in error.details()
        assert backend.seen == []

    @pytest.mark.parametrize("name", REQUESTS)
    def test_maintenance_is_said_first(self, client, backend, name):
        self.maintenance = RpcFailure("in maintenance mode")
        assert error_of(lambda: self.run(client, name, "")).details() == "in maintenance mode"
        assert backend.seen == []

    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"volume_id": 4, "collection": "../../x"}, 'invalid collection "../../x"'),
            ({"volume_id": 4, "collection": "..", "copy_vif_file": True}, 'invalid collection ".."'),
            ({"volume_id": 4, "shard_ids": [0, 32]}, "VolumeEcShardsCopy volume 4: there is no shard 32"),
            ({"volume_id": 7, "collection": "x"}, "volume 7 of collection 'pics' is mounted here"),
        ],
    )
    def test_shards_of_a_name_that_no_protocol_has(self, client, backend, probe, fields, error):
        request = pb.VolumeEcShardsCopyRequest(source_data_node="other:1.2", **fields)
        failure = error_of(lambda: client.call("VolumeEcShardsCopy")(request.SerializeToString(), timeout=T))
        assert failure.details().startswith(error)
        assert (backend.seen, probe.asked) == ([], [])

    @pytest.mark.parametrize("fields", [{"volume_id": 7, "collection": "pics", "shard_ids": [31]}, {"volume_id": 4}])
    def test_shards_that_the_backend_is_to_have(self, client, backend, fields):
        request = pb.VolumeEcShardsCopyRequest(source_data_node="other:1.2", **fields)
        client.call("VolumeEcShardsCopy")(request.SerializeToString(), timeout=T)
        assert self.messages == [request.SerializeToString()]

    @pytest.mark.parametrize("name", REQUESTS)
    def test_where_it_cannot_be_found_out_nothing_is_forwarded(self, client, backend, probe, name):
        probe.failure = RpcFailure("who knows", grpc.StatusCode.UNAVAILABLE)
        error = error_of(lambda: self.run(client, name, "other:1.2"))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "who knows")
        assert backend.seen == []

    @pytest.mark.parametrize(
        ("sent", "told"),
        [
            ({}, {"input_serialization": {}, "filter": {"field": "@this"}}),
            ({"input_serialization": {"json_input": {}}}, {"filter": {"field": "@this"}}),
            ({"filter": {"field": "a", "operand": "="}}, {"input_serialization": {}}),
            ({"filter": {}, "input_serialization": {"csv_input": {}}}, {}),
        ],
    )
    def test_a_query_is_made_complete(self, client, sent, told):
        """Go's server takes filter and input format for given, and ends without them."""
        list(client.call("Query")(pb.QueryRequest(from_file_ids=["3,01"], **sent).SerializeToString(), timeout=T))
        (message,) = self.messages
        found = pb.QueryRequest.FromString(message)
        assert found == pb.QueryRequest(from_file_ids=["3,01"], **{**sent, **told})
        assert found.HasField("filter")
        assert found.HasField("input_serialization")

    def test_other_calls_ask_nobody(self, client, backend, probe):
        client.call("VolumeDelete")(b"", timeout=T)
        assert (len(backend.seen), probe.asked) == (1, [])

    def receive(self, client, **fields):
        messages = [
            pb.ReceiveFileRequest(info=pb.ReceiveFileInfo(**fields)),
            pb.ReceiveFileRequest(file_content=b"x"),
        ]
        answer = client.call("ReceiveFile")(iter([one.SerializeToString() for one in messages]), timeout=T)
        return pb.ReceiveFileResponse.FromString(answer).error

    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"volume_id": 4, "ext": ".dat", "is_ec_volume": True, "collection": "0"}, 'invalid file extension ".dat"'),
            ({"volume_id": 4, "ext": ".note", "disk_type": "hdd"}, 'invalid file extension ".note"'),
            ({"volume_id": 7, "ext": ".aaa"}, 'invalid file extension ".aaa"'),
            ({"volume_id": 4, "ext": ".ec00", "is_ec_volume": True, "collection": "../x"}, "invalid collection"),
            ({"volume_id": 7, "ext": ".dat"}, "volume 7 is mounted and works with its .dat"),
            (
                {"volume_id": 7, "ext": ".ecx", "is_ec_volume": True, "collection": "x"},
                "volume 7 of collection 'pics' is mounted here",
            ),
        ],
    )
    def test_a_file_of_a_name_that_no_protocol_sends(self, client, backend, fields, error):
        assert self.receive(client, **fields).startswith(error)
        assert backend.seen == []

    @pytest.mark.parametrize(
        "fields",
        [
            {"volume_id": 4, "ext": ".ec00", "is_ec_volume": True},
            {"volume_id": 7, "ext": ".ecx", "is_ec_volume": True, "collection": "pics"},
            {"volume_id": 4, "ext": ".dat", "disk_type": "hdd"},
            {"volume_id": 7, "ext": ".tmprecv"},
        ],
    )
    def test_a_file_that_the_backend_is_to_have(self, client, backend, fields):
        assert not self.receive(client, **fields)
        assert len(backend.seen) == 1

    @pytest.mark.parametrize("messages", [[], [b""]])
    def test_what_names_no_file_is_for_the_backend_to_answer(self, client, backend, messages):
        client.call("ReceiveFile")(iter(messages), timeout=T)
        assert len(backend.seen) == 1

    def test_what_cannot_be_read_is_not_forwarded(self, client, backend):
        error = error_of(lambda: client.call("ReceiveFile")(iter([b"\xff"]), timeout=T))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert backend.seen == []

    @pytest.mark.parametrize("first", [{"volume_id": 7, "ext": ".tmprecv"}, {"volume_id": 4, "ext": ".ec00"}, None])
    def test_the_facts_of_a_file_come_once(self, client, first):
        """Upstream goes on with the second file, whose name nobody has looked at."""
        is_coded = first is not None and first["ext"] == ".ec00"
        begin = b"" if first is None else self.info(is_ec_volume=is_coded, **first)
        messages = [begin, self.info(volume_id=first["volume_id"] if first else 7, ext=".dat"), b""]
        error = error_of(lambda: client.call("ReceiveFile")(iter(messages), timeout=T))
        assert error.details() == "file info was sent already"

    @staticmethod
    def info(**fields):
        return pb.ReceiveFileRequest(info=pb.ReceiveFileInfo(**fields)).SerializeToString()

    def send_vif(self, client, *pieces, **fields):
        facts = {"volume_id": 7, "ext": ".vif", "is_ec_volume": True, "collection": "pics"} | fields
        messages = [
            self.info(**facts),
            *(pb.ReceiveFileRequest(file_content=one).SerializeToString() for one in pieces),
        ]
        answer = client.call("ReceiveFile")(iter(messages), timeout=T)
        return pb.ReceiveFileResponse.FromString(answer).error

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            (b'{"version":3,"bytesOffset":5,"ecShardConfig":{"dataShards":10}}', "5-byte offsets"),
            (b'{"version":2,"ecShardConfig":{"dataShards":10}}', "version 2"),
            (b'{"version":3,"ecShardConfig":{"dataShards":10},"replication":"002"}', "replication 002"),
            (b'{"version":3,"ecShardConfig":{"dataShards":10},"readOnly":true}', "read-only"),
            (b'{"version":3}', "no erasure-coded volume"),
            (b"{", "cannot be parsed"),
            (b" " * (1 << 20) + b" ", "more than 1048576 bytes"),
        ],
    )
    def test_a_vif_that_would_mislead_the_next_start(self, client, backend, text, error):
        assert error in self.send_vif(client, text[: len(text) // 2], text[len(text) // 2 :])
        assert backend.seen == []

    def test_a_vif_of_shards_beside_a_volume_that_nobody_has_written_to(self, client, backend):
        text = b'{"version":3,"ecShardConfig":{"dataShards":10}}'
        assert "empty" in self.send_vif(client, text, volume_id=9)
        assert backend.seen == []

    def test_a_vif_of_shards_in_place_of_one_that_names_a_remote_tier(self, client, backend):
        text = b'{"version":3,"ecShardConfig":{"dataShards":10}}'
        assert "the data is in remote storage s3.cold, and the sent one does not" in self.send_vif(
            client, text, volume_id=10
        )
        assert backend.seen == []

    def test_a_vif_of_shards_goes_on_whole(self, client, backend):
        pieces = [b'{"version":3,"ecShardConfig":', b'{"dataShards":10},"replication":"001"}']
        assert not self.send_vif(client, *pieces)
        assert len(backend.seen) == 1
        sent = [pb.ReceiveFileRequest.FromString(one).file_content for one in self.messages]
        assert b"".join(sent) == b"".join(pieces)
