"""VolumeCopy between two real stores: what arrives, what is told, and what is left when it fails at any point."""

from __future__ import annotations

import dataclasses
import errno
from contextlib import contextmanager

import grpc
import pytest
from support import stores
from support.files import UNSYNCED_FILES, PlannedFiles, broken
from support.grpc_copy import COOKIE, SOURCE, Caller, PlayedSource, contents, fill
from support.grpc_nodes import FakeMasters, make_node
from support.stores import place

from native_handlers.format.needle import Needle
from native_handlers.grpc import copy_follow, volume_copy
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.grpc.throttle import WriteThrottler
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage import check
from native_handlers.storage.check import check_directory
from native_handlers.storage.model.errors import ConfigureFailed, ReadOnly, VolumeArriving, VolumeExists
from native_handlers.storage.volume import append, file_reader, record_reader, recovery, row_place

OWN = {"vol_dir.uuid", ".weed-volume-py.session", ".weed-volume-py.lock"}


def open_at(path, files, **more):
    return stores.open_at(place(path, min_free_percent=0.0, **more), offset_width_bytes=4, files=files)


def open_both_kinds(path):
    places = (place(path / name, disk_type=disk_type) for name, disk_type in DISKS)
    return stores.open_at(*places, offset_width_bytes=4)


@pytest.fixture
def files():
    return PlannedFiles(short_write_bytes=7)


@contextmanager
def checked_source(directory):
    store = open_at(directory, UNSYNCED_FILES)
    yield store
    store.close()
    assert check_directory(directory).is_healthy


@pytest.fixture
def source_store(tmp_path):
    with checked_source(tmp_path / "source") as store:
        yield store


@pytest.fixture
def source(tmp_path, source_store):
    return PlayedSource(make_node(tmp_path, source_store))


@pytest.fixture
def target(tmp_path, files):
    store = open_at(tmp_path / "target", files)
    yield store
    files.plan.clear()
    store.close()
    assert check_directory(tmp_path / "target").is_healthy


@pytest.fixture
def node(tmp_path, target, source):
    return make_node(tmp_path, target, state=StoreStateKeeper(target), masters=FakeMasters(), volume_servers=source)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(file_reader, "PIECE_BYTES", 10_000)


@pytest.fixture(autouse=True)
def _no_time_for_last_writes(monkeypatch):
    monkeypatch.setattr(copy_follow, "LAST_WRITES_S", 0)


@pytest.fixture
def caller():
    return Caller()


def copy(node, caller, **fields):
    request = pb.VolumeCopyRequest(**{"volume_id": 7, "source_data_node": SOURCE, **fields})
    return volume_copy.volume_copy(node, caller.context, request)


def failure_of(node, caller, **fields):
    with pytest.raises(RpcFailure) as caught:
        list(copy(node, caller, **fields))
    return caught.value


def names(tmp_path, directory="target"):
    return sorted(path.name for path in (tmp_path / directory).iterdir() if path.name not in OWN)


