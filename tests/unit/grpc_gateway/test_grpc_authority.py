"""When a call has its volumes, when it lets them go, and when the backend is to execute it."""

from contextlib import nullcontext
from types import SimpleNamespace

import grpc
import pytest

from native_handlers.grpc.context import RpcFailure
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import VOLUME_SERVER_METHODS
from supervisor.authority.authority import Authority
from supervisor.authority.ledger import Mark
from supervisor.gateway.grpc_authority import GrpcAuthority
from supervisor.gateway.grpc_call import Call
from supervisor.routing.decision import Engine
from supervisor.routing.registry import ROUTES_BY_NAME, AccessKind

NATIVE, BACKEND = Engine.NATIVE, Engine.BACKEND


class Holder:
    """An engine with `volumes` open."""

    def __init__(self, volumes=()):
        self.volumes = set(volumes)

    def mark_of(self, volume_id):
        return Mark.WRITABLE if volume_id in self.volumes else None

    def close_volume(self, volume_id):
        self.volumes.remove(volume_id)

    def open_volume(self, volume_id, _mark):
        self.volumes.add(volume_id)


class Requests:
    """One message, which may be given back."""

    def __init__(self, message):
        self._message = message

    def only(self):
        return self._message

    def give_back(self, message):
        assert message == self._message


class PlayedRunner:
    """Answers as told. `calls` counts; `during` is run for each message."""

    def __init__(self, name, messages=(b"1", b"2"), during=lambda _call: None, failure=None):
        self.name = name
        self.messages, self.during, self.failure = messages, during, failure
        self.calls = 0

    def respond(self, call):
        return b"".join(self.stream(call))

    def stream(self, call):
        self.calls += 1
        for message in self.messages:
            self.during(call)
            yield message
        if self.failure is not None:
            raise self.failure


class Scene:
    def __init__(self):
        self.native, self.child = Holder(), Holder({3, 4})
        holders = {NATIVE: self.native, BACKEND: self.child}
        self.authority = Authority(holders, lambda _: nullcontext(), lambda: True)
        self.backend = PlayedRunner("backend")
        self.bound = set()
        model = SimpleNamespace(snapshot=lambda: SimpleNamespace(volumes={}, volume_ids={3, 4}))
        self.grpc = GrpcAuthority(self.authority, model, self.bound.__contains__, self.backend)

    def run(self, name, request, runner, engine=NATIVE):
        """An iterator over the answers."""
        method = VOLUME_SERVER_METHODS[name]
        context = SimpleNamespace(time_remaining=lambda: 5.0)
        route = ROUTES_BY_NAME[f"grpc.{name}"]
        call = Call(route.name, method, Requests(request.SerializeToString()), context, None, (), "")
        self.guarded = self.grpc.guarded(route, engine, runner)
        if method.server_streaming:
            return self.guarded.stream(call)
        return iter([self.guarded.respond(call)])

    def vacuum(self, step, failure=None):
        request = getattr(pb, f"VacuumVolume{step}Request")(volume_id=3)
        return list(self.run(f"VacuumVolume{step}", request, PlayedRunner("backend", failure=failure), BACKEND))

    def can_go_to(self, engine, volume_id=3):
        """Whether an operation of `engine` gets the volume now."""
        try:
            ticket = self.authority.enter_blocking(volume_id, engine, AccessKind.VOLUME_READ, 0.05)
        except Exception:  # noqa: BLE001  refused or sent elsewhere
            return False
        self.authority.leave(ticket)
        return True


@pytest.fixture
def scene():
    made = Scene()
    yield made
    made.authority.close()


def failure(code):
    return RpcFailure("no", code)


def test_a_call_has_its_volume_to_the_last_message(scene):
    answers = scene.run("VolumeTailSender", pb.VolumeTailSenderRequest(volume_id=3), PlayedRunner("native"))
    assert next(answers) == b"1"
    assert scene.native.volumes == {3}
    assert not scene.can_go_to(BACKEND)
    assert list(answers) == [b"2"]
    assert scene.can_go_to(BACKEND)


@pytest.mark.parametrize("name", ["CopyFile", "VolumeIncrementalCopy"])
def test_a_stream_that_has_opened_its_files_lets_the_volume_go(scene, name):
    answers = scene.run(name, getattr(pb, f"{name}Request")(volume_id=3), PlayedRunner("native"))
    assert next(answers) == b"1"
    assert scene.can_go_to(BACKEND)
    assert list(answers) == [b"2"]


def test_a_stream_over_several_volumes_needs_them_to_the_end(scene):
    answers = scene.run("ReadAllNeedles", pb.ReadAllNeedlesRequest(volume_ids=[3, 4]), PlayedRunner("native"))
    next(answers)
    assert not scene.can_go_to(BACKEND, 4)
    answers.close()
    assert scene.can_go_to(BACKEND, 4)


