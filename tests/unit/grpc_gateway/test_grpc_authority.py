"""When a call gets its volumes, when it releases them, and when the backend executes it."""

import threading
from contextlib import nullcontext
from types import SimpleNamespace

import grpc
import pytest
import trio
from support.waiting import wait_until

from native_handlers.grpc.context import RpcFailure
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import VOLUME_SERVER_METHODS
from supervisor.authority import authority as authority_module
from supervisor.authority.authority import Authority
from supervisor.authority.form import PLAIN, Mark, Shards, VolumeForm
from supervisor.authority.outside import outside
from supervisor.gateway import grpc_volume_access
from supervisor.gateway.grpc_authority import GrpcAuthority
from supervisor.gateway.grpc_call import Call, RequestStream
from supervisor.routing.decision import Engine
from supervisor.routing.registry import ROUTES_BY_NAME, AccessKind

NATIVE, BACKEND = Engine.NATIVE, Engine.BACKEND


class Holder:
    """An engine with `volumes` open."""

    def __init__(self, volumes=()):
        self.volumes = set(volumes)

    def form_of(self, volume_id):
        return PLAIN if volume_id in self.volumes else None

    def close_volume(self, volume_id, _form):
        self.volumes.remove(volume_id)

    def open_volume(self, volume_id, _form):
        self.volumes.add(volume_id)


class Requests:
    """One message, which may be returned again."""

    def __init__(self, message):
        self._message = message

    def only(self):
        return self._message

    def give_back(self, message):
        assert message == self._message


class PlayedRunner:
    """Answers as set. `calls` counts; `during` runs for each message."""

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
        self.forgotten = []
        self.authority = Authority(holders, lambda _: nullcontext(lambda: None), lambda: True, self.forgotten.append)
        self.backend = PlayedRunner("backend")
        self.bound, self.is_active, self.is_in_maintenance = set(), True, False
        model = SimpleNamespace(snapshot=self.snapshot)
        self.grpc = GrpcAuthority(self.authority, model, self.bound.__contains__, self.backend, self.check_maintenance)

    @staticmethod
    def snapshot():
        """Volume 3 is a regular one, and 4 an erasure-coded one."""
        return SimpleNamespace(volumes={}, ec_shards={(0, 4): None}, volume_ids={3}, all_ids={3, 4})

    def cancel(self):
        self.is_active = False

    def check_maintenance(self):
        if self.is_in_maintenance:
            raise RpcFailure("in maintenance")

    def run(self, name, request, runner, engine=NATIVE):
        """An iterator over the answers."""
        method = VOLUME_SERVER_METHODS[name]
        context = SimpleNamespace(time_remaining=lambda: 5.0, is_active=lambda: self.is_active, cancel=self.cancel)
        route = ROUTES_BY_NAME[f"grpc.{name}"]
        call = Call(route, method, Requests(request.SerializeToString()), context, None, (), "")
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
            ticket = self.authority.enter_blocking(volume_id, engine, AccessKind.VOLUME_READ, 0.25)
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


@pytest.mark.slow
def test_a_call_has_its_volume_to_the_last_message(scene):
    """Slow: waits a quarter of a second to see that the volume stays."""
    answers = scene.run("VolumeTailSender", pb.VolumeTailSenderRequest(volume_id=3), PlayedRunner("native"))
    assert next(answers) == b"1"
    assert scene.native.volumes == {3}
    assert not scene.can_go_to(BACKEND)
    assert list(answers) == [b"2"]
    assert scene.can_go_to(BACKEND)


@pytest.mark.parametrize("engine", [NATIVE, BACKEND])
@pytest.mark.parametrize("name", ["VolumeDelete", "VolumeUnmount"])
def test_a_volume_that_a_call_takes_away_is_told_of(scene, engine, name):
    request = getattr(pb, f"{name}Request")(volume_id=3)
    with pytest.raises(RpcFailure):
        list(scene.run(name, request, PlayedRunner("x", failure=failure(grpc.StatusCode.UNKNOWN)), engine))
    list(scene.run("VolumeMount", pb.VolumeMountRequest(volume_id=4), PlayedRunner("x"), engine))
    assert scene.forgotten == []
    list(scene.run(name, request, PlayedRunner("x"), engine))
    assert scene.forgotten == [3]


