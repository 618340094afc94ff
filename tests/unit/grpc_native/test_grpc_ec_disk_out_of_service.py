"""The answer of each RPC about an erasure-coded volume of which one disk is out of service. The RPC does not touch that
disk.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import grpc
import pytest
from support.coded_volumes import put_coded_volume
from support.disks import bring_back, take_out_of_service
from support.files import PlannedFiles, path_of
from support.grpc_nodes import batch_delete, failure_of, make_context, make_node
from support.stores import NODE, place
from support.waiting import LIMIT_S, wait_until

from native_handlers.format.crc import crc32c
from native_handlers.format.needle import Needle
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.handlers import GRPC_HANDLERS
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.erasure_coding import decode_volume

VID = 7
DATA = bytes(3000)
NEEDLES = [Needle(needle_id=number, cookie=5, data=DATA, checksum=crc32c(DATA)) for number in (1, 2)]
COMPANIONS = (".ecx", ".ecj", ".vif")


class Coded:
    """A volume whose shards are on the disks `well` and `sick`. `touched` has the operations on the disk that is out of
    service.
    """

    def __init__(self, path, opened):
        self.path, self.well, self.sick = path, path / "well", path / "sick"
        self._open = opened
        self.touched = []
        self.on_write = lambda _path: None
        self._out_of_service = None

    def open(self, sick_shards, *, both=(), shares_index=False, only_index=None, third=()):
        """Both disks are in service.

        Args:
            sick_shards: the shards on the second disk.
            both: those of them that the first disk has too.
            shares_index: the disks have one index directory; else each has an index of its own.
            only_index: the one of both disks that has an index; the other one uses it.
            third: shards that are on a third disk too, with an index of its own.
        """
        put_coded_volume(self.well, VID, *NEEDLES)
        index = self.path / "index"
        index.mkdir()
        self.sick.mkdir()
        for shard in sick_shards:
            (shutil.copy if shard in both else shutil.move)(self.well / f"{VID}.ec{shard:02d}", self.sick)
        for extension in COMPANIONS:
            shutil.copy(self.well / f"{VID}{extension}", self.sick)
        if shares_index:
            for extension in (".ecx", ".ecj"):
                shutil.move(self.well / f"{VID}{extension}", index)
                (self.sick / f"{VID}{extension}").unlink()
        places = [place(disk, index if shares_index else None) for disk in (self.well, self.sick)]
        if third:
            places.append(place(self.path / "third"))
            for name in (*(f"{VID}.ec{shard:02d}" for shard in third), *(f"{VID}{one}" for one in COMPANIONS)):
                shutil.copy(self.well / name, self.path / "third")
        self.store = self._open(*places, files=PlannedFiles(before=self._note), **NODE, volumes=())
        if only_index is not None:
            self._open_with(only_index, sick_shards)
        self.node = make_node(self.path, self.store, state=StoreStateKeeper(self.store))
        return self

    def open_uncoded(self):
        """The volume is on the first disk, with its shards beside it."""
        places = [place(self.well), place(self.sick)]
        self.store = self._open(*places, files=PlannedFiles(before=self._note), **NODE)
        assert self.store.find_volume(VID).disk_id == 0
        for needle in NEEDLES:
            self.store.get_volume(VID).write(needle)
        self.store.ec_work.generate(self.store.find_volume(VID), "")
        for shard in range(14):
            self.store.ec.mount("", VID, shard)
        self.node = make_node(self.path, self.store, state=StoreStateKeeper(self.store))

    def _open_with(self, index_dir, sick_shards):
        """Opens the shards of the first two disks anew, with one index."""
        for location, shards in zip(self.store.locations[:2], (range(13), sick_shards), strict=True):
            self.store.ec.unload(VID, disk_id=location.disk_id)
            if location.path != index_dir:
                for extension in (".ecx", ".ecj"):
                    (location.path / f"{VID}{extension}").unlink()
            for shard in shards:
                if (location.path / f"{VID}.ec{shard:02d}").exists():
                    self.store.ec.open_shard(location, "", VID, shard, index_dir)

    def fall_sick(self, disk_id=1):
        location = self.store.locations[disk_id]
        location.health.problem, self._out_of_service = "why", location.path

    def recover(self):
        self._out_of_service = None
        for location in self.store.locations:
            location.health.problem = ""

    def _note(self, name, target):
        where = path_of(target)
        if self._out_of_service in (where, *where.parents):
            self.touched.append((name, where.name))
        if name == "write":
            self.on_write(where)

    def invoke(self, name, request):
        answer = GRPC_HANDLERS[name](self.node, make_context(), request)
        return list(answer) if name == "VolumeEcShardRead" else answer

    def check_refused(self, name, request):
        failure = failure_of(lambda: self.invoke(name, request))
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        assert failure.message.endswith(f"disk {self.sick} is out of service: why")
        assert self.touched == []

    def check_decoded(self):
        self.store.mount_volume(VID)
        for needle in NEEDLES:
            read = self.store.get_volume(VID).read(needle.needle_id, cookie=5)
            assert bytes(read.needle.data) == DATA
            read.release()


@pytest.fixture
def coded(tmp_path, opened):
    made = Coded(tmp_path, opened)
    yield made
    made.recover()


class TestDecoding:
    REQUEST = "VolumeEcShardsToVolume", pb.VolumeEcShardsToVolumeRequest(volume_id=VID)

    def check_refused(self, coded):
        coded.fall_sick()
        coded.check_refused(*self.REQUEST)
        assert not list(coded.path.rglob("7.dat"))
        coded.recover()
        coded.invoke(*self.REQUEST)
        coded.check_decoded()

    @pytest.mark.slow
    def test_an_index_there_may_have_deletions_that_the_others_lack(self, coded):
        """Slow: codes a volume."""
        self.check_refused(coded.open([13]))

    def test_a_data_shard_is_there_alone(self, coded):
        self.check_refused(coded.open([0, 13], shares_index=True))

    def test_the_shards_of_the_other_disk_use_the_index_there(self, coded):
        self.check_refused(coded.open([13], only_index=coded.sick))

    @pytest.mark.parametrize("shards", [[13], [0, 13]], ids=["parity", "a data shard that both have"])
    @pytest.mark.parametrize("shares_index", [True, False])
    def test_the_volume_itself_may_be_there(self, coded, shards, shares_index):
        """No shard and no index there is needed."""
        coded.open(shards, both=[0], shares_index=shares_index, only_index=None if shares_index else coded.well)
        assert [volume.place.disk_id for volume in coded.store.ec.copies(VID)] == [0, 1]
        self.check_refused(coded)

    def test_a_volume_on_a_disk_that_comes_back_is_not_made_a_second_time(self, coded):
        coded.open([13], third=[12])
        (coded.sick / "7.dat").write_bytes(bytes(100))
        coded.fall_sick()
        coded.check_refused(*self.REQUEST)
        coded.recover()
        with pytest.raises(RpcFailure, match=r"volume 7 is here as a regular volume too: .*7\.dat"):
            coded.invoke(*self.REQUEST)
        assert [path.parent.name for path in coded.path.rglob("7.dat")] == ["sick"]

    def test_a_disk_that_goes_while_the_shards_are_read(self, coded, monkeypatch):
        """It was in service when the decoding began."""
        live_records = decode_volume.live_records

        def fall_sick(*arguments):
            coded.fall_sick()
            return live_records(*arguments)

        coded.open([13], shares_index=True)
        monkeypatch.setattr(decode_volume, "live_records", fall_sick)
        self.check_refused_midway(coded)

    def check_refused_midway(self, coded):
        failure = failure_of(lambda: coded.invoke(*self.REQUEST))
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        assert coded.touched == []
        assert not list(coded.path.rglob("7.dat*"))

    def test_sent_files_of_the_volume(self, coded):
        """It may be there already."""
        coded.open([13], shares_index=True)
        for shard in range(14):
            for location in coded.store.locations:
                (location.path / f"{VID}.ec{shard:02d}").unlink(missing_ok=True)
        coded.store.ec.unload(VID)
        for extension in (".dat", ".idx", ".vif"):
            (coded.well / f"{VID}{extension}.copying").write_bytes(b"")
        coded.fall_sick()
        coded.check_refused("VolumeEcShardsToVolume", pb.VolumeEcShardsToVolumeRequest(volume_id=VID, from_staged=True))
        assert {path.suffix for path in coded.well.glob("7.dat*")} == {".copying"}


REFUSED = [
    ("VolumeEcShardsInfo", pb.VolumeEcShardsInfoRequest(volume_id=VID)),
    ("VolumeEcBlobDelete", pb.VolumeEcBlobDeleteRequest(volume_id=VID, file_key=1)),
    ("VolumeEcShardRead", pb.VolumeEcShardReadRequest(volume_id=VID, shard_id=0, size=8, file_key=1)),
    ("VolumeNeedleStatus", pb.VolumeNeedleStatusRequest(volume_id=VID, needle_id=1)),
    *(
        ("ScrubEcVolume", pb.ScrubEcVolumeRequest(volume_ids=[VID], mode=mode))
        for mode in (pb.INDEX, pb.LOCAL, pb.FULL, pb.CHECKSUM)
    ),
]


@pytest.mark.parametrize(("name", "request_message"), REFUSED, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("only_index", [None, "sick"])
def test_what_needs_the_disk_is_unavailable(coded, name, request_message, only_index):
    coded.open(range(14) if only_index is None else [13], only_index=only_index and coded.sick)
    coded.fall_sick()
    coded.check_refused(name, request_message)


@pytest.mark.parametrize("name", ["VolumeNeedleStatus", "BatchDelete"])
def test_what_waits_for_room_ends_when_the_disk_goes_out_of_service(coded, name):
    """What hangs there has all of the room."""
    coded.open([13])
    volume, bounds = coded.store.ec.find(VID), coded.store.ec_reader.bounds
    location = coded.store.locations[volume.place.disk_id]
    bound = bounds.reads if name == "VolumeNeedleStatus" else bounds.deletions

    def ask():
        if name == "VolumeNeedleStatus":
            return failure_of(lambda: coded.invoke(name, pb.VolumeNeedleStatusRequest(volume_id=VID, needle_id=1))).code
        request = pb.BatchDeleteRequest(file_ids=[f"{VID},0100000005"], skip_cookie_check=True)
        return [one.status for one in batch_delete(coded.node, make_context(), request).results]

    with bound.holding([location.disk_id], bound.memory_bytes), ThreadPoolExecutor() as threads:
        answer = threads.submit(ask)
        wait_until(lambda: bound.waiting_count)
        take_out_of_service(location)
        assert answer.result(LIMIT_S) == (grpc.StatusCode.UNAVAILABLE if name == "VolumeNeedleStatus" else [503])
    bring_back(location)


def test_a_scrub_calls_no_shard_broken_because_its_disk_is_out_of_service(coded):
    coded.open([0, 13])
    coded.fall_sick()
    coded.check_refused(*REFUSED[-1])


def test_the_counts_are_those_of_an_index_in_service(coded):
    coded.open(range(7, 14))
    coded.fall_sick(0)
    answer = coded.invoke(*REFUSED[0])
    assert (answer.file_count, len(answer.ec_shard_infos)) == (2, 14)
    assert coded.touched == []


class TestIndexOnAnotherDisk:
    """The shards of the first disk use the index of the one that is out of service."""

    def test_each_needle_that_is_to_be_deleted_is_unavailable(self, coded):
        coded.open([13], only_index=coded.sick)
        coded.fall_sick()
        request = pb.BatchDeleteRequest(file_ids=[f"{VID},0100000005"])
        assert [one.status for one in batch_delete(coded.node, make_context(), request).results] == [503]
        assert coded.touched == []

    def test_shards_are_read_without_the_index(self, coded):
        coded.open([13], only_index=coded.sick)
        coded.fall_sick()
        request = pb.VolumeEcShardReadRequest(volume_id=VID, shard_id=0, size=8)
        assert len(coded.invoke("VolumeEcShardRead", request)) == 1
        assert coded.touched == []

    def test_another_index_is_used_and_its_journal_alone(self, coded):
        coded.open([13], only_index=coded.sick, third=[12])
        coded.fall_sick()
        assert bytes(coded.store.ec_reader.read_needle(VID, 1, 5).data) == DATA
        assert coded.store.ec_reader.delete_needle(VID, 1, 5)
        assert coded.touched == []
        coded.recover()
        assert coded.store.ec_reader.delete_needle(VID, 2, 5)
        journals = [(path / "7.ecj").read_bytes() for path in (coded.sick, coded.path / "third")]
        assert [len(one) for one in journals] == [16, 16]


class TestAnotherDisk:
    """The first disk has the volume and its earlier coding. The second one falls out of service."""

    @pytest.fixture
    def coded(self, coded):
        coded.open_uncoded()
        return coded

    @pytest.fixture
    def known(self, coded):
        """The second disk has a shard of the earlier coding, and an index. The shard is closed."""
        for extension in (".ec13", *COMPANIONS):
            if (coded.well / f"{VID}{extension}").exists():
                shutil.copy(coded.well / f"{VID}{extension}", coded.sick)
        coded.store.ec_work.load_shards(VID)
        assert [one.place.disk_id for one in coded.store.ec.copies(VID)] == [0, 1]
        coded.store.ec.unload(VID, disk_id=1)
        return coded

    def check_unchanged(self, coded, name, request):
        opened = coded.store.ec.copies(VID)
        before = {path: path.read_bytes() for path in coded.well.iterdir()}
        coded.check_refused(name, request)
        assert {path: path.read_bytes() for path in coded.well.iterdir()} == before
        assert coded.store.ec.copies(VID) == opened
        assert bytes(coded.store.ec_reader.read_needle(VID, 1, 5).data) == DATA

    GENERATE = "VolumeEcShardsGenerate", pb.VolumeEcShardsGenerateRequest(volume_id=VID)
    REMOVALS: ClassVar = [
        pb.VolumeEcShardsDeleteRequest(volume_id=VID, full_teardown=True),
        pb.VolumeEcShardsDeleteRequest(volume_id=VID, shard_ids=range(14)),
    ]

    def test_that_has_a_shard_keeps_a_volume_from_being_coded_before_the_first_byte(self, known):
        written = []
        known.on_write = written.append
        known.fall_sick()
        self.check_unchanged(known, *self.GENERATE)
        assert written == []

    @pytest.mark.slow
    def test_that_goes_while_the_shards_are_made_costs_no_earlier_coding(self, known):
        """Slow: codes a volume."""
        known.on_write = lambda _path: known.fall_sick()
        self.check_unchanged(known, *self.GENERATE)

    @pytest.mark.parametrize("request_message", REMOVALS, ids=["all", "shards"])
    def test_that_has_a_shard_keeps_a_coding_from_being_removed_in_part(self, known, request_message):
        known.fall_sick()
        self.check_unchanged(known, "VolumeEcShardsDelete", request_message)

    def test_that_has_an_open_shard_keeps_a_coding_from_being_removed_in_part(self, known):
        known.store.ec.mount("", VID, 13)
        known.fall_sick()
        self.check_unchanged(known, "VolumeEcShardsDelete", self.REMOVALS[0])

    @pytest.mark.slow
    def test_that_has_nothing_of_the_volume_keeps_none_from_being_coded(self, coded):
        """Slow: codes a volume."""
        before = coded.store.ec.find(VID).encode_ts_ns
        coded.fall_sick()
        coded.invoke(*self.GENERATE)
        for shard in range(14):
            coded.store.ec.mount("", VID, shard)
        assert coded.store.ec.find(VID).encode_ts_ns > before
        assert bytes(coded.store.ec_reader.read_needle(VID, 1, 5).data) == DATA
        assert coded.touched == []

    @pytest.mark.parametrize("request_message", REMOVALS, ids=["all", "shards"])
    def test_that_has_nothing_of_the_volume_keeps_no_shard_here(self, coded, request_message):
        coded.fall_sick()
        coded.invoke("VolumeEcShardsDelete", request_message)
        assert not [path for path in coded.well.iterdir() if ".ec" in path.name]
        assert coded.touched == []

    def test_whose_shard_was_deleted_before_has_nothing_of_the_volume(self, known):
        known.invoke("VolumeEcShardsDelete", pb.VolumeEcShardsDeleteRequest(volume_id=VID, shard_ids=[13]))
        known.fall_sick()
        known.invoke("VolumeEcShardsDelete", self.REMOVALS[0])
        assert not [path for path in known.well.iterdir() if ".ec" in path.name]
        assert known.touched == []


class TestScrubOfEverything:
    @pytest.mark.parametrize("mode", [pb.INDEX, pb.LOCAL, pb.FULL, pb.CHECKSUM])
    @pytest.mark.slow
    def test_tells_of_a_volume_that_is_not_verified_and_goes_on(self, coded, mode):
        """Slow: codes several volumes."""
        coded.open([13])
        other = coded.well / "9"
        for path in list(coded.path.rglob(f"{VID}.*")):
            shutil.copy(path, other.with_suffix(path.suffix))
        coded.store.ec_work.load_shards(9)
        coded.fall_sick()
        answer = coded.invoke("ScrubEcVolume", pb.ScrubEcVolumeRequest(mode=mode))
        (detail,) = answer.details
        assert detail.startswith(f"EC volume {VID} is not verified: ")
        assert detail.endswith(f"disk {coded.sick} is out of service: why")
        assert (answer.total_volumes, list(answer.broken_volume_ids)) == (1, [])
        assert coded.touched == []

    @pytest.mark.parametrize("mode", [pb.INDEX, pb.FULL])
    def test_of_regular_volumes_does_too(self, coded, mode):
        coded.open_uncoded()
        coded.store.allocate_volume(9)
        coded.store.get_volume(9).write(Needle(needle_id=1, cookie=5, data=DATA))
        coded.fall_sick(coded.store.get_volume(9).disk_id)
        request = pb.ScrubVolumeRequest(mode=mode, mark_broken_volumes_readonly=True)
        answer = coded.invoke("ScrubVolume", request)
        (detail,) = answer.details
        assert detail.startswith("volume 9 is not verified: ")
        assert detail.endswith(f"disk {coded.sick} is out of service: why")
        assert (answer.total_volumes, list(answer.broken_volume_ids)) == (1, [])
        named = failure_of(lambda: coded.invoke("ScrubVolume", pb.ScrubVolumeRequest(mode=mode, volume_ids=[9])))
        assert named.code is grpc.StatusCode.UNAVAILABLE


class TestCopies:
    """CopyFile of a file without which a copy goes on."""

    def copy(self, coded, extension):
        request = pb.CopyFileRequest(
            volume_id=VID, ext=extension, compaction_revision=2**32 - 1, stop_offset=2**63 - 1, is_ec_volume=True,
            ignore_source_file_not_found=True,
        )  # fmt: skip
        pieces = GRPC_HANDLERS["CopyFile"](coded.node, make_context(), request)
        return b"".join(pb.CopyFileResponse.FromString(one).file_content for one in pieces)

    @pytest.mark.slow
    def test_end_for_no_checksums_and_no_journal_of_a_disk_out_of_service(self, coded):
        """Slow: codes a volume."""
        coded.open([13])
        for path in coded.path.rglob("*.ecsum"):
            path.unlink()
        coded.fall_sick()
        assert self.copy(coded, ".ecsum") == b""
        assert self.copy(coded, ".ecj") == b""
        assert coded.touched == []

    def test_have_the_known_deletions_of_a_disk_out_of_service(self, coded):
        coded.open([13])
        coded.store.ec_reader.delete_needle(VID, 2, 5)
        (coded.well / f"{VID}.ecj").unlink()
        coded.fall_sick()
        assert self.copy(coded, ".ecj") == (2).to_bytes(8, "big")

    def test_end_where_the_deletions_there_are_not_known(self, coded):
        """The volume is closed here."""
        coded.open([13])
        coded.store.ec.unload(VID)
        for path in coded.path.rglob("*.ecj"):
            path.unlink()
        coded.fall_sick()
        failure = failure_of(lambda: self.copy(coded, ".ecj"))
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        coded.recover()
        assert self.copy(coded, ".ecj") == b""

    def test_end_for_an_info_that_is_there_alone(self, coded):
        coded.open([13])
        (coded.well / f"{VID}.vif").unlink()
        coded.fall_sick()
        assert failure_of(lambda: self.copy(coded, ".vif")).code is grpc.StatusCode.UNAVAILABLE
