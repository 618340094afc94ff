"""The work of the node model for each volume, and its work without a pass over all of them."""

import threading
from dataclasses import replace
from functools import partial

import pytest
from support.waiting import LIMIT_S, until

from native_handlers.format.needle import Needle
from native_handlers.pb import master_pb2
from native_handlers.storage.volume.volume import Volume
from supervisor.cluster import node_source, store_source
from supervisor.cluster.heartbeat_encoder import HeartbeatEncoder
from supervisor.cluster.identity import NodeIdentity
from supervisor.cluster.master_view import MasterView
from supervisor.cluster.node_model import NodeModel
from supervisor.cluster.node_source import ReportedVolume
from supervisor.cluster.store_source import serve_store_source
from supervisor.embedded_master.topology import Topology
from supervisor.wire.server_address import ServerAddress

IDENTITY = NodeIdentity("10.0.0.9", 8080, 18080, "10.0.0.9:8080")


class NotGoneOver(dict):
    """A dict in which only keys are looked up."""

    def __iter__(self):
        raise AssertionError("all volumes are gone over")

    keys = values = items = __iter__


def message(volume_id, **fields):
    return master_pb2.VolumeInformationMessage(id=volume_id, version=3, **fields)


@pytest.fixture
def source():
    return NodeModel(["native"]).source("native")


def test_one_volume_is_looked_up_without_going_over_the_others(source):
    source.replace_volumes([message(1), message(2, disk_id=3), message(3, disk_id=1)])
    source.replace_ec_shards([master_pb2.VolumeEcShardInformationMessage(id=9, disk_id=2, ec_index_bits=1)])
    source.volumes, source.ec_shards = NotGoneOver(source.volumes), NotGoneOver(source.ec_shards)
    assert [source.has_volume(volume_id) for volume_id in (1, 2, 3, 4, 9)] == [True, True, True, False, False]
    assert [bool(source.shard_bits(volume_id)) for volume_id in (2, 9)] == [False, True]
    gone = master_pb2.VolumeShortInformationMessage(id=2, disk_id=7)
    source.remove_volumes([gone])
    assert not source.has_volume(2)


def test_volumes_are_hashed_without_the_lock_of_the_model(source, monkeypatch):
    """Others may look at the model meanwhile: the event loop does."""
    model_is_free = []

    def hashed(volume):
        looked = threading.Event()
        threading.Thread(target=lambda: (source.set_state(None), looked.set()), daemon=True).start()
        model_is_free.append(looked.wait(LIMIT_S))
        return ReportedVolume(volume, 7)

    monkeypatch.setattr(node_source.ReportedVolume, "of", hashed)
    source.replace_volumes([message(1)])
    source.change_volumes([message(1, size=5)])
    assert model_is_free == [True, True]


def test_what_is_known_is_not_hashed_again(source, monkeypatch):
    volumes = [message(1), message(2)]
    source.replace_volumes(volumes)
    monkeypatch.setattr(node_source.ReportedVolume, "of", None)
    source.replace_volumes(volumes)
    source.replace_volumes([message(1), message(2)])
    assert source.has_volume(2)


def test_a_full_list_is_whole_however_it_is_put_together():
    model = NodeModel(["native"])
    count = 2 * 1000 + 1
    model.source("native").replace_volumes([message(number) for number in range(1, count + 1)])
    beat = HeartbeatEncoder(IDENTITY).volume_beat(model.snapshot())
    assert [volume.id for volume in beat.volumes] == list(range(1, count + 1))


def test_a_volume_that_comes_or_goes_is_told_without_going_over_all():
    model = NodeModel(["native"])
    source, report = model.source("native"), HeartbeatEncoder(IDENTITY)
    source.replace_volumes([message(number) for number in range(1, 41)])
    report.volume_beat(model.snapshot())
    report.delta_beats(model.snapshot())
    source.volumes = NotGoneOver(source.volumes)
    source.change_volumes([message(50)], [(0, 3)])
    snapshot = model.snapshot()
    assert snapshot.volume_ids == {*range(1, 41), 50} - {3}
    gone, new = report.delta_beats(replace(snapshot, volumes=NotGoneOver(snapshot.volumes)))
    assert [short.id for short in gone.deleted_volumes] == [3]
    assert [short.id for short in new.new_volumes] == [50]


def test_a_snapshot_knows_for_a_while_what_changed_before_it():
    model = NodeModel(["native"])
    source = model.source("native")
    source.replace_volumes([message(number) for number in range(1, 41)])
    first = model.snapshot()
    source.change_volumes([message(2, size=5)])
    assert model.snapshot().changed_since(first.version) == {2}
    source.change_volumes([message(9, size=5)])
    assert model.snapshot().changed_since(first.version) == {2, 9}
    assert model.snapshot().changed_since(model.snapshot().version) == set()
    source.replace_volumes([message(number, size=6) for number in range(1, 41)])
    assert model.snapshot().changed_since(first.version) is None
    second = model.snapshot()
    for size in range(100):
        source.change_volumes([message(1, size=size)])
        model.snapshot()
    assert model.snapshot().changed_since(second.version) is None


