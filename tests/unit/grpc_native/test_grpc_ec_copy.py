"""VolumeEcShardsCopy from a source that sends arbitrary files: refused files leave nothing behind."""

from __future__ import annotations

import shutil
import struct
from contextlib import closing, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
from support.coded_volumes import put_coded_volume
from support.disks import Disks
from support.files import PlannedFiles
from support.grpc_copy import COOKIE, SOURCE, Stream, contents, fill
from support.grpc_nodes import FakeMasters, make_node
from support.stores import NODE, open_at, place

from native_handlers.format.needle import Needle
from native_handlers.format.vif import encode_volume_info, parse_volume_info
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.ec_copy import volume_ec_shards_copy
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.erasure_coding import layout
from native_handlers.storage.erasure_coding.errors import EcMountFailed
from native_handlers.storage.erasure_coding.index_files import with_deletions
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import Deleted
from native_handlers.storage.system.files import DiskSpace

VIF_OF_SHARDS = b'{"version":3,"ecShardConfig":{"dataShards":10,"parityShards":4}}'


class SendingSource:
    """A volume server with the files of `sent`, by extension. `asked` has the extensions of all requests."""

    def __init__(self):
        self.sent = {".vif": VIF_OF_SHARDS}
        self.asked = []
        self.after = {}
        """What happens at the source when it has sent the file with that extension."""

    @contextmanager
    def open_volume_server(self, address):
        assert address == SOURCE
        yield SimpleNamespace(undecoded=SimpleNamespace(CopyFile=self._copy_file))

    def _copy_file(self, request):
        self.asked.append(request.ext)
        content = self.sent.get(request.ext)
        messages = [] if content is None else [pb.CopyFileResponse(file_content=content, modified_ts_ns=1)]
        self.after.pop(request.ext, lambda: None)()
        return Stream(message.SerializeToString() for message in messages)


@pytest.fixture
def source():
    return SendingSource()


@pytest.fixture
def copy(directory, store, source, context):
    return copying_to(directory, store, source, context)


def copying_to(directory, store, source, context):
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


class TestAnotherCollection:
    """Shards of one id and two collections would be one volume to readers, and give foreign bytes."""

    @pytest.fixture
    def here(self, directory, store):
        """The data of volume 7 in collection a, all of whose shards are open."""
        data = fill(store, 7, collection="a")
        store.ec_work.generate(store.find_volume(7), "a")
        for shard in range(14):
            store.ec.mount("a", 7, shard)
        store.delete_volume(7, only_empty=False)
        return data

    def shards_of_b(self, path):
        store = open_at(path)
        fill(store, 7, collection="b")
        store.ec_work.generate(store.find_volume(7), "b")
        store.close()
        return {name.suffix: name.read_bytes() for name in path.glob("b_7.*")}

    def readable(self, store, data):
        return {key: bytes(store.ec_reader.read_needle(7, key, COOKIE).data) for key in data}

    def test_is_not_copied_here(self, copy, source, store, directory, here, tmp_path):
        source.sent |= self.shards_of_b(tmp_path / "b")
        before = files_in(directory)
        with pytest.raises(RpcFailure, match="volume 7 of collection 'a' is mounted here"):
            copy(collection="b", shard_ids=[0, 1], copy_ecx_file=True, copy_vif_file=True)
        store.ec.unload(7)
        with pytest.raises(
            RpcFailure, match=r"/a_7\.ec02 and 11 more are here; there cannot be a volume 7 of collection 'b' too"
        ):
            copy(collection="b", shard_ids=[0, 1], copy_ecx_file=True, copy_vif_file=True)
        assert files_in(directory) == before
        assert not list(directory.glob("b_7.*"))

    def test_is_not_mounted_or_opened_by_a_start(self, store, directory, here, tmp_path):
        """The files were put there by hand."""
        for extension, content in self.shards_of_b(tmp_path / "b").items():
            if extension in {".ecx", ".vif"} or extension.startswith(".ec0"):
                (directory / f"b_7{extension}").write_bytes(content)
        with pytest.raises(EcMountFailed, match="volume 7 of collection 'a' is mounted here"):
            store.ec.mount("b", 7, 0)
        assert self.readable(store, here) == here
        store.close()
        store = open_at(directory)
        assert {one.collection for one in store.ec.copies(7)} == {"a"}
        assert self.readable(store, here) == here
        store.close()


