"""RPCs on erasure-coded volumes: an index fetched from another server, received files, counts."""

from __future__ import annotations

import errno
from contextlib import closing
from unittest.mock import Mock

import grpc
import pytest
from support.files import PlannedFiles, once_before
from support.grpc_copy import COOKIE, SOURCE, PlayedSource, SourceFailed, fill
from support.grpc_nodes import make_context, make_node
from support.stores import open_at

from native_handlers.format.needle import Needle
from native_handlers.format.vif import EcShardConfig, VolumeInfo, encode_volume_info
from native_handlers.grpc import ec_work
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.ec_scrub import scrub_ec_volume
from native_handlers.grpc.ec_shards import (
    volume_ec_blob_delete,
    volume_ec_shard_read,
    volume_ec_shards_delete,
    volume_ec_shards_mount,
    volume_ec_shards_unmount,
)
from native_handlers.grpc.ec_work import volume_ec_shards_generate, volume_ec_shards_rebuild, volume_ec_shards_to_volume
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.erasure_coding import decode_volume
from native_handlers.storage.erasure_coding.remote import ShardUnreachable
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import (
    CompactionRefused,
    ConfigureFailed,
    VolumeBusy,
    VolumeExists,
    VolumeNotFound,
)
from native_handlers.storage.model.file_kinds import STAGED

VID = 7
MIB = 1 << 20
OTHER = "10.0.0.3:8080"


class Holders:
    """The master's answer about the shards of other servers."""

    def __init__(self, *addresses):
        self.addresses = addresses

    def holders(self, _volume_id):
        if not self.addresses:
            raise ShardUnreachable("the master is away")
        return {0: list(self.addresses)}

    def is_self(self, address):
        return address == OTHER


class Pair:
    """A server with all shards and their index, and a server with shards alone."""

    def __init__(self, base):
        self.directory = base / "target"
        self.source_store = open_at(base / "source")
        self.data = fill(self.source_store, VID)
        self.source_store.ec_work.generate(self.source_store.find_volume(VID), "")
        self.source = PlayedSource(make_node(base, self.source_store))
        self.source.node.store.ec_work.load_shards(None)
        self.directory.mkdir()
        for shard in range(14):
            name = f"{VID}.ec{shard:02d}"
            (self.directory / name).write_bytes((base / "source" / name).read_bytes())
        self.store = open_at(self.directory)
        self.store.ec_reader.remote = Holders(OTHER, SOURCE)
        self.node = make_node(base, self.store, state=StoreStateKeeper(self.store), volume_servers=self.source)

    def mount(self, **fields):
        request = pb.VolumeEcShardsMountRequest(volume_id=VID, shard_ids=range(14), **fields)
        return volume_ec_shards_mount(self.node, make_context(), request)

    def read_all(self):
        return {key: bytes(self.store.ec_reader.read_needle(VID, key, COOKIE).data) for key in self.data}


class TestShardRead:
    """A shard of 6 MiB, of a volume that is coded with two data shards."""

    @pytest.fixture
    def node(self, tmp_path):
        store = open_at(tmp_path / "volumes")
        store.allocate_volume(VID)
        for number in range(1, 12):
            store.get_volume(VID).write(Needle(cookie=COOKIE, needle_id=number, data=bytes([number]) * MIB))
        info = VolumeInfo(version=3, ec_shard_config=EcShardConfig(2, 1, 1))
        (tmp_path / "volumes" / "7.vif").write_text(encode_volume_info(info))
        store.ec_work.generate(store.find_volume(VID), "")
        store.ec.mount("", VID, 0)
        yield make_node(tmp_path, store)
        store.close()

    @pytest.mark.parametrize(("offset", "size"), [(0, 6 * MIB), (5, 6 * MIB - 5), (100, 1000), (6 * MIB - 7, 100)])
    def test_no_message_has_more_than_2_mib(self, tmp_path, node, offset, size):
        request = pb.VolumeEcShardReadRequest(volume_id=VID, shard_id=0, offset=offset, size=size)
        pieces = [answer.data for answer in volume_ec_shard_read(node, make_context(), request)]
        shard = (tmp_path / "volumes" / "7.ec00").read_bytes()
        assert len(shard) == 6 * MIB
        assert b"".join(pieces) == shard[offset : offset + size]
        assert all(0 < len(piece) <= 2 * MIB for piece in pieces)


