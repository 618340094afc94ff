"""CopyFile against a real store: what is sent, what is refused, and no open file afterwards."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from support.descriptors import open_files
from support.files import UNSYNCED_FILES

from native_handlers.format.needle import Needle
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.copy_file import ANY_REVISION, copy_file
from native_handlers.grpc.copy_messages import encode_copy_piece, parse_copy_piece
from native_handlers.grpc.file_names import check_collection, check_extension, quoted
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.check import check_directory
from native_handlers.storage.model.errors import WriteFailed
from native_handlers.storage.volume import file_reader

COOKIE = 0x637037D6
ALL = 2**63 - 1


@pytest.fixture
def volume(store):
    made = store.allocate_volume(7, collection="c")
    for needle_id in range(1, 40):
        store.get_volume(7).write(Needle(cookie=COOKIE, needle_id=needle_id, data=os.urandom(50_000)))
    yield made
    assert check_directory(store.locations[0].path).is_healthy


def request_of(**fields):
    settings = {"volume_id": 7, "ext": ".dat", "compaction_revision": ANY_REVISION, "stop_offset": ALL, **fields}
    return pb.CopyFileRequest(**settings)


def copied(node, context, **fields):
    messages = copy_file(node, context, request_of(**fields))
    return [pb.CopyFileResponse.FromString(message) for message in messages]


def failure_of(node, context, **fields):
    with pytest.raises(RpcFailure) as caught:
        copied(node, context, **fields)
    return caught.value.message


def path_of(store, name):
    return store.locations[0].path / name


class TestWhatIsSent:
    @pytest.mark.parametrize("extension", [".dat", ".idx", ".vif"])
    def test_a_file_whole(self, node, context, store, volume, extension, monkeypatch):
        monkeypatch.setattr(file_reader, "PIECE_BYTES", 300_000)
        messages = copied(node, context, ext=extension)
        path = path_of(store, f"c_7{extension}")
        assert b"".join(message.file_content for message in messages) == path.read_bytes()
        assert all(len(message.file_content) <= 300_000 for message in messages)
        times = [message.modified_ts_ns for message in messages]
        assert times == [path.stat().st_mtime_ns] + [0] * (len(messages) - 1)

    def test_messages_are_short_at_first(self, node, context, store, volume):
        """Who reads nothing of hundreds of streams gets a few short messages of each."""
        lengths = [len(message.file_content) for message in copied(node, context)]
        assert sum(lengths) == path_of(store, "c_7.dat").stat().st_size
        assert lengths[:4] == [64 << 10, 128 << 10, 256 << 10, 512 << 10]

    @pytest.mark.parametrize("stop", [1, 8, 299_999, 300_000, 300_001, 600_000])
    def test_no_further_than_the_stop_offset(self, node, context, store, volume, stop, monkeypatch):
        monkeypatch.setattr(file_reader, "PIECE_BYTES", 300_000)
        messages = copied(node, context, stop_offset=stop)
        assert b"".join(one.file_content for one in messages) == path_of(store, "c_7.dat").read_bytes()[:stop]

    @pytest.mark.parametrize("stop", [0, 2**63, 2**64 - 1])
    def test_nothing_of_a_file_that_is_there_is_one_message(self, node, context, store, volume, stop):
        """Beyond 2^63 upstream's signed count is negative: nothing is sent then either."""
        (message,) = copied(node, context, stop_offset=stop)
        assert not message.file_content
        assert message.modified_ts_ns == path_of(store, "c_7.dat").stat().st_mtime_ns

    def test_an_empty_file_is_one_message(self, node, context, store, volume):
        path_of(store, "c_7.empty").touch()
        (message,) = copied(node, context, ext=".empty")
        assert not message.file_content
        assert message.modified_ts_ns

    @pytest.mark.parametrize("fields", [{"stop_offset": 0}, {"ignore_source_file_not_found": True}])
    def test_a_missing_file_that_is_not_missed_is_no_message(self, node, context, volume, fields):
        assert copied(node, context, ext=".missing", **fields) == []


class TestMessages:
    @given(st.binary(max_size=300), st.integers(min_value=0, max_value=2**63 - 1))
    def test_they_are_as_protobuf_has_them(self, content, modified_at_ns):
        message = pb.CopyFileResponse(file_content=content, modified_ts_ns=modified_at_ns)
        assert encode_copy_piece(content, modified_at_ns) == message.SerializeToString()
        piece = parse_copy_piece(message.SerializeToString())
        assert (bytes(piece.content), piece.modified_at_ns) == (content, modified_at_ns)

    @pytest.mark.parametrize(
        "message",
        [
            pytest.param(b"\x10\x05\x0a\x01x", id="other-order"),
            pytest.param(b"\x0a\x01x\x0a\x01y", id="twice"),
            pytest.param(b"\x0a\x01x\x1a\x03abc", id="unknown-field"),
            pytest.param(b"\x10" + b"\xff" * 9 + b"\x01", id="negative"),
            pytest.param(b"\x0a\x81\x00x", id="long-length"),
        ],
    )
    def test_unusual_ones(self, message):
        parsed = pb.CopyFileResponse.FromString(message)
        piece = parse_copy_piece(message)
        assert (bytes(piece.content), piece.modified_at_ns) == (parsed.file_content, parsed.modified_ts_ns)

    @given(st.binary(max_size=40))
    def test_anything_at_all_is_read_as_protobuf_reads_it(self, message):
        try:
            parsed = pb.CopyFileResponse.FromString(message)
        except DecodeError:
            with pytest.raises(DecodeError):
                parse_copy_piece(message)
            return
        piece = parse_copy_piece(message)
        assert (bytes(piece.content), piece.modified_at_ns) == (parsed.file_content, parsed.modified_ts_ns)