def test_an_empty_shard_replaces_none(copy, source, directory):
    (directory / "7.ec00").write_bytes(b"whole")
    source.sent[".ec00"] = b""
    with pytest.raises(RpcFailure, match=r"source \.ec00 is 0 bytes"):
        copy(shard_ids=[0])
    assert (directory / "7.ec00").read_bytes() == b"whole"


@pytest.mark.parametrize(
    ("vif", "most"),
    [
        (b'{"version":3,"datFileSize":"100","ecShardConfig":{"dataShards":10,"parityShards":4}}', 1000),
        (VIF_OF_SHARDS, 4000),
    ],
    ids=["known length", "largest volume"],
)
def test_a_shard_is_no_longer_than_its_volume_allows(copy, source, directory, monkeypatch, vif, most):
    """A GiB stands for each row of large blocks; here it has 1000 bytes."""
    monkeypatch.setattr(layout, "LARGE_BLOCK_BYTES", 1000)
    source.sent |= {".vif": vif, ".ec00": b"s" * (most + 1)}
    with pytest.raises(RpcFailure, match=r"failed to copy 7\.ec00 file: write file .*7\.ec00: file too large"):
        copy(shard_ids=[0])
    assert files_in(directory) == {}
    source.sent[".ec00"] = b"s" * most
    copy(shard_ids=[0])
    assert len(files_in(directory)["7.ec00"]) == most


class TestRoom:
    """Two disks with a reserve of 1000 bytes (-minFreeSpace)."""

    KNOWN = b'{"version":3,"datFileSize":"100","ecShardConfig":{"dataShards":10,"parityShards":4}}'
    """Each shard has a MiB."""

    @pytest.fixture
    def files(self):
        return Disks()

    @pytest.fixture
    def disks(self, tmp_path, files):
        disks = [files.add(tmp_path / name) for name in ("a", "b")]
        for one in disks:
            one.space = DiskSpace(1 << 40, 10 << 20)
        return disks

    @pytest.fixture
    def copy(self, tmp_path, files, disks, source, context):
        with closing(open_at(*(place(tmp_path / one, min_free_bytes=1000) for one in "ab"), files=files)) as store:
            yield copying_to(tmp_path, store, source, context)

    def test_is_looked_at_before_shards_come(self, copy, source, disks, tmp_path):
        disks[0].space = disks[1].space = DiskSpace(1 << 40, (2 << 20) + 1000)
        source.sent |= {".vif": self.KNOWN, ".ec00": b"0", ".ec01": b"1"}
        why = "no space left: the shards need more than 2097152 bytes beside what is there; .* has 2097152 bytes free"
        with pytest.raises(RpcFailure, match=why):
            copy(shard_ids=[0, 1, 1])
        with pytest.raises(RpcFailure, match=f"{tmp_path}/b has 2097152 bytes free above its reserve"):
            copy(shard_ids=[0, 1], disk_id=1)
        assert source.asked == [".vif", ".vif"]
        copy(shard_ids=[0])

    @pytest.mark.parametrize("roomy", [0, 1])
    def test_decides_the_disk(self, copy, source, disks, tmp_path, roomy):
        disks[1 - roomy].space = DiskSpace(1 << 40, 1 << 20)
        source.sent |= {".vif": self.KNOWN, ".ec00": b"0"}
        copy(shard_ids=[0])
        assert set(files_in(tmp_path / "ab"[roomy])) == {"7.ec00"}

    @pytest.mark.parametrize("extension", [".ec00", ".ecx", ".ecsum"])
    def test_is_looked_at_while_files_come(self, copy, source, disks, tmp_path, extension):
        """Their length is not known. Meanwhile others take the room."""
        fields = {".ec00": {"shard_ids": [0]}, ".ecx": {"copy_ecx_file": True}, ".ecsum": {"copy_ecsum_file": True}}
        wanted = {"disk_id": 1, **fields[extension]}

        def fill(free_bytes):
            disks[1].space = DiskSpace(1 << 40, free_bytes)

        source.sent[extension] = bytes(12 << 20)
        source.after[extension] = lambda: fill(999)
        with pytest.raises(RpcFailure, match=r"write file .*/b/7\..*: no space left above -minFreeSpace"):
            copy(**wanted)
        assert files_in(tmp_path / "b") == {}
        fill(1 << 30)

    def test_that_is_there_after_all_is_taken(self, copy, source, disks, tmp_path):
        source.sent[".ec00"] = bytes(12 << 20)
        source.after[".ec00"] = lambda: setattr(disks[1], "space", DiskSpace(1 << 40, 1 << 30))
        copy(shard_ids=[0], disk_id=1)
        assert len(files_in(tmp_path / "b")["7.ec00"]) == 12 << 20


