"""Work on shards whose result no client waits for any more: it ends, and leaves what was there before."""

from __future__ import annotations

import threading
from contextlib import closing

import grpc
import pytest
from support.coded_volumes import open_coded_volume
from support.files import PlannedFiles, path_of
from support.grpc_nodes import make_context, make_node
from support.grpc_servers import serving
from support.stores import open_at
from support.waiting import LIMIT_S, wait_until

from native_handlers.format.needle import Needle
from native_handlers.grpc import ec_work
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.ec_work import volume_ec_shards_generate, volume_ec_shards_rebuild, volume_ec_shards_to_volume
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.erasure_coding import rebuild_volume

VID, COOKIE = 7, 5
DATA = {number: bytes([number]) * 1000 for number in range(1, 20)}
ENDED = "the work on shards ended early"


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "coded"


@pytest.fixture
def store(directory):
    needles = [Needle(needle_id=number, cookie=COOKIE, data=data) for number, data in DATA.items()]
    made = open_coded_volume(directory, VID, *needles)
    yield made
    made.close()


@pytest.fixture
def node(tmp_path, store):
    return make_node(tmp_path, store)


@pytest.fixture
def gone():
    context = make_context()
    context.is_active = lambda: False
    return context


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def decode(node, context):
    return volume_ec_shards_to_volume(node, context, pb.VolumeEcShardsToVolumeRequest(volume_id=VID))


@pytest.mark.slow
def test_a_decoding_leaves_the_shards_alone(node, store, directory, gone):
    """Slow: codes a volume."""
    before = contents(directory)
    with pytest.raises(RpcFailure, match=ENDED):
        decode(node, gone)
    assert contents(directory) == before
    decode(node, make_context())
    store.mount_volume(VID)
    with pytest.raises(RpcFailure, match=ENDED):
        decode(node, gone)
    volume = store.get_volume(VID)
    assert {key: volume.read(key, cookie=COOKIE).needle.data for key in DATA} == DATA


@pytest.mark.slow
def test_a_coding_leaves_the_volume_and_its_earlier_shards(node, store, directory, gone):
    """Slow: codes a volume twice."""
    decode(node, make_context())
    store.mount_volume(VID)
    before, request = contents(directory), pb.VolumeEcShardsGenerateRequest(volume_id=VID)
    with pytest.raises(RpcFailure, match=ENDED):
        volume_ec_shards_generate(node, gone, request)
    assert contents(directory) == before
    assert store.get_volume(VID).claim.reason is None
    volume_ec_shards_generate(node, make_context(), request)
    assert contents(directory) != before


def test_a_rebuilding_makes_no_shard(node, store, directory, gone):
    store.ec.unmount(VID, 3)
    (directory / f"{VID}.ec03").unlink()
    before, request = contents(directory), pb.VolumeEcShardsRebuildRequest(volume_id=VID)
    with pytest.raises(RpcFailure, match=ENDED):
        volume_ec_shards_rebuild(node, gone, request)
    assert contents(directory) == before
    assert volume_ec_shards_rebuild(node, make_context(), request).rebuilt_shard_ids == [3]


def test_shards_that_were_made_anew_stay_without_the_checksums(node, store, directory, monkeypatch):
    store.ec.unmount(VID, 3)
    for name in (f"{VID}.ec03", f"{VID}.ecsum"):
        (directory / name).unlink()
    is_there, verify = [True], rebuild_volume.verify
    context = make_context()
    context.is_active = lambda: is_there[0]

    def after_the_client_went(*arguments):
        is_there[0] = False
        return verify(*arguments)

    monkeypatch.setattr(rebuild_volume, "verify", after_the_client_went)
    request = pb.VolumeEcShardsRebuildRequest(volume_id=VID)
    assert volume_ec_shards_rebuild(node, context, request).rebuilt_shard_ids == [3]
    assert not (directory / f"{VID}.ecsum").exists()


class TestTheLastSteps:
    """A client that goes when all pieces are made, and the files are put on disk."""

    @pytest.fixture
    def files(self):
        return PlannedFiles()

    @pytest.fixture
    def node(self, tmp_path, store, directory, files):
        store.close()
        with closing(open_at(directory, files=files)) as opened:
            yield make_node(tmp_path, opened)

    @pytest.fixture
    def leaving(self, files):
        """Makes the context of a client that goes before the first operation of that kind on an unfinished file."""

        def make(operation, name):
            is_there, context = [True], make_context()
            context.is_active = lambda: is_there[0]

            def look(done, target):
                if done == operation and path_of(target).name.startswith(f"{name}."):
                    is_there[0] = False

            files.before = look
            return context

        return make

    def test_a_decoding_makes_no_volume(self, node, directory, leaving):
        before = contents(directory)
        with pytest.raises(RpcFailure, match=ENDED):
            decode(node, leaving("sync", f"{VID}.dat"))
        assert contents(directory) == before

    def test_a_rebuilding_makes_no_shard(self, node, directory, leaving):
        node.store.ec.unmount(VID, 3)
        (directory / f"{VID}.ec03").unlink()
        before, request = contents(directory), pb.VolumeEcShardsRebuildRequest(volume_id=VID)
        with pytest.raises(RpcFailure, match=ENDED):
            volume_ec_shards_rebuild(node, leaving("write", f"{VID}.ec03"), request)
        assert contents(directory) == before

    @pytest.mark.slow
    def test_a_coding_leaves_the_earlier_shards(self, node, directory, leaving):
        """Slow: codes a volume twice."""
        decode(node, make_context())
        node.store.mount_volume(VID)
        before, request = contents(directory), pb.VolumeEcShardsGenerateRequest(volume_id=VID)
        with pytest.raises(RpcFailure, match=ENDED):
            volume_ec_shards_generate(node, leaving("sync", f"{VID}.ecx"), request)
        assert contents(directory) == before

    def test_a_volume_that_is_compared_record_by_record_may_end_at_each(self, node):
        """A .dat with live records alone is no beginning of the coded one."""
        node.store.ec_reader.delete_needle(VID, 1, COOKIE)
        decode(node, make_context())
        context, asked = make_context(), []
        context.is_active = lambda: asked.append(1) or True
        decode(node, context)
        assert len(asked) >= len(DATA) - 1


def test_a_stop_that_waits_no_longer_ends_a_coding(tmp_path, monkeypatch):
    """The interpreter waits for the threads of all calls at its end."""
    wanted, begun, real = [], threading.Event(), ec_work.ended_early

    def ended_early(is_wanted):
        wanted.append(is_wanted)
        return real(is_wanted)

    def wait_for_the_end(operation, target):
        if operation == "write" and path_of(target).name.startswith(f"{VID}.ec00."):
            begun.set()
            wait_until(lambda: not wanted[0]())

    monkeypatch.setattr(ec_work, "ended_early", ended_early)
    with serving(tmp_path / "volumes") as server, closing(server.store):
        server.write(1, b"x" * 1000)
        server.files.before = wait_for_the_end
        call = server.rpc.VolumeEcShardsGenerate.future(pb.VolumeEcShardsGenerateRequest(volume_id=VID))
        assert begun.wait(LIMIT_S)
        server.gateway.drain(0)
        with pytest.raises(grpc.RpcError):
            call.result(LIMIT_S)
        wait_until(server.is_idle)
        assert not list(server.directory.glob(f"{VID}.ec*"))