class TestGenerate:
    @pytest.fixture
    def store(self, tmp_path, files):
        made = open_at(tmp_path / "volumes", files=files)
        made.allocate_volume(VID)
        yield made
        made.close()

    @pytest.fixture
    def data(self, store):
        """Needles that a vacuum puts into another order."""
        data = {number: bytes([number]) * 5000 for number in range(30, 0, -1)}
        for number, content in data.items():
            store.get_volume(VID).write(Needle(cookie=COOKIE, needle_id=number, data=content))
        return data

    def test_no_vacuum_commits_meanwhile(self, tmp_path, store, files, data):
        """The shards, their index and the .dat beside them would not be those of one order."""
        list(store.get_volume(VID).compaction.run(CompactionOptions()))

        refused = []

        def commit(path):
            refused.append(path)
            with pytest.raises(CompactionRefused, match="volume 7 is being erasure-coded"):
                store.commit_compaction(store.get_volume(VID))

        files.before = once_before("open", lambda path: ".ec00" in path.name, commit)
        node = make_node(tmp_path, store)
        volume_ec_shards_generate(node, make_context(), pb.VolumeEcShardsGenerateRequest(volume_id=VID))
        assert refused, "the commit was tried before the first shard was made"
        store.ec_work.load_shards(None)
        volume_ec_shards_mount(node, make_context(), pb.VolumeEcShardsMountRequest(volume_id=VID, shard_ids=range(14)))
        assert {key: bytes(store.ec_reader.read_needle(VID, key, COOKIE).data) for key in data} == data
        list(store.get_volume(VID).compaction.run(CompactionOptions()))
        store.commit_compaction(store.get_volume(VID))

    def test_files_that_a_vacuum_could_not_rename_are_not_coded(self, tmp_path, store, files, data, monkeypatch):
        """The names lead to the old files, which lack the writes since."""
        list(store.get_volume(VID).compaction.run(CompactionOptions()))

        def refuse(_source, _target):
            raise OSError(errno.EIO, "no rename")

        monkeypatch.setattr(files, "rename", refuse)
        store.commit_compaction(store.get_volume(VID))
        monkeypatch.undo()
        store.get_volume(VID).write(Needle(cookie=COOKIE, needle_id=99, data=b"since"))
        request = pb.VolumeEcShardsGenerateRequest(volume_id=VID)
        with pytest.raises(RpcFailure, match="than the one that is open"):
            volume_ec_shards_generate(make_node(tmp_path, store), make_context(), request)
        store.get_volume(VID).compaction.cleanup()
        volume_ec_shards_generate(make_node(tmp_path, store), make_context(), request)


@pytest.fixture
def pair(tmp_path):
    made = Pair(tmp_path)
    yield made
    made.store.close()
    made.source_store.close()


class TestMissingIndex:
    def test_is_fetched_from_a_holder(self, pair):
        with pytest.raises(RpcFailure):
            pair.mount()
        pair.mount(recover_missing_index=True)
        assert pair.read_all() == pair.data
        assert {path.suffix for path in pair.directory.glob(f"{VID}.*")} >= {".ecx", ".vif"}
        assert {request.ext for request in pair.source.asked} == {".vif", ".ecj", ".ecx"}

    def test_of_all_volumes_at_once(self, pair):
        request = pb.VolumeEcShardsMountRequest(recover_missing_index=True)
        volume_ec_shards_mount(pair.node, make_context(), request)
        assert pair.read_all() == pair.data

    def test_is_not_fetched_where_one_is_here(self, pair):
        pair.mount(recover_missing_index=True)
        pair.source.asked.clear()
        pair.mount(recover_missing_index=True)
        assert pair.source.asked == []

    def test_a_master_that_is_away_changes_nothing(self, pair):
        pair.store.ec_reader.remote = Holders()
        before = sorted(pair.directory.iterdir())
        with pytest.raises(RpcFailure, match=f"mount {VID}.0"):
            pair.mount(recover_missing_index=True)
        assert sorted(pair.directory.iterdir()) == before

    def test_a_holder_that_fails_leaves_no_index(self, pair):
        def breaks(_request, _messages):
            raise SourceFailed(grpc.StatusCode.UNAVAILABLE, "the holder went")
            yield

        pair.source.change_stream = breaks
        with pytest.raises(RpcFailure, match=f"mount {VID}.0"):
            pair.mount(recover_missing_index=True)
        assert not list(pair.directory.glob("*.ecx"))


