"""RPCs on records as they are on disk, and on a volume's state, against a real store."""

from __future__ import annotations

import dataclasses
import os
import tracemalloc
from contextlib import closing

import grpc
import pytest
from support.descriptors import open_files
from support.grpc_nodes import failure_of

from native_handlers.format import crc
from native_handlers.format.needle import Needle
from native_handlers.grpc import configure, needle_blobs, read_all
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.check import check_directory

COOKIE = 0x637037D6
LARGE = 2 << 20


@pytest.fixture
def volume(store):
    yield store.allocate_volume(7)
    assert check_directory(store.locations[0].path).is_healthy


def write(volume, needle_id, data=b"payload", **fields):
    """Stores a needle. Returns the place of its record."""
    needle = Needle(needle_id=needle_id, cookie=COOKIE, data=data, **fields)
    return volume.write(needle).offset, needle.size


def read_all_of(node, context, *volume_ids):
    messages = read_all.read_all_needles(node, context, pb.ReadAllNeedlesRequest(volume_ids=volume_ids))
    with closing(messages):
        yield from map(pb.ReadAllNeedlesResponse.FromString, messages)


def read_blob_of(node, context, **fields):
    message = needle_blobs.read_needle_blob(node, context, pb.ReadNeedleBlobRequest(**fields))
    return pb.ReadNeedleBlobResponse.FromString(message).needle_blob


def damage(store, what):
    """Changes one bit of the .dat of volume 7, at the place of `what`."""
    path = store.locations[0].path / "7.dat"
    with path.open("r+b") as file:
        at = file.read().index(what)
        file.seek(at)
        file.write(bytes([what[0] ^ 1]))


class TestBlobs:
    def test_a_record_goes_from_one_volume_to_another(self, node, store, context, volume):
        offset, size = write(volume, 5, b"x" * 50, last_modified_s=9, flags=8)
        blob = read_blob_of(node, context, volume_id=7, offset=offset, size=size)
        store.allocate_volume(8)
        request = pb.WriteNeedleBlobRequest(volume_id=8, needle_id=5, needle_blob=blob, size=size)
        for _ in range(2):
            assert needle_blobs.write_needle_blob(node, context, request) == pb.WriteNeedleBlobResponse()
        assert store.find_volume(8).report().file_count == 1
        assert bytes(store.get_volume(8).read(5, cookie=COOKIE).needle.data) == b"x" * 50

    def test_what_a_record_says_of_itself(self, node, context, volume):
        offset, size = write(volume, 5, last_modified_s=9, flags=8)
        request = pb.ReadNeedleMetaRequest(volume_id=7, needle_id=5, offset=offset, size=size)
        answer = needle_blobs.read_needle_meta(node, context, request)
        assert (answer.cookie, answer.last_modified, answer.ttl) == (COOKIE, 9, "")
        assert answer.crc == crc.legacy_form(crc.crc32c(b"payload"))
        assert answer.append_at_ns > 0

    @pytest.mark.parametrize(
        ("handler", "message", "text"),
        [
            (needle_blobs.read_needle_blob, pb.ReadNeedleBlobRequest(volume_id=9, size=-50), "not found volume id 9"),
            (
                needle_blobs.read_needle_meta,
                pb.ReadNeedleMetaRequest(volume_id=9),
                "not found volume id 9 and read needle metadata at ec shards is not supported",
            ),
            (needle_blobs.write_needle_blob, pb.WriteNeedleBlobRequest(volume_id=9), "not found volume id 9"),
            (
                needle_blobs.read_needle_blob,
                pb.ReadNeedleBlobRequest(volume_id=7, offset=1 << 40, size=64),
                f"read needle blob offset {1 << 40} size 64: EOF",
            ),
            (
                needle_blobs.read_needle_blob,
                pb.ReadNeedleBlobRequest(volume_id=7, offset=8, size=-500),
                "read needle blob offset 8 size -500: invalid needle size -500",
            ),
            (needle_blobs.read_needle_meta, pb.ReadNeedleMetaRequest(volume_id=7, offset=1 << 40, size=64), "EOF"),
            (
                needle_blobs.write_needle_blob,
                pb.WriteNeedleBlobRequest(volume_id=7, needle_id=3, needle_blob=b"abc", size=4),
                "write blob needle 3 size 4: needle 3 blob of 3 bytes is shorter than a needle header",
            ),
        ],
    )
    def test_refusals(self, node, context, volume, handler, message, text):
        before = volume.report()
        failure = failure_of(lambda: handler(node, context, message))
        assert (failure.message, failure.code) == (text, grpc.StatusCode.UNKNOWN)
        assert volume.report() == before

    def test_a_read_only_volume(self, node, store, context, volume):
        offset, size = write(volume, 5)
        blob = volume.read_blob(offset, size)
        store.mark_readonly(store.get_volume(7))
        request = pb.WriteNeedleBlobRequest(volume_id=7, needle_id=6, needle_blob=blob, size=size)
        failure = failure_of(lambda: needle_blobs.write_needle_blob(node, context, request))
        assert failure.message == f"write blob needle 6 size {size}: volume 7 is read only"

    def test_more_than_a_message_holds_is_not_read(self, node, context, volume):
        request = pb.ReadNeedleBlobRequest(volume_id=7, size=2**31 - 1)
        failure = failure_of(lambda: needle_blobs.read_needle_blob(node, context, request))
        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    @pytest.mark.parametrize(
        ("handler", "message"),
        [
            (needle_blobs.read_needle_blob, pb.ReadNeedleBlobRequest(volume_id=7, size=1)),
            (needle_blobs.read_needle_meta, pb.ReadNeedleMetaRequest(volume_id=7, size=1)),
            (needle_blobs.write_needle_blob, pb.WriteNeedleBlobRequest(volume_id=7, needle_blob=b"x")),
            (lambda *call: list(read_all.read_all_needles(*call)), pb.ReadAllNeedlesRequest(volume_ids=[7])),
        ],
    )
    def test_a_volume_that_is_closed_meanwhile_is_not_found(self, node, context, volume, handler, message):
        volume.close()
        failure = failure_of(lambda: handler(node, context, message))
        assert failure.message.startswith("not found volume id 7")
        assert failure.code is grpc.StatusCode.UNKNOWN