class TestShardsOfAnotherCoding:
    """The .vif of the source tells another coding than that on this disk."""

    @staticmethod
    def info(encode_ts_ns):
        return b'{"version":3,"ecShardConfig":{"dataShards":10,"parityShards":4,"encodeTsNs":"%d"}}' % encode_ts_ns

    @pytest.fixture(autouse=True)
    def older(self, source, store, directory):
        """Shard 3 of an older coding is here. `store` makes the directory."""
        for name, content in {"7.vif": self.info(1), "7.ecx": b"\0" * 16, "7.ecj": b"\0" * 8, "7.ec03": b"old"}.items():
            (directory / name).write_bytes(content)
        source.sent |= {".vif": self.info(2), ".ecx": b"\1" * 16, ".ec03": b"new", ".ec04": b"new", ".ecj": b"\1" * 8}

    def test_are_not_laid_beside_them(self, copy, directory):
        before = files_in(directory)
        why = r"/7 belongs to a different encode run \(want 2, got 1\)$"
        with pytest.raises(RpcFailure, match=why):
            copy(shard_ids=[4], copy_ecx_file=True, copy_vif_file=True)
        with pytest.raises(RpcFailure, match=why):
            copy(shard_ids=[3, 4])
        assert files_in(directory) == before

    def test_are_not_given_the_info_of_them(self, copy, directory):
        for extension in (".ecx", ".ecj", ".ec03"):
            (directory / f"7{extension}").unlink()
        with pytest.raises(RpcFailure, match="belongs to a different encode run"):
            copy(shard_ids=[4], copy_ecx_file=True)
        assert set(files_in(directory)) == {"7.vif"}

    def test_do_not_replace_an_index_that_another_disk_uses_too(self, source, store, context, directory, tmp_path):
        index = tmp_path / "index"
        store.close()
        store = open_at(place(directory, index), place(tmp_path / "second", index))
        for extension in (".ecx", ".ecj"):
            (directory / f"7{extension}").rename(index / f"7{extension}")
        before = files_in(index)
        copy = copying_to(directory, store, source, context)
        with pytest.raises(RpcFailure, match=f"{directory}/7 belongs to a different encode run"):
            copy(shard_ids=[3, 4], copy_ecx_file=True, copy_vif_file=True, disk_id=1)
        assert files_in(index) == before
        store.close()

    def test_replace_them(self, copy, directory):
        """The journal of the older coding is not that of the newer one: a needle may have been written again."""
        copy(shard_ids=[3, 4], copy_ecx_file=True, copy_ecj_file=True, copy_vif_file=True)
        assert files_in(directory) == {
            "7.vif": self.info(2),
            "7.ecx": b"\1" * 16,
            "7.ecj": b"\1" * 8,
            "7.ec03": b"new",
            "7.ec04": b"new",
        }

    def test_of_the_same_coding_are_laid_beside_them(self, copy, source, directory):
        source.sent[".vif"] = self.info(1)
        copy(shard_ids=[4])
        assert files_in(directory)["7.ec04"] == b"new"

    def test_of_an_unknown_coding_are_laid_beside_them(self, copy, source, directory):
        """As upstream: an older server writes no time."""
        source.sent[".vif"] = self.info(0)
        copy(shard_ids=[4])
        assert files_in(directory)["7.ec04"] == b"new"

    def test_replace_nothing_before_all_of_them_are_here(self, copy, source, directory):
        before = files_in(directory)
        asked = {"shard_ids": [3, 4], "copy_ecx_file": True, "copy_ecj_file": True, "copy_vif_file": True}
        for lacking in (".ec04", ".ecx"):
            sent = source.sent.pop(lacking)
            with pytest.raises(RpcFailure):
                copy(**asked)
            source.sent[lacking] = sent
            assert files_in(directory) == before
        source.sent[".ecx"] = b""
        with pytest.raises(RpcFailure, match=r"source \.ecx is 0 bytes"):
            copy(**asked)
        assert files_in(directory) == before

    def test_leave_no_index_of_the_older_one_beside_them(self, copy, directory):
        (directory / "7.ecsum").write_bytes(b"old")
        copy(shard_ids=[3], copy_vif_file=True)
        assert files_in(directory) == {"7.vif": self.info(2), "7.ec03": b"new"}

    @pytest.mark.slow
    def test_a_crash_leaves_no_index_beside_shards_of_two_codings(self, source, context, tmp_path):
        """The steps are removals and renames. While a shard of the older coding is left, the .vif is the older one, so
        that no other shard of the newer coding is laid beside it. Slow: a copy for each step at which it may crash.
        """
        newer = {".vif": self.info(2), ".ecx": b"\1" * 16, ".ecj": b"\1" * 8, ".ec03": b"new", ".ec05": b"new"}
        older = {".vif": self.info(1), ".ecx": b"\0" * 16, ".ecj": b"\0" * 8, ".ec03": b"old", ".ec05": b"old"}
        source.sent |= newer
        for cut_at in range(1, 40):
            files = PlannedFiles(steps_of=("rename", "unlink"))
            directory = tmp_path / f"cut{cut_at}"
            store = open_at(place(directory, min_free_percent=0.0), files=files, **NODE)
            for extension, content in older.items():
                (directory / f"7{extension}").write_bytes(content)
            files.steps, files.cut_at = 0, cut_at
            try:
                copying_to(directory, store, source, context)(
                    shard_ids=[3, 5], copy_ecx_file=True, copy_ecj_file=True, copy_vif_file=True
                )
            except RpcFailure:
                assert files.steps >= cut_at
            files.cut_at = None
            store.close()
            left = {name[1:]: content for name, content in files_in(directory).items() if name[1:] in newer}
            if ".ecx" in left:
                assert left in (older, newer)
            elif b"old" in left.values():
                assert left[".vif"] == self.info(1)
            if files.steps < cut_at:
                assert left == newer
                break
        else:
            pytest.fail("the copy never ends")

    def test_are_not_laid_beside_those_of_a_server_that_writes_no_time(self, copy, directory):
        """The older shards would be taken for some of the newer coding."""
        for info in (self.info(0), None):
            (directory / "7.vif").unlink()
            if info is not None:
                (directory / "7.vif").write_bytes(info)
            before = files_in(directory)
            with pytest.raises(RpcFailure, match=r"belongs to a different encode run \(want 2, got 0\)$"):
                copy(shard_ids=[4], copy_ecx_file=True, copy_vif_file=True)
            assert files_in(directory) == before
            (directory / "7.vif").write_bytes(self.info(0))

    def test_replace_all_of_a_server_that_writes_no_time(self, copy, directory):
        (directory / "7.vif").write_bytes(self.info(0))
        copy(shard_ids=[3], copy_ecx_file=True, copy_vif_file=True)
        assert {name: content for name, content in files_in(directory).items() if name != "7.ecj"} == {
            "7.vif": self.info(2),
            "7.ecx": b"\1" * 16,
            "7.ec03": b"new",
        }


