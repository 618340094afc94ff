"""Decisions of the gateway: admission of callers, the serving engine, and refusals."""

from __future__ import annotations

import math
import threading
import time

import grpc
import pytest
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from support.grpc_gateway import EveryoneIsKnown, error_of
from support.waiting import LIMIT_S as T
from support.waiting import wait_until

from native_handlers.grpc.context import RequestsBroken, RpcFailure
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import VOLUME_SERVER_METHODS
from supervisor.gateway.grpc import unknown_text
from supervisor.gateway.grpc_native import native_engines
from supervisor.gateway.grpc_pools import CallLimits
from supervisor.gateway.grpc_shares import ShareRule, StallLimits, StallWatch
from supervisor.net.grpc_clients import ClientRegistry, GrpcClient
from supervisor.routing.registry import REFLECTION_PATHS, ROUTES_BY_NAME, Gate
from supervisor.routing.table import table_forwarding_all, table_native

ALL_FOR_ONE = ShareRule(1, 1, 1)


def serve(open_gateway, name, handler, **more):
    """A client of a gateway that serves `name` natively with `handler(context, request)`."""
    engines = native_engines(None, {name: lambda _node, context, request: handler(context, request)})
    return open_gateway(native=engines, table=table_native([f"grpc.{name}"]), **more)


class TestClients:
    def test_a_connection_past_the_relay_is_refused_on_each_call(self, backend, open_gateway):
        client = open_gateway(backend=backend, clients=ClientRegistry())
        for name in ("Ping", "VolumeTailSender", "ReceiveFile"):
            argument = iter([b""]) if name == "ReceiveFile" else b""
            error = error_of(lambda name=name, argument=argument: list(client.call(name)(argument, timeout=T)))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert error.details().startswith("no peer info")
        assert backend.seen == []

    def test_native_handlers_see_the_true_client(self, open_gateway):
        seen = []

        def handler(context, request):
            seen.append((context.client_host, context.client_port, context.is_active(), context.time_remaining_s()))
            return pb.PingResponse()

        client = serve(open_gateway, "Ping", handler, clients=EveryoneIsKnown(GrpcClient("192.0.2.7", 4711)))
        client.call("Ping")(b"", timeout=T)
        [(host, port, is_active, remaining_s)] = seen
        assert (host, port, is_active) == ("192.0.2.7", 4711, True)
        assert 1 < remaining_s < T + 1


UPSTREAMS_GATED = {
    "AllocateVolume",
    "BatchDelete",
    "DeleteCollection",
    "FetchAndWriteNeedle",
    "ReadAllNeedles",
    "ScrubEcVolume",
    "ScrubVolume",
    "SetState",
    "VacuumVolumeCleanup",
    "VacuumVolumeCommit",
    "VacuumVolumeCompact",
    "VolumeConfigure",
    "VolumeConsolidateIndex",
    "VolumeCopy",
    "VolumeDelete",
    "VolumeEcShardsCopy",
    "VolumeEcShardsDelete",
    "VolumeEcShardsGenerate",
    "VolumeEcShardsRebuild",
    "VolumeEcShardsToVolume",
    "VolumeEcShardsUnmount",
    "VolumeMarkReadonly",
    "VolumeMarkWritable",
    "VolumeMount",
    "VolumeNeedleStatus",
    "VolumeServerLeave",
    "VolumeTailReceiver",
    "VolumeTierMoveDatFromRemote",
    "VolumeTierMoveDatToRemote",
    "VolumeUnmount",
}
"""The RPCs that call checkGrpcAdminAuth in weed/server/volume_grpc_*.go."""