class TestReadAll:
    def test_volume_by_volume_in_the_order_of_dat(self, node, store, context, volume):
        for needle_id, data in ((2, b"two"), (1, b"old"), (3, b"gone"), (1, b"new")):
            write(volume, needle_id, data, name=b"n", mime=b"m", last_modified_s=9, flags=0x0F)
        volume.delete(3, COOKIE)
        write(store.allocate_volume(8), 4, b"four")
        answers = list(read_all_of(node, context, 8, 7))
        assert [(answer.volume_id, answer.needle_id, answer.needle_blob) for answer in answers] == [
            (8, 4, b"four"),
            (7, 2, b"two"),
            (7, 1, b"new"),
        ]
        assert answers[1] == pb.ReadAllNeedlesResponse(
            volume_id=7,
            needle_id=2,
            cookie=COOKIE,
            needle_blob=b"two",
            needle_blob_compressed=True,
            last_modified=9,
            crc=crc.legacy_form(crc.crc32c(b"two")),
            name=b"n",
            mime=b"m",
        )

    def test_a_missing_volume_ends_it_after_those_before(self, node, store, context, volume):
        write(volume, 1)
        write(store.allocate_volume(8), 4)
        answers = read_all_of(node, context, 7, 99, 8)
        assert next(answers).needle_id == 1
        assert failure_of(lambda: next(answers)).message == "not found volume id 99"

    def test_nothing_is_asked_for(self, node, context):
        assert list(read_all_of(node, context)) == []

    @pytest.mark.parametrize("flags", [0, 1], ids=["plain", "compressed"])
    @pytest.mark.parametrize("version", [1, 2, 3])
    def test_large_needles_come_whole(self, node, store, context, version, flags):
        volume = store.allocate_volume(7, version=version)
        data = {1: b"small", 2: os.urandom(LARGE), 3: os.urandom(2 * LARGE), 4: b"after"}
        for needle_id, payload in data.items():
            write(volume, needle_id, payload, flags=flags)
        answers = list(read_all_of(node, context, 7))
        assert {answer.needle_id: answer.needle_blob for answer in answers} == data
        assert [answer.crc for answer in answers] == [crc.legacy_form(crc.crc32c(payload)) for payload in data.values()]

    def test_large_needles_are_copied_once(self, node, store, context, volume):
        """The one copy is into the message. A copy that holds the interpreter lock is not made."""
        size = 16 << 20
        offset, record_size = write(volume, 1, os.urandom(size))
        request = pb.ReadAllNeedlesRequest(volume_ids=[7])
        blob = pb.ReadNeedleBlobRequest(volume_id=7, offset=offset, size=record_size)
        for read in (
            lambda: next(read_all.read_all_needles(node, context, request)),
            lambda: needle_blobs.read_needle_blob(node, context, blob),
        ):
            tracemalloc.start()
            try:
                read()
                assert tracemalloc.get_traced_memory()[1] < 2 * size + (2 << 20)
            finally:
                tracemalloc.stop()

    @pytest.mark.parametrize("filling", [b"", bytes(LARGE)], ids=["small", "large"])
    def test_a_corrupt_needle_ends_it(self, node, store, context, filling):
        volume = store.allocate_volume(7)
        write(volume, 1, b"rotten" + filling)
        damage(store, b"rotten")
        text = failure_of(lambda: list(read_all_of(node, context, 7))).message
        assert text.startswith("visit needle error: volume 7: invalid CRC for needle 1")

    def test_a_client_that_left_ends_it(self, node, context, volume):
        for needle_id in range(1, 9):
            write(volume, needle_id)
        answers = [True, False]
        gone = dataclasses.replace(context, is_active=lambda: answers.pop(0))
        assert len(list(read_all_of(node, gone, 7))) == 1

    def test_closing_it_lets_the_file_go(self, node, store, context, volume):
        path = str(store.locations[0].path / "7.dat")
        for needle_id in (1, 2):
            write(volume, needle_id)
        answers = read_all_of(node, context, 7)
        next(answers)
        store.unmount_volume(7)
        assert path in open_files(), "the walk goes on"
        answers.close()
        assert path not in open_files()


