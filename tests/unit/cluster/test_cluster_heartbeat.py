from __future__ import annotations

from functools import partial

import grpc
import pytest
import trio
from support.waiting import LIMIT_S, until

from native_handlers.pb import master_pb2, volume_server_pb2
from supervisor.cluster.dial import dial_insecure
from supervisor.cluster.errors import DuplicateDirectories
from supervisor.cluster.heartbeat import serve_heartbeat
from supervisor.cluster.heartbeat_session import HeartbeatTimings
from supervisor.cluster.identity import NodeIdentity
from supervisor.cluster.node_model import NodeModel
from supervisor.cluster.node_source import NodeProperties
from supervisor.wire.server_address import ServerAddress

IDENTITY = NodeIdentity("10.0.0.9", 8080, 18080, "public:80", "node-1", "dc1", "rack1")
QUICK = HeartbeatTimings(
    pulse_s=0.05, ec_list_pulses=3, redirect_pause_s=0.01, duplicate_pauses_s=(0.01, 0.02, 0.03), final_beat_s=1
)
SLOW_PULSE = HeartbeatTimings(pulse_s=600, redirect_pause_s=0.01, final_beat_s=1)
FACTS = NodeProperties(
    max_volume_counts={"": 7, "ssd": 3},
    disk_tags=(master_pb2.DiskTag(disk_id=0, tags=["fast"], type="", max_volume_count=7),),
    location_uuids=("uuid-1",),
    disk_total_bytes={"": 1000},
    disk_free_bytes={"": 400},
    max_file_key=77,
)


def volume(volume_id, **fields):
    return master_pb2.VolumeInformationMessage(id=volume_id, version=3, **fields)


def short(volume_id, **fields):
    return master_pb2.VolumeShortInformationMessage(id=volume_id, version=3, **fields)


@pytest.fixture
def model():
    model = NodeModel(["native"])
    source = model.source("native")
    source.set_facts(FACTS)
    source.replace_volumes([volume(1, size=100)])
    source.replace_ec_shards([])
    return model


async def waited(master, condition):
    await trio.to_thread.run_sync(master.wait_for, condition)


async def test_a_new_stream_starts_with_the_volumes_and_then_the_ec_shards(nursery, fake_master, model):
    model.source("native").replace_ec_shards(
        [master_pb2.VolumeEcShardInformationMessage(id=9, ec_index_bits=5, shard_sizes=[10, 30])]
    )
    await nursery.start(serve_heartbeat, model, IDENTITY, [fake_master.address], dial_insecure)
    await waited(fake_master, lambda: len(fake_master.beats) >= 2)
    full, ec_list = fake_master.beats[:2]
    assert (full.ip, full.port, full.grpc_port, full.public_url) == ("10.0.0.9", 8080, 18080, "public:80")
    assert (full.id, full.data_center, full.rack) == ("node-1", "dc1", "rack1")
    assert [held.id for held in full.volumes] == [1]
    assert dict(full.max_volume_counts) == {"": 7, "ssd": 3}
    assert list(full.disk_tags) == list(FACTS.disk_tags)
    assert list(full.location_uuids) == ["uuid-1"]
    assert (dict(full.disk_total_bytes), dict(full.disk_free_bytes)) == ({"": 1000}, {"": 400})
    assert (full.max_file_key, full.has_no_volumes) == (77, False)
    assert full.volume_digest == fake_master.books.digest
    assert [shards.ec_index_bits for shards in ec_list.ec_shards] == [5]
    nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_an_empty_node_says_so_in_full_lists_only(nursery, fake_master, model):
    """Slow: waits for eight heartbeats."""
    model.source("native").replace_volumes([])
    await nursery.start(partial(serve_heartbeat, model, IDENTITY, [fake_master.address], dial_insecure, timings=QUICK))
    await waited(fake_master, lambda: len(fake_master.beats) >= 8)
    assert fake_master.beats[0].has_no_volumes
    assert fake_master.beats[1].has_no_ec_shards
    changed_only = [beat for beat in fake_master.beats[3:] if beat.HasField("volume_digest")]
    assert changed_only
    assert not any(beat.has_no_volumes for beat in changed_only)
    nursery.cancel_scope.cancel()