class TestWhatArrives:
    @pytest.mark.parametrize("fields", [{}, {"collection": "pics", "ttl": "3d", "replication": "001"}])
    def test_the_volume(self, node, caller, source_store, target, tmp_path, fields):
        data = fill(source_store, **fields)
        source_store.sync()
        (last,) = copy(node, caller)
        assert contents(target, data) == data
        volume, original = target.find_volume(7), source_store.find_volume(7)
        assert last == pb.VolumeCopyResponse(last_append_at_ns=original.handle.opened.last_append_at_ns)
        assert (volume.collection, volume.ttl, str(volume.replica_placement)) == (
            original.collection,
            original.ttl,
            str(original.replica_placement),
        )
        assert names(tmp_path) == names(tmp_path, "source")
        for name in names(tmp_path):
            here, there = tmp_path / "target" / name, tmp_path / "source" / name
            assert here.read_bytes() == there.read_bytes()
            assert here.stat().st_mtime_ns == there.stat().st_mtime_ns

    def test_the_time_of_a_last_record_beyond_the_reach_of_offsets(self, node, caller, source_store, monkeypatch):
        fill(source_store)
        limit_bytes = source_store.find_volume(7).size_bytes - 64
        for module in (append, check, recovery, record_reader, row_place):
            monkeypatch.setattr(module, "max_volume_size_bytes", lambda _width: limit_bytes)
        source_store.get_volume(7).delete(2, COOKIE)
        (last,) = copy(node, caller)
        assert last.last_append_at_ns == source_store.find_volume(7).handle.opened.last_append_at_ns

    def test_an_empty_volume(self, node, caller, source_store, target):
        source_store.allocate_volume(7)
        (last,) = copy(node, caller)
        assert last.last_append_at_ns == source_store.find_volume(7).report().modified_at_s * 10**9
        assert target.find_volume(7).is_empty
        target.get_volume(7).write(Needle(cookie=COOKIE, needle_id=1, data=b"it takes writes"))

    def test_in_place_of_the_one_that_is_here(self, node, caller, source_store, target, tmp_path):
        fill(target, seed=b"old")
        data = fill(source_store)
        events = []
        target.add_listener(events.append)
        list(copy(node, caller))
        assert contents(target, data) == data
        assert events == [7, 7, 7]
        assert names(tmp_path) == ["7.dat", "7.idx", "7.vif"]

    def test_what_lies_there_unmounted_goes(self, node, caller, source_store, target, tmp_path):
        fill(target, seed=b"old")
        target.unmount_volume(7)
        (tmp_path / "target" / "7.cpd").touch()
        data = fill(source_store)
        list(copy(node, caller))
        assert contents(target, data) == data
        assert names(tmp_path) == ["7.dat", "7.idx", "7.vif"]

    def test_a_source_without_vif(self, node, caller, source, source_store, target):
        data = fill(source_store)
        source.change_stream = lambda request, messages: iter(()) if request.ext == ".vif" else messages
        list(copy(node, caller))
        assert contents(target, data) == data

    def test_the_disk_type_that_is_asked_for(self, tmp_path, source, source_store, caller):
        data = fill(source_store)
        store = open_both_kinds(tmp_path)
        node = make_node(tmp_path, store, volume_servers=source)
        for disk_type, name in (("", "hdd"), ("SSD", "ssd"), ("hdd", "hdd")):
            list(copy(node, caller, disk_type=disk_type))
            assert contents(store, data) == data
            assert (tmp_path / name / "7.dat").exists()
        failure = failure_of(node, caller, disk_type="tape")
        assert (failure.message, failure.code) == ("no space left for disk type tape", grpc.StatusCode.UNKNOWN)
        store.close()

    @pytest.mark.parametrize("is_supported", [True, False])
    def test_space_is_reserved_where_the_master_says_so(
        self, node, caller, source_store, target, files, monkeypatch, is_supported
    ):
        data, reserved = fill(source_store), []

        def allocate(fd, length):
            reserved.append(length)
            if not is_supported:
                raise OSError(errno.EOPNOTSUPP, "Operation not supported")

        monkeypatch.setattr(files, "allocate", allocate, raising=False)
        target.set_preallocate(True)
        target.set_volume_size_limit(1 << 20)
        list(copy(node, caller))
        assert reserved == [1 << 20]
        assert contents(target, data) == data

    def test_progress(self, node, caller, source_store, monkeypatch):
        monkeypatch.setattr(volume_copy, "PROGRESS_BYTES", 20_000)
        fill(source_store)
        *progress, last = copy(node, caller)
        assert [message.processed_bytes for message in progress] == [30_000, 60_000]
        assert not any(message.last_append_at_ns for message in progress)
        assert last.last_append_at_ns

    def test_what_is_asked_of_the_source(self, node, caller, source, source_store):
        fill(source_store, collection="pics")
        list(copy(node, caller, collection="pics"))
        volume = source_store.find_volume(7)
        dat, idx = volume.file_sizes()
        assert source.asked == [
            pb.ReadVolumeFileStatusRequest(volume_id=7),
            pb.CopyFileRequest(
                volume_id=7, ext=".dat", stop_offset=dat, collection="pics", ignore_source_file_not_found=True
            ),
            pb.CopyFileRequest(volume_id=7, ext=".idx", stop_offset=idx, collection="pics"),
            pb.CopyFileRequest(
                volume_id=7, ext=".vif", stop_offset=1 << 20, collection="pics", ignore_source_file_not_found=True
            ),
            pb.ReadVolumeFileStatusRequest(volume_id=7),
        ]