class TestConfigure:
    def test_it_is_changed(self, node, store, context, volume):
        write(volume, 1)
        for replication in ("001", "001", "010"):
            request = pb.VolumeConfigureRequest(volume_id=7, replication=replication)
            assert configure.volume_configure(node, context, request) == pb.VolumeConfigureResponse()
            assert str(store.find_volume(7).replica_placement) == replication
        assert bytes(store.get_volume(7).read(1, cookie=COOKIE).needle.data) == b"payload"

    @pytest.mark.parametrize(
        ("fields", "text"),
        [
            (
                {"volume_id": 7, "replication": "bad"},
                'volume configure replication volume_id:7 replication:"bad": unexpected replication type: bad',
            ),
            (
                {"volume_id": 99, "replication": 'a"\n'},
                'volume configure replication volume_id:99 replication:"a\\"\\n": ',
            ),
            (
                {"volume_id": 99, "replication": "001"},
                'volume configure volume_id:99 replication:"001": volume 99 not found on disk. '
                "Also failed to restore mount: volume 99 not found on disk",
            ),
            (
                {},
                "volume configure : volume 0 not found on disk. "
                "Also failed to restore mount: volume 0 not found on disk",
            ),
        ],
    )
    def test_failures_are_in_the_answer(self, node, store, context, volume, fields, text):
        answer = configure.volume_configure(node, context, pb.VolumeConfigureRequest(**fields))
        assert answer.error.startswith(text)
        assert store.find_volume(7) is volume

    def test_one_that_cannot_be_changed_is_open_as_before(self, node, store, context, volume):
        path = store.locations[0].path / "7.vif"
        path.chmod(0o444)
        request = pb.VolumeConfigureRequest(volume_id=7, replication="001")
        answer = configure.volume_configure(node, context, request)
        assert answer.error == (
            'volume configure volume_id:7 replication:"001": volume 7 failed to save vif: '
            f"failed to check {path} not writable"
        )
        assert str(store.find_volume(7).replica_placement) == "000"

    def test_one_that_cannot_be_opened_again(self, node, store, context):
        store.allocate_volume(7)
        (store.locations[0].path / "7.dat").chmod(0)
        request = pb.VolumeConfigureRequest(volume_id=7, replication="001")
        answer = configure.volume_configure(node, context, request)
        assert answer.error == 'volume configure mount volume_id:7 replication:"001": volume 7 not found on disk'

    def test_a_server_that_is_ending(self, node, store, context):
        store.close()
        request = pb.VolumeConfigureRequest(volume_id=7, replication="001")
        assert configure.volume_configure(node, context, request).error.endswith(": the store is closed")


class TestConsolidate:
    def test_where_there_is_no_index_directory(self, node, context, volume):
        request = pb.VolumeConsolidateIndexRequest(volume_id=7)
        for _ in range(2):
            assert configure.volume_consolidate_index(node, context, request) == pb.VolumeConsolidateIndexResponse()

    def test_a_volume_that_is_not_here(self, node, store, context, volume):
        store.unmount_volume(7)
        for volume_id in (7, 99):
            request = pb.VolumeConsolidateIndexRequest(volume_id=volume_id)
            failure = failure_of(lambda request=request: configure.volume_consolidate_index(node, context, request))
            assert failure.message == f"volume {volume_id} not found on disk"