class TestAdminGate:
    def test_the_sets_are_upstreams(self):
        assert len(VOLUME_SERVER_METHODS) == 49
        rpcs = [ROUTES_BY_NAME[f"grpc.{name}"] for name in VOLUME_SERVER_METHODS]
        assert {route.rpc_name for route in rpcs if route.gate is Gate.WHITE_LIST} == UPSTREAMS_GATED

    @pytest.mark.slow
    def test_gated_rpcs_are_refused_for_either_engine_and_the_others_are_not(self, backend, open_gateway):
        """Slow: calls each RPC at two servers."""
        native = open_gateway(native={}, allows=lambda host: host != "10.1.2.3")
        forwarding = open_gateway(backend=backend, allows=lambda host: host != "10.1.2.3")
        for name, method in VOLUME_SERVER_METHODS.items():
            for client in (native, forwarding):
                argument = iter([b""]) if method.client_streaming else b""
                error = error_of(lambda client=client, name=name, a=argument: list(client.call(name)(a, timeout=T)))
                if name in UPSTREAMS_GATED:
                    assert (error.code(), error.details()) == (
                        grpc.StatusCode.PERMISSION_DENIED,
                        "not authorized: 10.1.2.3",
                    )
                else:
                    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert not {name for name, _, _ in backend.seen} & UPSTREAMS_GATED

    def test_a_refused_unary_call_returns_its_request_id(self, open_gateway):
        client = open_gateway(native={}, allows=lambda host: False)
        error = error_of(lambda: client.call("SetState")(b"", timeout=T, metadata=(("x-amz-request-id", "mine"),)))
        assert dict(error.trailing_metadata())["x-amz-request-id"] == "mine"

    def test_refusals_are_logged_once_per_client_and_method(self, open_gateway, caplog):
        client = open_gateway(native={}, allows=lambda host: False)
        for name in ("SetState", "SetState", "VolumeDelete", "SetState"):
            error_of(lambda name=name: client.call(name)(b"", timeout=T))
        texts = [record.getMessage() for record in caplog.records if "not whitelisted" in record.getMessage()]
        assert texts == [
            "gRPC admin auth failed: 10.1.2.3 is not whitelisted (remote: 10.1.2.3:777, SetState)",
            "gRPC admin auth failed: 10.1.2.3 is not whitelisted (remote: 10.1.2.3:777, VolumeDelete)",
        ]

    def test_a_reloaded_white_list_counts_at_once(self, backend, open_gateway):
        allowed = [False]
        client = open_gateway(backend=backend, allows=lambda host: allowed[0])
        backend.on("SetState")(lambda request, context: b"")
        error_of(lambda: client.call("SetState")(b"", timeout=T))
        allowed[0] = True
        assert client.call("SetState")(b"", timeout=T) == b""

    def test_the_gate_closes_before_a_message_is_read(self, open_gateway):
        """The refusal comes before the client has sent its request, and also if it never sends one."""
        client = open_gateway(native={}, allows=lambda host: False)
        slow = client.channel.stream_unary("/volume_server_pb.VolumeServer/VolumeDelete")
        error = error_of(lambda: slow(iter(threading.Event().wait, "never"), timeout=T))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED


class TestEngines:
    def test_the_table_decides(self, backend, open_gateway):
        backend.on("Ping")(lambda request, context: pb.PingResponse(start_time_ns=1).SerializeToString())
        engines = native_engines(None, {"Ping": lambda node, context, request: pb.PingResponse(start_time_ns=2)})
        for table, answer in ((table_forwarding_all(), 1), (table_native(["grpc.Ping"]), 2)):
            client = open_gateway(backend=backend, native=engines, table=table)
            assert pb.PingResponse.FromString(client.call("Ping")(b"", timeout=T)).start_time_ns == answer

    def test_a_ping_of_someone_else_is_never_forwarded(self, backend, open_gateway):
        """The backend knows no master but our relay."""
        backend.on("Ping")(lambda request, context: pb.PingResponse(start_time_ns=1).SerializeToString())
        engines = native_engines(
            None, {"Ping": lambda node, context, request: pb.PingResponse(remote_time_ns=len(request.target))}
        )
        client = open_gateway(backend=backend, native=engines, table=table_forwarding_all())
        for request, start_ns, remote_ns in (
            (pb.PingRequest(target="four", target_type="master"), 0, 4),
            (pb.PingRequest(target_type="master"), 1, 0),
        ):
            answer = pb.PingResponse.FromString(client.call("Ping")(request.SerializeToString(), timeout=T))
            assert (answer.start_time_ns, answer.remote_time_ns) == (start_ns, remote_ns)
        assert client.call("Ping")(b"\xff", timeout=T)
        assert len(backend.seen) == 2

    def test_headers_far_beyond_grpcs_default_limit(self, open_gateway):
        sizes = []

        def handler(context, request):
            sizes.append(sum(len(value) for key, value in context.metadata if key == "big"))
            return pb.VolumeStatusResponse()

        client = serve(open_gateway, "VolumeStatus", handler)
        client.call("VolumeStatus")(b"", timeout=T, metadata=[("big", "x" * 1000)] * 1000)
        assert sizes == [1_000_000]

    def test_what_nobody_serves_is_unimplemented_and_says_so(self, open_gateway):
        for table in (table_native(["grpc.Ping"]), table_forwarding_all()):
            client = open_gateway(native={}, table=table)
            error = error_of(lambda client=client: client.call("VolumeConfigure")(b"", timeout=T))
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "grpc.VolumeConfigure is not served natively yet" in error.details()

    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ("/volume_server_pb.VolumeServer/Nope", "unknown method Nope for service volume_server_pb.VolumeServer"),
            ("/master_pb.Seaweed/Ping", "unknown service master_pb.Seaweed"),
            ("/a/b/c", "unknown service a/b"),
            ("/", 'malformed method name: "/"'),
        ],
    )
    def test_unknown_methods(self, open_gateway, path, text):
        client = open_gateway(native={})
        for shape in ("unary_unary", "unary_stream"):
            call = getattr(client.channel, shape)(path)
            error = error_of(lambda call=call: list(call(b"", timeout=T)))
            assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, text)

    def test_text_for_a_path_without_a_slash(self):
        assert unknown_text("Ping") == 'malformed method name: "Ping"'


