"""State of the child that a volume's files lack: a compaction before its commit, a mark that is not persisted. HTTP is
native and RPCs are forwarded, so each step of a vacuum or an encoding may find the volume with the other engine.
"""

import contextlib
import subprocess
import threading

import grpc
import pytest
from harness.implementations import FORWARDED_HTTP, Implementation, find_weed
from harness.server import VolumeServer
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb import methods
from native_handlers.pb import volume_server_pb2 as pb

TABLE = """
phase: 2
routes:
  "grpc.*": forward
"""


def start(backend, base, master, weed, *flags):
    """A server with native HTTP, whose RPCs go to `backend`."""
    table = base / "routes.yaml"
    table.write_text(TABLE)
    implementation = Implementation(f"unsaved-{backend}", mode="mixed", backend=backend)
    return VolumeServer(implementation, base / "server", master, weed, [f"-routes={table}", *flags])


@pytest.fixture(scope="module")
def with_go(master, weed, tmp_path_factory):
    """A server with Go as the child: only Go can vacuum and encode."""
    if weed is None:
        pytest.skip(find_weed()[1])
    server = start("go", tmp_path_factory.mktemp("unsaved-go"), master, weed)
    yield server
    assert server.stop() == 0
    assert "Traceback" not in (server.base / "server.log").read_text()


@pytest.fixture(scope="module", params=["native", "go"])
def shared(request, master, weed, tmp_path_factory):
    """A server with either child."""
    if request.param == "go":
        yield request.getfixturevalue("with_go")
        return
    server = start("native", tmp_path_factory.mktemp("unsaved-native"), master, weed)
    yield server
    assert server.stop() == 0
    assert "Traceback" not in (server.base / "server.log").read_text()


def compact(server, volume_id):
    list(server.rpc.VacuumVolumeCompact(pb.VacuumVolumeCompactRequest(volume_id=volume_id), timeout=LIMIT_S))


def commit(server, volume_id):
    return server.rpc.VacuumVolumeCommit(pb.VacuumVolumeCommitRequest(volume_id=volume_id), timeout=LIMIT_S)


def clean_up(server, volume_id):
    server.rpc.VacuumVolumeCleanup(pb.VacuumVolumeCleanupRequest(volume_id=volume_id), timeout=LIMIT_S)


def volume_with_garbage(server):
    """A native volume with ten files, of which three were deleted, and the contents of the rest."""
    volume_id = server.new_volume()
    files = {server.new_fid(volume_id): b"%d" % number * 2000 for number in range(10)}
    for fid, data in files.items():
        server.store(data, fid=fid)
    for fid in list(files)[:3]:
        assert server.http("DELETE", f"/{fid}").status == 202
        del files[fid]
    return volume_id, files


def size_of(server, volume_id):
    return (server.data_dir / f"{volume_id}.dat").stat().st_size


def assert_stored(server, files):
    assert {fid: server.read(fid).body for fid in files} == files


def code_of(call, *arguments):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    return caught.value.code()


def test_the_masters_own_vacuum_goes_through(with_go):
    volume_id, files = volume_with_garbage(with_go)
    before = size_of(with_go, volume_id)
    wait_until(lambda: with_go.is_known(volume_id), "the master to know the volume")
    # The first vacuum of this module: the master takes ten seconds for each volume with garbage, and answers after the
    # last one.
    asking = threading.Thread(target=ask_for_vacuum, args=(with_go.master,))
    asking.start()
    wait_until(lambda: size_of(with_go, volume_id) < before, "the vacuum to be done", 4 * LIMIT_S)
    assert_stored(with_go, files)
    asking.join()


def shell(weed, master, *commands):
    """The output of `weed shell` for `commands`."""
    lines = "\n".join(["lock", *commands, "unlock", "exit", ""])
    words = [weed, "shell", f"-master={master.address}"]
    done = subprocess.run(
        words, input=lines, capture_output=True, text=True, timeout=60, check=True, cwd=master.directory
    )
    return done.stdout + done.stderr


def test_the_shells_vacuum_goes_through_under_native_writes(with_go, weed):
    volume_id, files = volume_with_garbage(with_go)
    wait_until(lambda: with_go.is_known(volume_id), "the master to know the volume")
    with writing(with_go, volume_id, files) as refused:
        wait_until(lambda: len(files) > 10, "some writes")
        said = shell(weed, with_go.master, f"volume.vacuum -garbageThreshold=0.000001 -volumeId={volume_id}")
    assert refused == []
    request = pb.VolumeSyncStatusRequest(volume_id=volume_id)
    assert with_go.rpc.VolumeSyncStatus(request, timeout=LIMIT_S).compact_revision == 1, said
    assert_stored(with_go, files)


