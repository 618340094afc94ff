"""VolumeCopy of a volume whose data is in an S3 tier: the .idx and the .vif are copied, and the object stays.

Slow: each test moves the data of a volume to an S3 server first.
"""

from __future__ import annotations

import pytest
from support.grpc_copy import COOKIE, SOURCE, Caller, PlayedSource, contents, fill
from support.grpc_nodes import FakeMasters, make_context, make_node
from support.s3_server import s3_server, shared_tier
from support.stores import open_at

from native_handlers.format.needle import Needle
from native_handlers.grpc import volume_copy
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.grpc.tiers import volume_tier_move_dat_from_remote, volume_tier_move_dat_to_remote
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.directory import arrival
from native_handlers.storage.model.errors import Deleted
from native_handlers.storage.remote.tier_files import TierFiles
from native_handlers.storage.remote.tiers import Tiers, TierSettings
from native_handlers.storage.volume.paths import VolumePaths

pytestmark = pytest.mark.slow

VID = 7


@pytest.fixture(scope="module")
def s3():
    with s3_server("copied-tiers") as server:
        yield server


def open_with(directory, properties):
    tiers = Tiers({"s3": shared_tier})
    tiers.load([TierSettings("s3", "cold", properties)] if properties else [])
    files = TierFiles(tiers)
    return open_at(directory, files=files, tiers=files)


class Pair:
    """Two servers; the first has a volume in the tier."""

    def __init__(self, base, s3):
        self.base, self.s3 = base, s3
        self.source_store = open_with(base / "source", s3.properties())
        self.data = fill(self.source_store, VID)
        self.source = PlayedSource(make_node(base, self.source_store))
        move_to_tier(self)
        self.open(s3.properties())

    def open(self, properties):
        self.store = open_with(self.base / "target", properties)
        self.node = make_node(
            self.base, self.store, state=StoreStateKeeper(self.store), masters=FakeMasters(), volume_servers=self.source
        )

    def copy(self):
        request = pb.VolumeCopyRequest(volume_id=VID, source_data_node=SOURCE)
        return list(volume_copy.volume_copy(self.node, Caller().context, request))

    def names(self):
        return {path.name for path in (self.base / "target").iterdir() if path.name.startswith(str(VID))}

    def close(self):
        self.store.close()
        self.source_store.close()
        for key in list(self.s3.keys()):
            self.s3.client.delete_object(Bucket=self.s3.bucket, Key=key)


def move_to_tier(pair):
    request = pb.VolumeTierMoveDatToRemoteRequest(volume_id=VID, destination_backend_name="s3.cold")
    list(volume_tier_move_dat_to_remote(pair.source.node, make_context(), request))


@pytest.fixture
def pair(tmp_path, s3):
    made = Pair(tmp_path, s3)
    yield made
    made.close()


def test_the_copy_is_read_from_the_same_object(pair):
    (answer,) = pair.copy()
    assert answer.last_append_at_ns
    assert pair.names() == {f"{VID}.idx", f"{VID}.vif"}
    assert contents(pair.store, pair.data) == pair.data
    assert pair.store.find_volume(VID).is_tiered
    assert len(pair.s3.keys()) == 1
    pair.store.close()
    pair.open(pair.s3.properties())
    assert contents(pair.store, pair.data) == pair.data


def test_the_source_may_go_and_leave_its_object(pair):
    pair.copy()
    pair.source_store.delete_volume(VID, only_empty=False, keep_remote_data=True)
    assert contents(pair.store, pair.data) == pair.data


def test_room_for_the_index_is_enough(pair, monkeypatch):
    asked = []
    usual = pair.store.begin_copy
    monkeypatch.setattr(pair.store, "begin_copy", lambda *args: asked.append(args[-1]) or usual(*args))
    pair.copy()
    assert asked == [(pair.base / "target" / f"{VID}.idx").stat().st_size]


def test_deletions_that_come_meanwhile_are_copied(pair):
    """Deletions are rows of the index alone."""
    usual = pair.source.change_stream

    def deletes_when_the_vif_is_sent(request, messages):
        if request.ext == ".vif":
            pair.source_store.find_volume(VID).delete(3, COOKIE)
        return usual(request, messages)

    pair.source.change_stream = deletes_when_the_vif_is_sent
    pair.copy()
    with pytest.raises(Deleted):
        pair.store.find_volume(VID).read(3, cookie=COOKIE)


def test_an_index_that_never_stops_growing_is_not_copied_for_ever(pair):
    grown = iter(range(1, 1000))

    def grows(status):
        status.idx_file_size += 16 * next(grown)
        return status

    pair.source.change_status = grows
    with pytest.raises(RpcFailure, match="grew during 10 copies of it; mark"):
        pair.copy()
    assert pair.names() == set()


def test_a_tier_without_settings_here_is_refused_at_once(pair):
    pair.store.close()
    pair.open(())
    with pytest.raises(RpcFailure, match=r"in remote storage s3\.cold, which this server has no settings of"):
        pair.copy()
    assert pair.names() == set()


