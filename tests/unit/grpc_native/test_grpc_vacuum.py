"""The four RPCs of a vacuum: the answers to a master, and the refusals."""

from __future__ import annotations

import dataclasses
import os
import threading

import grpc
import pytest
from support.grpc_nodes import failure_of, make_context, make_node

from native_handlers.format.needle import Needle
from native_handlers.grpc import vacuum, volumes
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.model.errors import NotFound
from native_handlers.storage.system.files import DiskSpace, OsFiles
from native_handlers.storage.volume.compaction import Compaction

VID, COOKIE = 7, 0xC0FFEE


@pytest.fixture
def node(directory, store):
    return make_node(directory, store)


@pytest.fixture
def context():
    return make_context()


def fill(store, count=20, size=1000):
    """A volume in which every other needle was deleted."""
    store.allocate_volume(VID)
    for needle_id in range(1, count + 1):
        store.get_volume(VID).write(Needle(needle_id=needle_id, cookie=COOKIE, data=bytes([needle_id % 256]) * size))
    for needle_id in range(1, count + 1, 2):
        store.get_volume(VID).delete(needle_id, COOKIE)


def check(node, context, volume_id=VID):
    return vacuum.vacuum_volume_check(node, context, pb.VacuumVolumeCheckRequest(volume_id=volume_id)).garbage_ratio


def compact(node, context, volume_id=VID, **fields):
    request = pb.VacuumVolumeCompactRequest(volume_id=volume_id, **fields)
    return list(vacuum.vacuum_volume_compact(node, context, request))


def commit(node, context, volume_id=VID):
    return vacuum.vacuum_volume_commit(node, context, pb.VacuumVolumeCommitRequest(volume_id=volume_id))


def cleanup(node, context, volume_id=VID):
    return vacuum.vacuum_volume_cleanup(node, context, pb.VacuumVolumeCleanupRequest(volume_id=volume_id))


STEPS = {"check": check, "compact": compact, "commit": commit, "cleanup": cleanup}
ABSENT = {"check": "check compact", "compact": "compact", "commit": "commit compact", "cleanup": "cleaning up"}


def temporary(directory):
    return sorted(path.name for path in directory.iterdir() if path.suffix in {".cpd", ".cpx", ".cpc"})


def test_a_vacuum_as_a_master_makes_it(node, context, store, directory):
    fill(store)
    events = []
    store.add_listener(events.append)
    assert check(node, context) == 0.5
    assert compact(node, context) == []
    assert temporary(directory) == ["7.cpd", "7.cpx"]
    answer = commit(node, context)
    assert not answer.is_read_only
    assert answer.volume_size == (directory / "7.dat").stat().st_size < 11_000
    assert check(node, context) == 0
    assert cleanup(node, context) == pb.VacuumVolumeCleanupResponse()
    assert temporary(directory) == []
    assert events == [VID]
    status = volumes.volume_sync_status(node, context, pb.VolumeSyncStatusRequest(volume_id=VID))
    assert (status.compact_revision, status.tail_offset) == (1, answer.volume_size)
    assert store.get_volume(VID).read(2, cookie=COOKIE).needle.data == b"\2" * 1000
    with pytest.raises(NotFound):
        store.get_volume(VID).read(1, cookie=COOKIE)


def test_garbage_of_deletions_whose_sizes_are_unknown(store):
    fill(store)
    report = store.find_volume(VID).report()
    lost = dataclasses.replace(report, delete_count=1, deleted_byte_count=0, content_size_bytes=50, size_bytes=100)
    assert vacuum.garbage_ratio(lost) == 0.42
    assert vacuum.garbage_ratio(dataclasses.replace(lost, content_size_bytes=0)) == 0


@pytest.mark.parametrize("step", STEPS)
def test_an_absent_volume_is_named_as_upstream_names_it(node, context, step):
    failure = failure_of(lambda: STEPS[step](node, context, 99))
    assert (failure.code, failure.message) == (
        grpc.StatusCode.UNKNOWN,
        f"volume id 99 is not found during {ABSENT[step]}",
    )


@pytest.mark.parametrize("step", ["compact", "commit", "cleanup"])
def test_maintenance_comes_before_the_lookup(node, context, step):
    node.state.now.maintenance = True
    failure = failure_of(lambda: STEPS[step](node, context, 99))
    assert failure.message == "volume server node-1 is in maintenance mode"


