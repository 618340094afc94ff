from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import trio
from support.clocks import Clock
from support.stores import place
from support.waiting import LIMIT_S, until

from native_handlers.format.needle import Needle
from native_handlers.pb import master_pb2
from native_handlers.storage.model.errors import ReadFailed, VolumeNotFound
from native_handlers.storage.store_state import ServerState
from supervisor.cluster.dial import dial_insecure
from supervisor.cluster.heartbeat import HeartbeatHandle, serve_heartbeat
from supervisor.cluster.identity import NodeIdentity
from supervisor.cluster.master_view import MasterView
from supervisor.cluster.node_model import NodeModel
from supervisor.cluster.store_source import serve_store_source
from supervisor.wire.server_address import ServerAddress

SIZE_LIMIT = 30 << 20


@pytest.fixture
def clock():
    return Clock(time.time())


@pytest.fixture
def store(tmp_path, clock, opened):
    places = place(tmp_path, tags=("fast",)), place(tmp_path / "ssd", max_volumes=3, disk_type="ssd")
    return opened(*places, volumes=(), clock_ns=clock)


@pytest.fixture
def model():
    return NodeModel(["native"])


@pytest.fixture
def view():
    return MasterView([ServerAddress("127.0.0.1", 1, 1)])


def add(store, vid, **wanted):
    defaults = {
        "collection": "",
        "replication": "000",
        "ttl": "",
        "preallocate_bytes": 0,
        "disk_type": "",
        "version": 3,
    }
    return store.allocate_volume(vid, **(defaults | wanted))


def messages(model):
    return {held.message.id: held.message for held in model.snapshot().volumes.values()}


async def start(nursery, store, model, view, **options):
    return await nursery.start(
        lambda task_status: serve_store_source(store, model.source("native"), view, task_status=task_status, **options)
    )


async def test_a_look_that_fails_is_logged_and_repeated(nursery, store, model, view, monkeypatch, caplog):
    """Also the first one, which other parts wait for."""
    add(store, 3)
    reports, left = store.volume_reports, iter([ReadFailed(Path("3.idx"), 0, OSError(5, "EIO")), OSError(5, "EIO")])

    def fail_twice():
        for error in left:
            raise error
        return reports()

    monkeypatch.setattr(store, "volume_reports", fail_twice)
    await start(nursery, store, model, view, refresh_s=0)
    assert list(messages(model)) == [3]
    assert caplog.text.count("a look at the volumes failed") == 2


async def test_the_first_look_is_complete(nursery, store, model, view):
    add(store, 3, collection="pics", replication="001", ttl="3d", disk_type="ssd")
    store.get_volume(3).write(Needle(cookie=1, needle_id=99, data=b"x" * 100))
    await start(nursery, store, model, view)
    snapshot = model.snapshot()
    message = messages(model)[3]
    (report,) = store.volume_reports()
    assert (message.collection, message.replica_placement, message.disk_type, message.disk_id) == ("pics", 1, "ssd", 1)
    assert (message.ttl, message.version, message.file_count, message.size) == (
        report.ttl.to_uint32(), 3, 1, report.size_bytes,
    )  # fmt: skip
    assert snapshot.has_all_volumes
    assert snapshot.has_all_ec_shards
    assert dict(snapshot.facts.max_volume_counts) == {"": 8, "ssd": 3}
    assert list(snapshot.facts.location_uuids) == store.location_uuids()
    assert snapshot.facts.disk_tags[0] == master_pb2.DiskTag(disk_id=0, tags=["fast"], max_volume_count=8)
    assert snapshot.facts.disk_total_bytes["ssd"] > snapshot.facts.disk_free_bytes["ssd"] > 0
    assert snapshot.facts.max_file_key == 99
    assert not snapshot.state.maintenance
    nursery.cancel_scope.cancel()


async def test_changes_arrive_without_waiting_for_the_next_look(nursery, store, model, view):
    add(store, 1)
    source = await start(nursery, store, model, view, refresh_s=600)
    add(store, 2)
    await until(lambda: set(messages(model)) == {1, 2})
    store.mark_readonly(store.get_volume(2))
    await until(lambda: messages(model)[2].read_only)
    store.delete_volume(1, only_empty=False)
    await until(lambda: set(messages(model)) == {2})
    store.set_state(ServerState(maintenance=True, version=0))
    source.refresh_soon()
    await until(lambda: model.snapshot().state.maintenance)
    nursery.cancel_scope.cancel()


async def test_growth_is_seen_at_the_next_look(nursery, store, model, view):
    add(store, 1)
    await start(nursery, store, model, view, refresh_s=0.01)
    before = messages(model)[1].size
    store.get_volume(1).write(Needle(cookie=1, needle_id=2, data=b"x"))
    await until(lambda: messages(model)[1].size > before)
    nursery.cancel_scope.cancel()