def test_the_volume_that_is_here_is_replaced_with_its_data(pair):
    other = fill(pair.store, VID, count=3)
    pair.copy()
    assert pair.names() == {f"{VID}.idx", f"{VID}.vif"}
    assert contents(pair.store, pair.data) == pair.data
    assert other.keys() < pair.data.keys() | {3}


def test_a_tier_that_does_not_answer_replaces_nothing(pair):
    pair.store.close()
    pair.open(pair.s3.properties(endpoint="http://127.0.0.1:1"))
    here = fill(pair.store, VID, count=5)
    with pytest.raises(RpcFailure, match="does not replace the volume that is here"):
        pair.copy()
    assert contents(pair.store, here) == here
    pair.store.get_volume(VID).write(Needle(cookie=COOKIE, needle_id=99, data=b"it takes writes again"))


def move_to_disk(pair):
    request = pb.VolumeTierMoveDatFromRemoteRequest(volume_id=VID)
    list(volume_tier_move_dat_from_remote(pair.source.node, make_context(), request))


def move_to_disk_and_back(pair):
    move_to_disk(pair)
    move_to_tier(pair)


@pytest.mark.parametrize("has_volume", [True, False])
@pytest.mark.parametrize("step", [move_to_disk, move_to_disk_and_back])
def test_a_source_that_moves_its_data_during_the_copy_keeps_the_only_one(pair, step, has_volume):
    """Its object goes; a copy that led to it would let `volume.move` delete the source."""
    here = fill(pair.store, VID, count=5) if has_volume else None
    usual, steps = pair.source.change_stream, [step]

    def moves_when_the_files_are_sent(request, messages):
        yield from usual(request, messages)
        if request.ext == ".vif" and steps:
            steps.pop()(pair)

    pair.source.change_stream = moves_when_the_files_are_sent
    with pytest.raises(RpcFailure, match="volume 7 was moved to or from remote storage while it was copied"):
        pair.copy()
    if here is None:
        assert pair.names() == set()
    else:
        assert contents(pair.store, here) == here
    assert contents(pair.source_store, pair.data) == pair.data


def test_an_object_that_is_gone_is_no_copy(pair):
    for key in list(pair.s3.keys()):
        pair.s3.client.delete_object(Bucket=pair.s3.bucket, Key=key)
    with pytest.raises(RpcFailure, match=r"the data of volume 7 cannot be read from here: .*GetObject"):
        pair.copy()
    assert pair.names() == set()
    assert pair.store.find_volume(VID) is None


def test_a_source_that_moves_its_data_away_during_an_ordinary_copy_keeps_the_only_one(pair):
    """Its .vif leads to the tier by the time it is sent, and the .dat was sent before."""
    move_to_disk(pair)
    usual = pair.source.change_stream

    def moves_before_the_vif_is_sent(request, messages):
        if request.ext == ".vif":
            move_to_tier(pair)
        return usual(request, messages)

    pair.source.change_stream = moves_before_the_vif_is_sent
    with pytest.raises(RpcFailure, match="does not say what its source said of where its data is"):
        pair.copy()
    assert pair.names() == set()


def test_a_vif_that_says_nothing_of_the_tier_replaces_nothing(pair):
    here = fill(pair.store, VID, count=5)
    pair.source.change_stream = lambda request, messages: () if request.ext == ".vif" else messages
    with pytest.raises(RpcFailure):
        pair.copy()
    assert contents(pair.store, here) == here


def test_beside_shards_of_the_same_id_it_is_refused(pair):
    """The .vif belongs to the shards, and would have to name the tier of the volume."""
    (pair.base / "target" / f"{VID}.ecx").write_bytes(b"")
    (pair.base / "target" / f"{VID}.vif").write_text('{"version": 3, "ecShardConfig": {"dataShards": 10}}')
    with pytest.raises(RpcFailure, match="has shards here"):
        pair.copy()
    assert "ecShardConfig" in (pair.base / "target" / f"{VID}.vif").read_text()


def test_an_arrival_that_was_cut_off_is_finished_at_the_next_start(pair, monkeypatch):
    """The decision is on disk, and no file has its final name yet: neither the old .dat nor the old .vif stays."""
    fill(pair.store, VID, count=5)

    def cut(*_args):
        raise OSError(5, "cut off here")

    monkeypatch.setattr("native_handlers.storage.transfer.volume_copy.finish_arrival", cut)
    with pytest.raises(RpcFailure):
        pair.copy()
    monkeypatch.undo()
    assert f"{VID}.arrived" in pair.names()
    pair.store.close()
    pair.open(pair.s3.properties())
    assert pair.names() == {f"{VID}.idx", f"{VID}.vif"}
    assert contents(pair.store, pair.data) == pair.data


def test_a_record_of_an_arrival_names_a_whole_volume(tmp_path):
    paths = VolumePaths(tmp_path, tmp_path, "", VID)
    for extensions, is_whole in (((".idx", ".vif"), True), ((".dat", ".idx"), True), ((".idx",), False)):
        text = arrival.ArrivalRecord(dict.fromkeys(extensions, 1)).encode(tmp_path)
        if is_whole:
            assert set(arrival.parse_arrival_record(text, paths, []).sizes_bytes) == set(extensions)
        else:
            with pytest.raises(arrival.BadArrivalRecord):
                arrival.parse_arrival_record(text, paths, [])