async def test_it_waits_for_every_source(nursery, fake_master):
    model = NodeModel(["native", "child"])
    model.source("native").replace_volumes([volume(1)])
    handle = await nursery.start(serve_heartbeat, model, IDENTITY, [fake_master.address], dial_insecure)
    assert handle.is_heartbeating
    assert not handle.is_connected
    assert fake_master.streams_opened == 0
    model.source("child").replace_volumes([volume(2)])
    await waited(fake_master, lambda: fake_master.books.volume_ids == {1, 2})
    nursery.cancel_scope.cancel()


async def test_arrivals_departures_and_state_are_told_at_once(nursery, fake_master, model):
    await nursery.start(
        partial(serve_heartbeat, model, IDENTITY, [fake_master.address], dial_insecure, timings=SLOW_PULSE)
    )
    await waited(fake_master, lambda: fake_master.books.volume_ids == {1})
    source = model.source("native")
    source.add_volumes([short(2, collection="pics")])
    await waited(fake_master, lambda: fake_master.books.volume_ids == {1, 2})
    source.remove_volumes([short(1)])
    await waited(fake_master, lambda: fake_master.books.volume_ids == {2})
    source.add_ec_shards([master_pb2.VolumeEcShardInformationMessage(id=5, ec_index_bits=3)])
    await waited(fake_master, lambda: fake_master.books.ec_shards == {(0, 5): 3})
    source.remove_ec_shards([master_pb2.VolumeEcShardInformationMessage(id=5, ec_index_bits=1)])
    await waited(fake_master, lambda: fake_master.books.ec_shards == {(0, 5): 2})
    source.set_state(volume_server_pb2.VolumeServerState(maintenance=True, version=4))
    await waited(fake_master, lambda: fake_master.books.state and fake_master.books.state.maintenance)
    for beat in fake_master.beats[2:]:
        assert (beat.ip, beat.port, beat.data_center, beat.rack) == ("10.0.0.9", 8080, "dc1", "rack1")
        assert not beat.has_no_volumes
        assert not beat.has_no_ec_shards
    nursery.cancel_scope.cancel()


async def test_a_larger_limit_is_told_before_the_next_pulse(nursery, fake_master, model):
    await nursery.start(
        partial(serve_heartbeat, model, IDENTITY, [fake_master.address], dial_insecure, timings=SLOW_PULSE)
    )
    await waited(fake_master, lambda: fake_master.books.limits == {"": 7, "ssd": 3})
    model.source("native").set_facts(NodeProperties(max_volume_counts={"": 9, "ssd": 3}))
    await waited(fake_master, lambda: fake_master.books.limits == {"": 9, "ssd": 3})
    nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_only_changes_are_sent_once_the_master_compares_digests(nursery, fake_master, model):
    """Slow: waits for six heartbeats."""
    await nursery.start(partial(serve_heartbeat, model, IDENTITY, [fake_master.address], dial_insecure, timings=QUICK))
    await waited(fake_master, lambda: len(fake_master.beats) >= 6)
    model.source("native").change_volumes([volume(1, size=200, read_only=True)])
    await waited(fake_master, lambda: fake_master.books.volumes["", 1].size == 200)
    assert fake_master.books.volumes["", 1].read_only
    assert [beat for beat in fake_master.beats if [v.size for v in beat.changed_volumes] == [200]]
    assert not any(beat.volumes for beat in fake_master.beats[4:])
    nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_master_without_digests_gets_the_full_list_each_time(nursery, fake_master, model):
    """Slow: waits for several heartbeats."""
    fake_master.supports_digest = False
    await nursery.start(partial(serve_heartbeat, model, IDENTITY, [fake_master.address], dial_insecure, timings=QUICK))
    await waited(fake_master, lambda: sum(bool(beat.volumes) for beat in fake_master.beats) >= 4)
    assert not any(beat.changed_volumes for beat in fake_master.beats)
    nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_the_full_list_is_sent_again_when_asked_for(nursery, fake_master, model):
    """Slow: waits for six heartbeats."""
    await nursery.start(partial(serve_heartbeat, model, IDENTITY, [fake_master.address], dial_insecure, timings=QUICK))
    await waited(fake_master, lambda: len(fake_master.beats) >= 6)
    with fake_master.changed:
        fake_master.books.volumes.clear()
    await waited(fake_master, lambda: fake_master.books.volume_ids == {1})
    nursery.cancel_scope.cancel()


