"""VolumeEcShardsCopy from a source that sends arbitrary files: refused files leave nothing behind."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from support.grpc_copy import SOURCE, Stream, contents, fill
from support.grpc_nodes import FakeMasters, make_node

from native_handlers.format.needle import Needle
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.ec_copy import volume_ec_shards_copy
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.model.compaction import CompactionOptions

VIF_OF_SHARDS = b'{"version":3,"ecShardConfig":{"dataShards":10,"parityShards":4}}'


class SendingSource:
    """A volume server with the files of `sent`, by extension."""

    def __init__(self):
        self.sent = {".vif": VIF_OF_SHARDS}

    @contextmanager
    def open_volume_server(self, address):
        assert address == SOURCE
        yield SimpleNamespace(undecoded=SimpleNamespace(CopyFile=self._copy_file))

    def _copy_file(self, request):
        content = self.sent.get(request.ext)
        messages = [] if content is None else [pb.CopyFileResponse(file_content=content, modified_ts_ns=1)]
        return Stream(message.SerializeToString() for message in messages)


@pytest.fixture
def source():
    return SendingSource()


@pytest.fixture
def copy(directory, store, source, context):
    node = make_node(directory, store, state=StoreStateKeeper(store), masters=FakeMasters(), volume_servers=source)
    return lambda **fields: volume_ec_shards_copy(
        node, context, pb.VolumeEcShardsCopyRequest(volume_id=7, source_data_node=SOURCE, **fields)
    )


def files_in(path):
    return {one.name: one.read_bytes() for one in path.iterdir() if one.name.startswith("7.")}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"version":3,"bytesOffset":5,"ecShardConfig":{"dataShards":10}}', "the .vif says 5-byte offsets"),
        (b'{"version":2,"ecShardConfig":{"dataShards":10}}', "the .vif says version 2"),
        (b'{"version":3,"files":[{"backendType":"s3"}]}', "the .vif says that the data is in remote storage"),
        (b'{"version":3}', "the .vif is of no erasure-coded volume"),
        (b"no json", "the .vif cannot be parsed"),
    ],
)
def test_an_info_that_would_mislead_the_next_start(copy, source, store, directory, text, why):
    data = fill(store)
    before = files_in(directory)
    source.sent[".vif"] = text
    with pytest.raises(RpcFailure, match=f"failed to copy 7.vif file: {why}"):
        copy(copy_vif_file=True)
    assert files_in(directory) == before
    store.unmount_volume(7)
    store.mount_volume(7)
    assert contents(store, data) == data


def test_an_info_of_another_offset_width_without_a_volume_beside(copy, source, directory):
    source.sent[".vif"] = b'{"version":3,"bytesOffset":5,"ecShardConfig":{"dataShards":10}}'
    with pytest.raises(RpcFailure, match="5-byte offsets"):
        copy(copy_vif_file=True)
    assert files_in(directory) == {}


def test_an_info_of_shards_beside_a_volume_that_nobody_has_written_to(copy, store, directory):
    store.allocate_volume(7)
    before = files_in(directory)
    with pytest.raises(RpcFailure, match="is empty: the next start would take it for a stub of shards"):
        copy(copy_vif_file=True)
    assert files_in(directory) == before
    store.unmount_volume(7)
    store.mount_volume(7)


def test_an_info_of_shards_beside_the_volume_that_they_were_made_from(copy, store, directory):
    data = fill(store)
    copy(copy_vif_file=True)
    assert files_in(directory)["7.vif"] == VIF_OF_SHARDS
    store.unmount_volume(7)
    store.mount_volume(7)
    assert contents(store, data) == data


def test_a_volume_that_a_vacuum_has_emptied_is_opened_beside_an_info_of_shards(copy, store):
    volume = store.allocate_volume(7)
    volume.write(Needle(cookie=1, needle_id=1, data=b"x"))
    copy(copy_vif_file=True)
    volume.delete(1, 1)
    list(volume.compaction.run(CompactionOptions()))
    volume.compaction.commit()
    store.unmount_volume(7)
    store.mount_volume(7)
    assert store.find_volume(7).is_empty


def test_files_beside_the_same_id_of_another_collection(copy, source, store, directory):
    store.allocate_volume(7, collection="a")
    source.sent[".ec00"] = b"shard"
    for fields in ({"shard_ids": [0]}, {"copy_ecx_file": True}, {"copy_vif_file": True}):
        with pytest.raises(RpcFailure, match="volume 7 of collection 'a' is mounted here"):
            copy(**fields)
    assert files_in(directory) == {}