class TestStagedFiles:
    """Files that were received under staged names become a volume, all or none."""

    @pytest.fixture
    def staged(self, pair, tmp_path):
        for shard in pair.directory.glob("*.ec*"):
            shard.unlink()
        for extension in (".dat", ".idx", ".vif"):
            content = (tmp_path / "source" / f"{VID}{extension}").read_bytes()
            (pair.directory / f"{VID}{extension}{STAGED}").write_bytes(content)
        return pair

    def adopt(self, pair, **fields):
        request = pb.VolumeEcShardsToVolumeRequest(volume_id=VID, from_staged=True, **fields)
        return volume_ec_shards_to_volume(pair.node, make_context(), request)

    def test_become_a_volume(self, staged):
        self.adopt(staged)
        volume = staged.store.find_volume(VID)
        assert {key: volume.read(key, cookie=COOKIE).needle.data for key in staged.data} == staged.data
        assert not list(staged.directory.glob(f"*{STAGED}"))

    def test_do_not_replace_a_volume(self, staged):
        staged.store.allocate_volume(VID)
        with pytest.raises(RpcFailure, match=f"staged volume {VID} already exists on this server"):
            self.adopt(staged)
        assert len(list(staged.directory.glob(f"*{STAGED}"))) == 3

    def test_lie_beside_no_shard(self, staged):
        (staged.directory / f"{VID}.ec03").write_bytes(b"a shard")
        with pytest.raises(RpcFailure):
            self.adopt(staged)
        assert staged.store.find_volume(VID) is None
        assert len(list(staged.directory.glob(f"*{STAGED}"))) == 3

    @pytest.mark.parametrize("missing", [".dat", ".idx"])
    def test_are_no_volume_unless_both_are_there(self, staged, missing):
        (staged.directory / f"{VID}{missing}{STAGED}").unlink()
        with pytest.raises(RpcFailure):
            self.adopt(staged)
        assert staged.store.find_volume(VID) is None
        assert not (staged.directory / f"{VID}.dat").exists()

    def test_that_cannot_be_opened_have_their_names_again(self, staged):
        sent = staged.directory / f"{VID}.dat{STAGED}"
        content = sent.read_bytes()
        sent.write_bytes(b"\xff" + content[1:])
        before = {path.name: path.read_bytes() for path in staged.directory.glob(f"{VID}.*")}
        with pytest.raises(RpcFailure, match=f"mount staged volume {VID}: volume {VID} not found on disk"):
            self.adopt(staged)
        assert {path.name: path.read_bytes() for path in staged.directory.glob(f"{VID}.*")} == before
        sent.write_bytes(content)
        self.adopt(staged)
        volume = staged.store.find_volume(VID)
        assert {key: volume.read(key, cookie=COOKIE).needle.data for key in staged.data} == staged.data

    def test_that_another_call_opens_are_a_volume(self, staged, monkeypatch):
        """A SIGHUP comes between the failure and the names."""
        mount = staged.store.mount_volume

        def fail(volume_id):
            mount(volume_id)
            raise VolumeNotFound(volume_id)

        monkeypatch.setattr(staged.store, "mount_volume", fail)
        self.adopt(staged)
        assert staged.store.find_volume(VID) is not None
        assert not list(staged.directory.glob(f"*{STAGED}"))

    def test_whose_names_cannot_be_given_back_are_left_for_a_mount_by_hand(self, staged, monkeypatch, caplog):
        monkeypatch.setattr(staged.store, "mount_volume", Mock(side_effect=VolumeNotFound(VID)))
        monkeypatch.setattr(ec_work, "give_back", Mock(side_effect=OSError(errno.EROFS, "no")))
        with pytest.raises(RpcFailure, match=f"mount staged volume {VID}"):
            self.adopt(staged)
        assert f"volume {VID} was sent here, and has to be mounted by hand" in caplog.text
        monkeypatch.undo()
        staged.store.mount_volume(VID)

    def test_where_nothing_was_sent(self, pair):
        with pytest.raises(RpcFailure):
            self.adopt(pair)