async def test_a_quiet_store_changes_nothing(nursery, store, model, view):
    add(store, 1)
    source = await start(nursery, store, model, view, refresh_s=600)
    held = model.snapshot().volumes
    source.refresh_soon()
    add(store, 2)
    await until(lambda: 2 in messages(model))
    assert model.snapshot().volumes[0, 1] is held[0, 1]
    nursery.cancel_scope.cancel()


async def test_the_masters_options_reach_the_store(nursery, store, model, view):
    view.note_response(master_pb2.HeartbeatResponse(volume_size_limit=SIZE_LIMIT, preallocate=True))
    await start(nursery, store, model, view)
    assert (store.volume_size_limit_bytes, store.is_preallocating) == (SIZE_LIMIT, True)
    view.note_response(master_pb2.HeartbeatResponse(volume_size_limit=2 * SIZE_LIMIT))
    assert (store.volume_size_limit_bytes, store.is_preallocating) == (2 * SIZE_LIMIT, False)
    nursery.cancel_scope.cancel()


async def test_an_expired_volume_is_left_out_and_later_deleted(nursery, store, model, view, clock):
    view.note_response(master_pb2.HeartbeatResponse(volume_size_limit=SIZE_LIMIT))
    add(store, 1, ttl="20m")
    store.get_volume(1).write(Needle(cookie=1, needle_id=2, data=b"x"))
    source = await start(nursery, store, model, view, refresh_s=600)
    assert set(messages(model)) == {1}
    clock.advance(21 * 60 + 30)
    source.refresh_soon()
    await until(lambda: not messages(model))
    assert store.find_volume(1) is not None
    clock.advance(60)
    source.refresh_soon()
    await until(lambda: store.find_volume(1) is None)
    nursery.cancel_scope.cancel()


async def test_a_mount_that_waits_for_a_disk_holds_up_no_news(nursery, store, model, view, clock, monkeypatch):
    """Deletion of expired volumes does not hold up the heartbeat either."""
    view.note_response(master_pb2.HeartbeatResponse(volume_size_limit=SIZE_LIMIT))
    add(store, 1)
    add(store, 2, ttl="20m")
    store.get_volume(2).write(Needle(cookie=1, needle_id=2, data=b"x"))
    source = await start(nursery, store, model, view, refresh_s=600)
    is_waiting, go_on = threading.Event(), threading.Event()

    def hang(volume_id, names):
        is_waiting.set()
        assert go_on.wait(60)

    monkeypatch.setattr(store.locations[0], "load_one", hang)
    monkeypatch.setattr(store.locations[1], "load_one", lambda volume_id, names: None)
    try:
        nursery.start_soon(trio.to_thread.run_sync, _mount_nothing, store)
        assert await trio.to_thread.run_sync(is_waiting.wait, 60)
        before = messages(model)[1].size
        store.get_volume(1).write(Needle(cookie=1, needle_id=2, data=b"x"))
        clock.advance(3600)
        source.refresh_soon()
        await until(lambda: messages(model)[1].size > before)
        assert set(messages(model)) == {1}
        assert store.find_volume(2) is not None
    finally:
        go_on.set()
    source.refresh_soon()
    await until(lambda: store.find_volume(2) is None or source.refresh_soon())
    nursery.cancel_scope.cancel()


def _mount_nothing(store):
    with pytest.raises(VolumeNotFound):
        store.mount_volume(9)


async def test_volumes_of_the_other_engine_are_left_out(nursery, store, model, view):
    add(store, 1)
    add(store, 2)
    await start(nursery, store, model, view, is_owned=lambda volume_id: volume_id == 2)
    assert set(messages(model)) == {2}
    nursery.cancel_scope.cancel()


async def test_a_self_sizing_directory_is_told_once_the_limit_is_known(tmp_path, nursery, fake_master, model, opened):
    store = opened(place(tmp_path, max_volumes=0), volumes=())
    view = MasterView([fake_master.address])
    await start(nursery, store, model, view, refresh_s=600)
    identity = NodeIdentity("10.0.0.9", 8080, 18080, "")
    await nursery.start(
        lambda task_status: serve_heartbeat(
            model,
            identity,
            [fake_master.address],
            dial_insecure,
            handle=HeartbeatHandle(view),
            task_status=task_status,
        )
    )
    await until(lambda: fake_master.books.limits.get("", 0) > 0)
    nursery.cancel_scope.cancel()


async def test_it_looks_when_all_shared_threads_are_taken(nursery, store, model, view, no_shared_threads):
    with trio.fail_after(LIMIT_S):
        await start(nursery, store, model, view, refresh_s=600)
    add(store, 2)
    await until(lambda: set(messages(model)) == {2}, "the volume to be reported")
    nursery.cancel_scope.cancel()