async def test_leaving_sends_an_empty_last_beat_and_ends(nursery, fake_master, model):
    handle = await nursery.start(serve_heartbeat, model, IDENTITY, [fake_master.address], dial_insecure)
    await waited(fake_master, lambda: fake_master.books.has_registered)
    assert handle.leave()
    assert not handle.leave()
    assert not handle.is_heartbeating
    await waited(fake_master, lambda: fake_master.beats[-1].has_no_volumes and not fake_master.books.has_registered)
    last = fake_master.beats[-1]
    assert (last.ip, last.port, last.public_url) == ("10.0.0.9", 8080, "public:80")
    assert not last.HasField("volume_digest")


async def test_cancelling_sends_the_last_beat_too(fake_master, model):
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_heartbeat, model, IDENTITY, [fake_master.address], dial_insecure)
        await waited(fake_master, lambda: fake_master.books.has_registered)
        nursery.cancel_scope.cancel()
    await waited(fake_master, lambda: fake_master.beats[-1].has_no_volumes)


async def test_a_named_leader_is_followed(nursery, fake_master, second_master, model):
    fake_master.leader = str(second_master.address)
    handle = await nursery.start(
        partial(serve_heartbeat, model, IDENTITY, [fake_master.address], dial_insecure, timings=QUICK)
    )
    await waited(second_master, lambda: second_master.books.volume_ids == {1})
    await until(lambda: handle.view.connected == second_master.address)
    assert handle.view.leader == second_master.address
    assert handle.disconnections == {}
    nursery.cancel_scope.cancel()


async def test_a_leader_in_the_other_spelling_is_no_redirect(nursery, fake_master, model):
    await nursery.start(partial(serve_heartbeat, model, IDENTITY, [fake_master.address], dial_insecure, timings=QUICK))
    await waited(fake_master, lambda: fake_master.books.has_registered)
    fake_master.push(leader=f"127.0.0.1:{fake_master.port}")
    count = len(fake_master.beats)
    await waited(fake_master, lambda: len(fake_master.beats) >= count + 3)
    assert fake_master.streams_opened == 1
    nursery.cancel_scope.cancel()


async def test_the_next_seed_is_tried_when_one_is_dead(nursery, fake_master, model):
    dead = ServerAddress("127.0.0.1", 1, 1)
    handle = await nursery.start(
        partial(serve_heartbeat, model, IDENTITY, [dead, fake_master.address], dial_insecure, timings=QUICK)
    )
    await waited(fake_master, lambda: fake_master.books.volume_ids == {1})
    assert handle.disconnections == {"127.0.0.1:1": 1}
    nursery.cancel_scope.cancel()


async def test_it_stays_heartbeating_without_a_master_and_leaves_quickly(nursery, model):
    dead = ServerAddress("127.0.0.1", 1, 1)
    handle = await nursery.start(partial(serve_heartbeat, model, IDENTITY, [dead], dial_insecure, timings=QUICK))
    await until(lambda: handle.disconnections.get("127.0.0.1:1", 0) >= 3)
    assert handle.is_heartbeating
    assert not handle.is_connected
    handle.leave()


@pytest.mark.slow
async def test_a_master_that_hangs_is_noticed_and_left(nursery, fake_master, second_master, model):
    """Slow: it takes a keep-alive ping and its time-out, here a second instead of the product's 80."""
    frozen = trio.Event()

    async def relay(client):
        async with client, await trio.open_tcp_stream("127.0.0.1", fake_master.port) as server:
            async with trio.open_nursery() as both:
                both.start_soon(copy, client, server)
                both.start_soon(copy, server, client)
                await frozen.wait()
                both.cancel_scope.cancel()
            await trio.sleep_forever()

    async def copy(source, target):
        async for chunk in source:
            await target.send_all(chunk)

    def dial(address):
        # keepalive_timeout_ms alone does nothing: grpc waits ping_timeout_ms, a minute unless told otherwise
        ping = [("grpc.keepalive_time_ms", 300), ("grpc.http2.ping_timeout_ms", 300)]
        return grpc.insecure_channel(address.grpc, [*ping, ("grpc.http2.max_pings_without_data", 0)])

    (listener,) = await nursery.start(partial(trio.serve_tcp, relay, 0, host="127.0.0.1"))
    port = listener.socket.getsockname()[1]
    hanging = ServerAddress("127.0.0.1", port, port)
    handle = await nursery.start(
        partial(serve_heartbeat, model, IDENTITY, [hanging, second_master.address], dial, timings=QUICK)
    )
    await until(lambda: handle.view.connected == hanging)
    frozen.set()
    await waited(second_master, lambda: second_master.books.volume_ids == {1})
    assert handle.disconnections == {hanging.http: 1}
    nursery.cancel_scope.cancel()


