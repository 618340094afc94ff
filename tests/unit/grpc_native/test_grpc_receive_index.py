"""ReceiveFile of the index of shards, and of files that another collection's files overtake."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from test_grpc_ec_copy import SendingSource, copying_to
from test_grpc_receive_file import content, contents, disks, files, info, names, node, receive

from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.receive_file import receive_file
from native_handlers.storage.model.errors import DiskUnavailable
from native_handlers.storage.transfer.received_files import ReceiveRequest

__all__ = ["disks", "files", "node"]
"""The fixtures of the other module."""

ROW = b"\1" * 16


def put(node, context, data, **fields):
    message = info(ext=".ecx", is_ec_volume=True, disk_id=1, **fields)
    return receive(node, context, message, *([content(data)] if data else [])).error


class TestAnIndex:
    @pytest.fixture
    def sound(self, disks, tmp_path):
        (tmp_path / "a" / "7.ecx").write_bytes(ROW * 2)
        return contents(tmp_path)

    def test_with_a_partial_row_replaces_none(self, node, context, tmp_path, sound):
        assert put(node, context, ROW[:-1]) == "the .ecx has 15 bytes, and its last row is partial"
        assert contents(tmp_path) == sound

    def test_with_a_partial_row_is_not_taken(self, node, context, tmp_path):
        assert put(node, context, ROW + b"x") == "the .ecx has 17 bytes, and its last row is partial"
        assert names(tmp_path) == []

    def test_without_rows_replaces_none_with_rows(self, node, context, tmp_path, sound):
        assert put(node, context, b"") == "the .ecx is 0 bytes, and the one that is here has rows"
        assert contents(tmp_path) == sound

    def test_without_rows_is_that_of_a_volume_without_live_needles(self, node, context, tmp_path):
        for _ in range(2):
            assert put(node, context, b"") == ""
        assert contents(tmp_path) == {"a/7.ecx": b""}
        assert put(node, context, ROW) == ""
        assert contents(tmp_path) == {"a/7.ecx": ROW}

    def test_longer_than_the_largest_volume_allows_replaces_none(self, disks, tmp_path, sound):
        wanted = ReceiveRequest(
            volume_id=7, collection="", extension=".ecx", is_coded=True, disk_id=1, max_bytes=2 * len(ROW)
        )
        with disks.receive_file(wanted) as file:
            file.write(ROW * 2)
            with pytest.raises(OSError, match="File too large"):
                file.write(ROW)
        assert contents(tmp_path) == sound

    def test_replaces_one(self, node, context, tmp_path, sound):
        assert put(node, context, ROW * 3) == ""
        assert contents(tmp_path) == {"a/7.ecx": ROW * 3}


def test_a_disk_is_known_to_have_a_shard_that_was_sent(node, disks, context):
    """Deleting the volume's shards then needs the disk."""
    location = disks.locations[1]
    location.health.problem = "why"
    disks.ec.check_known_in_service("", 7)
    location.health.problem = ""
    assert receive(node, context, info(ext=".ec03", is_ec_volume=True, disk_id=1), content(b"x")).bytes_written
    location.health.problem = "why"
    with pytest.raises(DiskUnavailable):
        disks.ec.check_known_in_service("", 7)
    disks.ec.check_known_in_service("", 8)
    location.health.problem = ""


class TestAnotherCollectionMeanwhile:
    """Shards of another collection come while files of this one arrive."""

    WHY = r"/b_7\.ec00 is here; there cannot be a volume 7 of collection 'a' too"

    def test_ends_the_sending_of_a_file(self, node, context, tmp_path):
        def messages():
            yield info(ext=".ec03", is_ec_volume=True, disk_id=1, collection="a")
            assert receive(
                node, context, info(ext=".ec00", is_ec_volume=True, disk_id=1, collection="b"), content(b"b")
            ).bytes_written
            yield content(b"a")

        answer = receive_file(node, context, messages())
        assert answer.error.endswith("/b_7.ec00 is here; there cannot be a volume 7 of collection 'a' too")
        assert contents(tmp_path) == {"a/b_7.ec00": b"b"}

    def test_ends_a_copy(self, node, disks, context, tmp_path):
        """The other copy has the files of the id first."""
        source = SendingSource()
        source.sent[".ec00"] = b"a"
        sending = source.open_volume_server

        @contextmanager
        def overtaken(address):
            (tmp_path / "a" / "b_7.ec00").write_bytes(b"b")
            with sending(address) as client:
                yield client

        source.open_volume_server = overtaken
        with pytest.raises(RpcFailure, match=self.WHY):
            copying_to(tmp_path, disks, source, context)(collection="a", shard_ids=[0], disk_id=1)
        assert contents(tmp_path) == {"a/b_7.ec00": b"b"}
        (tmp_path / "a" / "b_7.ec00").unlink()