@contextlib.contextmanager
def writing(server, volume_id, files):
    """Inside, a client writes new files without a pause, and enters them in `files`. Yields the refused ones."""
    stop, refused = threading.Event(), []

    def write():
        while not stop.is_set():
            fid = server.new_fid(volume_id)
            if server.http("PUT", f"/{fid}", [], fid.encode()).status == 201:
                files[fid] = fid.encode()
            else:
                refused.append(fid)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield refused
    finally:
        stop.set()
        writer.join()


def test_the_shells_encoding_loses_nothing(with_go, weed):
    volume_id, files = volume_with_garbage(with_go)
    assert_stored(with_go, files)
    wait_until(lambda: with_go.is_known(volume_id), "the master to know the volume")
    said = shell(weed, with_go.master, f"ec.encode -volumeId={volume_id} -force")
    assert list(with_go.data_dir.glob(f"{volume_id}.ec00")), repr(said)
    assert not (with_go.data_dir / f"{volume_id}.dat").exists(), said
    assert_stored(with_go, files)


def ask_for_vacuum(master):
    with contextlib.suppress(TimeoutError):
        master.get("/vol/vacuum?garbageThreshold=0.01")


def test_what_is_written_between_compaction_and_commit_is_in_the_volume_after_it(with_go):
    volume_id, files = volume_with_garbage(with_go)
    before = size_of(with_go, volume_id)
    compact(with_go, volume_id)
    fid = with_go.new_fid(volume_id)
    files[fid] = b"written in between"
    with_go.store(files[fid], fid=fid)
    gone = next(iter(files))
    assert with_go.http("DELETE", f"/{gone}").status == 202
    del files[gone]
    commit(with_go, volume_id)
    assert size_of(with_go, volume_id) < before
    assert_stored(with_go, files)
    assert with_go.read(gone).status == 404
    # The volume is native again.
    again = with_go.new_fid(volume_id)
    files[again] = b"written afterwards"
    with_go.store(files[again], fid=again)
    assert_stored(with_go, files)


def test_a_compaction_that_is_cleaned_up_lets_the_volume_go(with_go):
    volume_id, files = volume_with_garbage(with_go)
    compact(with_go, volume_id)
    clean_up(with_go, volume_id)
    fid = with_go.new_fid(volume_id)
    files[fid] = b"natively"
    with_go.store(files[fid], fid=fid)
    assert code_of(commit, with_go, volume_id) is grpc.StatusCode.FAILED_PRECONDITION
    assert_stored(with_go, files)


def test_a_compaction_does_not_outlive_its_child(with_go):
    volume_id, files = volume_with_garbage(with_go)
    compact(with_go, volume_id)
    with_go.kill_child()
    wait_until(lambda: code_of_status(with_go, volume_id) is None, "the child to be back")
    fid = with_go.new_fid(volume_id)
    files[fid] = b"written after the child died"
    wait_until(lambda: with_go.http("PUT", f"/{fid}", [], files[fid]).status in {201, 204}, "writes to work")
    assert code_of(commit, with_go, volume_id) is grpc.StatusCode.FAILED_PRECONDITION
    assert_stored(with_go, files)


def code_of_status(server, volume_id):
    try:
        server.rpc.VolumeStatus(pb.VolumeStatusRequest(volume_id=volume_id), timeout=LIMIT_S)
    except grpc.RpcError as error:
        return error.code()
    return None


def test_a_volume_that_go_left_without_files_is_set_right_by_a_hand_over(with_go):
    """Go's own behaviour after a failed commit; the test provokes it at the child itself, past the gateway."""
    volume_id, files = volume_with_garbage(with_go)
    compact(with_go, volume_id)
    clean_up(with_go, volume_id)
    with with_go.open_child_channel() as channel:
        child = methods.volume_server(channel)
        with pytest.raises(grpc.RpcError):
            child.VacuumVolumeCommit(pb.VacuumVolumeCommitRequest(volume_id=volume_id), timeout=LIMIT_S)
    assert_stored(with_go, files)