def test_a_stream_that_waits_gives_the_volume_up_meanwhile(scene):
    seen = []

    def wait(call):
        with call.pausing():
            seen.append(scene.can_go_to(BACKEND))
        seen.append(scene.native.volumes)

    list(scene.run("VolumeTailSender", pb.VolumeTailSenderRequest(volume_id=3), PlayedRunner("native", [b"1"], wait)))
    assert seen == [True, {3}]


def test_a_stream_whose_volume_is_kept_from_it_ends_with_unavailable(scene):
    def wait(call):
        with call.pausing():
            scene.vacuum("Compact")

    answers = scene.run(
        "VolumeTailSender", pb.VolumeTailSenderRequest(volume_id=3), PlayedRunner("native", [b"1"], wait)
    )
    with pytest.raises(RpcFailure) as caught:
        list(answers)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_the_backend_executes_what_is_about_a_volume_that_it_keeps(scene):
    native = PlayedRunner("native")
    scene.vacuum("Compact")
    fids = [f"{volume_id},01637037d6" for volume_id in (3, 4)]
    list(scene.run("BatchDelete", pb.BatchDeleteRequest(file_ids=fids), native))
    assert (native.calls, scene.backend.calls, scene.guarded.name) == (0, 1, "backend")
    scene.vacuum("Commit")
    list(scene.run("BatchDelete", pb.BatchDeleteRequest(file_ids=fids), native))
    assert (native.calls, scene.backend.calls, scene.guarded.name) == (1, 1, "native")


def test_the_backend_executes_what_is_about_a_volume_that_it_alone_can_serve(scene):
    scene.bound.add(4)
    native = PlayedRunner("native")
    list(scene.run("VolumeDelete", pb.VolumeDeleteRequest(volume_id=4), native))
    assert (native.calls, scene.backend.calls) == (0, 1)


@pytest.mark.parametrize(
    ("code", "is_pinned"),
    [
        (grpc.StatusCode.UNKNOWN, False),
        (grpc.StatusCode.UNIMPLEMENTED, False),
        (grpc.StatusCode.CANCELLED, True),
        (grpc.StatusCode.UNAVAILABLE, True),
    ],
)
def test_a_compaction_that_failed_pins_the_volume_if_it_may_still_run(scene, code, is_pinned):
    with pytest.raises(RpcFailure):
        scene.vacuum("Compact", failure(code))
    assert scene.authority.is_pinned(3) == is_pinned


def test_a_compaction_whose_client_left_pins_the_volume(scene):
    request = pb.VacuumVolumeCompactRequest(volume_id=3)
    answers = scene.run("VacuumVolumeCompact", request, PlayedRunner("backend"), BACKEND)
    next(answers)
    answers.close()
    assert scene.authority.is_pinned(3)


@pytest.mark.parametrize("step", ["Commit", "Cleanup"])
def test_the_end_of_a_vacuum_frees_the_volume_even_if_it_failed(scene, step):
    scene.vacuum("Compact")
    with pytest.raises(RpcFailure):
        scene.vacuum(step, failure(grpc.StatusCode.UNKNOWN))
    assert scene.can_go_to(NATIVE)


@pytest.mark.parametrize("name", ["VolumeUnmount", "VolumeDelete", "VolumeConfigure"])
def test_what_closes_the_volume_ends_its_compaction(scene, name):
    scene.vacuum("Compact")
    list(scene.run(name, getattr(pb, f"{name}Request")(volume_id=3), PlayedRunner("backend"), BACKEND))
    assert not scene.authority.is_pinned(3)


def test_a_commit_of_nothing_does_not_reach_the_backend(scene):
    with pytest.raises(RpcFailure) as caught:
        scene.vacuum("Commit")
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert scene.can_go_to(NATIVE)


@pytest.mark.parametrize(
    ("fields", "mark"),
    [
        ({}, Mark.READ_ONLY),
        ({"can_delete": True}, Mark.READ_ONLY_CAN_DELETE),
        ({"persist": True}, Mark.WRITABLE),
    ],
)
def test_marks_that_are_in_no_file_go_with_the_volume(scene, fields, mark):
    marks = []
    scene.native.open_volume = lambda volume_id, given: (scene.native.volumes.add(volume_id), marks.append(given))
    request = pb.VolumeMarkReadonlyRequest(volume_id=3, **fields)
    list(scene.run("VolumeMarkReadonly", request, PlayedRunner("backend"), BACKEND))
    assert scene.can_go_to(NATIVE)
    assert scene.can_go_to(BACKEND)
    list(scene.run("VolumeMarkWritable", pb.VolumeMarkWritableRequest(volume_id=3), PlayedRunner("backend"), BACKEND))
    assert scene.can_go_to(NATIVE)
    assert marks == [mark, Mark.WRITABLE]