class TestAnIndex:
    ROW_BYTES = 16
    MOST_BYTES = (10 << 20) // 24 * ROW_BYTES
    """Ten shards of a MiB hold so many of the shortest records."""

    @pytest.fixture
    def sound(self, store, directory):
        """A sound index is here. `store` makes the directory."""
        (directory / "7.ecx").write_bytes(b"\0" * self.ROW_BYTES)
        (directory / "7.vif").write_bytes(VIF_OF_SHARDS)
        return files_in(directory)

    def test_with_a_partial_row_replaces_none(self, copy, source, directory, sound):
        source.sent[".ecx"] = b"\1" * (2 * self.ROW_BYTES - 1)
        with pytest.raises(RpcFailure, match=r"source \.ecx has 31 bytes, and its last row is partial"):
            copy(copy_ecx_file=True)
        assert files_in(directory) == sound

    def test_with_more_rows_than_the_volume_had_records_replaces_none(self, copy, source, directory, sound):
        source.sent[".vif"] = VIF_OF_SHARDS[:-1] + b',"datFileSize":"1000"}'
        source.sent[".ecx"] = bytes(self.MOST_BYTES + self.ROW_BYTES)
        with pytest.raises(RpcFailure, match=r"failed to copy 7.ecx file: .* file too large"):
            copy(copy_ecx_file=True)
        assert files_in(directory) == sound

    @pytest.mark.parametrize("dat_bytes", [1000, 0, 1 << 60])
    def test_with_as_many_rows_replaces_one(self, copy, source, directory, sound, dat_bytes):
        source.sent[".vif"] = VIF_OF_SHARDS[:-1] + b',"datFileSize":"%d"}' % dat_bytes
        source.sent[".ecx"] = bytes(self.MOST_BYTES)
        copy(copy_ecx_file=True)
        assert (directory / "7.ecx").stat().st_size == self.MOST_BYTES

    def test_may_fit_shards_that_are_longer_than_the_info_says(self, copy, source, directory, sound):
        source.sent[".vif"] = VIF_OF_SHARDS[:-1] + b',"datFileSize":"1000"}'
        source.sent |= {".ecx": bytes(self.MOST_BYTES + self.ROW_BYTES), ".ec03": bytes(2 << 20)}
        copy(shard_ids=[3], copy_ecx_file=True)
        assert (directory / "7.ecx").stat().st_size == self.MOST_BYTES + self.ROW_BYTES

    def test_is_not_held_in_memory(self, source, context, tmp_path):
        """The deletions of both indexes are found, wherever a piece ends."""
        last = 99_999
        gone_here, gone_there = {1, 32_768}, {2, 32_769, last}
        files = PlannedFiles()
        directory = tmp_path / "volumes"
        with closing(open_at(place(directory, min_free_percent=0.0), files=files, **NODE)) as store:
            (directory / "7.ecx").write_bytes(rows(last, gone_here))
            (directory / "7.vif").write_bytes(VIF_OF_SHARDS)
            source.sent[".ecx"] = rows(last, gone_there)
            files.longest_read_bytes = 0
            copying_to(directory, store, source, context)(copy_ecx_file=True)
            assert files.longest_read_bytes < len(source.sent[".ecx"]) / 2
        noted = (directory / "7.ecj").read_bytes()
        assert {int.from_bytes(noted[at : at + 8], "big") for at in range(0, len(noted), 8)} == gone_here | gone_there