DISKS = (("hdd", ""), ("ssd", "ssd"))


class TestWhatIsRefused:
    """The refusals come before anything is changed."""

    @pytest.fixture(autouse=True)
    def _the_old_one_stays(self, target):
        data = fill(target, seed=b"old")
        yield
        assert contents(target, data) == data

    def test_in_maintenance(self, node, caller):
        node.state.update(pb.VolumeServerState(maintenance=True))
        assert failure_of(node, caller).message == "volume server node-1 is in maintenance mode"

    def test_from_a_source_without_the_volume(self, node, caller, source):
        failure = failure_of(node, caller)
        text = "read volume file status failed, rpc error: code = Unknown desc = not found volume id 7"
        assert (failure.message, failure.code) == (text, grpc.StatusCode.UNKNOWN)
        assert not source.is_connected

    def test_from_a_source_that_is_not_there(self, node, caller, source):
        def fail(_status):
            raise RpcFailure("connection refused", grpc.StatusCode.UNAVAILABLE)

        source.change_status = fail
        fill(source.node.store)
        failure = failure_of(node, caller)
        text = "read volume file status failed, rpc error: code = Unavailable desc = connection refused"
        assert (failure.message, failure.code) == (text, grpc.StatusCode.UNAVAILABLE)

    def test_from_itself(self, node, caller, source):
        """However the address is spelled: the call returns with the mark that it was given."""

        def recognise(_status):
            raise RpcFailure("it is me", grpc.StatusCode.FAILED_PRECONDITION)

        fill(source.node.store)
        source.change_status, source.self_error = recognise, grpc.StatusCode.FAILED_PRECONDITION
        text = "volume server 127.0.0.1:8080 cannot copy a volume from itself"
        assert failure_of(node, caller).message == text

    def test_from_a_remote_tier_that_nobody_named_here(self, node, caller, source, source_store):
        fill(source_store)

        def tiered(status):
            status.volume_info.files.add(backend_type="s3", backend_id="default", key="k")
            return status

        source.change_status = tiered
        text = "volume 7 is in remote storage s3.default, which this server has no settings of"
        assert failure_of(node, caller).message == text

    @pytest.mark.parametrize("collection", ["../up", "a/b", ".."])
    def test_from_a_source_that_points_elsewhere(self, node, caller, source, source_store, collection):
        fill(source_store)

        def elsewhere(status):
            status.collection = collection
            return status

        source.change_status = elsewhere
        assert failure_of(node, caller).message == f'invalid collection "{collection}"'

    def test_twice_at_once(self, node, caller, source_store, target):
        target.locations[0].arriving.add(7)
        fill(source_store)
        assert failure_of(node, caller).message == "volume 7 is being copied here already"
        target.locations[0].arriving.discard(7)

    def test_for_a_client_that_has_left(self, node, caller, source_store):
        fill(source_store)
        caller.leave()
        assert failure_of(node, caller).code is grpc.StatusCode.CANCELLED


def change_size(field, by):
    def change(status):
        setattr(status, field, getattr(status, field) + by)
        return status

    return change


class TestBesideAnotherCollection:
    """A server has one volume of an id: its next start would serve one of the two."""

    @pytest.fixture
    def old(self, target):
        return fill(target, seed=b"old", collection="old")

    def test_that_is_open(self, node, caller, source_store, target, tmp_path, old):
        fill(source_store)
        before = names(tmp_path)
        text = failure_of(node, caller).message
        assert text == "volume 7 of collection 'old' is mounted here; there cannot be one of collection '' too"
        assert contents(target, old) == old
        assert names(tmp_path) == before

    def test_that_is_not_open(self, node, caller, source_store, target, tmp_path, old):
        fill(source_store)
        target.unmount_volume(7)
        before = names(tmp_path)
        path = tmp_path / "target" / "old_7.dat"
        text = failure_of(node, caller).message
        assert text == f"{path} is here; there cannot be a volume 7 of collection '' too"
        assert names(tmp_path) == before
        target.mount_volume(7)
        assert contents(target, old) == old

    @pytest.mark.parametrize("is_open", [True, False])
    def test_of_which_there_are_shards(self, node, caller, source_store, target, old, is_open):
        fill(source_store)
        target.ec_work.generate(target.find_volume(7), "old")
        if is_open:
            for shard in range(14):
                target.ec.mount("old", 7, shard)
        target.delete_volume(7, only_empty=False)
        assert "there cannot be " in failure_of(node, caller).message
        assert target.find_volume(7) is None

    def test_whose_files_come_meanwhile(self, node, caller, source, source_store, target, tmp_path):
        """They are put there by hand. The copy is refused at its end."""
        fill(source_store)

        def put(request, messages):
            (tmp_path / "target" / "new_7.dat").write_bytes(b"by hand")
            yield from messages

        source.change_stream = put
        text = failure_of(node, caller).message
        assert text.endswith("new_7.dat is here; there cannot be a volume 7 of collection '' too")
        assert names(tmp_path) == ["new_7.dat"]
        (tmp_path / "target" / "new_7.dat").unlink()


