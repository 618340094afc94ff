"""A vacuum, step by step, as a master makes it, during reads and writes."""

import contextlib
import threading

import grpc
import pytest
from harness.calls import code_and_text
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb import volume_server_pb2 as pb

pytestmark = pytest.mark.native_rpcs

only_native = pytest.mark.only(lambda implementation: implementation.mode == "native")


def check(server, volume_id):
    request = pb.VacuumVolumeCheckRequest(volume_id=volume_id)
    return server.rpc.VacuumVolumeCheck(request, timeout=LIMIT_S).garbage_ratio


def compact(server, volume_id):
    return list(server.rpc.VacuumVolumeCompact(pb.VacuumVolumeCompactRequest(volume_id=volume_id), timeout=LIMIT_S))


def commit(server, volume_id):
    return server.rpc.VacuumVolumeCommit(pb.VacuumVolumeCommitRequest(volume_id=volume_id), timeout=LIMIT_S)


def cleanup(server, volume_id):
    return server.rpc.VacuumVolumeCleanup(pb.VacuumVolumeCleanupRequest(volume_id=volume_id), timeout=LIMIT_S)


def sync_status(server, volume_id):
    return server.rpc.VolumeSyncStatus(pb.VolumeSyncStatusRequest(volume_id=volume_id), timeout=LIMIT_S)


STEPS = {"check compact": check, "compact": compact, "commit compact": commit, "cleaning up": cleanup}


