"""State, status, leave and ping."""

from __future__ import annotations

import itertools
import os
import threading

import grpc
import pytest
from support.grpc_nodes import FakeMasters, make_context, make_node

from native_handlers.grpc import control
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.memory import add_process_memory, own_memory_status
from native_handlers.grpc.status_text import go_code_name
from native_handlers.pb import volume_server_pb2 as pb


@pytest.fixture
def context():
    return make_context()


def test_get_state_has_a_state_even_when_nothing_is_set(tmp_path, context):
    response = control.get_state(make_node(tmp_path), context, pb.GetStateRequest())
    assert response.HasField("state")
    assert not response.state.maintenance


def test_set_state_with_and_without_flags(tmp_path, context):
    node = make_node(tmp_path)
    request = pb.SetStateRequest(state=pb.VolumeServerState(maintenance=True))
    assert control.set_state(node, context, request).state == pb.VolumeServerState(maintenance=True, version=1)
    assert control.set_state(node, context, pb.SetStateRequest()).state.version == 1


def test_volume_server_status(tmp_path, context):
    response = control.volume_server_status(make_node(tmp_path), context, pb.VolumeServerStatusRequest())
    assert (response.version, response.data_center, response.rack) == ("30GB 4.44 ", "dc1", "r1")
    assert response.HasField("state")
    [disk] = response.disk_statuses
    facts = os.statvfs(tmp_path)
    assert disk.dir == str(tmp_path)
    assert disk.disk_type == ""
    assert disk.all == facts.f_blocks * facts.f_frsize
    assert disk.used + disk.free == disk.all
    assert disk.percent_free + disk.percent_used == pytest.approx(100, abs=0.01)
    memory = response.memory_status
    assert memory.goroutines >= 1
    assert memory.all == memory.used + memory.free > memory.self > 0


def test_a_disk_that_cannot_be_asked_is_listed_all_the_same(tmp_path, context, caplog):
    node = make_node(tmp_path / "gone")
    [disk] = control.volume_server_status(node, context, pb.VolumeServerStatusRequest()).disk_statuses
    assert disk == pb.DiskStatus(dir=str(tmp_path / "gone"))
    assert "cannot be asked" in caplog.text


def test_memory_counts_threads():
    before = own_memory_status().goroutines
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait)
    thread.start()
    assert own_memory_status().goroutines == before + 1
    go_on.set()
    thread.join()


def test_memory_of_two_processes_counts_the_machine_once():
    total = pb.MemStatus(goroutines=1, all=100, used=60, free=40, self=10, heap=5, stack=1)
    add_process_memory(total, pb.MemStatus(goroutines=2, all=100, used=60, free=40, self=20, heap=7, stack=2))
    assert total == pb.MemStatus(goroutines=3, all=100, used=60, free=40, self=30, heap=12, stack=3)


def test_leave(tmp_path, context):
    left = []
    node = make_node(tmp_path, leave=lambda: left.append(1))
    for _ in range(2):
        control.volume_server_leave(node, context, pb.VolumeServerLeaveRequest())
    assert left == [1, 1]


class TestPing:
    def test_without_a_target_it_is_this_server(self, tmp_path, context):
        clock = itertools.count(100)
        node = make_node(tmp_path, clock_ns=lambda: next(clock))
        for kind in ("", "anything"):
            response = control.ping(node, context, pb.PingRequest(target_type=kind))
            assert response.remote_time_ns == 0
            assert response.stop_time_ns == response.start_time_ns + 1

    def test_a_known_master_is_asked(self, tmp_path, context):
        request = pb.PingRequest(target="127.0.0.1:9333", target_type="master")
        assert control.ping(make_node(tmp_path), context, request).remote_time_ns == 1234

    @pytest.mark.parametrize(
        ("target", "kind"),
        [("127.0.0.1:9334", "master"), ("127.0.0.1:9333", "filer"), ("127.0.0.1:9333", "volumeServer"), ("x", "")],
    )
    def test_nobody_else_is_asked(self, tmp_path, context, target, kind):
        with pytest.raises(RpcFailure, match=f"^unknown ping target {target} of type {kind}$") as caught:
            control.ping(make_node(tmp_path), context, pb.PingRequest(target=target, target_type=kind))
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT

    def test_what_is_longer_than_an_address_is_not_repeated(self, tmp_path, context):
        request = pb.PingRequest(target="127.0.0.1:9333" + "0" * 10_000_000, target_type="master" * 1_000_000)
        with pytest.raises(RpcFailure) as caught:
            control.ping(make_node(tmp_path), context, request)
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.message.startswith("unknown ping target 127.0.0.1:93330000")
        assert len(caught.value.message) < 700

    def test_a_master_that_does_not_answer(self, tmp_path, context):
        masters = FakeMasters(failure=RpcFailure("rpc error: code = Unavailable desc = x"))
        request = pb.PingRequest(target="127.0.0.1:9333", target_type="master")
        with pytest.raises(RpcFailure) as caught:
            control.ping(make_node(tmp_path, masters=masters), context, request)
        assert caught.value.message == "ping master 127.0.0.1:9333: rpc error: code = Unavailable desc = x"
        assert caught.value.code is grpc.StatusCode.UNKNOWN

    @pytest.mark.parametrize("kind", ["master", "filer", "volumeServer"])
    def test_a_type_without_a_target(self, tmp_path, context, kind):
        with pytest.raises(RpcFailure) as caught:
            control.ping(make_node(tmp_path), context, pb.PingRequest(target_type=kind))
        assert caught.value.message == (
            f"ping {kind} : rpc error: code = Unavailable desc = connection error: "
            'desc = "transport: Error while dialing: dial tcp: missing address"'
        )


def test_codes_as_go_spells_them():
    names = [go_code_name(code) for code in grpc.StatusCode]
    assert names[:5] == ["OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded"]
    assert "FailedPrecondition" in names
    assert "DataLoss" in names
