from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_master import Books

from native_handlers.pb import master_pb2, volume_server_pb2
from supervisor.cluster.child_heartbeat import absorb
from supervisor.cluster.heartbeat_encoder import HeartbeatEncoder
from supervisor.cluster.identity import NodeIdentity
from supervisor.cluster.messages import digest_of, short_of
from supervisor.cluster.node_model import NodeModel
from supervisor.cluster.node_source import NodeProperties

IDENTITY = NodeIdentity("10.0.0.9", 8080, 18080, "10.0.0.9:8080")
Beat = master_pb2.Heartbeat
Shards = master_pb2.VolumeEcShardInformationMessage


def volume(volume_id, **fields):
    return master_pb2.VolumeInformationMessage(id=volume_id, version=3, **fields)


def ids(model):
    return model.snapshot().volume_ids


@pytest.fixture
def model():
    return NodeModel(["native", "child"])


# -- any sequence of messages leaves the master with what the sources have

volume_ids = st.integers(1, 5)
fields = st.fixed_dictionaries(
    {
        "size": st.integers(0, 3),
        "disk_id": st.integers(0, 1),
        "collection": st.sampled_from(["", "pics"]),
        "read_only": st.booleans(),
        "remote_storage_key": st.sampled_from(["", "k"]),
    }
)
steps = st.one_of(
    st.tuples(st.just("mount"), volume_ids, fields),
    st.tuples(st.just("unmount"), volume_ids),
    st.tuples(st.just("change"), volume_ids, fields),
    st.tuples(st.just("restart"), st.dictionaries(volume_ids, fields)),
    st.tuples(st.just("shards"), volume_ids, st.integers(0, 7)),
    st.tuples(st.just("deltas")),
    st.tuples(st.just("pulse")),
    st.tuples(st.just("ec_list")),
    st.tuples(st.just("reconnect")),
)


class HonestChild:
    """A volume server that tells each change as upstream does; `volumes` and `shards` are the true state."""

    def __init__(self, source):
        self.source = source
        self.volumes = {}
        self.shards = {}
        self.restart({})

    def restart(self, rows):
        self.volumes = {volume_id: volume(volume_id, **row) for volume_id, row in rows.items()}
        absorb(self.source, Beat(volumes=self.volumes.values(), has_no_volumes=not rows))
        absorb(self.source, Beat(ec_shards=self.shards.values(), has_no_ec_shards=not self.shards))

    def mount(self, volume_id, row):
        self.unmount(volume_id)
        self.volumes[volume_id] = volume(volume_id, **row)
        absorb(self.source, Beat(new_volumes=[short_of(self.volumes[volume_id])]))
        absorb(self.source, Beat(changed_volumes=[self.volumes[volume_id]]))

    def unmount(self, volume_id):
        gone = self.volumes.pop(volume_id, None)
        if gone is not None:
            absorb(self.source, Beat(deleted_volumes=[short_of(gone)]))

    def change(self, volume_id, row):
        if volume_id in self.volumes:
            row = row | {"disk_id": self.volumes[volume_id].disk_id}
            self.volumes[volume_id] = volume(volume_id, **row)
            absorb(self.source, Beat(changed_volumes=[self.volumes[volume_id]]))

    def set_shards(self, volume_id, bits):
        before = self.shards[volume_id].ec_index_bits if volume_id in self.shards else 0
        self.shards.pop(volume_id, None)
        if bits:
            self.shards[volume_id] = Shards(id=volume_id, ec_index_bits=bits)
        absorb(self.source, Beat(new_ec_shards=[Shards(id=volume_id, ec_index_bits=bits & ~before)]))
        absorb(self.source, Beat(deleted_ec_shards=[Shards(id=volume_id, ec_index_bits=before & ~bits)]))


class HonestMaster:
    """A master and the stream to it."""

    def __init__(self, model):
        self.model = model
        self.connect()

    def connect(self):
        self.books = Books()
        self.report = HeartbeatEncoder(IDENTITY)
        self.pulse()
        self.ec_list()
        self.report.is_digest_supported = True

    def pulse(self):
        if self.books.apply(self.report.volume_beat(self.model.snapshot())):
            raise AssertionError("the master had to ask for the full list")

    def ec_list(self):
        self.books.apply(self.report.ec_beat(self.model.snapshot()))

    def deltas(self):
        for beat in self.report.delta_beats(self.model.snapshot()):
            assert not self.books.apply(beat)