class TestWhatFails:
    """Failures on the way. Nothing of the copy stays, no file stays open, the old volume is as before, and the next
    attempt succeeds.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def source_store(cls, tmp_path_factory):
        """One for all of these tests: none of them changes it."""
        with checked_source(tmp_path_factory.mktemp("source")) as store:
            yield store

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, source_store):
        return fill(source_store)

    @pytest.fixture(params=[False, True], ids=["new", "replacing"])
    def old(self, request, target):
        """The volume that is present before; None for none."""
        return fill(target, seed=b"old") if request.param else None

    @pytest.fixture(autouse=True)
    def _nothing_is_left(self, data, old, node, source, target, files, tmp_path):
        before, files_before = set(files.open_fds), names(tmp_path)
        yield
        files.plan.clear()
        assert names(tmp_path) == files_before
        assert files.open_fds == before
        assert not source.is_connected
        assert not target.locations[0].arriving
        if old is None:
            assert target.find_volume(7) is None
        else:
            assert contents(target, old) == old
            assert not target.find_volume(7).is_read_only
            target.get_volume(7).write(Needle(cookie=COOKIE, needle_id=99, data=b"takes writes again"))
        files.plan.clear()
        files.free_bytes = None
        target.locations[0].usage.ask()
        source.change_stream, source.change_status = lambda request, messages: messages, lambda status: status
        list(copy(node, Caller()))
        assert contents(target, data) == data

    @pytest.mark.parametrize("extension", [".dat", ".idx", ".vif"])
    @pytest.mark.parametrize("after", [0, 1])
    def test_the_source_dies(self, node, caller, source, extension, after):
        def die(request, messages):
            for number, message in enumerate(messages):
                if request.ext == extension and number == after:
                    break
                yield message
            if request.ext == extension:
                raise RpcFailure("Socket closed", grpc.StatusCode.UNAVAILABLE)

        source.change_stream = die
        failure = failure_of(node, caller)
        text = f"receiving 7{extension}: rpc error: code = Unavailable desc = Socket closed"
        assert failure.message == f"failed to copy 7{extension} file: {text}"
        assert failure.code is grpc.StatusCode.UNKNOWN

    @pytest.mark.parametrize("writes", range(10))
    def test_the_disk_is_full(self, node, caller, files, source_store, writes):
        """20 needles of 3000 bytes are 7 pieces of .dat, one of .idx and one of .vif; the record comes last."""
        files.plan["write"] = broken(errno.ENOSPC, after=writes)
        failure = failure_of(node, caller)
        assert failure.code is grpc.StatusCode.UNKNOWN
        assert "no space left on device" in failure.message.lower()
        what = "failed to mount volume 7: " if writes == 9 else "failed to copy 7."
        assert failure.message.startswith(what)

    def test_there_is_no_room_from_the_start(self, node, caller, files, source_store, target, tmp_path):
        """There is no space for both volumes when the old one is present."""
        dat, idx = source_store.find_volume(7).file_sizes()
        for free in (0, dat + idx):
            files.free_bytes = free
            target.locations[0].usage.ask()
            assert failure_of(node, caller).message == (
                f"no space left for disk type hdd: volume 7 needs more than {dat + idx} bytes beside what is there; "
                f"{tmp_path / 'target'} has {free} bytes free above its reserve"
            )

    @pytest.mark.parametrize("step", range(12))
    def test_the_client_goes_before_a_message(self, node, caller, source, step):
        """Before message `step` of the three files. Before the last messages all files are here."""
        count = iter(range(1000))

        def leave(request, messages):
            for message in messages:
                if next(count) == step:
                    caller.leave()
                yield message
            if next(count) == step:
                caller.leave()

        source.change_stream = leave
        failure = failure_of(node, caller)
        assert (failure.code, failure.message) == (grpc.StatusCode.CANCELLED, "the client is gone")

    def test_the_client_takes_no_more_messages(self, node, caller, monkeypatch):
        monkeypatch.setattr(volume_copy, "PROGRESS_BYTES", 20_000)
        messages = copy(node, caller)
        assert next(messages).processed_bytes == 30_000
        messages.close()

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            (change_size("dat_file_size", 8), "the dat file size [{dat}] is not same as origin file size [{more_dat}]"),
            (
                change_size("idx_file_size", 16),
                "idx file {path}.idx size [{idx}] is not same as origin file size [{more_idx}]",
            ),
        ],
    )
    def test_sizes_are_not_as_said(self, node, caller, source, source_store, tmp_path, change, text):
        dat, idx = source_store.find_volume(7).file_sizes()
        source.change_status = change
        expected = text.format(path=tmp_path / "target" / "7", dat=dat, more_dat=dat + 8, idx=idx, more_idx=idx + 16)
        assert failure_of(node, caller).message == expected

    @pytest.mark.parametrize(
        ("extension", "text"),
        [
            (".dat", "get dat file info failed, stat {path}.dat: no such file or directory"),
            (".idx", "stat idx file {path}.idx failed: stat {path}.idx: no such file or directory"),
        ],
    )
    def test_the_source_has_no_such_file(self, node, caller, source, tmp_path, extension, text):
        source.change_stream = lambda request, messages: iter(()) if request.ext == extension else messages
        assert failure_of(node, caller).message == text.format(path=tmp_path / "target" / "7")

    def test_the_source_does_not_stop(self, node, caller, source, source_store):
        dat, _ = source_store.find_volume(7).file_sizes()

        def endless(request, messages):
            while True:
                yield pb.CopyFileResponse(file_content=bytes(10_000), modified_ts_ns=1)

        source.change_stream = endless
        expected = f"failed to copy 7.dat file: the source sent more than the {dat} bytes that were asked for"
        assert failure_of(node, caller).message == expected

    def test_the_source_was_compacted_meanwhile(self, node, caller, source):
        source.change_status = change_size("compaction_revision", 1)
        text = "receiving 7.dat: rpc error: code = Unknown desc = volume 7 is compacted"
        assert failure_of(node, caller).message == f"failed to copy 7.dat file: {text}"

    def test_what_came_is_no_volume(self, node, caller, source):
        def garbled(request, messages):
            for message in messages:
                message.file_content = bytes(len(message.file_content))
                yield message

        source.change_stream = garbled
        failure = failure_of(node, caller)
        assert failure.message.startswith("failed to mount volume 7: volume ")
        assert failure.message.endswith("cannot be loaded: volume version 0 is not supported; 1, 2 and 3 are")


class TestMeanwhile:
    def test_what_is_here_is_read_and_takes_no_writes(self, node, caller, source, source_store, target):
        """A write that the new volume lacks would be lost silently."""
        old, data = fill(target, seed=b"old"), fill(source_store)
        seen = []

        def look(request, messages):
            for message in messages:
                seen.append(contents(target, old) == old)
                for change in (
                    lambda: target.get_volume(7).write(Needle(cookie=COOKIE, needle_id=99, data=b"late")),
                    lambda: target.get_volume(7).delete(1, COOKIE),
                ):
                    with pytest.raises(ReadOnly):
                        change()
                target.mark_writable(target.get_volume(7))
                with pytest.raises(ConfigureFailed, match="being copied here already"):
                    target.configure_volume(7, "001")
                yield message

        source.change_stream = look
        list(copy(node, caller))
        assert seen
        assert all(seen)
        assert contents(target, data) == data
        target.get_volume(7).write(Needle(cookie=COOKIE, needle_id=99, data=b"takes writes"))

    def test_what_is_deleted_here_meanwhile_is_as_if_it_had_not_been(self, node, caller, source, source_store, target):
        fill(target, seed=b"old")
        data = fill(source_store)

        def delete(request, messages):
            yield from messages
            if request.ext == ".dat":
                target.delete_volume(7, only_empty=False)

        source.change_stream = delete
        list(copy(node, caller))
        assert contents(target, data) == data

    def test_a_full_disk_has_room_for_the_volume_that_it_has_already(self, tmp_path, source, source_store, caller):
        """The old volume's slot counts."""
        store = stores.open_at(place(tmp_path / "one", max_volumes=1), offset_width_bytes=4)
        fill(store, seed=b"old")
        data = fill(source_store)
        node = make_node(tmp_path, store, volume_servers=source)
        list(copy(node, caller))
        assert contents(store, data) == data
        fill(source_store, 8)
        failure = failure_of(node, caller, volume_id=8)
        assert failure.message.endswith(f"{tmp_path / 'one'} has no free slot (1 volumes at most)")
        store.close()

    def test_a_damaged_copy_does_not_replace_what_is_here(self, node, caller, source, source_store, target):
        old = fill(target, seed=b"old")
        fill(source_store)

        def damage(request, messages):
            for message in messages:
                if request.ext == ".idx":
                    # The last row names a record beyond the end.
                    row = message.file_content[-16:]
                    message.file_content = message.file_content[:-16] + row[:8] + b"\x00\xff\xff\xff" + row[12:]
                yield message

        source.change_stream = damage
        text = failure_of(node, caller).message
        assert text.startswith("failed to mount volume 7: the copy is damaged, and does not replace the volume")
        assert contents(target, old) == old

    def test_from_one_disk_of_this_server_to_another(self, tmp_path, source, source_store, caller):
        """The new copy is on another disk. The old one is removed when the new one has its place."""
        store = open_both_kinds(tmp_path)
        fill(store, seed=b"old")
        data = fill(source_store)
        list(copy(make_node(tmp_path, store, volume_servers=source), caller, disk_type="ssd"))
        assert contents(store, data) == data
        assert names(tmp_path, "hdd") == []
        assert names(tmp_path, "ssd") == ["7.dat", "7.idx", "7.vif"]
        store.close()

    def test_in_place_of_one_on_another_disk_that_is_not_open(self, tmp_path, source, source_store, caller):
        """The next start would serve the one on the first disk."""
        store = open_both_kinds(tmp_path)
        fill(store, seed=b"old")
        store.unmount_volume(7)
        data = fill(source_store)
        list(copy(make_node(tmp_path, store, volume_servers=source), caller, disk_type="ssd"))
        assert names(tmp_path, "hdd") == []
        store.close()
        store = open_both_kinds(tmp_path)
        assert contents(store, data) == data
        store.close()

    def test_nobody_else_touches_its_files(self, node, caller, source, source_store, target):
        data = fill(source_store)
        seen = []

        def interfere(request, messages):
            for message in messages:
                target.load_new_volumes()
                with pytest.raises(VolumeExists):
                    target.allocate_volume(7)
                with pytest.raises(VolumeArriving):
                    target.begin_copy(7, "", "", 0)
                target.unmount_volume(7)
                seen.append(target.find_volume(7))
                yield message

        source.change_stream = interfere
        list(copy(node, caller))
        assert seen
        assert not any(seen)
        assert contents(target, data) == data

    def test_the_store_closes(self, node, caller, source, source_store, target, tmp_path):
        fill(source_store)

        def close(request, messages):
            yield from messages
            if request.ext == ".vif":
                target.close()

        source.change_stream = close
        assert failure_of(node, caller).message == "failed to mount volume 7: the store is closed"
        assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("asked", "own", "expected"), [(0, 0, 0), (0, 500, 500), (300, 500, 300), (-1, 500, 500), (300, 0, 300)]
)
def test_whose_pace_it_is(node, caller, source_store, monkeypatch, asked, own, expected):
    rates = []

    def throttle(rate, pause):
        rates.append(rate)
        return WriteThrottler(0, pause)

    monkeypatch.setattr(volume_copy, "WriteThrottler", throttle)
    source_store.allocate_volume(7)
    node = dataclasses.replace(node, facts=dataclasses.replace(node.facts, maintenance_bytes_per_s=own))
    list(copy(node, caller, io_byte_per_second=asked))
    assert rates == [expected]