class TestNative:
    def test_failures_carry_their_code_and_text(self, open_gateway):
        def handler(context, request):
            context.set_trailing("tail", "1")
            raise RpcFailure("volume 3 not found")

        client = serve(open_gateway, "VolumeStatus", handler)
        error = error_of(lambda: client.call("VolumeStatus")(b"", timeout=T))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, "volume 3 not found")
        assert dict(error.trailing_metadata())["tail"] == "1"
        assert "x-amz-request-id" in dict(error.trailing_metadata())

    def test_bugs_are_internal_and_logged(self, open_gateway, caplog):
        def handler(context, request):
            raise ZeroDivisionError("a bug")

        client = serve(open_gateway, "VolumeStatus", handler)
        error = error_of(lambda: client.call("VolumeStatus")(b"", timeout=T))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "a bug" in caplog.text

    def test_bytes_that_are_no_message(self, open_gateway):
        client = serve(open_gateway, "VolumeStatus", lambda context, request: pb.VolumeStatusResponse())
        error = error_of(lambda: client.call("VolumeStatus")(b"\xff\xff\xff", timeout=T))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert error.details().startswith("grpc: error unmarshalling request:")

    @pytest.mark.parametrize("answer", [b"", pb.VolumeStatusResponse(volume_size=5).SerializeToString()])
    def test_an_answer_that_is_serialized_already(self, open_gateway, answer):
        client = serve(open_gateway, "VolumeStatus", lambda context, request: answer)
        assert client.call("VolumeStatus")(b"", timeout=T) == answer

    def test_a_unary_call_without_its_message(self, open_gateway):
        client = serve(open_gateway, "VolumeStatus", lambda context, request: pb.VolumeStatusResponse())
        call = client.channel.stream_unary("/volume_server_pb.VolumeServer/VolumeStatus")
        error = error_of(lambda: call(iter(()), timeout=T))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, "EOF")

    def test_streams_of_answers(self, open_gateway):
        def handler(context, request):
            for _ in range(3):
                yield pb.CopyFileResponse(file_content=request.collection.encode())
            raise RpcFailure("broke")

        client = serve(open_gateway, "CopyFile", handler)
        call = client.call("CopyFile")(pb.CopyFileRequest(collection="c").SerializeToString(), timeout=T)
        assert [pb.CopyFileResponse.FromString(next(call)).file_content for _ in range(3)] == [b"c"] * 3
        assert error_of(lambda: next(call)).details() == "broke"

    def test_streams_of_requests(self, open_gateway):
        client = serve(
            open_gateway,
            "ReceiveFile",
            lambda context, requests: pb.ReceiveFileResponse(
                bytes_written=sum(len(request.file_content) for request in requests)
            ),
        )
        parts = [pb.ReceiveFileRequest(file_content=b"x" * size).SerializeToString() for size in (1, 2, 3)]
        answer = client.call("ReceiveFile")(iter(parts), timeout=T)
        assert pb.ReceiveFileResponse.FromString(answer).bytes_written == 6

    @pytest.mark.slow
    def test_a_broken_off_upload_is_an_error_in_the_handler(self, open_gateway):
        """Slow: forty uploads wait until their time is over."""
        ended = []

        def handler(context, requests):
            try:
                ended.append(sum(1 for _ in requests))
            except RequestsBroken as error:
                ended.append(error)
                raise
            return pb.ReceiveFileResponse()

        client = serve(open_gateway, "ReceiveFile", handler)
        for _ in range(40):
            go_on = threading.Event()
            requests = iter([b"", go_on])
            stream = (item if isinstance(item, bytes) else item.wait(T) for item in requests)
            call = client.call("ReceiveFile").future(stream, timeout=0.02)
            assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            go_on.set()
        wait_until(lambda: client.gateway.running_calls == 0, "every handler has ended")
        assert {type(end) for end in ended} == {RequestsBroken}

    def test_a_handler_hears_that_its_client_is_gone(self, open_gateway):
        begun, gone = threading.Event(), threading.Event()

        def handler(context, request):
            assert context.add_callback(gone.set)
            begun.set()
            assert gone.wait(T)
            assert not context.is_active()
            return pb.VolumeStatusResponse()

        client = serve(open_gateway, "VolumeStatus", handler)
        call = client.call("VolumeStatus").future(b"", timeout=T)
        assert begun.wait(T)
        call.cancel()
        assert gone.wait(T)


class TestReflection:
    @pytest.mark.parametrize("path", REFLECTION_PATHS)
    def test_both_versions_know_the_service(self, open_gateway, path):
        client = open_gateway(native={}, allows=lambda host: False)
        ask = client.channel.stream_stream(
            path, ServerReflectionRequest.SerializeToString, ServerReflectionResponse.FromString
        )
        requests = [
            ServerReflectionRequest(list_services=""),
            ServerReflectionRequest(file_containing_symbol="volume_server_pb.VolumeServer"),
            ServerReflectionRequest(file_containing_symbol="no.such.Thing"),
        ]
        listed, found, missing = ask(iter(requests), timeout=T)
        assert [service.name for service in listed.list_services_response.service] == [
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "volume_server_pb.VolumeServer",
        ]
        assert len(found.file_descriptor_response.file_descriptor_proto) >= 1
        assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        assert client.counted == [("grpc.reflection", "native", "OK")]

    def test_bytes_that_are_no_message(self, open_gateway):
        call = open_gateway(native={}).channel.stream_stream(REFLECTION_PATHS[0])
        assert error_of(lambda: list(call(iter([b"\xff"]), timeout=T))).code() is grpc.StatusCode.INTERNAL