@settings(max_examples=200)
@given(st.lists(steps, max_size=25))
@pytest.mark.slow
def test_the_master_ends_up_with_the_truth_and_never_has_to_ask(script):
    """Slow: two hundred histories."""
    model = NodeModel(["child"])
    child = HonestChild(model.source("child"))
    master = HonestMaster(model)
    for name, *args in script:
        match name:
            case "mount":
                child.mount(*args)
            case "unmount":
                child.unmount(*args)
            case "change":
                child.change(*args)
            case "restart":
                child.restart(*args)
            case "shards":
                child.set_shards(*args)
            case "deltas":
                master.deltas()
            case "pulse":
                master.pulse()
            case "ec_list":
                master.ec_list()
            case "reconnect":
                master.connect()
    master.deltas()
    assert master.books.volume_ids == set(child.volumes)
    assert master.books.ec_shards == {(0, key): shards.ec_index_bits for key, shards in child.shards.items()}
    master.pulse()
    for held in master.books.volumes.values():
        held.remote_storage_key = child.volumes[held.id].remote_storage_key  # the master does not keep it
    assert {held.id: held for held in master.books.volumes.values()} == child.volumes


# -- a snapshot that is made from the one before is the one that going over all sources gives

MANY = 60
"""So many volumes that a few changes of them are few."""
source_names = st.sampled_from(["native", "child"])
some_ids = st.lists(st.integers(1, 3), max_size=2)
source_steps = st.one_of(
    st.tuples(st.just("change"), source_names, some_ids, fields),
    st.tuples(st.just("remove"), source_names, some_ids, st.integers(0, 1)),
    st.tuples(st.just("shorts"), source_names, some_ids, fields),
    st.tuples(st.just("replace"), source_names, some_ids, fields),
    st.tuples(st.just("shards"), source_names, some_ids, st.integers(0, 7)),
    st.tuples(st.just("suppress"), some_ids),
    st.tuples(st.just("end")),
    st.tuples(st.just("give up"), source_names, st.lists(st.integers(1, 3), min_size=1, max_size=2)),
    st.tuples(st.just("retire")),
    st.tuples(st.just("look")),
)


def expected_volumes(model):
    """key -> message: of each volume the copies that the first claim has."""
    sources = [model.source("native"), model.source("child")]
    claims = [claim for kind in ("volumes", "suppressed") for claim in (getattr(source, kind) for source in sources)]
    found = {}
    for volume_id in range(1, MANY + 1):
        copies = [{key: held for key, held in claim.items() if key[1] == volume_id} for claim in claims]
        found |= next(filter(None, copies), {})
    return found


@settings(max_examples=100)
@given(st.lists(source_steps, min_size=8, max_size=25))
@pytest.mark.slow
def test_each_snapshot_is_what_the_sources_have_now(script):
    """Slow: a hundred histories of sixty volumes."""
    model, earlier = NodeModel(["native", "child"]), []
    model.source("native").replace_volumes([volume(volume_id) for volume_id in range(1, MANY + 1)])
    with ExitStack() as suppressed:
        for name, *args in script:
            source = model.source(args[0]) if args and isinstance(args[0], str) else None
            match name:
                case "change":
                    source.change_volumes([volume(volume_id, **args[2]) for volume_id in args[1]])
                case "remove":
                    source.remove_volumes([short_of(volume(volume_id, disk_id=args[2])) for volume_id in args[1]])
                case "shorts":
                    source.add_volumes([short_of(volume(volume_id, **args[2])) for volume_id in args[1]])
                case "replace":
                    kept = [held.message for (_, volume_id), held in source.volumes.items() if volume_id not in args[1]]
                    source.replace_volumes(kept + [volume(volume_id, **args[2]) for volume_id in args[1]])
                case "shards":
                    source.replace_ec_shards([Shards(id=one, ec_index_bits=args[2]) for one in args[1]])
                case "suppress":
                    suppressed.enter_context(model.suppress_removals(args[0]))
                case "give up":
                    source.add_volumes([short_of(volume(volume_id)) for volume_id in args[1]])
                    source.add_ec_shards([Shards(id=volume_id, ec_index_bits=3) for volume_id in args[1]])
                    suppressed.enter_context(model.suppress_removals(args[1]))
                    source.remove_volumes([short_of(volume(volume_id)) for volume_id in args[1]])
                    source.remove_ec_shards([Shards(id=volume_id, ec_index_bits=1) for volume_id in args[1]])
                case "end":
                    suppressed.close()
                case "retire":
                    model.source("child").retire()
                case "look":
                    earlier.append(model.snapshot())
            check_snapshot(model, earlier)
    check_snapshot(model, earlier)