@pytest.mark.parametrize("name", ["CopyFile", "VolumeIncrementalCopy"])
def test_a_stream_that_has_opened_its_files_lets_the_volume_go(scene, name):
    answers = scene.run(name, getattr(pb, f"{name}Request")(volume_id=3), PlayedRunner("native"))
    assert next(answers) == b"1"
    assert scene.can_go_to(BACKEND)
    assert list(answers) == [b"2"]


def received(scene, *messages):
    """The messages that the backend gets of an upload of a file."""
    got = []

    class Reader(PlayedRunner):
        def respond(self, call):
            got.extend(call.requests)
            return b"done"

    context = SimpleNamespace(time_remaining=lambda: 5.0, is_active=lambda: True, cancel=lambda: None)
    requests = RequestStream(iter([message.SerializeToString() for message in messages]), context, 1 << 20)
    route = ROUTES_BY_NAME["grpc.ReceiveFile"]
    call = Call(route, VOLUME_SERVER_METHODS["ReceiveFile"], requests, context, None, (), "")
    try:
        scene.grpc.guarded(route, BACKEND, Reader("backend")).respond(call)
    except RpcFailure as failure:
        return len(got), failure.code, str(failure)
    return len(got), None, ""


def test_a_later_message_of_a_stream_is_about_the_same_volume(scene):
    """Go's server changes over to the volume that a second file info names, which nobody has asked for by then."""
    info = pb.ReceiveFileRequest(info=pb.ReceiveFileInfo(volume_id=3, ext=".dat"))
    other = pb.ReceiveFileRequest(info=pb.ReceiveFileInfo(volume_id=4, ext=".dat"))
    content = pb.ReceiveFileRequest(file_content=b"x")
    assert received(scene, info, content, info, content) == (4, None, "")
    text = "the call is about volume 3, and a later message about volume 4"
    assert received(scene, info, content, other, content) == (2, grpc.StatusCode.INVALID_ARGUMENT, text)
    assert scene.can_go_to(NATIVE)


@pytest.mark.slow
def test_a_stream_over_several_volumes_needs_them_to_the_end(scene):
    """Slow: waits a quarter of a second to see that the volume stays."""
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


def test_a_stream_that_waits_gets_a_volume_back_that_the_backend_kept(scene):
    def wait(call):
        with call.pausing():
            scene.vacuum("Compact")
            commits.start()

    commits = threading.Timer(0.05, scene.vacuum, ["Commit"])
    list(scene.run("VolumeTailSender", pb.VolumeTailSenderRequest(volume_id=3), PlayedRunner("native", [b"1"], wait)))
    assert scene.native.volumes == {3}


@pytest.mark.parametrize("limit_s", [0.0, 30.0])
def test_a_stream_whose_volume_is_kept_from_it_ends_with_unavailable(scene, limit_s, monkeypatch):
    """After a while, or as soon as no caller wants the result any more."""
    monkeypatch.setattr(grpc_volume_access, "TAKE_BACK_LIMIT_S", limit_s)

    def wait(call):
        with call.pausing():
            scene.vacuum("Compact")
            scene.is_active = limit_s == 0.0

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
    scene.is_in_maintenance = True
    with pytest.raises(RpcFailure, match="in maintenance"):
        scene.vacuum("Commit")
    assert scene.can_go_to(NATIVE)