class TestWhatIsRefused:
    def test_an_absent_volume(self, node, context, store):
        assert failure_of(node, context, volume_id=99) == "not found volume id 99"

    def test_a_missing_file(self, node, context, store, volume):
        path = path_of(store, "c_7.missing")
        assert failure_of(node, context, ext=".missing") == f"open {path}: no such file or directory"

    def test_another_revision(self, node, context, volume):
        assert failure_of(node, context, compaction_revision=1) == "volume 7 is compacted"
        assert copied(node, context, compaction_revision=0)

    @pytest.mark.parametrize("extension", ["", ".", "dat", "./../x", ".d/x", "..", ".dat\n", ".dät", ".d\0", ".a.b"])
    def test_an_extension_that_is_none(self, node, context, volume, extension):
        message = failure_of(node, context, ext=extension, volume_id=99)
        assert message == f"invalid file extension {quoted(extension)}"

    @pytest.mark.parametrize("collection", [".", "..", "../x", "a/b", "a\\b", "/", "a\0b"])
    def test_a_collection_that_is_more_than_a_name(self, node, context, volume, collection):
        for is_coded in (False, True):
            message = failure_of(node, context, collection=collection, is_ec_volume=is_coded)
            assert message == f"invalid collection {quoted(collection)}"

    @given(st.text())
    def test_what_passes_is_one_part_of_a_path(self, text):
        for check in (check_extension, check_collection):
            try:
                check(text)
            except RpcFailure:
                continue
            name = f"{text}_7.x" if check is check_collection else f"7{text}"
            assert Path("/data").joinpath(name).resolve().parent == Path("/data")
            assert "\0" not in text

    def test_a_directory(self, node, context, store, volume):
        path_of(store, "c_7.ldb").mkdir()
        assert failure_of(node, context, ext=".ldb") == f"read {path_of(store, 'c_7.ldb')}: is a directory"


class TestCodedVolumes:
    def test_files_are_found_on_disk(self, node, context, store):
        for extension in (".ec00", ".ec13", ".ecx", ".ecj", ".vif", ".ecsum"):
            path_of(store, f"pics_5{extension}").write_bytes(extension.encode())
            messages = copied(node, context, volume_id=5, collection="pics", ext=extension, is_ec_volume=True)
            assert [message.file_content for message in messages] == [extension.encode()]

    def test_a_missing_one(self, node, context, store):
        fields = {"volume_id": 5, "ext": ".ec00", "is_ec_volume": True}
        assert failure_of(node, context, **fields) == "CopyFile not found ec volume id 5"
        assert failure_of(node, context, stop_offset=0, **fields) == "CopyFile not found ec volume id 5"
        assert copied(node, context, ignore_source_file_not_found=True, **fields) == []


class TestWhileOtherThingsHappen:
    @pytest.mark.parametrize("end", ["unmount", "delete", "rewrite"])
    def test_a_running_copy_goes_on(self, node, context, store, volume, end, monkeypatch):
        monkeypatch.setattr(file_reader, "PIECE_BYTES", 100_000)
        whole = path_of(store, "c_7.dat").read_bytes()
        stream = copy_file(node, context, request_of(stop_offset=len(whole)))
        first = pb.CopyFileResponse.FromString(next(stream)).file_content
        if end == "unmount":
            store.unmount_volume(7)
        elif end == "delete":
            store.delete_volume(7, only_empty=False)
        else:
            store.get_volume(7).write(Needle(cookie=COOKIE, needle_id=99, data=b"later"))
        rest = [pb.CopyFileResponse.FromString(message).file_content for message in stream]
        assert first + b"".join(rest) == whole

    def test_nothing_stays_open(self, node, context, store, volume):
        before = open_files()
        for extension in (".dat", ".vif"):
            stream = copy_file(node, context, request_of(ext=extension))
            next(stream)
            stream.close()
        copied(node, context)
        failure_of(node, context, compaction_revision=1)
        failure_of(node, context, ext=".missing")
        assert open_files() == before

    def test_a_volume_that_is_being_unmounted_is_not_there(self, node, context, store, volume, monkeypatch):
        monkeypatch.setattr(type(volume), "sync_in_passing", lambda self: store.unmount_volume(7))
        assert failure_of(node, context) == "not found volume id 7"

    def test_a_disk_that_does_not_sync_can_be_copied_from(self, node, context, store, volume, monkeypatch):
        def fail(self):
            raise WriteFailed(path_of(store, "c_7.dat"), 0, OSError(errno.EIO, "Input/output error"))

        monkeypatch.setattr(type(volume), "sync_in_passing", fail)
        assert copied(node, context)

    def test_a_disk_that_does_not_read(self, node, context, store, volume, monkeypatch):
        def fail(fd, length, offset):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(UNSYNCED_FILES, "read", fail, raising=False)
        path = path_of(store, "c_7.dat")
        assert failure_of(node, context) == f"read {path}: input/output error"

    def test_what_is_dirty_is_written_before_writers_have_to_wait(self, node, context, store, volume, monkeypatch):
        """Little is left to sync while the volume's lock is held."""
        synced, sync = [], UNSYNCED_FILES.sync

        def watch(fd):
            synced.append((os.readlink(f"/proc/self/fd/{fd}"), volume.handle.is_locked))
            sync(fd)

        monkeypatch.setattr(UNSYNCED_FILES, "sync", watch, raising=False)
        copied(node, context)
        dat, idx = str(path_of(store, "c_7.dat")), str(path_of(store, "c_7.idx"))
        assert synced == [(dat, False), (idx, False), (dat, True), (idx, True)]