def test_a_vacuum_goes_through_while_clients_write_and_read(with_go):
    volume_id, files = volume_with_garbage(with_go)
    stop, failures = threading.Event(), []

    def write():
        while not stop.is_set():
            fid = with_go.new_fid(volume_id)
            reply = with_go.http("PUT", f"/{fid}", [], fid.encode())
            if reply.status == 201:
                files[fid] = fid.encode()
            else:
                failures.append((fid, reply.status))

    def read():
        while not stop.is_set():
            fid, data = list(files.items())[-1]
            reply = with_go.read(fid)
            if reply.body != data:
                failures.append((fid, reply.status))

    threads = [threading.Thread(target=target) for target in (write, write, read)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            compact(with_go, volume_id)
            before = len(files)
            wait_until(lambda before=before: len(files) > before + 5, "writes between compaction and commit")
            commit(with_go, volume_id)
            before = len(files)
            wait_until(lambda before=before: len(files) > before + 5, "writes after the commit")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert_stored(with_go, files)


def test_an_endless_forwarded_stream_keeps_no_native_request_waiting(with_go):
    volume_id, files = volume_with_garbage(with_go)
    request = pb.VolumeTailSenderRequest(volume_id=volume_id, since_ns=0, idle_timeout_seconds=0)
    stream = with_go.rpc.VolumeTailSender(request, timeout=LIMIT_S)
    assert next(stream).needle_header
    try:
        for number in range(5):
            fid = with_go.new_fid(volume_id)
            files[fid] = b"%d while it is tailed" % number
            with_go.store(files[fid], fid=fid)
        assert_stored(with_go, files)
    finally:
        stream.cancel()
    fid = with_go.new_fid(volume_id)
    files[fid] = b"and afterwards"
    with_go.store(files[fid], fid=fid)
    assert_stored(with_go, files)


@pytest.mark.parametrize("can_delete", [False, True])
def test_a_mark_that_was_not_persisted_holds_on_both_sides(shared, can_delete):
    volume_id = shared.new_volume()
    fid = shared.store(b"x", fid=shared.new_fid(volume_id))
    request = pb.VolumeMarkReadonlyRequest(volume_id=volume_id, can_delete=can_delete)
    shared.rpc.VolumeMarkReadonly(request, timeout=LIMIT_S)
    for _ in range(2):
        assert shared.http("PUT", f"/{shared.new_fid(volume_id)}", [], b"y").status != 201
        assert shared.read(fid).body == b"x"
        status = shared.rpc.VolumeStatus(pb.VolumeStatusRequest(volume_id=volume_id), timeout=LIMIT_S)
        assert status.is_read_only
    assert (shared.http("DELETE", f"/{fid}").status == 202) == can_delete
    shared.rpc.VolumeMarkWritable(pb.VolumeMarkWritableRequest(volume_id=volume_id), timeout=LIMIT_S)
    shared.store(b"z", fid=shared.new_fid(volume_id))


def test_an_encoding_loses_nothing_that_was_acknowledged(with_go):
    """The order of `ec.encode`: mark, generate, mount the shards, delete the volume. Clients keep writing until the
    shards are mounted: later Go answers 201 to a write to a volume of which it has only shards, and stores nothing.
    """
    volume_id, files = volume_with_garbage(with_go)
    with writing(with_go, volume_id, files):
        wait_until(lambda: len(files) > 20, "some writes")
        with_go.rpc.VolumeMarkReadonly(pb.VolumeMarkReadonlyRequest(volume_id=volume_id), timeout=LIMIT_S)
        with_go.rpc.VolumeEcShardsGenerate(pb.VolumeEcShardsGenerateRequest(volume_id=volume_id), timeout=LIMIT_S)
        assert with_go.read(next(iter(files))).status == 200
        assert with_go.http("PUT", f"/{with_go.new_fid(volume_id)}", [], b"late").status != 201
    mount = pb.VolumeEcShardsMountRequest(volume_id=volume_id, shard_ids=range(14))
    with_go.rpc.VolumeEcShardsMount(mount, timeout=LIMIT_S)
    assert_stored(with_go, files)
    with_go.rpc.VolumeDelete(pb.VolumeDeleteRequest(volume_id=volume_id), timeout=LIMIT_S)
    assert_stored(with_go, files)


@pytest.fixture(scope="module")
def with_native_rpcs(master, weed, tmp_path_factory):
    """The other way round: Go reads and writes, and RPCs are native."""
    if weed is None:
        pytest.skip(find_weed()[1])
    server = VolumeServer(FORWARDED_HTTP, tmp_path_factory.mktemp("unsaved-rpcs"), master, weed)
    yield server
    assert server.stop() == 0
    assert "Traceback" not in (server.base / "server.log").read_text()


def test_a_native_vacuum_of_what_go_writes(with_native_rpcs):
    server = with_native_rpcs
    volume_id, files = volume_with_garbage(server)
    before = size_of(server, volume_id)
    compact(server, volume_id)
    commit(server, volume_id)
    assert size_of(server, volume_id) < before
    assert_stored(server, files)
    fid = server.new_fid(volume_id)
    files[fid] = b"written by Go afterwards"
    server.store(files[fid], fid=fid)
    assert_stored(server, files)


def test_what_go_writes_in_the_midst_of_a_native_vacuum_ends_the_vacuum(with_native_rpcs):
    """A native compaction does not outlive a hand-over; the volume is as it was, with what was written."""
    server = with_native_rpcs
    volume_id, files = volume_with_garbage(server)
    before = size_of(server, volume_id)
    compact(server, volume_id)
    fid = server.new_fid(volume_id)
    files[fid] = b"written in between"
    server.store(files[fid], fid=fid)
    with pytest.raises(grpc.RpcError):
        commit(server, volume_id)
    clean_up(server, volume_id)
    assert size_of(server, volume_id) > before
    assert_stored(server, files)
    assert not list(server.data_dir.glob(f"{volume_id}.cp?"))
    compact(server, volume_id)
    commit(server, volume_id)
    assert size_of(server, volume_id) < before
    assert_stored(server, files)