class TestDecodingBesideAnOpenVolume:
    """The volume is closed while its `.dat` is replaced, and is open again afterwards."""

    @pytest.fixture
    def decode(self, pair):
        request = pb.VolumeEcShardsToVolumeRequest(volume_id=VID)
        return lambda: volume_ec_shards_to_volume(pair.source.node, make_context(), request)

    def contents(self, pair):
        volume = pair.source_store.get_volume(VID)
        return {key: volume.read(key, cookie=COOKIE).needle.data for key in pair.data}

    def test_that_its_shards_were_made_of(self, pair, decode):
        decode()
        assert self.contents(pair) == pair.data

    def test_that_was_written_to_since(self, pair, decode):
        newer = Needle(cookie=COOKIE, needle_id=max(pair.data) + 1, data=b"newer")
        pair.source_store.get_volume(VID).write(newer)
        with pytest.raises(RpcFailure, match="has what the shards of volume 7 do not hold"):
            decode()
        assert self.contents(pair) == pair.data
        assert pair.source_store.get_volume(VID).read(newer.needle_id, cookie=COOKIE).needle.data == b"newer"

    def test_stays_read_only_where_it_was(self, pair, decode):
        pair.source_store.get_volume(VID).write(Needle(cookie=COOKIE, needle_id=max(pair.data) + 1, data=b"newer"))
        pair.source_store.mark_readonly(pair.source_store.get_volume(VID))
        with pytest.raises(RpcFailure, match="has what the shards of volume 7 do not hold"):
            decode()
        assert pair.source_store.get_volume(VID).is_read_only

    def test_is_neither_closed_nor_deleted_by_others_meanwhile(self, pair):
        store = pair.source_store
        with store.replacing_volume(VID, "is being made of its shards", closes=True):
            for call in (lambda: store.unmount_volume(VID), lambda: store.delete_volume(VID, only_empty=False)):
                with pytest.raises(VolumeBusy, match="volume 7 is being made of its shards"):
                    call()
        assert self.contents(pair) == pair.data