def check_snapshot(model, earlier):
    now, expected = model.snapshot(), expected_volumes(model)
    assert now.volumes == expected
    assert {key for keys in now.keys_of.values() for key in keys} == expected.keys()
    assert all(key[1] == volume_id for volume_id, keys in now.keys_of.items() for key in keys)
    assert now.digest == digest_of(held.hash for held in expected.values())
    bits = {}
    for source in map(model.source, ("native", "child")):
        for key, held in (*source.ec_shards.items(), *source.suppressed_shards.items()):
            bits[key] = bits.get(key, 0) | held.ec_index_bits
    assert {key: held.ec_index_bits for key, held in now.ec_shards.items()} == bits
    for before in earlier:
        both = now.volumes.keys() | before.volumes.keys()
        differs = {key[1] for key in both if now.volumes.get(key) != before.volumes.get(key)}
        changed = now.changed_since(before.version)
        assert changed is None or differs <= changed


# -- what a beat may and may not say


def test_a_partial_node_is_never_called_empty(model):
    model.source("native").replace_volumes([])
    model.source("native").replace_ec_shards([])
    report = HeartbeatEncoder(IDENTITY)
    assert not report.volume_beat(model.snapshot()).has_no_volumes
    assert report.ec_beat(model.snapshot()) is None
    model.source("child").replace_volumes([])
    model.source("child").replace_ec_shards([])
    report.is_full_list_wanted = True
    assert report.volume_beat(model.snapshot()).has_no_volumes
    assert report.ec_beat(model.snapshot()).has_no_ec_shards


def test_shards_known_before_the_lists_are_whole_go_out_as_deltas(model):
    model.source("native").add_ec_shards([Shards(id=1, ec_index_bits=0b101, shard_sizes=[7, 9])])
    report = HeartbeatEncoder(IDENTITY)
    (beat,) = report.delta_beats(model.snapshot())
    assert list(beat.new_ec_shards) == [Shards(id=1, ec_index_bits=0b101, shard_sizes=[7, 9])]
    assert report.delta_beats(model.snapshot()) == []


def test_only_the_shards_that_changed_are_named(model):
    source = model.source("native")
    source.add_ec_shards([Shards(id=1, ec_index_bits=0b111, shard_sizes=[1, 2, 3], encode_ts_ns=5)])
    report = HeartbeatEncoder(IDENTITY)
    report.delta_beats(model.snapshot())
    source.remove_ec_shards([Shards(id=1, ec_index_bits=0b010)])
    source.add_ec_shards([Shards(id=1, ec_index_bits=0b1000, shard_sizes=[4], encode_ts_ns=5)])
    deleted, new = report.delta_beats(model.snapshot())
    assert list(deleted.deleted_ec_shards) == [Shards(id=1, ec_index_bits=0b010, shard_sizes=[2], encode_ts_ns=5)]
    assert list(new.new_ec_shards) == [Shards(id=1, ec_index_bits=0b1000, shard_sizes=[4], encode_ts_ns=5)]
    assert list(model.snapshot().ec_shards.values()) == [
        Shards(id=1, ec_index_bits=0b1101, shard_sizes=[1, 3, 4], encode_ts_ns=5)
    ]


def test_a_volume_that_moves_between_disks_is_no_departure(model):
    source = model.source("native")
    source.replace_volumes([volume(1, disk_id=0)])
    report = HeartbeatEncoder(IDENTITY)
    report.volume_beat(model.snapshot())
    report.is_digest_supported = True
    source.replace_volumes([volume(1, disk_id=1)])
    assert report.delta_beats(model.snapshot()) == []
    beat = report.volume_beat(model.snapshot())
    assert not beat.deleted_volumes
    assert [held.disk_id for held in beat.changed_volumes] == [1]