async def test_changes_made_while_disconnected_are_not_lost(nursery, fake_master, second_master, model):
    await nursery.start(
        partial(
            serve_heartbeat,
            model,
            IDENTITY,
            [fake_master.address, second_master.address],
            dial_insecure,
            timings=QUICK,
        )
    )
    await waited(fake_master, lambda: fake_master.books.has_registered)
    fake_master.stop()
    model.source("native").remove_volumes([short(1)])
    model.source("native").add_volumes([short(3)])
    await waited(second_master, lambda: second_master.books.volume_ids == {3})
    nursery.cancel_scope.cancel()


async def test_duplicate_directories_are_retried_and_then_fatal(fake_master, model):
    fake_master.refuse_uuids = 100
    with pytest.raises(DuplicateDirectories) as failure:
        await serve_heartbeat(model, IDENTITY, [fake_master.address], dial_insecure, timings=QUICK)
    assert failure.value.uuids == ("uuid-1",)
    assert fake_master.streams_opened == 4


async def test_a_false_alarm_about_directories_heals(nursery, fake_master, model):
    fake_master.refuse_uuids = 2
    await nursery.start(partial(serve_heartbeat, model, IDENTITY, [fake_master.address], dial_insecure, timings=QUICK))
    await waited(fake_master, lambda: fake_master.books.volume_ids == {1})
    nursery.cancel_scope.cancel()


async def test_the_masters_options_are_noted(nursery, fake_master, model):
    seen = []
    handle = await nursery.start(
        partial(serve_heartbeat, model, IDENTITY, [fake_master.address], dial_insecure, timings=QUICK)
    )
    handle.view.add_settings_listener(seen.append)
    await waited(fake_master, lambda: fake_master.books.has_registered)
    fake_master.push(preallocate=True, metrics_address="push:9091", metrics_interval_seconds=15)
    await until(lambda: seen and seen[-1].preallocate)
    assert seen[-1].volume_size_limit_bytes == 30 << 20
    assert (seen[-1].metrics_address, seen[-1].metrics_interval_s) == ("push:9091", 15)
    fake_master.push(volume_size_limit=0)
    await until(lambda: not seen[-1].preallocate)
    assert seen[-1].volume_size_limit_bytes == 30 << 20
    nursery.cancel_scope.cancel()


async def test_a_certificate_that_is_missing_for_a_moment_is_no_end(nursery, fake_master, model):
    failures = [FileNotFoundError("client.pem")]

    def dial(address):
        if failures:
            raise failures.pop()
        return dial_insecure(address)

    handle = await nursery.start(partial(serve_heartbeat, model, IDENTITY, [fake_master.address], dial, timings=QUICK))
    await waited(fake_master, lambda: fake_master.books.volume_ids == {1})
    assert handle.disconnections == {fake_master.address.http: 1}
    nursery.cancel_scope.cancel()


async def test_an_error_of_our_own_ends_it_loudly(fake_master, model):
    model.snapshot = lambda: 1 / 0
    with pytest.RaisesGroup(ZeroDivisionError):
        await serve_heartbeat(model, IDENTITY, [fake_master.address], dial_insecure, timings=QUICK)


async def test_a_leader_that_is_no_address_is_an_error(nursery, fake_master, model):
    handle = await nursery.start(
        partial(serve_heartbeat, model, IDENTITY, [fake_master.address], dial_insecure, timings=QUICK)
    )
    await waited(fake_master, lambda: fake_master.books.has_registered)
    fake_master.push(leader="nonsense")
    await until(lambda: handle.disconnections.get(fake_master.address.http) == 1)
    await waited(fake_master, lambda: fake_master.streams_opened == 2)
    nursery.cancel_scope.cancel()


async def test_the_heart_beats_when_all_shared_threads_are_taken(nursery, fake_master, model, no_shared_threads):
    with trio.fail_after(LIMIT_S):
        await nursery.start(serve_heartbeat, model, IDENTITY, [fake_master.address], dial_insecure)
    await until(lambda: fake_master.beats, "a heartbeat")
    nursery.cancel_scope.cancel()