def rows(last, gone):
    """The rows of an .ecx with the ids from 1 to `last`, those of `gone` as deleted."""
    return b"".join(struct.pack(">QIi", number, 1, -1 if number in gone else 9) for number in range(1, last + 1))


@pytest.mark.parametrize("times", [(1, 2), (0, 2), (0, 0)], ids=["both known", "one known", "none known"])
class TestASourceThatCodesAgain:
    """The source makes new shards between two files of a copy."""

    @pytest.fixture(autouse=True)
    def changing(self, source, times):
        older, newer = (TestShardsOfAnotherCoding.info(time) for time in times)
        self.older = older[:-1] + b',"datFileSize":"1000"}'
        self.newer = newer[:-1] + b',"datFileSize":"2000"}'
        source.sent |= {".vif": self.older, ".ecx": b"\0" * 16, ".ec03": b"old", ".ec04": b"old"}
        self.sent_anew = {".vif": self.newer, ".ecx": b"\1" * 16, ".ec03": b"new", ".ec04": b"new"}

    @pytest.mark.parametrize("last", [".ec03", ".ec04", ".ecx"])
    def test_gives_no_files_of_two_codings(self, copy, source, directory, last):
        source.after[last] = lambda: source.sent.update(self.sent_anew)
        with pytest.raises(RpcFailure, match="the source's files belong to a different encode run by now"):
            copy(shard_ids=[3, 4], copy_ecx_file=True, copy_vif_file=True)
        assert files_in(directory) == {}
        copy(shard_ids=[3, 4], copy_ecx_file=True, copy_vif_file=True)
        assert set(files_in(directory).values()) == {self.newer, b"\1" * 16, b"new"}

    def test_gives_none_beside_those_that_are_here(self, copy, source, directory):
        copy(shard_ids=[3], copy_ecx_file=True, copy_vif_file=True)
        before = files_in(directory)
        source.after[".vif"] = lambda: source.sent.update(self.sent_anew)
        with pytest.raises(RpcFailure, match="the source's files belong to a different encode run by now"):
            copy(shard_ids=[4])
        assert files_in(directory) == before