def test_a_volume_in_a_new_layout_is_taken_off_the_old_one(model):
    source = model.source("native")
    source.replace_volumes([volume(1, replica_placement=0)])
    report = HeartbeatEncoder(IDENTITY)
    report.volume_beat(model.snapshot())
    source.replace_volumes([volume(1, replica_placement=1)])
    gone, new = report.delta_beats(model.snapshot())
    assert [(short.id, short.replica_placement) for short in gone.deleted_volumes] == [(1, 0)]
    assert [(short.id, short.replica_placement) for short in new.new_volumes] == [(1, 1)]


def test_unknown_fields_and_both_copies_of_a_doubled_volume_are_kept(model):
    strange = volume(1).SerializeToString() + b"\xf8\x07\x2a"
    twins = [master_pb2.VolumeInformationMessage.FromString(strange), volume(1, disk_id=1)]
    model.source("native").replace_volumes(twins)
    beat = HeartbeatEncoder(IDENTITY).volume_beat(model.snapshot())
    assert [held.SerializeToString() for held in beat.volumes] == [strange, twins[1].SerializeToString()]


def test_the_state_is_told_once_per_connection(model):
    model.source("child").set_state(volume_server_pb2.VolumeServerState(maintenance=True, version=3))
    report = HeartbeatEncoder(IDENTITY)
    assert [beat.state.maintenance for beat in report.delta_beats(model.snapshot())] == [True]
    model.source("child").set_facts(NodeProperties(max_file_key=1))
    assert report.delta_beats(model.snapshot()) == []
    assert len(HeartbeatEncoder(IDENTITY).delta_beats(model.snapshot())) == 1


# -- merging


def test_the_higher_source_owns_a_volume_that_two_claim(model):
    model.source("native").replace_volumes([volume(1, size=1)])
    model.source("child").replace_volumes([volume(1, size=2, disk_id=1), volume(2, size=3)])
    snapshot = model.snapshot()
    assert {key: held.message.size for key, held in snapshot.volumes.items()} == {(0, 1): 1, (0, 2): 3}


def test_disks_that_both_engines_see_are_counted_once(model):
    tag = master_pb2.DiskTag
    model.source("native").set_facts(
        NodeProperties({"": 5}, (tag(disk_id=0, max_volume_count=5),), ("u1",), {"": 100}, {"": 40}, 8)
    )
    model.source("child").set_facts(
        NodeProperties({"": 7, "ssd": 2}, (tag(disk_id=0, max_volume_count=7), tag(disk_id=1)), ("u1", "u2"),
                  {"": 100, "ssd": 50}, {"": 41, "ssd": 9}, 6)
    )  # fmt: skip
    assert model.snapshot().facts == NodeProperties(
        {"": 7, "ssd": 2}, (tag(disk_id=0, max_volume_count=7), tag(disk_id=1)), ("u1", "u2"),
        {"": 100, "ssd": 50}, {"": 40, "ssd": 9}, 8,
    )  # fmt: skip


def test_the_state_of_the_highest_version_counts(model):
    model.source("native").set_state(volume_server_pb2.VolumeServerState(version=1))
    model.source("child").set_state(volume_server_pb2.VolumeServerState(maintenance=True, version=2))
    assert model.snapshot().state.maintenance


def test_a_retired_source_leaves_nothing_and_is_not_waited_for(model):
    model.source("native").replace_volumes([volume(1)])
    model.source("child").change_volumes([volume(2)])
    assert not model.has_all_volumes
    model.source("child").retire()
    assert model.has_all_volumes
    assert ids(model) == {1}


def test_a_short_message_does_not_wipe_what_is_known(model):
    source = model.source("child")
    source.replace_volumes([volume(1, size=9, collection="c")])
    source.add_volumes([master_pb2.VolumeShortInformationMessage(id=1, version=3, collection="c")])
    assert model.snapshot().volumes[0, 1].message.size == 9
    source.add_volumes([master_pb2.VolumeShortInformationMessage(id=1, version=3, collection="d")])
    assert model.snapshot().volumes[0, 1].message == volume(1, collection="d")