def test_a_commit_of_a_volume_that_is_not_there_says_so(scene):
    request = pb.VacuumVolumeCommitRequest(volume_id=99)
    with pytest.raises(RpcFailure, match="volume id 99 is not found during commit compact"):
        list(scene.run("VacuumVolumeCommit", request, PlayedRunner("backend"), BACKEND))


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
    scene.native.open_volume = lambda volume_id, given: (scene.native.volumes.add(volume_id), marks.append(given.mark))
    request = pb.VolumeMarkReadonlyRequest(volume_id=3, **fields)
    list(scene.run("VolumeMarkReadonly", request, PlayedRunner("backend"), BACKEND))
    assert scene.can_go_to(NATIVE)
    assert scene.can_go_to(BACKEND)
    list(scene.run("VolumeMarkWritable", pb.VolumeMarkWritableRequest(volume_id=3), PlayedRunner("backend"), BACKEND))
    assert scene.can_go_to(NATIVE)
    assert marks == [mark, Mark.WRITABLE]


@pytest.mark.slow
def test_a_call_that_waits_for_another_server_lets_its_volumes_go_meanwhile(scene):
    """Slow: waits twice to see that the volume stays."""
    seen = []

    def during(_call):
        with outside():
            seen.append(scene.can_go_to(BACKEND))
        seen.append((scene.can_go_to(BACKEND), scene.native.volumes))

    request = pb.BatchDeleteRequest(file_ids=["3,01637037d6"])
    assert list(scene.run("BatchDelete", request, PlayedRunner("native", during=during))) == [b"12"]
    assert seen == [True, (False, {3})] * 2
    assert scene.can_go_to(BACKEND)


def test_a_call_that_does_not_get_its_volume_again_ends(scene, monkeypatch):
    monkeypatch.setattr(grpc_volume_access, "TAKE_BACK_LIMIT_S", 0.05)
    tickets = []

    def during(_call):
        with outside():
            tickets.append(scene.authority.enter_blocking(3, BACKEND, AccessKind.VOLUME_WRITE, 5.0, is_long=True))

    request = pb.BatchDeleteRequest(file_ids=["3,01637037d6"])
    with pytest.raises(RpcFailure) as caught:
        list(scene.run("BatchDelete", request, PlayedRunner("native", during=during)))
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    scene.authority.leave(tickets[0])
    assert scene.can_go_to(NATIVE)


def test_a_call_about_shards_that_no_engine_has_open_is_the_backends(scene):
    request = pb.VolumeEcShardsMountRequest(recover_missing_index=True)
    native = PlayedRunner("native")
    list(scene.run("VolumeEcShardsMount", request, native))
    assert (native.calls, scene.backend.calls) == (0, 1)


def test_the_disk_type_of_a_mount_goes_with_the_shards(scene):
    forms = []
    scene.child.form_of = lambda _volume_id: VolumeForm(False, shards=Shards("", (1,)))
    scene.native.open_volume = lambda _volume_id, form: forms.append(form)
    scene.child.close_volume = lambda _volume_id, _form: None
    request = pb.VolumeEcShardsMountRequest(volume_id=3, shard_ids=[1], source_disk_type="ssd")
    list(scene.run("VolumeEcShardsMount", request, PlayedRunner("backend"), BACKEND))
    assert scene.can_go_to(NATIVE)
    assert [form.shards for form in forms] == [Shards("", (1,), "ssd")]


@pytest.mark.parametrize(("name", "volume_id"), [("ScrubVolume", 3), ("ScrubEcVolume", 4)])
@pytest.mark.slow
def test_a_scrub_of_everything_takes_one_volume_at_a_time(scene, name, volume_id):
    """Slow: waits a quarter of a second to see that the volume stays."""
    seen = []

    def during(call):
        assert list(call.volume_ids) == [volume_id]
        seen.append((scene.can_go_to(BACKEND, 3), scene.can_go_to(BACKEND, 4)))
        with call.taking(volume_id):
            seen.append((set(scene.native.volumes), scene.can_go_to(BACKEND, volume_id)))
        seen.append(scene.can_go_to(BACKEND, volume_id))

    request = getattr(pb, f"{name}Request")()
    list(scene.run(name, request, PlayedRunner("native", [b"1"], during)))
    assert seen == [(True, True), ({volume_id}, False), True]


