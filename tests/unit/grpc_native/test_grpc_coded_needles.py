"""BatchDelete and VolumeNeedleStatus on erasure-coded volumes: closed meanwhile, on failing disks, within bounds."""

from __future__ import annotations

import pytest
from support.coded_volumes import open_coded_volume
from support.files import broken
from support.grpc_nodes import batch_delete, failure_text, make_node

from native_handlers.format.crc import crc32c
from native_handlers.format.needle import Needle
from native_handlers.grpc.needles import volume_needle_status
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.pb import volume_server_pb2 as pb

VID, COOKIE = 7, 0x637037D6
DATA = b"payload" * 1000
STATUS = pb.VolumeNeedleStatusRequest(volume_id=VID, needle_id=1)


@pytest.fixture
def store(directory, files):
    needles = [Needle(needle_id=number, cookie=COOKIE, data=DATA, checksum=crc32c(DATA)) for number in (1, 2)]
    made = open_coded_volume(directory, VID, *needles, files=files)
    yield made
    files.let_all_go_on()
    made.close()


@pytest.fixture
def node(tmp_path, store):
    return make_node(tmp_path, store, state=StoreStateKeeper(store))


def delete(node, context, *numbers, **fields):
    """The results for needles of the volume."""
    file_ids = [f"{VID},{number:02x}{COOKIE:08x}" for number in numbers]
    return batch_delete(node, context, pb.BatchDeleteRequest(file_ids=file_ids, **fields)).results


class TestClosedAfterTheLookUp:
    @pytest.fixture(autouse=True)
    def closed(self, store, monkeypatch):
        copies = store.ec.copies

        def copies_until_now(volume_id):
            found = copies(volume_id)
            monkeypatch.setattr(store.ec, "copies", copies)
            store.ec.unload(volume_id)
            return found

        monkeypatch.setattr(store.ec, "copies", copies_until_now)

    @pytest.mark.parametrize("skips", [True, False])
    def test_a_needle_is_not_deleted(self, node, context, skips):
        (result,) = delete(node, context, 1, skip_cookie_check=skips)
        assert result.status == (500 if skips else 404)
        assert result.error.startswith(f"volume {VID} not found")

    def test_a_needle_is_not_told_of(self, node, context):
        text = failure_text(lambda: volume_needle_status(node, context, STATUS))
        assert text == f"volume {VID} not found"


@pytest.mark.parametrize("skips", [True, False])
def test_a_needle_that_a_disk_does_not_give_fails_alone(node, store, files, context, skips):
    """One of another volume, which is on the same disk and in memory, is deleted."""
    store.allocate_volume(8)
    store.get_volume(8).write(Needle(needle_id=1, cookie=COOKIE, data=b"x"))
    files.plan["read"] = broken()
    files.matches = lambda path: path.suffix == ".ecx"
    request = pb.BatchDeleteRequest(file_ids=[f"{VID},01{COOKIE:08x}", f"8,01{COOKIE:08x}"], skip_cookie_check=skips)
    results = batch_delete(node, context, request).results
    assert [one.status for one in results] == [500 if skips else 404, 202]
    assert "Input/output error" in results[0].error


class TestMemory:
    """RPCs share the bounds with HTTP requests."""

    @pytest.fixture(autouse=True)
    def used(self, store, monkeypatch):
        """For each read the parts of the bounds that are in use meanwhile."""
        read, bounds, used = store.ec_reader.read_needle, store.ec_reader.bounds, []

        def is_used(bound, part):
            share = bound.begin([part], bound.memory_bytes, lambda: None)
            bound.end(share)
            return not share.is_held

        def noted(*args, **options):
            every = {"disk": (bounds.reads, 0), "elsewhere": (bounds.reads, None), "deletion": (bounds.deletions, 0)}
            used.append([name for name, (bound, part) in every.items() if is_used(bound, part)])
            return read(*args, **options)

        monkeypatch.setattr(store.ec_reader, "read_needle", noted)
        yield used
        assert not any(is_used(*one) for one in ((bounds.reads, 0), (bounds.reads, None), (bounds.deletions, 0)))

    def test_a_needle_that_is_told_of(self, node, context, used):
        volume_needle_status(node, context, STATUS)
        assert used == [["disk"]]

    def test_one_of_which_a_shard_is_not_here(self, node, store, context, used):
        store.ec.unmount(VID, 0)
        volume_needle_status(node, context, STATUS)
        assert used == [["disk"], ["elsewhere"]]

    @pytest.mark.parametrize("skips", [True, False])
    def test_one_that_is_deleted(self, node, context, used, skips):
        assert [one.status for one in delete(node, context, 1, skip_cookie_check=skips)] == [202]
        assert used == ([["deletion"]] if skips else [["disk"], ["deletion"]])

    def test_one_that_cannot_be_read(self, node, store, context, used):
        for shard in range(5):
            store.ec.unmount(VID, shard)
        assert "cannot recover shard 7.0" in failure_text(lambda: volume_needle_status(node, context, STATUS))
        assert used == [["disk"], ["elsewhere"]]