class TestLimits:
    @pytest.mark.slow
    def test_hundreds_of_idle_streams_do_not_keep_a_ping_waiting(self, backend, open_gateway):
        """Slow because it opens hundreds of streams, on both engines' worth of threads."""
        done = threading.Event()

        @backend.on("VolumeTailSender")
        def behavior(request, context):
            yield b"open"
            done.wait(T)

        limits = CallLimits(unary=8, streaming=300, rule=ALL_FOR_ONE)
        client = open_gateway(backend=backend, limits=limits)
        backend.on("Ping")(lambda request, context: b"pong")
        streams = [client.call("VolumeTailSender")(b"", timeout=60) for _ in range(limits.streaming)]
        assert [next(stream) for stream in streams] == [b"open"] * len(streams)

        busy_s = time.process_time()
        for _ in range(20):
            assert client.call("Ping")(b"", timeout=T) == b"pong"
        assert (time.process_time() - busy_s) / 20 < 0.25

        error = error_of(lambda: next(client.call("VolumeTailSender")(b"", timeout=T)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == "300 streaming calls are in progress; try again later"

        done.set()
        assert [list(stream) for stream in streams] == [[]] * len(streams)
        wait_until(lambda: client.gateway.running_calls == 0, "every thread is free again")
        assert next(client.call("VolumeTailSender")(b"", timeout=T)) == b"open"

    def test_unary_calls_past_their_bound_are_refused_and_streams_go_on(self, backend, open_gateway):
        begun, done = threading.Semaphore(0), threading.Event()

        @backend.on("VacuumVolumeCommit")
        def behavior(request, context):
            begun.release()
            assert done.wait(T)
            return b""

        backend.on("CopyFile")(lambda request, context: iter([b"file"]))
        client = open_gateway(backend=backend, limits=CallLimits(unary=2, streaming=2, rule=ALL_FOR_ONE))
        calls = [client.call("VacuumVolumeCommit").future(b"", timeout=T) for _ in range(2)]
        for _ in calls:
            assert begun.acquire(timeout=T)
        assert error_of(lambda: client.call("Ping")(b"", timeout=T)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert list(client.call("CopyFile")(b"", timeout=T)) == [b"file"]
        done.set()
        assert [call.result() for call in calls] == [b"", b""]

    def test_silent_clients_do_not_take_threads_for_ever(self, backend, open_gateway):
        """A call whose request never comes holds its place until its client goes, and no longer."""
        limits = CallLimits(unary=1, streaming=1, stalls=StallLimits(yields_first_s=math.inf))
        client = open_gateway(backend=backend, limits=limits)
        backend.on("Ping")(lambda request, context: b"pong")
        call = silent_call(client)
        wait_until(lambda: client.gateway.placed_calls == 1, "the silent call has its place")
        assert error_of(lambda: client.call("Ping")(b"", timeout=T)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        call.cancel()
        wait_until(lambda: client.gateway.running_calls == 0, "the thread is free again")
        assert client.call("Ping")(b"", timeout=T) == b"pong"


def silent_call(client, name="Ping"):
    """A call that never sends its request. It ends when the test or the server ends it."""
    call = client.channel.stream_unary if name == "Ping" else client.channel.stream_stream
    requests = iter(threading.Event().wait, "never")
    path = VOLUME_SERVER_METHODS[name].path
    return call(path).future(requests) if name == "Ping" else call(path)(requests)


AT_ONCE = StallLimits(yields_first_s=0.0, yields_later_s=0.0)


class TestShares:
    """A caller that does nothing delays no other caller; for the rules see test_grpc_shares.py."""

    @pytest.mark.parametrize("name", ["Ping", "VolumeTailSender"])
    def test_silent_calls_make_room_for_a_call_of_the_same_connection(self, backend, open_gateway, name):
        backend.on("Ping")(lambda request, context: b"pong")
        backend.on("VolumeTailSender")(lambda request, context: iter([b"pong"]))
        client = open_gateway(backend=backend, limits=CallLimits(unary=8, streaming=8, stalls=AT_ONCE))
        silent = [silent_call(client, name) for _ in range(20)]
        for _ in range(20):
            answer = client.call(name)(b"", timeout=T)
            assert (answer if name == "Ping" else next(answer)) == b"pong"
        assert sum(1 for call in silent if call.done() and call.code() is grpc.StatusCode.CANCELLED) > 0
        for call in silent:
            call.cancel()
        wait_until(lambda: client.gateway.running_calls == 0, "every thread is free again")

    @pytest.fixture
    def looks_often(self, monkeypatch):
        """Stalled calls are looked for more often than once a second."""
        monkeypatch.setattr(StallWatch, "INTERVAL_S", 0.01)

    @pytest.mark.usefixtures("looks_often")
    @pytest.mark.parametrize("name", ["Ping", "VolumeTailSender", "ReceiveFile"])
    def test_a_call_without_a_first_message_is_ended(self, backend, open_gateway, name):
        limits = CallLimits(stalls=StallLimits(ends_first_s=0.0))
        backend.on("ReceiveFile")(lambda requests, context: b"%d" % sum(1 for _ in requests))
        client = open_gateway(backend=backend, limits=limits)
        requests = iter(threading.Event().wait, "never")
        call = client.channel.stream_stream(VOLUME_SERVER_METHODS[name].path)(requests)
        assert error_of(lambda: next(call)).code() is grpc.StatusCode.CANCELLED
        wait_until(lambda: client.counted, "the call is counted")
        assert client.counted == [(f"grpc.{name}", "backend", "DEADLINE_EXCEEDED")]

    @pytest.mark.usefixtures("looks_often")
    def test_a_stream_whose_answers_nobody_reads_is_ended(self, backend, open_gateway):
        ended = threading.Event()

        @backend.on("CopyFile")
        def behavior(request, context):
            context.add_callback(ended.set)
            while True:
                yield bytes(1 << 20)

        client = open_gateway(backend=backend, limits=CallLimits(stalls=StallLimits(ends_later_s=0.0)))
        call = client.call("CopyFile")(b"", timeout=60)
        assert ended.wait(T)
        wait_until(lambda: client.gateway.running_calls == 0, "the thread is free again")
        assert error_of(lambda: list(call)).code() is grpc.StatusCode.CANCELLED
        assert client.counted == [("grpc.CopyFile", "backend", "DEADLINE_EXCEEDED")]

    @pytest.mark.slow
    def test_a_stream_of_requests_that_stops_is_ended(self, backend, open_gateway):
        """Slow: stalled calls are looked for once a second, and the call must be at the backend by then."""
        broken = threading.Event()

        @backend.on("ReceiveFile")
        def behavior(requests, context):
            context.add_callback(broken.set)
            return b"%d" % sum(1 for _ in requests)

        client = open_gateway(backend=backend, limits=CallLimits(stalls=StallLimits(ends_later_s=0.0)))
        go_on = threading.Event()
        requests = (item if isinstance(item, bytes) else item.wait(T) for item in (b"first", go_on))
        call = client.call("ReceiveFile").future(requests, timeout=60)
        assert call.code() is grpc.StatusCode.CANCELLED
        assert broken.wait(T)
        go_on.set()
        wait_until(lambda: client.gateway.running_calls == 0, "every thread is free again")

    @pytest.mark.slow
    def test_a_follower_that_waits_for_news_is_not_ended(self, backend, open_gateway):
        """The server has nothing to send: its client reads every message. Slow: stalled calls are looked for once a
        second, and the follower's first message must be there by then.
        """
        go_on = threading.Event()

        @backend.on("VolumeTailSender")
        def behavior(request, context):
            yield b"first"
            assert go_on.wait(T)
            yield b"last"

        client = open_gateway(
            backend=backend, limits=CallLimits(stalls=StallLimits(ends_first_s=0.0, ends_later_s=60.0))
        )
        call = client.call("VolumeTailSender")(b"", timeout=60)
        assert next(call) == b"first"
        silent = silent_call(client)
        assert error_of(silent.result).code() is grpc.StatusCode.CANCELLED
        go_on.set()
        assert list(call) == [b"last"]


class TestBoundedTexts:
    def test_what_a_caller_sent_is_not_repeated_whole(self, open_gateway):
        def handler(context, request):
            raise RpcFailure(f"no volume of {request.collection}!")

        client = serve(open_gateway, "VolumeMount", lambda context, request: handler(context, pb.CopyFileRequest()))
        assert error_of(lambda: client.call("VolumeMount")(b"", timeout=T)).details() == "no volume of !"
        client = serve(open_gateway, "CopyFile", handler)
        for letter in ("x", "\N{SNOWMAN}", "%"):
            request = pb.CopyFileRequest(collection=letter * 1_000_000).SerializeToString()
            error = error_of(lambda request=request: list(client.call("CopyFile")(request, timeout=T)))
            assert error.code() is grpc.StatusCode.UNKNOWN
            assert error.details().startswith("no volume of " + letter * 200)
            assert error.details().endswith(letter * 100 + "!")
            assert len(error.details()) < 4200

    def test_the_first_message_of_a_stream_is_small_and_the_others_may_be_large(self, open_gateway):
        def handler(context, requests):
            return pb.ReceiveFileResponse(bytes_written=sum(len(one.file_content) for one in requests))

        large = pb.ReceiveFileRequest(file_content=bytes(16 << 20)).SerializeToString()
        client = serve(open_gateway, "ReceiveFile", handler)
        answer = client.call("ReceiveFile")(iter([b"", large]), timeout=T)
        assert pb.ReceiveFileResponse.FromString(answer).bytes_written == 16 << 20
        error = error_of(lambda: client.call("ReceiveFile")(iter([large]), timeout=T))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    def test_a_large_message_where_none_belongs_is_refused(self, backend, open_gateway):
        client = open_gateway(backend=backend)
        error = error_of(lambda: client.call("Ping")(bytes((16 << 20) + 1), timeout=T))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == "grpc: received message larger than max (16777217 vs. 16777216)"
        assert backend.seen == []


PROBE_LIMIT_S = 2.0


class TestDrain:
    def test_running_calls_finish_and_new_ones_are_refused(self, backend, open_gateway):
        begun, go_on = threading.Event(), threading.Event()

        @backend.on("Ping")
        def behavior(request, context):
            begun.set()
            assert go_on.wait(T)
            return b"pong"

        client = open_gateway(backend=backend)
        call = client.call("Ping").future(b"", timeout=T)
        assert begun.wait(T)
        drain = threading.Thread(target=client.gateway.drain, args=(T,))
        drain.start()
        wait_until(lambda: is_refused(client), "new calls are refused")
        go_on.set()
        assert call.result() == b"pong"
        drain.join(T)
        assert not drain.is_alive()

    def test_what_does_not_finish_is_cancelled(self, backend, open_gateway):
        ended = threading.Event()

        @backend.on("VolumeTailSender")
        def behavior(request, context):
            context.add_callback(ended.set)
            yield b"1"
            assert ended.wait(T)

        client = open_gateway(backend=backend)
        call = client.call("VolumeTailSender")(b"", timeout=T)
        assert next(call) == b"1"
        client.gateway.drain(0.05)
        assert error_of(lambda: next(call)).code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert ended.wait(T)


def is_refused(client) -> bool:
    """Whether a new call is refused. grpcio may leave one that comes in the very moment of the stop without an answer
    (docs/policy/grpc.md).
    """
    try:
        client.call("GetState")(b"", timeout=PROBE_LIMIT_S)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False