def with_garbage(server, count=20, size_bytes=3000, **fields):
    """A volume of which half was deleted, and the rest by file id."""
    volume_id = server.new_volume(**fields)
    files = {server.new_fid(volume_id): b"%02d;" % number * (size_bytes // 3) for number in range(count)}
    for fid, data in files.items():
        server.store(data, [("Content-Type", "application/octet-stream")], fid=fid)
    for fid in list(files)[: count // 2]:
        assert server.http("DELETE", f"/{fid}").status == 202
        del files[fid]
    return volume_id, files


def temporary(server, volume_id):
    """The files of an unfinished vacuum."""
    return sorted(path.suffix for path in server.data_dir.glob(f"{volume_id}.cp?"))


def assert_stored(server, files):
    assert {fid: server.read(fid).body for fid in files} == files


@contextlib.contextmanager
def reading(server, files):
    """Inside, a client reads all of `files` without a pause. Each read must find its file."""
    stop, misses, wanted = threading.Event(), [], dict(files)
    rounds = []

    def read():
        while not stop.is_set():
            misses.extend(fid for fid, data in wanted.items() if server.read(fid).body != data)
            rounds.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wait_until(lambda: rounds, "a first round")
        yield
        before = len(rounds)
        wait_until(lambda: len(rounds) > before + 1, "a round afterwards")
    finally:
        stop.set()
        reader.join()
    assert misses == []


def test_garbage_goes_and_the_rest_stays(server):
    volume_id, files = with_garbage(server)
    vif = (server.data_dir / f"{volume_id}.vif").read_bytes()
    before = sync_status(server, volume_id)
    assert check(server, volume_id) == pytest.approx(0.5)
    with reading(server, files):
        compact(server, volume_id)
        assert temporary(server, volume_id) == [".cpd", ".cpx"]
        answer = commit(server, volume_id)
    after = sync_status(server, volume_id)
    assert not answer.is_read_only
    assert answer.volume_size == after.tail_offset == (server.data_dir / f"{volume_id}.dat").stat().st_size
    assert after.tail_offset < before.tail_offset * 0.6
    assert after.idx_file_size == len(files) * 16
    assert (before.compact_revision, after.compact_revision) == (0, 1)
    assert check(server, volume_id) == 0
    assert temporary(server, volume_id) == []
    assert (server.data_dir / f"{volume_id}.vif").read_bytes() == vif
    assert_stored(server, files)
    fid = server.store(b"written afterwards", fid=server.new_fid(volume_id))
    assert server.read(fid).body == b"written afterwards"


def test_what_changes_between_the_steps_is_carried_over(server):
    volume_id, files = with_garbage(server)
    compact(server, volume_id)
    added = {server.new_fid(volume_id): b"added %d" % number for number in range(30)}
    for fid, data in added.items():
        server.store(data, fid=fid)
    gone, over, *_ = files
    assert server.http("DELETE", f"/{gone}").status == 202
    del files[gone]
    server.store(b"another content", fid=over)
    short_lived = server.store(b"x", fid=server.new_fid(volume_id))
    assert server.http("DELETE", f"/{short_lived}").status == 202
    commit(server, volume_id)
    files |= added | {over: b"another content"}
    assert_stored(server, files)
    assert [server.read(fid).status for fid in (gone, short_lived)] == [404, 404]
    again = server.store(b"once more", fid=gone)
    assert server.read(again).body == b"once more"


def test_a_second_vacuum_finds_what_the_first_carried_over(server):
    volume_id, files = with_garbage(server)
    for revision in (1, 2):
        compact(server, volume_id)
        fid = next(iter(files))
        assert server.http("DELETE", f"/{fid}").status == 202
        del files[fid]
        commit(server, volume_id)
        assert sync_status(server, volume_id).compact_revision == revision
    assert_stored(server, files)


def test_a_copy_that_is_not_wanted_is_removed(server):
    volume_id, files = with_garbage(server)
    compact(server, volume_id)
    cleanup(server, volume_id)
    assert temporary(server, volume_id) == []
    cleanup(server, volume_id)
    assert sync_status(server, volume_id).compact_revision == 0
    assert_stored(server, files)


@only_native
def test_a_commit_without_a_copy_leaves_the_volume_open(server):
    """Upstream leaves the volume without its files until the next mount."""
    volume_id, files = with_garbage(server)
    code, text = code_and_text(lambda: commit(server, volume_id))
    assert (code, text) == (grpc.StatusCode.UNKNOWN, f"volume {volume_id} compact swap aborted: missing .cpd/.cpx")
    assert_stored(server, files)


def test_a_read_only_volume_is_compacted_and_stays_so(server):
    volume_id, files = with_garbage(server)
    server.rpc.VolumeMarkReadonly(pb.VolumeMarkReadonlyRequest(volume_id=volume_id, persist=True), timeout=LIMIT_S)
    compact(server, volume_id)
    assert commit(server, volume_id).is_read_only
    assert server.rpc.VolumeStatus(pb.VolumeStatusRequest(volume_id=volume_id), timeout=LIMIT_S).is_read_only
    assert_stored(server, files)


def test_a_full_scrub_finds_nothing_wrong_afterwards(server):
    """One engine compacts and the other scrubs: the volume changes hands in between."""
    volume_id, files = with_garbage(server)
    for _ in range(2):
        compact(server, volume_id)
        fid = server.store(b"meanwhile", fid=server.new_fid(volume_id))
        files[fid] = b"meanwhile"
        commit(server, volume_id)
        request = pb.ScrubVolumeRequest(volume_ids=[volume_id], mode=pb.VolumeScrubMode.FULL)
        found = server.rpc.ScrubVolume(request, timeout=LIMIT_S)
        assert (found.total_volumes, found.total_files) == (1, len(files))
        assert not found.broken_volume_ids, found.details
        assert_stored(server, files)


@pytest.mark.parametrize("doing", STEPS)
def test_an_absent_volume(server, doing):
    code, text = code_and_text(lambda: STEPS[doing](server, 987654))
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        assert doing == "commit compact", "a front-end knows of no compaction whose commit this could be"
        return
    assert (code, text) == (grpc.StatusCode.UNKNOWN, f"volume id 987654 is not found during {doing}")


def test_a_compacted_volume_survives_a_restart(fresh_server):
    server = fresh_server()
    volume_id, files = with_garbage(server)
    compact(server, volume_id)
    fid = server.store(b"late", fid=server.new_fid(volume_id))
    files[fid] = b"late"
    commit(server, volume_id)
    server.restart()
    assert sync_status(server, volume_id).compact_revision == 1
    assert_stored(server, files)


def test_a_copy_that_was_not_committed_does_not_outlive_the_server(fresh_server):
    server = fresh_server()
    volume_id, files = with_garbage(server)
    compact(server, volume_id)
    server.restart()
    assert temporary(server, volume_id) == []
    assert_stored(server, files)