def test_a_removal_with_a_wrong_disk_id_removes_every_copy(model):
    source = model.source("child")
    source.replace_volumes([volume(1, disk_id=1), volume(2, disk_id=1)])
    source.remove_volumes([master_pb2.VolumeShortInformationMessage(id=1)])
    assert ids(model) == {2}
    source.remove_volumes([master_pb2.VolumeShortInformationMessage(id=3)])
    assert ids(model) == {2}


def test_holds_nest_and_cover_every_source(model):
    model.source("native").replace_volumes([volume(1)])
    with model.suppress_removals([1]):
        with model.suppress_removals([1, 2]):
            model.source("native").remove_volumes([short_of(volume(1))])
        assert ids(model) == {1}
        model.source("child").add_volumes([short_of(volume(1))])
    assert ids(model) == {1}
    model.source("child").remove_volumes([short_of(volume(1))])
    assert ids(model) == set()


def test_a_hold_ends_when_its_block_fails(model):
    model.source("child").replace_volumes([volume(1)])

    def fail_to_hand_over():
        with model.suppress_removals([1]):
            model.source("child").retire()
            assert ids(model) == {1}
            raise ValueError("hand-over failed")

    with pytest.raises(ValueError, match="hand-over"):
        fail_to_hand_over()
    assert ids(model) == set()


def test_listeners_hear_of_changes_until_removed(model):
    heard = []
    remove = model.add_listener(lambda: heard.append(model.snapshot().version))
    model.source("child").set_facts(NodeProperties(max_file_key=1))
    model.source("child").set_facts(NodeProperties(max_file_key=1))
    assert len(heard) == 1
    remove()
    remove()
    model.source("child").replace_volumes([])
    assert len(heard) == 1


def test_snapshots_do_not_change_afterwards(model):
    model.source("child").replace_volumes([volume(1)])
    model.source("child").add_ec_shards([Shards(id=1, ec_index_bits=1)])
    before = model.snapshot()
    model.source("child").change_volumes([volume(2)])
    model.source("child").add_ec_shards([Shards(id=2, ec_index_bits=1)])
    assert (len(before.volumes), len(before.ec_shards)) == (1, 1)


def test_tiered_volumes_are_known_while_they_are(model):
    source = model.source("child")
    source.replace_volumes([volume(1), volume(2, remote_storage_name="s3.default", remote_storage_key="k")])
    assert [source.tier_of(volume_id) for volume_id in (1, 2)] == ["", "s3.default"]
    source.change_volumes([volume(1, remote_storage_name="s3.default"), volume(2)])
    assert [source.tier_of(volume_id) for volume_id in (1, 2)] == ["s3.default", ""]
    source.remove_volumes([short_of(volume(1))])
    assert not source.tier_of(1)
    source.replace_volumes([volume(3, remote_storage_name="s3.default")])
    source.replace_volumes([])
    assert not source.tier_of(3)


def bits_of(model):
    return {key: message.ec_index_bits for key, message in model.snapshot().ec_shards.items()}


def test_shards_that_change_hands_are_there_all_the_time(model):
    native, child = model.source("native"), model.source("child")
    child.replace_ec_shards([Shards(id=1, ec_index_bits=0b111, shard_sizes=[5, 5, 5]), Shards(id=2, ec_index_bits=1)])
    with model.suppress_removals([1]):
        child.remove_ec_shards([Shards(id=1, ec_index_bits=0b10), Shards(id=2, ec_index_bits=1)])
        assert bits_of(model) == {(0, 1): 0b111}
        native.add_ec_shards([Shards(id=1, ec_index_bits=0b10, shard_sizes=[5])])
        child.replace_ec_shards([])
        assert bits_of(model) == {(0, 1): 0b111}
        assert list(model.snapshot().ec_shards[0, 1].shard_sizes) == [5, 5, 5]
    assert bits_of(model) == {(0, 1): 0b10}


def test_what_is_opened_again_is_held_no_longer(model):
    child = model.source("child")
    child.replace_ec_shards([Shards(id=1, ec_index_bits=0b11)])
    with model.suppress_removals([1]):
        child.replace_ec_shards([])
        child.add_ec_shards([Shards(id=1, ec_index_bits=0b01)])
        assert bits_of(model) == {(0, 1): 0b11}
    assert bits_of(model) == {(0, 1): 0b01}
    with model.suppress_removals([1]):
        child.retire()
        assert bits_of(model) == {(0, 1): 0b01}
    assert bits_of(model) == {}