class DirectorySource:
    """A volume server with the files of a directory."""

    def __init__(self, directory):
        self.directory = directory

    @contextmanager
    def open_volume_server(self, _address):
        yield SimpleNamespace(undecoded=SimpleNamespace(CopyFile=self._copy_file))

    def _copy_file(self, request):
        path = self.directory / f"7{request.ext}"
        messages = [pb.CopyFileResponse(file_content=path.read_bytes(), modified_ts_ns=1)] if path.exists() else []
        return Stream(message.SerializeToString() for message in messages)


class TestDeletions:
    """A needle that is deleted at one of two servers is deleted there after any copy of shards between them."""

    ALL_FILES: ClassVar = {"copy_ecx_file": True, "copy_ecj_file": True, "copy_vif_file": True, "copy_ecsum_file": True}

    @pytest.fixture
    def places(self, tmp_path):
        """The target has the first shards, and the source the others; both have the index."""
        target, source = tmp_path / "target", tmp_path / "source"
        needles = [Needle(needle_id=number, cookie=5, data=b"x" * 3000) for number in range(1, 6)]
        put_coded_volume(target, 7, *needles)
        shutil.copytree(target, source)
        for shard in range(14):
            ((source if shard < 13 else target) / f"7.ec{shard:02d}").unlink()
        return target, source

    def is_deleted(self, store, number):
        try:
            store.ec_reader.read_needle(7, number, 5)
        except Deleted:
            return True
        return False

    @pytest.mark.slow
    def test_that_are_in_the_index_of_the_target(self, places, context):
        """Slow: two volumes are coded."""
        target, source = places
        store = open_at(target)
        store.ec_reader.delete_needle(7, 2, 5)
        store.ec_work.rebuild_missing("", 7, ignores_checksums=False)
        store.close()
        # As a server leaves it that removes the journal of folded deletions.
        (target / "7.ecj").unlink()
        (target / "7.ec13").unlink()
        store = open_at(target)
        copying_to(target, store, DirectorySource(source), context)(shard_ids=[13], **self.ALL_FILES)
        assert self.is_deleted(store, 2)
        store.close()
        store = open_at(target)
        assert [number for number in range(1, 6) if self.is_deleted(store, number)] == [2]
        store.close()

    def test_that_are_in_the_index_of_the_source_alone(self, places, context):
        target, source = places
        width = 4
        ecx = (source / "7.ecx").read_bytes()
        (source / "7.ecx").write_bytes(with_deletions(ecx, [2], width, source / "7.ecx"))
        store = open_at(target)
        assert not self.is_deleted(store, 2)
        copying_to(target, store, DirectorySource(source), context)(shard_ids=[13], **self.ALL_FILES)
        assert self.is_deleted(store, 2)
        store.close()

    def test_that_are_in_the_journal_of_a_server_with_its_index_beside_the_data(self, places, context, tmp_path):
        target, source = places
        (source / "7.ecj").write_bytes((2).to_bytes(8, "big"))
        store = open_at(place(target, tmp_path / "idx"))
        copying_to(target, store, DirectorySource(source), context)(shard_ids=[13], **self.ALL_FILES)
        assert self.is_deleted(store, 2)
        assert not list((tmp_path / "idx").glob("7.ec*"))
        store.close()

    def test_that_are_there_many_times(self, places, context):
        """Go's server appends the journal of a source at each copy."""
        target, source = places
        (source / "7.ecj").write_bytes((2).to_bytes(8, "big") * 200_000)
        store = open_at(target)
        copying_to(target, store, DirectorySource(source), context)(shard_ids=[13], **self.ALL_FILES)
        assert self.is_deleted(store, 2)
        store.close()
        assert (target / "7.ecj").read_bytes() == (2).to_bytes(8, "big")

    @pytest.mark.slow
    def test_that_are_more_than_the_needles(self, places, context):
        """A source may send anything. Slow: two volumes are coded."""
        target, source = places
        (source / "7.ecj").write_bytes(b"".join(number.to_bytes(8, "big") for number in range((1 << 17) + 1)))
        store = open_at(target)
        with pytest.raises(RpcFailure, match="file too large"):
            copying_to(target, store, DirectorySource(source), context)(shard_ids=[13], **self.ALL_FILES)
        assert not (target / "7.ec13").exists()
        store.close()