class TestOpeningWhatIsReplaced:
    """Writes to a volume that is opened while its files are replaced would go into files without a name."""

    @pytest.fixture(params=[True, False], ids=["open", "left closed"])
    def was_open(self, request, pair):
        if not request.param:
            pair.source_store.unmount_volume(VID)
        return request.param

    @pytest.fixture
    def attempts(self, pair):
        store = pair.source_store

        def attempt():
            with pytest.raises(VolumeBusy, match="volume 7 is being made of its shards"):
                store.mount_volume(VID)
            with pytest.raises(VolumeExists):
                store.allocate_volume(VID)
            with pytest.raises(VolumeBusy):
                store.begin_copy(VID, "", "", 0)
            with pytest.raises(ConfigureFailed):
                store.configure_volume(VID, "001")
            store.load_new_volumes()
            assert store.find_volume(VID) is None

        return attempt

    def decode(self, pair, **fields):
        request = pb.VolumeEcShardsToVolumeRequest(volume_id=VID, **fields)
        return volume_ec_shards_to_volume(pair.source.node, make_context(), request)

    def during(self, monkeypatch, step):
        """Calls `step` when the .dat has been written."""
        write_dat, calls = decode_volume.write_dat, []

        def write(*arguments):
            write_dat(*arguments)
            calls.append(None)
            step()

        monkeypatch.setattr(decode_volume, "write_dat", write)
        return calls

    def check_writes(self, pair):
        """The volume has its needles, and keeps what is written to it now."""
        store = pair.source_store
        store.mount_volume(VID)
        store.get_volume(VID).write(Needle(cookie=COOKIE, needle_id=99, data=b"newer"))
        store.unmount_volume(VID)
        store.mount_volume(VID)
        volume = store.get_volume(VID)
        wanted = {**pair.data, 99: b"newer"}
        assert {key: volume.read(key, cookie=COOKIE).needle.data for key in wanted} == wanted

    def test_waits_until_the_decoding_has_ended(self, pair, monkeypatch, attempts, was_open):
        calls = self.during(monkeypatch, attempts)
        self.decode(pair)
        assert calls
        assert (pair.source_store.find_volume(VID) is not None) is was_open
        self.check_writes(pair)

    def test_is_possible_after_a_decoding_that_failed(self, pair, monkeypatch, attempts, was_open):
        def fail():
            attempts()
            raise OSError(errno.ENOSPC, "no room")

        self.during(monkeypatch, fail)
        with pytest.raises(RpcFailure, match="no room"):
            self.decode(pair)
        assert (pair.source_store.find_volume(VID) is not None) is was_open
        self.check_writes(pair)

    def test_is_possible_after_a_decoding_that_outlived_the_store(self, pair, monkeypatch):
        store = pair.source_store
        self.during(monkeypatch, store.close)
        with pytest.raises(RpcFailure):
            self.decode(pair)
        assert not any(location.replaced for location in store.locations)

    def test_a_volume_is_not_closed_for_a_decoding_that_cannot_begin(self, pair):
        store, closed = pair.source_store, []
        store.add_listener(lambda _: closed.append(store.find_volume(VID) is None))
        store.ec.unmount(VID, 3)
        with pytest.raises(RpcFailure, match="ec volume 7 missing shard 3"):
            self.decode(pair)
        assert not closed

    def test_one_decoding_at_a_time_with_a_copy(self, pair):
        pair.source_store.unmount_volume(VID)
        arriving = pair.source_store.begin_copy(VID, "", "", 0)
        with pytest.raises(RpcFailure, match="volume 7 is being copied here already"):
            self.decode(pair)
        pair.source_store.abandon_copy(arriving)
        self.decode(pair)

    def test_two_copies_are_open_again(self, tmp_path):
        """A decoding refuses them; both are served as before."""
        disks = [tmp_path / name for name in ("a", "b")]
        store = open_at(disks[0])
        data = fill(store, VID)
        store.ec_work.generate(store.find_volume(VID), "")
        store.close()
        disks[1].mkdir()
        for extension in (".dat", ".idx"):
            (disks[1] / f"{VID}{extension}").write_bytes((disks[0] / f"{VID}{extension}").read_bytes())
        store = open_at(*disks)
        for shard in range(14):
            store.ec.mount("", VID, shard)
        node = make_node(tmp_path, store, state=StoreStateKeeper(store))
        with pytest.raises(RpcFailure, match="is here as a regular volume too"):
            volume_ec_shards_to_volume(node, make_context(), pb.VolumeEcShardsToVolumeRequest(volume_id=VID))
        for location in store.locations:
            assert location.volumes[VID].read(min(data), cookie=COOKIE).needle.data == data[min(data)]
        store.close()

    def test_a_volume_that_was_sent_here(self, pair, tmp_path, monkeypatch):
        for path in pair.directory.glob("*.ec*"):
            path.unlink()
        for extension in (".dat", ".idx", ".vif"):
            content = (tmp_path / "source" / f"{VID}{extension}").read_bytes()
            (pair.directory / f"{VID}{extension}{STAGED}").write_bytes(content)
        adopt = ec_work.adopt_staged

        def adopt_between(*arguments):
            with pytest.raises(VolumeExists):
                pair.store.allocate_volume(VID)
            adopt(*arguments)
            with pytest.raises(VolumeBusy, match="volume 7 is being put in its place"):
                pair.store.mount_volume(VID)
            pair.store.load_new_volumes()
            assert pair.store.find_volume(VID) is None

        monkeypatch.setattr(ec_work, "adopt_staged", adopt_between)
        request = pb.VolumeEcShardsToVolumeRequest(volume_id=VID, from_staged=True)
        volume_ec_shards_to_volume(pair.node, make_context(), request)
        volume = pair.store.get_volume(VID)
        assert {key: volume.read(key, cookie=COOKIE).needle.data for key in pair.data} == pair.data


class TestCounts:
    def test_scrubs(self, pair):
        pair.mount(recover_missing_index=True)
        (pair.directory / f"{VID}.ecsum").write_bytes((pair.directory.parent / "source" / f"{VID}.ecsum").read_bytes())
        with (pair.directory / f"{VID}.ec00").open("r+b") as shard:
            shard.seek(100)
            shard.write(b"\xff\xff")
        for mode in (pb.VolumeScrubMode.CHECKSUM, pb.VolumeScrubMode.INDEX):
            scrub_ec_volume(pair.node, make_context(), pb.ScrubEcVolumeRequest(mode=mode))
        counts = pair.node.counts.snapshot()
        assert counts.scrub_volume_failures == {"CHECKSUM": 1, "INDEX": 0}
        assert counts.scrub_shard_failures == {"CHECKSUM": 1, "INDEX": 0}
        assert set(counts.scrub_last_time_seconds) == {"CHECKSUM", "INDEX"}

    def test_rebuilds(self, pair):
        pair.mount(recover_missing_index=True)
        (pair.directory / f"{VID}.ec02").unlink()
        request = pb.VolumeEcShardsRebuildRequest(volume_id=VID)
        assert volume_ec_shards_rebuild(pair.node, make_context(), request).rebuilt_shard_ids == [2]
        for shard in range(5):
            (pair.directory / f"{VID}.ec{shard:02d}").unlink()
        with pytest.raises(RpcFailure):
            volume_ec_shards_rebuild(pair.node, make_context(), request)
        counts = pair.node.counts.snapshot()
        assert counts.ec_rebuild_total == {"success": 1, "failure": 1}
        assert {result: sum(seconds.counts) for result, seconds in counts.ec_rebuild_seconds.items()} == {
            "success": 1,
            "failure": 1,
        }