def test_the_embedded_master_finds_the_holders_without_going_over_all_volumes(monkeypatch):
    topology = Topology()
    beat = master_pb2.Heartbeat(ip="10.0.0.1", port=8080, grpc_port=18080)
    node = topology.register(beat, object())
    volumes = [message(1), message(2, collection="pictures"), message(2, disk_id=1, collection="pictures")]
    topology.apply(node, master_pb2.Heartbeat(volumes=volumes))
    snapshot = node.model.snapshot()
    assert snapshot.volume_ids == {1, 2}
    assert snapshot.keys_of[2] == [(0, 2), (1, 2)]
    not_gone_over = replace(snapshot, volumes=NotGoneOver(snapshot.volumes))
    monkeypatch.setattr(node.model, "snapshot", lambda: not_gone_over)
    assert topology.holders(1) == topology.holders(2, "pictures") == [node]
    assert topology.holders(2, "others") == topology.holders(3) == []


@pytest.fixture
def store(tmp_path, opened):
    return opened(tmp_path, volumes=())


def test_a_look_makes_a_message_for_what_has_changed_alone(store, monkeypatch):
    source, made = NodeModel(["native"]).source("native"), []
    make = store_source.message_of
    monkeypatch.setattr(store_source, "message_of", lambda report: made.append(report.id) or make(report))
    look = store_source.StoreLook(store, source, lambda volume_id: volume_id != 3, removes_expired=True)
    for volume_id in (1, 2, 3):
        store.allocate_volume(volume_id)
    look()
    assert made == [1, 2]
    replaced = []
    monkeypatch.setattr(source, "replace_volumes", lambda volumes: replaced.append([one.id for one in volumes]))
    look()
    assert (made, replaced) == ([1, 2], [])
    store.mark_readonly(store.get_volume(2))
    look()
    store.unmount_volume(1)
    look()
    assert (made, replaced) == ([1, 2, 2], [[1, 2], [2]])


@pytest.fixture
def reported(monkeypatch):
    """The ids of the volumes whose report was requested."""
    ids, report = [], Volume.report
    monkeypatch.setattr(Volume, "report", lambda volume, *args: ids.append(volume.id) or report(volume, *args))
    return ids


def test_where_some_volumes_are_named_no_other_is_looked_at(store, reported):
    model = NodeModel(["native"])
    look = store_source.StoreLook(store, model.source("native"), lambda volume_id: volume_id != 5, removes_expired=True)
    for volume_id in (1, 2, 3):
        store.allocate_volume(volume_id)
    look()
    reported.clear()
    store.allocate_volume(4)
    store.allocate_volume(5)
    store.unmount_volume(1)
    store.mark_readonly(store.get_volume(2))
    heard = []
    model.add_listener(lambda: heard.append(set(model.snapshot().volume_ids)))
    look.at({1, 2, 4, 5, 6})
    assert sorted(reported) == [2, 4]
    assert heard == [{2, 3, 4}], "one step, in which nothing is half told"
    assert model.snapshot().volumes[0, 2].message.read_only
    look.at({1, 2, 4, 5, 6})
    assert len(heard) == 1
    look()
    assert model.snapshot().volume_ids == {2, 3, 4}


def test_the_highest_file_key_is_that_of_a_volume_that_has_come_too(store):
    model = NodeModel(["native"])
    look = store_source.StoreLook(store, model.source("native"), lambda _volume_id: True, removes_expired=True)
    look()
    store.allocate_volume(4).write(Needle(needle_id=77, cookie=1, data=b"x"))
    look.at({4})
    assert model.snapshot().facts.max_file_key == 77


async def test_each_volume_that_comes_or_goes_costs_a_look_at_that_one(store, nursery, reported):
    model, view = NodeModel(["native"]), MasterView([ServerAddress("127.0.0.1", 1, 1)])
    for volume_id in range(1, 6):
        store.allocate_volume(volume_id)
    await nursery.start(partial(serve_store_source, store, model.source("native"), view, refresh_s=600))
    assert reported == [1, 2, 3, 4, 5]
    store.unmount_volume(3)
    await until(lambda: 3 not in model.snapshot().volume_ids)
    store.mount_volume(3)
    await until(lambda: 3 in model.snapshot().volume_ids)
    assert set(reported[5:]) == {3}
    nursery.cancel_scope.cancel()


async def test_a_look_at_all_is_not_put_off_by_news_of_some(store, nursery):
    model, view = NodeModel(["native"]), MasterView([ServerAddress("127.0.0.1", 1, 1)])
    store.allocate_volume(1)
    source = await nursery.start(partial(serve_store_source, store, model.source("native"), view, refresh_s=0.05))
    store.get_volume(1).write(Needle(needle_id=1, cookie=1, data=b"x"))

    def is_told_while_others_are_named():
        source.look_soon(9)
        return model.snapshot().volumes[0, 1].message.file_count == 1

    await until(is_told_while_others_are_named)
    nursery.cancel_scope.cancel()