def test_progress_is_told_for_each_part_of_the_file(node, context, store, monkeypatch):
    fill(store, count=40, size=100_000)
    monkeypatch.setattr(vacuum, "REPORT_BYTES", 1 << 20)
    told = compact(node, context)
    assert [one.processed_bytes for one in told] == sorted(one.processed_bytes for one in told)
    assert len(told) == 2, "4 MB, whose batches end every half"
    assert told[0].load_avg_1m == pytest.approx(os.getloadavg()[0] / os.cpu_count(), abs=5)


def test_a_client_that_goes_ends_it_and_nothing_is_left(node, context, store, directory):
    fill(store, count=40, size=100_000)
    is_gone = []
    context.add_callback = lambda callback: is_gone.append(callback) or True
    answers = vacuum.vacuum_volume_compact(node, context, pb.VacuumVolumeCompactRequest(volume_id=VID))
    next_batch = threading.Event()

    def leave(_written):
        is_gone[0]()
        next_batch.set()

    volume = store.find_volume(VID)
    real = volume.compaction.run
    volume.compaction.run = lambda options: real(dataclasses.replace(options, pace=leave))
    failure = failure_of(lambda: list(answers))
    assert failure.message == "compaction of volume 7: interrupted"
    assert next_batch.is_set()
    assert temporary(directory) == []


def test_a_client_that_is_gone_already_has_nothing_done(node, context, store, directory):
    fill(store)
    context.add_callback = lambda _callback: False
    assert compact(node, context) == []
    assert temporary(directory) == []


def test_the_pace_is_that_of_the_flag(node, context, store, monkeypatch):
    fill(store, count=40, size=100_000)
    pauses = []
    facts = dataclasses.replace(node.facts, compaction_bytes_per_s=1 << 20)
    slow = dataclasses.replace(node, facts=facts)

    def pause(_compaction, seconds, is_wanted):
        assert is_wanted()
        pauses.append(seconds)

    monkeypatch.setattr(Compaction, "pause", pause)
    compact(slow, context)
    assert 1 < sum(pauses[-1:]) < 2.1, "some 2 MB, none of whose pauses was made"


def test_a_commit_without_a_copy_changes_nothing(node, context, store):
    fill(store)
    before = store.find_volume(VID).size_bytes
    failure = failure_of(lambda: commit(node, context))
    assert failure.message == "volume 7 compact swap aborted: missing .cpd/.cpx"
    assert store.find_volume(VID).size_bytes == before
    assert store.get_volume(VID).read(2, cookie=COOKIE).needle.data == b"\2" * 1000


def test_a_server_that_stops_commits_nothing(node, context, store):
    fill(store)
    compact(node, context)
    stopping = dataclasses.replace(node, is_stopping=lambda: True)
    failure = failure_of(lambda: commit(stopping, context))
    assert failure.message == "volume id 7 skips compact because volume is stopping"


def test_the_answer_tells_whether_it_took_writes(node, context, store):
    fill(store)
    compact(node, context)
    store.mark_readonly(store.get_volume(VID))
    assert commit(node, context).is_read_only
    assert store.find_volume(VID).is_read_only


def test_a_volume_is_not_deleted_under_a_compaction(node, context, store):
    fill(store, count=40, size=100_000)
    running = store.find_volume(VID).compaction.run(vacuum.CompactionOptions())
    next(running)
    failure = failure_of(lambda: volumes.volume_delete(node, context, pb.VolumeDeleteRequest(volume_id=VID)))
    assert failure.message == "volume 7 is compacting"
    assert compact(node, context) == [], "a second one is a success without work"
    assert failure_of(lambda: commit(node, context)).message == "volume 7 is compacting"
    running.close()
    volumes.volume_delete(node, context, pb.VolumeDeleteRequest(volume_id=VID))


def test_a_disk_without_room_is_told_in_numbers(node, context, store, monkeypatch):
    fill(store, count=40, size=100_000)
    monkeypatch.setattr(OsFiles, "disk_space", lambda _self, _path: DiskSpace(10**6, 10_000))
    failure = failure_of(lambda: compact(node, context))
    assert failure.message == (
        "insufficient free space for compaction: need 2007040 bytes (volume: 2000808, index: 320), "
        "but only 10000 bytes available"
    )


def test_what_was_done_is_counted(node, context, store):
    fill(store)
    compact(node, context)
    commit(node, context)
    failure_of(lambda: commit(node, context))
    counts = node.counts.snapshot()
    assert counts.vacuuming_compact_count == {True: 1}
    assert counts.vacuuming_commit_count == {True: 1, False: 1}
    assert {step: sum(one.counts) for step, one in counts.vacuuming_seconds.items()} == {"compact": 1, "commit": 2}
