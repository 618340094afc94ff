"""RPCs on volumes, against a real store."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Iterator
from unittest.mock import Mock

import grpc
import pytest
from google.protobuf.message import DecodeError
from support.grpc_nodes import batch_delete, failure_of

from native_handlers.format.crc import crc32c, legacy_form
from native_handlers.format.needle import Needle
from native_handlers.grpc import (
    configure,
    control,
    ec_copy,
    ec_shards,
    ec_work,
    needle_blobs,
    needles,
    remote_fetch,
    tiers,
    volumes,
)
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.handlers import RPC_NAMES
from native_handlers.grpc.status_text import MAX_SHOWN_CHARACTERS
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import VOLUME_SERVER_METHODS
from native_handlers.storage.model.errors import Deleted, WriteFailed

COOKIE = 0x637037D6


def allocate(node, context, volume_id=7, **more):
    request = {"volume_id": volume_id, "version": 3, "replication": "000", **more}
    return volumes.allocate_volume(node, context, pb.AllocateVolumeRequest(**request))


def write(store, volume_id, needle_id, data=b"payload", **more):
    needle = Needle(cookie=COOKIE, needle_id=needle_id, data=data, **more)
    store.get_volume(volume_id).write(needle)


def test_handlers_are_rpcs():
    assert set(VOLUME_SERVER_METHODS) >= RPC_NAMES


class TestState:
    def test_it_is_kept_and_versioned(self, node, store, context):
        answer = control.set_state(node, context, pb.SetStateRequest(state=pb.VolumeServerState(maintenance=True)))
        assert answer.state == pb.VolumeServerState(maintenance=True, version=1)
        assert control.get_state(node, context, pb.GetStateRequest()).state == answer.state
        assert store.state.maintenance
        stale = pb.SetStateRequest(state=pb.VolumeServerState(version=3))
        failure = failure_of(lambda: control.set_state(node, context, stale))
        assert failure.message == "version mismatch for VolumeServerState (got 1, want 3)"
        assert failure.code is grpc.StatusCode.UNKNOWN
        assert store.state.maintenance

    @pytest.mark.parametrize(
        ("handler", "request_message"),
        [
            (volumes.allocate_volume, pb.AllocateVolumeRequest(volume_id=8, version=3)),
            (volumes.volume_delete, pb.VolumeDeleteRequest(volume_id=7)),
            (volumes.volume_mark_readonly, pb.VolumeMarkReadonlyRequest(volume_id=7)),
            (volumes.volume_mark_writable, pb.VolumeMarkWritableRequest(volume_id=7)),
            (batch_delete, pb.BatchDeleteRequest(file_ids=["7,01637037d6"])),
            (needle_blobs.write_needle_blob, pb.WriteNeedleBlobRequest(volume_id=99)),
            (configure.volume_configure, pb.VolumeConfigureRequest(volume_id=7, replication="zz")),
            (configure.volume_consolidate_index, pb.VolumeConsolidateIndexRequest(volume_id=99)),
            (ec_work.volume_ec_shards_generate, pb.VolumeEcShardsGenerateRequest(volume_id=99)),
            (ec_work.volume_ec_shards_rebuild, pb.VolumeEcShardsRebuildRequest(volume_id=99)),
            (ec_work.volume_ec_shards_to_volume, pb.VolumeEcShardsToVolumeRequest(volume_id=99)),
            (ec_copy.volume_ec_shards_copy, pb.VolumeEcShardsCopyRequest(volume_id=99)),
            (ec_shards.volume_ec_shards_delete, pb.VolumeEcShardsDeleteRequest(volume_id=99)),
            (ec_shards.volume_ec_blob_delete, pb.VolumeEcBlobDeleteRequest(volume_id=99)),
            (tiers.volume_tier_move_dat_to_remote, pb.VolumeTierMoveDatToRemoteRequest(volume_id=99)),
            (remote_fetch.fetch_and_write_needle, pb.FetchAndWriteNeedleRequest(volume_id=99)),
        ],
    )
    def test_maintenance_blocks(self, node, context, handler, request_message):
        def call():
            answer = handler(node, context, request_message)
            return list(answer) if isinstance(answer, Iterator) else answer

        allocate(node, context)
        control.set_state(node, context, pb.SetStateRequest(state=pb.VolumeServerState(maintenance=True)))
        failure = failure_of(call)
        assert failure.message == "volume server node-1 is in maintenance mode"
        assert failure.code is grpc.StatusCode.UNKNOWN
        assert node.masters.marks == []

    def test_maintenance_does_not_block(self, node, context):
        allocate(node, context, collection="c")
        control.set_state(node, context, pb.SetStateRequest(state=pb.VolumeServerState(maintenance=True)))
        volumes.volume_unmount(node, context, pb.VolumeUnmountRequest(volume_id=7))
        volumes.volume_mount(node, context, pb.VolumeMountRequest(volume_id=7))
        volumes.delete_collection(node, context, pb.DeleteCollectionRequest(collection="c"))
        assert node.store.find_volume(7) is None

    def test_marking_looks_the_volume_up_before_it_asks_for_maintenance(self, node, context):
        control.set_state(node, context, pb.SetStateRequest(state=pb.VolumeServerState(maintenance=True)))
        for handler, message in (
            (volumes.volume_mark_readonly, pb.VolumeMarkReadonlyRequest(volume_id=9)),
            (volumes.volume_mark_writable, pb.VolumeMarkWritableRequest(volume_id=9)),
        ):
            failure = failure_of(lambda handler=handler, message=message: handler(node, context, message))
            assert failure.message == "volume 9 not found"


class TestLife:
    def test_allocate(self, node, store, context):
        allocate(node, context, collection="pics", replication="001", ttl="3d")
        volume = store.find_volume(7)
        assert (volume.collection, str(volume.replica_placement), str(volume.ttl)) == ("pics", "001", "3d")
        assert failure_of(lambda: allocate(node, context)).message == "Volume Id 7 already exists!"
        assert failure_of(lambda: allocate(node, context, 8, disk_type="ssd")).message == "No more free space left"
        assert failure_of(lambda: allocate(node, context, 8, replication="zz")).code is grpc.StatusCode.UNKNOWN
        for version in (0, 4):
            failure = failure_of(lambda version=version: allocate(node, context, 8, version=version))
            assert failure.message == f"volume super block version {version} is not supported"
        assert store.find_volume(8) is None

    def test_of_several_faults_the_first_one_that_upstream_meets_is_told(self, node, store, context):
        allocate(node, context)
        faults = [
            ({"replication": "zz"}, "unexpected replication type: 0zz"),
            ({"ttl": "x1d"}, None),
            ({"volume_id": 7}, "Volume Id 7 already exists!"),
            ({"disk_type": "ssd"}, "No more free space left"),
            ({"version": 9}, "volume super block version 9 is not supported"),
        ]

        def text_of(*fields):
            request = {"volume_id": 8} | {name: value for one in fields for name, value in one.items()}
            return failure_of(lambda: allocate(node, context, **request)).message

        for place, (first, wanted) in enumerate(faults):
            alone = text_of(first)
            assert wanted in {None, alone}
            for second, _ in faults[place + 1 :]:
                assert text_of(first, second) == alone
        assert store.find_volume(8) is None
        assert not list(store.locations[0].path.glob("8.*"))

    def test_files_that_are_there_have_their_version(self, node, store, context):
        """As in upstream, which asks for the version only before it writes one."""
        allocate(node, context)
        store.unmount_volume(7)
        allocate(node, context, version=9)
        assert store.find_volume(7).version == 3

    @pytest.mark.parametrize("collection", ["../evil", "a/b", "/evil", "a\0b"])
    def test_a_collection_never_leads_out_of_the_directory(self, node, store, context, tmp_path, collection):
        before = sorted(tmp_path.rglob("*"))
        failure = failure_of(lambda: allocate(node, context, collection=collection))
        assert failure.message.startswith("invalid collection ")
        assert sorted(tmp_path.rglob("*")) == before
        assert store.find_volume(7) is None

    def test_hdd_is_the_type_without_a_name(self, node, store, context):
        allocate(node, context, disk_type="HDD")
        assert store.find_volume(7).disk_type == ""

    def test_unmount_and_mount(self, node, store, context):
        allocate(node, context)
        write(store, 7, 1)
        for _ in range(2):
            volumes.volume_unmount(node, context, pb.VolumeUnmountRequest(volume_id=7))
            assert store.find_volume(7) is None
        for _ in range(2):
            volumes.volume_mount(node, context, pb.VolumeMountRequest(volume_id=7))
            assert store.find_volume(7).report().file_count == 1
        failure = failure_of(lambda: volumes.volume_mount(node, context, pb.VolumeMountRequest(volume_id=9)))
        assert failure.message == "volume 9 not found on disk"

    def test_delete(self, node, store, context):
        allocate(node, context)
        write(store, 7, 1)
        only_empty = pb.VolumeDeleteRequest(volume_id=7, only_empty=True)
        failure = failure_of(lambda: volumes.volume_delete(node, context, only_empty))
        assert failure.message == "DeleteVolume 7: volume not empty"
        volumes.volume_delete(node, context, pb.VolumeDeleteRequest(volume_id=7))
        failure = failure_of(lambda: volumes.volume_delete(node, context, pb.VolumeDeleteRequest(volume_id=7)))
        assert failure.message == "delete volume 7 not found on disk"

    def test_delete_collection(self, node, store, context):
        allocate(node, context, 7, collection="a")
        allocate(node, context, 8)
        for _ in range(2):
            volumes.delete_collection(node, context, pb.DeleteCollectionRequest(collection="a"))
        assert [volume.id for volume in store.volumes()] == [8]
        volumes.delete_collection(node, context, pb.DeleteCollectionRequest())
        assert store.volumes() == []


class TestMarking:
    def test_the_master_hears_first_and_again(self, node, store, context):
        allocate(node, context, collection="c", replication="010", ttl="1h")
        seen = []
        node.masters.on_mark = lambda: seen.append(store.find_volume(7).is_read_only)
        volumes.volume_mark_readonly(node, context, pb.VolumeMarkReadonlyRequest(volume_id=7))
        volumes.volume_mark_writable(node, context, pb.VolumeMarkWritableRequest(volume_id=7))
        assert seen == [False, True, False]
        first, _, last = node.masters.marks
        assert (first.ip, first.port, first.volume_id, first.collection) == ("127.0.0.1", 8080, 7, "c")
        volume = store.find_volume(7)
        assert (first.replica_placement, first.ttl) == (volume.replica_placement.to_byte(), volume.ttl.to_uint32())
        assert (first.is_readonly, last.is_readonly) == (True, False)

    def test_nothing_is_marked_when_the_master_refuses(self, node, store, context):
        allocate(node, context)
        node.masters.failure = RpcFailure("grpc VolumeMarkReadonly with master m: no")
        failure_of(lambda: volumes.volume_mark_readonly(node, context, pb.VolumeMarkReadonlyRequest(volume_id=7)))
        assert not store.find_volume(7).is_read_only

    def test_deletes_may_go_on(self, node, store, context):
        allocate(node, context)
        write(store, 7, 1)
        request = pb.VolumeMarkReadonlyRequest(volume_id=7, can_delete=True)
        volumes.volume_mark_readonly(node, context, request)
        assert volumes.volume_status(node, context, pb.VolumeStatusRequest(volume_id=7)).is_read_only
        answer = batch_delete(node, context, pb.BatchDeleteRequest(file_ids=[f"7,01{COOKIE:08x}"]))
        assert answer.results[0].status == 202


class TestStatus:
    def test_all_of_them(self, node, store, context):
        allocate(node, context, collection="c", ttl="3d")
        for needle_id in (1, 2):
            write(store, 7, needle_id)
        store.get_volume(7).delete(1, COOKIE)
        report = store.find_volume(7).report()
        status = volumes.volume_status(node, context, pb.VolumeStatusRequest(volume_id=7))
        assert status == pb.VolumeStatusResponse(
            volume_size=report.size_bytes, file_count=report.file_count, file_deleted_count=1
        )
        sync = volumes.volume_sync_status(node, context, pb.VolumeSyncStatusRequest(volume_id=7))
        assert sync == pb.VolumeSyncStatusResponse(
            volume_id=7, collection="c", replication="000", ttl="3d", tail_offset=report.size_bytes, idx_file_size=48,
            version=3,
        )  # fmt: skip
        files = volumes.read_volume_file_status(node, context, pb.ReadVolumeFileStatusRequest(volume_id=7))
        assert files.dat_file_size == report.size_bytes
        assert files.idx_file_size == 48
        assert files.dat_file_timestamp_seconds == files.idx_file_timestamp_seconds == report.modified_at_s
        assert (files.version, files.collection, files.volume_info.version) == (3, "c", 3)
        assert files.volume_info.bytes_offset == 4
        assert files.volume_info.expire_at_sec > report.modified_at_s

    @pytest.mark.parametrize(
        ("handler", "message", "text"),
        [
            (volumes.volume_status, pb.VolumeStatusRequest(volume_id=9), "not found volume id 9"),
            (volumes.volume_sync_status, pb.VolumeSyncStatusRequest(volume_id=9), "not found volume id 9"),
            (volumes.read_volume_file_status, pb.ReadVolumeFileStatusRequest(volume_id=9), "not found volume id 9"),
            (needles.volume_needle_status, pb.VolumeNeedleStatusRequest(volume_id=9), "volume not found 9"),
        ],
    )
    def test_of_an_absent_volume(self, node, context, handler, message, text):
        failure = failure_of(lambda: handler(node, context, message))
        assert (failure.message, failure.code) == (text, grpc.StatusCode.UNKNOWN)

    def test_the_volume_information_is_what_is_known_not_what_the_file_says(self, node, store, context):
        """After a failure `volume.move` would take the volume for absent, and copy over it."""
        allocate(node, context, ttl="3d")
        request = pb.ReadVolumeFileStatusRequest(volume_id=7)
        before = volumes.read_volume_file_status(node, context, request)
        assert (before.volume_info.version, before.volume_info.bytes_offset) == (3, 4)
        path = store.find_volume(7).paths.file(".vif")
        path.write_text("no JSON")
        assert volumes.read_volume_file_status(node, context, request) == before
        path.unlink()
        assert volumes.read_volume_file_status(node, context, request) == before
        path.mkdir()
        assert volumes.read_volume_file_status(node, context, request) == before
        path.rmdir()

    def test_the_volume_information_of_an_old_file(self, node, store, context):
        allocate(node, context)
        path = store.find_volume(7).paths.file(".vif")
        store.unmount_volume(7)
        path.write_text('{"version": 3, "BytesOffset": 4, "DestroyTime": "1900000000", "replication": "001"}')
        store.mount_volume(7)
        info = volumes.read_volume_file_status(node, context, pb.ReadVolumeFileStatusRequest(volume_id=7)).volume_info
        assert info == pb.VolumeInfo(version=3, bytes_offset=4, expire_at_sec=1900000000, replication="001")

    def test_the_volume_information_follows_what_changes_it(self, node, store, context):
        allocate(node, context)

        def info():
            request = pb.ReadVolumeFileStatusRequest(volume_id=7)
            return volumes.read_volume_file_status(node, context, request).volume_info

        store.mark_readonly(store.get_volume(7), can_delete=True, persist=True)
        assert (info().read_only, info().read_only_can_delete) == (True, True)
        store.mark_writable(store.get_volume(7))
        assert info() == pb.VolumeInfo(version=3, bytes_offset=4)
        configure.volume_configure(node, context, pb.VolumeConfigureRequest(volume_id=7, replication="001"))
        assert info() == pb.VolumeInfo(version=3, bytes_offset=4, replication="001")

    def test_a_mounted_volume_whose_state_cannot_be_had_is_not_absent(self, node, store, context, monkeypatch):
        allocate(node, context)
        volume = store.find_volume(7)
        error = WriteFailed(volume.paths.file(".dat"), 0, OSError(5, "Input/output error"))
        monkeypatch.setattr(volume, "file_sizes", Mock(side_effect=error))
        request = pb.ReadVolumeFileStatusRequest(volume_id=7)
        failure = failure_of(lambda: volumes.read_volume_file_status(node, context, request))
        assert failure.code is grpc.StatusCode.UNAVAILABLE


def reopen_after_look_up(store, monkeypatch):
    """Has the first volume that is looked up closed and opened anew at once. Returns the list of such volumes."""
    find_volume, reopened = store.find_volume, []

    def goes(volume_id):
        volume = find_volume(volume_id)
        if not reopened:
            reopened.append(volume_id)
            store.unmount_volume(volume_id)
            store.mount_volume(volume_id)
        return volume

    monkeypatch.setattr(store, "find_volume", goes)
    return reopened


class TestNeedles:
    def test_needle_status(self, node, store, context):
        allocate(node, context)
        write(store, 7, 5, b"x" * 100, last_modified_s=77)
        answer = needles.volume_needle_status(node, context, pb.VolumeNeedleStatusRequest(volume_id=7, needle_id=5))
        read = store.get_volume(7).read(5, cookie=None)
        assert (answer.needle_id, answer.cookie, answer.size) == (5, COOKIE, read.needle.size)
        assert answer.crc == legacy_form(read.needle.checksum)
        assert answer.ttl == ""
        for needle_id, text in ((6, "not found"), (5, "already deleted")):
            store.get_volume(7).delete(5, COOKIE)
            request = pb.VolumeNeedleStatusRequest(volume_id=7, needle_id=needle_id)
            failure = failure_of(lambda request=request: needles.volume_needle_status(node, context, request))
            assert failure.message == text

    def test_batch_delete(self, node, store, context):
        allocate(node, context)
        for needle_id in (1, 2, 3):
            write(store, 7, needle_id)
        manifest = Needle(cookie=COOKIE, needle_id=4, data=b"{}")
        manifest.is_chunk_manifest = True
        store.get_volume(7).write(manifest)
        cookie = f"{COOKIE:08x}"
        cases = [
            (f"7,01{COOKIE + 1:08x}", 400, "File Random Cookie does not match."),
            ("nonsense", 400, "Wrong fid format."),
            (",x", 400, "Wrong fid format."),
            ("7,1", 400, "Invalid fid: 1"),
            (f"7,zz{cookie}", 400, None),
            (f"7,05{cookie}", 404, "not found"),
            (f"77,05{cookie}", 404, "volume 77 not found"),
            (f"x,05{cookie}", 404, "volume 0 not found"),
            (f"7,04{cookie}", 406, "ChunkManifest: not allowed in batch delete mode."),
            (f"7,01{cookie}", 202, ""),
            (f"7,01{cookie}", 404, "already deleted"),
            (f"7,01{cookie}_1", 202, ""),
        ]
        answer = batch_delete(node, context, pb.BatchDeleteRequest(file_ids=[fid for fid, _, _ in cases]))
        assert [result.file_id for result in answer.results] == [fid for fid, _, _ in cases]
        for result, (_, status, text) in zip(answer.results, cases, strict=True):
            assert result.status == status
            assert text is None or result.error == text
            assert bool(result.size) == (status == 202)

    @pytest.mark.parametrize("flags", [0, 1], ids=["plain", "compressed"])
    @pytest.mark.parametrize("size", [100, 3 << 20])
    def test_a_corrupt_needle_is_neither_described_nor_deleted(self, node, store, context, size, flags):
        """Upstream reads the whole needle, so its size does not matter."""
        allocate(node, context)
        write(store, 7, 1, b"rotten" + bytes(size), flags=flags)
        path = store.locations[0].path / "7.dat"
        content = path.read_bytes()
        path.write_bytes(content.replace(b"rotten", b"rotted", 1))
        status = pb.VolumeNeedleStatusRequest(volume_id=7, needle_id=1)
        failure = failure_of(lambda: needles.volume_needle_status(node, context, status))
        assert failure.message.startswith("invalid CRC for needle 1 ")
        request = pb.BatchDeleteRequest(file_ids=[f"7,01{COOKIE:08x}", f"7,01{COOKIE + 1:08x}"])
        for result in batch_delete(node, context, request).results:
            assert (result.status, result.error) == (404, failure.message)
        path.write_bytes(content)
        answer = needles.volume_needle_status(node, context, status)
        assert answer.crc == legacy_form(crc32c(b"rotten" + bytes(size)))
        [result, _] = batch_delete(node, context, request).results
        assert (result.status, result.error) == (202, "")

    @pytest.mark.parametrize("skips", [False, True])
    def test_a_batch_goes_on_with_a_volume_that_is_opened_anew_during_a_deletion(
        self, node, store, context, monkeypatch, skips
    ):
        allocate(node, context)
        write(store, 7, 2)
        reopened = reopen_after_look_up(store, monkeypatch)
        request = pb.BatchDeleteRequest(file_ids=[f"7,02{COOKIE:08x}"], skip_cookie_check=skips)
        [result] = batch_delete(node, context, request).results
        assert (result.status, result.error, reopened) == (202, "", [7])
        with pytest.raises(Deleted):
            store.get_volume(7).read(2)

    def test_the_status_is_of_a_volume_that_is_opened_anew_meanwhile(self, node, store, context, monkeypatch):
        allocate(node, context)
        write(store, 7, 2)
        reopened = reopen_after_look_up(store, monkeypatch)
        request = pb.VolumeNeedleStatusRequest(volume_id=7, needle_id=2)
        assert (needles.volume_needle_status(node, context, request).cookie, reopened) == (COOKIE, [7])

    def test_batch_delete_without_looking_at_cookies(self, node, store, context):
        allocate(node, context)
        write(store, 7, 2)
        ids = ["7,0200000000_1", "7,02", "7,0200000000", "7,0200000000", "7,0900000000", "77,0200000000"]
        answer = batch_delete(node, context, pb.BatchDeleteRequest(file_ids=ids, skip_cookie_check=True))
        assert [result.status for result in answer.results] == [400, 400, 202, 304, 304, 500]
        assert "invalid syntax" in answer.results[0].error
        assert answer.results[1].error == "KeyHash is too short."
        assert answer.results[5].error == "volume 77 not found on 127.0.0.1:8080"

    def test_a_batch_of_many_needles_is_deleted_as_a_small_one(self, node, store, context):
        allocate(node, context)
        for needle_id in range(1, 20):
            write(store, 7, needle_id)
        for skips in (False, True):
            # The flag comes after the ids on the wire, and is true for all of them.
            ids = [f"7,{needle_id:x}{COOKIE + skips:08x}" for needle_id in range(1, 2000, 10 - skips)]
            request = pb.BatchDeleteRequest(file_ids=ids, skip_cookie_check=skips)
            answer = needles.batch_delete(node, context, request.SerializeToString())
            results = pb.BatchDeleteResponse.FromString(answer).results
            assert [result.file_id for result in results] == ids
            assert [result.status for result in results[:3]] == ([304, 202, 202] if skips else [202, 202, 404])
            assert {result.status for result in results[3:]} == {304 if skips else 404}

    def test_a_batch_goes_on_when_its_client_leaves_and_ends_when_the_server_stops(self, node, store, context):
        allocate(node, context)
        write(store, 7, 999)
        gone = dataclasses.replace(context, is_active=lambda: False)
        ids = [f"7,{needle_id:x}{COOKIE:08x}" for needle_id in range(1, 1000)]
        request = pb.BatchDeleteRequest(file_ids=ids).SerializeToString()

        def statuses():
            answer = needles.batch_delete(node, gone, request)
            return [result.status for result in pb.BatchDeleteResponse.FromString(answer).results]

        assert statuses() == [404] * 998 + [202]
        store.close()
        assert 0 < len(statuses()) < 999

    def test_a_file_id_that_is_too_long_is_refused_and_the_others_are_deleted(self, node, store, context):
        allocate(node, context)
        for needle_id in (1, 2, 3):
            write(store, 7, needle_id)
        size = 4 << 20
        # The needle of the third one is 4 in upstream, that of its beginning is 2.
        ids = ["x" * size, "7," + "\u00e9" * size, f"7,02{COOKIE:08x}_{'0' * size}2", f"7,02{COOKIE:08x}"]
        request = pb.BatchDeleteRequest(file_ids=[*ids, f"7,03{COOKIE:08x}"], skip_cookie_check=False)
        message = request.SerializeToString() + b"\x9b\x06" + b"\x0a\xff\xff\x7f" + bytes(0x1FFFFF) + b"\x9c\x06"
        tracemalloc.start()
        try:
            answer = needles.batch_delete(node, context, message)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()
        results = pb.BatchDeleteResponse.FromString(answer).results
        shown = [f"{one[:MAX_SHOWN_CHARACTERS]}..." for one in ids[:3]]
        assert [(result.file_id, result.status, result.error) for result in results[:3]] == [
            (shown[0], 400, "Wrong fid format."),
            (shown[1], 400, "KeyHash is too long."),
            (shown[2], 400, "KeyHash is too long."),
        ]
        assert [result.status for result in results[3:]] == [202, 202]

    @pytest.mark.parametrize("skips", [False, True])
    def test_the_longest_file_id_that_is_taken(self, node, store, context, skips):
        allocate(node, context)
        write(store, 7, 1)
        fid = f"7,01{COOKIE:08x}"
        ids = [fid.rjust(MAX_SHOWN_CHARACTERS + more, "0") for more in (1, 0)]
        answer = batch_delete(node, context, pb.BatchDeleteRequest(file_ids=ids, skip_cookie_check=skips))
        assert [result.status for result in answer.results] == [400, 202]
        assert [result.file_id for result in answer.results] == [f"{ids[0][:-1]}...", ids[1]]

    def test_long_texts_of_requests_are_not_repeated_whole(self, node, store, context, caplog):
        allocate(node, context)
        text = "x" * 100_000
        for volume_id in (7, 8):
            request = pb.VolumeConfigureRequest(volume_id=volume_id, replication=text)
            answer = configure.volume_configure(node, context, request)
            assert answer.error.startswith("volume configure ")
            assert len(answer.error) < 2000
        with caplog.at_level("INFO"):
            volumes.delete_collection(node, context, pb.DeleteCollectionRequest(collection=text))
        assert "collection 'xxx" in caplog.text
        assert len(caplog.text) < 4000

    def test_a_batch_that_is_no_message_deletes_nothing(self, node, store, context):
        allocate(node, context)
        write(store, 7, 1)
        request = pb.BatchDeleteRequest(file_ids=[f"7,01{COOKIE:08x}"] * 1000).SerializeToString()
        for bad in (b"\x0a\x02\xff\xfe", b"\x0a\x7fa", b"\x0f"):
            with pytest.raises(DecodeError):
                needles.batch_delete(node, context, request + bad)
        assert store.get_volume(7).read(1, cookie=COOKIE).needle.data

    def test_a_disk_out_of_service(self, node, store, context):
        allocate(node, context)
        write(store, 7, 1)
        store.locations[0].health.problem = "why"
        for invoke in (
            lambda: needles.volume_needle_status(node, context, pb.VolumeNeedleStatusRequest(volume_id=7, needle_id=1)),
            lambda: volumes.volume_mark_writable(node, context, pb.VolumeMarkWritableRequest(volume_id=7)),
        ):
            failure = failure_of(invoke)
            assert failure.code is grpc.StatusCode.UNAVAILABLE
            assert failure.message.endswith("is out of service: why")
        for skips in (True, False):
            request = pb.BatchDeleteRequest(file_ids=["7,0100000001"], skip_cookie_check=skips)
            [result] = batch_delete(node, context, request).results
            assert (result.status, result.size) == (503, 0)
        [disk] = control.volume_server_status(node, context, pb.VolumeServerStatusRequest()).disk_statuses
        assert disk.error == "why"
        assert disk.all > disk.free > 0
        store.locations[0].health.problem = ""

    def test_batch_delete_of_a_read_only_volume(self, node, store, context):
        allocate(node, context)
        write(store, 7, 2)
        store.mark_readonly(store.get_volume(7))
        answer = batch_delete(node, context, pb.BatchDeleteRequest(file_ids=[f"7,02{COOKIE:08x}"]))
        assert (answer.results[0].status, answer.results[0].error) == (500, "volume 7 is read only")