class TestMountedShardsOfAnotherCoding:
    """All shards of an older coding are mounted. Its server wrote no time; another one has coded the volume since."""

    @pytest.fixture
    def places(self, tmp_path):
        target, source = tmp_path / "target", tmp_path / "source"
        for directory, letter in ((target, b"o"), (source, b"n")):
            put_coded_volume(directory, 7, Needle(needle_id=1, cookie=5, data=letter * 3000))
        vif = target / "7.vif"
        info = parse_volume_info(vif.read_bytes())
        without_time = replace(info.ec_shard_config, encode_ts_ns=0)
        vif.write_text(encode_volume_info(replace(info, ec_shard_config=without_time)))
        return target, source

    @pytest.mark.slow
    def test_are_not_replaced(self, places, context):
        """Slow: two volumes are coded."""
        target, source = places
        with closing(open_at(target)) as store:
            before = files_in(target)
            assert len(store.ec.find(7).shards) == 14
            with pytest.raises(RpcFailure, match=r"/7 belongs to a different encode run \(want [0-9]+, got 0\)$"):
                copying_to(target, store, DirectorySource(source), context)(
                    shard_ids=range(14), **TestDeletions.ALL_FILES
                )
            assert files_in(target) == before
            assert bytes(store.ec_reader.read_needle(7, 1, 5).data) == b"o" * 3000
            store.ec_reader.delete_needle(7, 1, 5)
            assert (target / "7.ecj").read_bytes() == (1).to_bytes(8, "big")

    @pytest.mark.slow
    def test_are_not_replaced_with_their_index_on_another_disk(self, places, context, tmp_path):
        """A shard that is mounted later would be read with the older index. Slow: two volumes are coded."""
        target, source = places
        shards = tmp_path / "shards"
        shards.mkdir()
        with closing(open_at(target, shards)) as store:
            store.ec.unload(7)
            for path in target.glob("7.ec[0-9]*"):
                shutil.move(path, shards)
            store.ec.mount("", 7, 3)
            assert store.ec.find(7).place.index_dir == target
            before = files_in(shards)
            with pytest.raises(RpcFailure, match=f"{shards}/7 belongs to a different encode run"):
                copying_to(target, store, DirectorySource(source), context)(
                    shard_ids=range(14), disk_id=1, **TestDeletions.ALL_FILES
                )
            assert files_in(shards) == before

    @pytest.mark.slow
    def test_are_replaced_when_they_are_closed(self, places, context):
        """Slow: two volumes are coded."""
        target, source = places
        with closing(open_at(target)) as store:
            store.ec.unload(7)
            copying_to(target, store, DirectorySource(source), context)(shard_ids=range(14), **TestDeletions.ALL_FILES)
            for shard in range(14):
                store.ec.mount("", 7, shard)
            assert bytes(store.ec_reader.read_needle(7, 1, 5).data) == b"n" * 3000


@pytest.mark.slow
def test_an_index_that_replaces_an_empty_one_is_used_at_once(tmp_path, context):
    """Slow: codes a volume."""
    target, source = tmp_path / "target", tmp_path / "source"
    put_coded_volume(source, 7, Needle(needle_id=1, cookie=5, data=b"x" * 3000))
    shutil.copytree(source, target)
    (target / "7.ec13").unlink()
    (target / "7.ecx").write_bytes(b"")
    store = open_at(target)
    assert store.ec.reports()[0].file_count == 0
    copying_to(target, store, DirectorySource(source), context)(shard_ids=[13], **TestDeletions.ALL_FILES)
    assert store.ec.reports()[0].file_count == 1
    assert bytes(store.ec_reader.read_needle(7, 1, 5).data) == b"x" * 3000
    store.close()


def test_a_shard_that_is_named_many_times_is_fetched_once(copy, source, directory):
    source.sent |= {".ec03": b"shard", ".ecx": b"x" * 16}
    copy(shard_ids=[3] * 1000, copy_ecx_file=True, copy_vif_file=True)
    assert source.asked.count(".ec03") == 1
    assert files_in(directory)["7.ec03"] == b"shard"