class TestAbsentVolumes:
    """What upstream takes for done, and what for a failure, where the server has nothing of the volume."""

    @pytest.fixture
    def node(self, tmp_path):
        store = open_at(tmp_path / "empty")
        yield make_node(tmp_path, store)
        store.close()

    def test_shards_that_are_not_open_are_closed_and_deleted(self, node):
        for _ in range(2):
            request = pb.VolumeEcShardsUnmountRequest(volume_id=VID, shard_ids=[0, 1])
            assert volume_ec_shards_unmount(node, make_context(), request) == pb.VolumeEcShardsUnmountResponse()
            request = pb.VolumeEcShardsDeleteRequest(volume_id=VID, shard_ids=[0, 1])
            assert volume_ec_shards_delete(node, make_context(), request) == pb.VolumeEcShardsDeleteResponse()

    MANY = (*[3] * 10_000, *range(32, 10_000), 2**32 - 1, 3)
    """A request of 16 MiB has room for 16 million ids."""

    def test_a_list_of_shards_costs_no_more_than_the_shards_that_there_can_be(self, tmp_path, caplog):
        caplog.set_level("INFO")
        files = PlannedFiles()
        with closing(open_at(tmp_path / "counting", files=files)) as store:
            node = make_node(tmp_path, store)

            def delete(shard_ids):
                volume_ec_shards_delete(
                    node, make_context(), pb.VolumeEcShardsDeleteRequest(volume_id=VID, shard_ids=shard_ids)
                )

            assert files.since(lambda: delete(self.MANY)) == files.since(lambda: delete([3]))
        assert "shards [3] of volume 7 deleted" in caplog.messages

    def test_a_list_of_shards_is_closed_once(self, node, monkeypatch):
        closing_one = Mock(wraps=node.store.ec.unmount)
        monkeypatch.setattr(node.store.ec, "unmount", closing_one)
        request = pb.VolumeEcShardsUnmountRequest(volume_id=VID, shard_ids=self.MANY)
        assert volume_ec_shards_unmount(node, make_context(), request) == pb.VolumeEcShardsUnmountResponse()
        assert [call.args[1] for call in closing_one.mock_calls] == [3]

    def test_a_shard_is_opened_once(self, node, monkeypatch):
        opening = Mock()
        monkeypatch.setattr(node.store.ec, "mount", opening)
        request = pb.VolumeEcShardsMountRequest(volume_id=VID, shard_ids=[3, 1] * 5000)
        assert volume_ec_shards_mount(node, make_context(), request) == pb.VolumeEcShardsMountResponse()
        assert [call.args[2] for call in opening.mock_calls] == [3, 1]

    def test_an_id_that_no_shard_can_have_is_not_opened(self, node):
        request = pb.VolumeEcShardsMountRequest(volume_id=VID, shard_ids=[32])
        with pytest.raises(RpcFailure, match=r"^mount 7\.32: MountEcShards 7\.32"):
            volume_ec_shards_mount(node, make_context(), request)

    def test_a_needle_of_an_absent_volume_is_deleted(self, node):
        request = pb.VolumeEcBlobDeleteRequest(volume_id=VID, file_key=1, version=3)
        assert volume_ec_blob_delete(node, make_context(), request) == pb.VolumeEcBlobDeleteResponse()

    def test_a_scrub_names_the_volume_that_it_lacks(self, node):
        request = pb.ScrubEcVolumeRequest(volume_ids=[VID], mode=pb.INDEX)
        with pytest.raises(RpcFailure, match=r"^EC volume id 7 not found$"):
            scrub_ec_volume(node, make_context(), request)