def test_a_scrub_keeps_no_volume_while_it_reads_and_holds_no_start_of_the_backend_back(scene):
    def during(call):
        with call.taking(3):
            trio.run(scene.authority.before_backend_start)
        trio.run(scene.authority.before_backend_ready)
        with call.taking(3, changes=True):
            assert scene.native.volumes == {3}

    request = pb.ScrubVolumeRequest(volume_ids=[3, 4])
    assert list(scene.run("ScrubVolume", request, PlayedRunner("native", [b"1"], during))) == [b"1"]


def test_the_backend_scrubs_where_it_keeps_one_of_the_volumes(scene):
    native = PlayedRunner("native")
    scene.vacuum("Compact")
    list(scene.run("ScrubVolume", pb.ScrubVolumeRequest(), native))
    list(scene.run("ScrubEcVolume", pb.ScrubEcVolumeRequest(), PlayedRunner("native", [b"1"])))
    assert (native.calls, scene.backend.calls) == (0, 1)


def test_a_scrub_waits_for_a_volume_that_cannot_be_had_yet(scene, monkeypatch):
    monkeypatch.setattr(grpc_volume_access, "TURN_ATTEMPT_S", 0.01)

    def during(call):
        scene.vacuum("Compact")
        commits.start()
        with call.taking(3):
            assert scene.native.volumes == {3}

    commits = threading.Timer(0.05, scene.vacuum, ["Commit"])
    request = pb.ScrubVolumeRequest()
    assert list(scene.run("ScrubVolume", request, PlayedRunner("native", [b"1"], during))) == [b"1"]


@pytest.mark.parametrize("limit_s", [0.0, 600.0])
def test_a_scrub_that_does_not_get_a_volume_ends_with_unavailable(scene, limit_s, monkeypatch):
    """After a while, or as soon as no caller wants the result any more."""
    monkeypatch.setattr(grpc_volume_access, "TURN_ATTEMPT_S", 0.01)
    monkeypatch.setattr(grpc_volume_access, "TURN_LIMIT_S", limit_s)

    def during(call):
        scene.vacuum("Compact")
        scene.is_active = limit_s == 0.0
        with call.taking(3):
            raise AssertionError("the backend keeps it")

    with pytest.raises(RpcFailure) as caught:
        list(scene.run("ScrubVolume", pb.ScrubVolumeRequest(), PlayedRunner("native", [b"1"], during)))
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.slow
def test_a_scrub_of_shards_gives_its_volume_up_while_it_waits_for_another_server(scene):
    """Slow: waits a quarter of a second to see that the volume stays."""
    seen = []

    def during(call):
        with call.taking(4):
            with outside():
                seen.append(scene.can_go_to(BACKEND, 4))
            seen.append(scene.can_go_to(BACKEND, 4))

    list(scene.run("ScrubEcVolume", pb.ScrubEcVolumeRequest(), PlayedRunner("native", [b"1"], during)))
    assert seen == [True, False]


def test_a_long_native_change_is_ended_where_the_backend_is_to_start(scene, monkeypatch):
    """As by a client that cancels. One that is short is waited for."""
    monkeypatch.setattr(authority_module, "CHANGES_END_WITHIN_S", 0.01)
    thread = threading.Thread(target=trio.run, args=[scene.authority.before_backend_start])

    def compact(call):
        thread.start()
        wait_until(lambda: not call.context.is_active(), "the compaction to be ended")

    request = pb.VacuumVolumeCompactRequest(volume_id=3)
    list(scene.run("VacuumVolumeCompact", request, PlayedRunner("native", [b"1"], compact)))
    thread.join()


def test_what_a_short_call_changes_is_waited_for_and_not_ended(scene, monkeypatch):
    monkeypatch.setattr(authority_module, "CHANGES_END_WITHIN_S", 0.01)
    thread = threading.Thread(target=trio.run, args=[scene.authority.before_backend_start])

    def commit(call):
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        assert call.context.is_active()

    request = pb.VacuumVolumeCommitRequest(volume_id=3)
    list(scene.run("VacuumVolumeCommit", request, PlayedRunner("native", [b"1"], commit)))
    thread.join()
