"""The data of volumes in an S3 tier: moved there and back, read there, and failures on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from support.disks import DiskInService
from support.grpc_nodes import make_context, make_node
from support.planned_tier_files import PlannedTierFiles
from support.s3_server import s3_server, shared_tier
from support.stores import open_at
from support.waiting import LIMIT_S, wait_until

from native_handlers.format.needle import Needle
from native_handlers.grpc.context import RequestsBroken, RpcFailure
from native_handlers.grpc.ec_work import volume_ec_shards_generate
from native_handlers.grpc.scrub import scrub_volume
from native_handlers.grpc.tiers import volume_tier_move_dat_from_remote, volume_tier_move_dat_to_remote
from native_handlers.grpc.vacuum import vacuum_volume_cleanup, vacuum_volume_commit, vacuum_volume_compact
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.check import check_directory
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import (
    CompactionRefused,
    Deleted,
    NotFound,
    ReadFailed,
    ReadOnly,
    VolumeBusy,
    WriteFailed,
)
from native_handlers.storage.model.report import FindingKind
from native_handlers.storage.remote.s3_tier import S3Tier
from native_handlers.storage.remote.tier_files import TierFiles
from native_handlers.storage.remote.tiers import Tiers, TierSettings, split_tier_name
from native_handlers.storage.shared.attach import share_volume
from native_handlers.storage.shared.reading import attach_for_reading

VID = 7
COOKIE = 0x11223344
NAME = "s3.cold"
LASTING_CHANGES = ("sync", "sync_directory", "rename", "unlink")
"""What changes names or puts something on disk."""


@pytest.fixture(scope="module")
def s3():
    with s3_server("tiers") as server:
        yield server


class Cluster:
    """A store with one volume of a few needles, and the tier that its master named."""

    def __init__(self, directory, s3) -> None:
        self.directory, self.s3 = directory, s3
        self.open(s3.properties())
        self.volume = self.store.allocate_volume(VID)
        self.data = {number: bytes([number]) * (3000 * number) for number in range(1, 6)}
        self.data[9] = b"large" * 500_000
        for number, data in self.data.items():
            self.volume.write(Needle(needle_id=number, cookie=COOKIE, data=data))

    def open(self, properties, kind=TierFiles) -> None:
        tiers = Tiers({"s3": shared_tier})
        tiers.load([TierSettings("s3", "cold", properties)])
        files = kind(tiers)
        self.store = open_at(self.directory, files=files, tiers=files)
        self.node = make_node(self.directory, self.store)

    def restart(self, properties=None, kind=TierFiles) -> None:
        self.store.close()
        self.open(properties or self.s3.properties(), kind)
        self.volume = self.store.find_volume(VID)

    def to_tier(self, name=NAME, **fields):
        request = pb.VolumeTierMoveDatToRemoteRequest(volume_id=VID, destination_backend_name=name, **fields)
        return list(volume_tier_move_dat_to_remote(self.node, make_context(), request))

    def to_disk(self, **fields):
        request = pb.VolumeTierMoveDatFromRemoteRequest(volume_id=VID, **fields)
        return list(volume_tier_move_dat_from_remote(self.node, make_context(), request))

    def read(self, number):
        read = self.volume.read(number, cookie=COOKIE)
        try:
            return bytes(read.needle.data) if read.payload is None else read.payload.read(0, read.payload.length_bytes)
        finally:
            read.release()

    def check(self) -> None:
        assert {number: self.read(number) for number in self.data} == self.data

    def file(self, extension):
        return self.directory / f"{VID}{extension}"


@pytest.fixture
def cluster(tmp_path, s3):
    made = Cluster(tmp_path / "volumes", s3)
    yield made
    made.store.close()
    for key in list(s3.keys()):
        s3.client.delete_object(Bucket=s3.bucket, Key=key)


@pytest.mark.slow
def test_there_and_back(cluster):
    """Slow: moves the data there and back."""
    before = cluster.file(".dat").read_bytes()
    cluster.to_tier()
    assert not cluster.file(".dat").exists()
    (key,) = cluster.s3.keys()
    assert cluster.s3.read(key) == before
    cluster.check()
    report = cluster.volume.report()
    assert (report.remote_storage_name, report.remote_storage_key) == (NAME, key)
    assert report.read_only
    assert report.is_announced
    assert report.size_bytes == len(before)
    cluster.to_disk()
    assert cluster.file(".dat").read_bytes() == before
    assert cluster.s3.keys() == []
    cluster.check()
    assert not cluster.volume.report().read_only
    cluster.volume.write(Needle(needle_id=77, cookie=COOKIE, data=b"writes again"))
    assert cluster.read(77) == b"writes again"


@pytest.mark.slow
def test_a_volume_that_workers_read_is_moved_and_leaves_them(cluster):
    """Slow: moves the data there and back."""
    announced = []
    cluster.store.add_listener(announced.append)
    descriptor = share_volume(cluster.volume)
    reader = attach_for_reading(descriptor, DiskInService(), time.time_ns)
    assert reader.read(1, cookie=COOKIE).needle.data == cluster.data[1]
    cluster.to_tier()
    assert announced[-1:] == [VID]
    with pytest.raises(NotFound):
        reader.read(1, cookie=COOKIE)
    reader.detach()
    with pytest.raises(WriteFailed, match="remote tier"):
        share_volume(cluster.volume)
    announced.clear()
    cluster.to_disk()
    assert announced[-1:] == [VID]
    again = attach_for_reading(share_volume(cluster.volume), DiskInService(), time.time_ns)
    assert again.read(1, cookie=COOKIE).needle.data == cluster.data[1]
    again.detach()


@pytest.mark.slow
def test_it_is_served_after_a_restart(cluster):
    """Slow: moves the data there, and reads it twice."""
    cluster.to_tier()
    cluster.restart()
    cluster.check()
    with pytest.raises(ReadOnly):
        cluster.volume.write(Needle(needle_id=99, cookie=COOKIE, data=b"x"))
    cluster.volume.marks.mark_writable()
    with pytest.raises(ReadOnly):
        cluster.volume.write(Needle(needle_id=99, cookie=COOKIE, data=b"x"))
    cluster.to_disk()
    cluster.restart()
    cluster.check()
    assert not cluster.volume.is_read_only


@pytest.mark.slow
def test_deletions_are_rows_alone(cluster):
    """Slow: moves the data there and back."""
    cluster.to_tier()
    assert cluster.volume.delete(2, COOKIE)
    for _ in range(2):
        with pytest.raises(Deleted):
            cluster.read(2)
        assert cluster.read(3) == cluster.data[3]
        scrubbed = scrub_volume(cluster.node, make_context(), pb.ScrubVolumeRequest(mode=pb.FULL))
        assert not scrubbed.details
        cluster.restart()
    cluster.to_disk()
    cluster.restart()
    assert not cluster.volume.is_read_only, cluster.store.findings
    with pytest.raises(Deleted):
        cluster.read(2)


@pytest.mark.slow
def test_local_data_may_be_kept(cluster):
    """Slow: moves the data there and back."""
    cluster.to_tier(keep_local_dat_file=True)
    assert cluster.file(".dat").exists()
    cluster.check()
    cluster.restart()
    assert cluster.volume.is_tiered
    cluster.to_disk(keep_remote_dat_file=True)
    assert len(cluster.s3.keys()) == 1
    cluster.check()


class Call:
    """A call whose client goes when `go` is called."""

    def __init__(self) -> None:
        self.is_active, self.callbacks = True, []
        self.context = dataclasses.replace(
            make_context(), is_active=lambda: self.is_active, add_callback=self.add_callback
        )

    def add_callback(self, callback):
        if self.is_active:
            self.callbacks.append(callback)
        return self.is_active

    def go(self):
        self.is_active = False
        for callback in self.callbacks:
            callback()


class TestObjectInUse:
    """A read that began in the tier goes on while its volume comes to disk. Slow: moves the data there and back."""

    pytestmark = pytest.mark.slow

    @pytest.fixture
    def call(self):
        return Call()

    @pytest.fixture
    def reading(self, cluster):
        cluster.to_tier()
        read = cluster.volume.read(9, cookie=COOKIE)
        assert read.payload is not None
        return read

    def begin(self, cluster, call, threads):
        request = pb.VolumeTierMoveDatFromRemoteRequest(volume_id=VID)
        moved = threads.submit(lambda: list(volume_tier_move_dat_from_remote(cluster.node, call.context, request)))
        wait_until(lambda: call.callbacks, "the call waits for the read")
        assert not cluster.volume.is_tiered
        assert len(cluster.s3.keys()) == 1
        return moved

    def test_goes_when_the_read_has_ended(self, cluster, call, reading):
        with ThreadPoolExecutor() as threads:
            moved = self.begin(cluster, call, threads)
            assert reading.payload.read(0, reading.payload.length_bytes) == cluster.data[9]
            reading.release()
            moved.result(LIMIT_S)
        assert cluster.s3.keys() == []

    def test_stays_when_the_client_goes_and_the_log_names_it(self, cluster, call, reading, caplog):
        (key,) = cluster.s3.keys()
        with ThreadPoolExecutor() as threads:
            moved = self.begin(cluster, call, threads)
            call.go()
            with pytest.raises(RequestsBroken):
                moved.result(LIMIT_S)
        assert reading.payload.read(0, reading.payload.length_bytes) == cluster.data[9]
        reading.release()
        assert cluster.s3.keys() == [key]
        assert f"volume 7 is on disk, and its object {key} stays in {NAME}" in caplog.text
        cluster.check()

    def test_stays_where_the_client_went_before(self, cluster, call, reading):
        request = pb.VolumeTierMoveDatFromRemoteRequest(volume_id=VID)
        moving = volume_tier_move_dat_from_remote(cluster.node, call.context, request)
        usual = cluster.store.note_moved
        cluster.store.note_moved = lambda volume_id: (usual(volume_id), call.go())
        with pytest.raises(RequestsBroken):
            list(moving)
        reading.release()
        assert len(cluster.s3.keys()) == 1
        assert not cluster.volume.is_tiered


@pytest.mark.slow
def test_moving_what_is_there_already(cluster):
    """Slow: moves the data there and back."""
    cluster.to_tier()
    assert cluster.to_tier() == []
    cluster.to_disk()
    with pytest.raises(RpcFailure, match="volume 7 is already on local disk"):
        cluster.to_disk()


@pytest.mark.slow
@pytest.mark.parametrize("keeps", [False, True])
def test_a_deleted_volume_takes_its_object_along(cluster, keeps):
    """Slow: moves the data to an S3 server."""
    cluster.to_tier()
    cluster.store.delete_volume(VID, only_empty=False, keep_remote_data=keeps)
    assert len(cluster.s3.keys()) == keeps
    assert not list(cluster.directory.glob(f"{VID}.*"))


@pytest.mark.slow
def test_a_volume_beside_its_shards_stays(cluster):
    """They have one .vif. A start that finds an .ecx and no .dat opens the shards alone. Slow: codes a volume."""
    cluster.store.ec_work.generate(cluster.volume, "")
    with pytest.raises(RpcFailure, match="volume 7 has erasure coding shards beside it"):
        cluster.to_tier()
    assert cluster.s3.keys() == []
    cluster.restart()
    cluster.check()
    cluster.store.ec_work.tear_down("", VID, 0)
    cluster.to_tier()
    cluster.restart()
    cluster.check()


@pytest.mark.slow
def test_the_object_of_a_volume_with_local_data_is_not_forgotten_for_shards(cluster):
    """Slow: moves the data there and back."""
    cluster.to_tier(keep_local_dat_file=True)
    (key,) = cluster.s3.keys()
    before = {path.name: path.read_bytes() for path in cluster.directory.glob(f"{VID}.*")}
    request = pb.VolumeEcShardsGenerateRequest(volume_id=VID)
    why = f"^volume 7 is in remote storage {NAME} as {key}, .* bring the volume to disk"
    with pytest.raises(RpcFailure, match=why):
        volume_ec_shards_generate(cluster.node, make_context(), request)
    assert {path.name: path.read_bytes() for path in cluster.directory.glob(f"{VID}.*")} == before
    cluster.restart()
    assert cluster.volume.is_tiered
    cluster.check()
    cluster.to_disk()
    volume_ec_shards_generate(cluster.node, make_context(), request)
    assert cluster.file(".ec13").exists()


def test_a_tier_that_is_not_known(cluster):
    with pytest.raises(RpcFailure, match=r"^destination s3\.warm not found, supported: \[s3\.cold\]$"):
        cluster.to_tier("s3.warm")
    assert not cluster.volume.is_read_only


@pytest.mark.slow
def test_an_upload_that_fails_leaves_the_volume_as_it_was(cluster):
    """Slow: moves the data to an S3 server."""
    cluster.restart(cluster.s3.properties(bucket="no-such-bucket"))
    with pytest.raises(RpcFailure, match=r"^backend s3\.cold copy file .*7\.dat: failed to upload file"):
        cluster.to_tier()
    cluster.check()
    assert not cluster.volume.is_read_only
    cluster.volume.write(Needle(needle_id=77, cookie=COOKIE, data=b"writes"))


@pytest.mark.slow
def test_a_download_that_fails_leaves_the_volume_in_its_tier(cluster):
    """Slow: moves the data there and back."""
    cluster.to_tier()
    (key,) = cluster.s3.keys()
    data = cluster.s3.read(key)
    cluster.s3.put(key, data[:-100])
    with pytest.raises(RpcFailure, match="bytes came"):
        cluster.to_disk()
    assert not cluster.file(".dat").exists()
    assert not list(cluster.directory.glob("*.receiving"))
    cluster.s3.put(key, data)
    cluster.check()


def test_writes_wait_for_nobody_while_data_is_uploaded(cluster, monkeypatch):
    seen = []

    def upload(self, path, size_bytes, progress):
        with pytest.raises(ReadOnly, match="volume 7 is read only"):
            cluster.volume.write(Needle(needle_id=77, cookie=COOKIE, data=b"x"))
        seen.append(cluster.read(1))
        raise OSError("the end of this test")

    monkeypatch.setattr(S3Tier, "upload", upload)
    with pytest.raises(RpcFailure, match="the end of this test"):
        cluster.to_tier()
    assert seen == [cluster.data[1]]
    cluster.volume.write(Needle(needle_id=77, cookie=COOKIE, data=b"x"))


class DuringTransfer:
    """Runs `step` once, at the end of the next upload or download of S3Tier."""

    def __init__(self, monkeypatch, name) -> None:
        usual, self.step = getattr(S3Tier, name), None

        def transfer(tier, *arguments):
            result = usual(tier, *arguments)
            step, self.step = self.step, None
            if step is not None:
                step()
            return result

        monkeypatch.setattr(S3Tier, name, transfer)


@pytest.fixture
def during_upload(monkeypatch):
    return DuringTransfer(monkeypatch, "upload")


@pytest.fixture
def during_download(monkeypatch):
    return DuringTransfer(monkeypatch, "download")


def reorder(cluster):
    """Makes a volume of which a vacuum changes the order of records and no length."""
    for number in range(30, 20, -1):
        cluster.data[number] = bytes([number]) * 50_000
        cluster.volume.write(Needle(needle_id=number, cookie=COOKIE, data=cluster.data[number]))


def vacuum(cluster):
    list(cluster.volume.compaction.run(CompactionOptions()))
    cluster.store.commit_compaction(cluster.store.get_volume(VID))


@pytest.mark.slow
def test_no_vacuum_commits_during_an_upload(cluster, during_upload):
    """Slow: moves the data to an S3 server."""
    reorder(cluster)

    def step():
        with pytest.raises(CompactionRefused, match=r"volume 7 is being moved to s3\.cold"):
            vacuum(cluster)

    during_upload.step = step
    cluster.to_tier()
    cluster.check()
    cluster.to_disk()
    cluster.check()
    vacuum(cluster)
    cluster.check()


@pytest.mark.slow
def test_a_copy_made_before_an_upload_is_not_committed_after_it(cluster):
    """Slow: moves the data to an S3 server."""
    reorder(cluster)
    list(cluster.volume.compaction.run(CompactionOptions()))
    cluster.to_tier()
    with pytest.raises(CompactionRefused, match="opened anew"):
        cluster.store.commit_compaction(cluster.store.get_volume(VID))
    cluster.check()


def reopen(cluster):
    with cluster.volume.handle.begin_write():
        cluster.volume.handle.reopen(cluster.volume.handle.get(), [])


def mount_anew(cluster):
    cluster.store.unmount_volume(VID)
    cluster.store.mount_volume(VID)


@pytest.mark.parametrize("step", [reopen, mount_anew])
@pytest.mark.slow
def test_files_that_were_opened_anew_during_an_upload_do_not_go(cluster, during_upload, step):
    """Nobody knows whether they are the files that were uploaded, even where the length is the same.
    Slow: moves the data to an S3 server.
    """
    during_upload.step = lambda: step(cluster)
    with pytest.raises(RpcFailure, match=r"got other files while it was moved|is closed|not found"):
        cluster.to_tier()
    assert cluster.file(".dat").exists()
    assert cluster.s3.keys() == []
    cluster.volume = cluster.store.find_volume(VID)
    cluster.check()
    cluster.volume.write(Needle(needle_id=77, cookie=COOKIE, data=b"writes"))
    cluster.to_tier()
    cluster.check()


@pytest.mark.slow
def test_a_second_upload_is_refused(cluster, during_upload):
    """Slow: moves the data to an S3 server."""

    def step():
        with pytest.raises(RpcFailure, match=r"^volume 7 is being moved to s3\.cold$"):
            cluster.to_tier()
        with pytest.raises(ReadOnly):
            cluster.volume.write(Needle(needle_id=77, cookie=COOKIE, data=b"x"))

    during_upload.step = step
    cluster.to_tier()
    assert len(cluster.s3.keys()) == 1
    cluster.check()


@pytest.mark.slow
def test_a_second_download_is_refused(cluster, during_download):
    """Its end would replace a .dat that may have taken writes since the end of the first one.
    Slow: moves the data to an S3 server and back.
    """
    cluster.to_tier()

    def step():
        with pytest.raises(RpcFailure, match=r"^volume 7 is being moved to disk$"):
            cluster.to_disk()
        assert cluster.volume.delete(2, COOKIE)

    during_download.step = step
    cluster.to_disk()
    del cluster.data[2]
    cluster.check()
    cluster.restart()
    cluster.check()


@pytest.mark.slow
def test_a_copy_of_the_volume_and_an_upload_exclude_each_other(cluster, during_upload):
    """The end of either would let writes in that the other one loses. Slow: moves the data to an S3 server."""
    arriving = cluster.store.begin_copy(VID, "", "", 0)
    with pytest.raises(RpcFailure, match=r"^volume 7 is being copied here anew$"):
        cluster.to_tier()
    with pytest.raises(ReadOnly):
        cluster.volume.write(Needle(needle_id=77, cookie=COOKIE, data=b"x"))
    cluster.store.abandon_copy(arriving)
    cluster.volume.write(Needle(needle_id=77, cookie=COOKIE, data=b"x"))

    def step():
        with pytest.raises(VolumeBusy):
            cluster.store.begin_copy(VID, "", "", 0)
        with pytest.raises(ReadOnly):
            cluster.volume.write(Needle(needle_id=78, cookie=COOKIE, data=b"x"))

    during_upload.step = step
    cluster.to_tier()
    cluster.check()


def test_a_mark_stays_with_a_volume_that_was_moved(cluster):
    cluster.store.mark_readonly(cluster.store.get_volume(VID), persist=True)
    cluster.to_tier()
    cluster.to_disk()
    assert cluster.volume.is_read_only
    cluster.restart()
    assert cluster.volume.is_read_only
    cluster.check()


@pytest.mark.slow
def test_a_tier_that_cannot_be_reached_at_the_start(cluster):
    """Slow: the client of S3 tries again."""
    cluster.to_tier()
    cluster.restart(cluster.s3.properties(endpoint="http://127.0.0.1:9"))
    assert FindingKind.TIER_UNREACHABLE in [finding.kind for finding in cluster.store.findings]
    with pytest.raises(ReadFailed):
        cluster.read(1)
    cluster.restart()
    cluster.check()


def test_a_tier_that_nobody_named_at_the_start(cluster):
    cluster.to_tier()
    cluster.store.close()
    files = TierFiles(Tiers({}))
    cluster.store = open_at(cluster.directory, files=files, tiers=files)
    assert cluster.store.find_volume(VID) is None
    (finding,) = cluster.store.findings
    assert finding.kind is FindingKind.NOT_LOADED
    assert "backend storage s3.cold not found" in finding.detail


@pytest.mark.parametrize(
    ("name", "parts"),
    [("s3", ("s3", "default")), ("s3.cold", ("s3", "cold")), ("a.b.c", ("", "")), ("", ("", "default"))],
)
def test_names_of_tiers(name, parts):
    assert split_tier_name(name) == parts


def test_the_default_tier_has_two_names():
    tiers = Tiers({"s3": shared_tier})
    tiers.load([TierSettings("s3", "default", ()), TierSettings("s3", "cold", ()), TierSettings("odd", "x", ())])
    assert tiers.names == ["s3", "s3.cold", "s3.default"]


@pytest.mark.slow
def test_a_vacuum_leaves_a_volume_in_a_tier_alone(cluster):
    """And takes no lock that its readers, or a report for the master, would wait for. Slow: moves the data to an S3
    server.
    """
    cluster.to_tier()
    request = pb.VacuumVolumeCompactRequest(volume_id=VID)
    with pytest.raises(RpcFailure, match="its data is in a remote tier"):
        list(vacuum_volume_compact(cluster.node, make_context(), request))
    with pytest.raises(RpcFailure):
        vacuum_volume_commit(cluster.node, make_context(), pb.VacuumVolumeCommitRequest(volume_id=VID))
    vacuum_volume_cleanup(cluster.node, make_context(), pb.VacuumVolumeCleanupRequest(volume_id=VID))
    assert cluster.volume.report() is not None
    cluster.check()
    cluster.to_disk()
    list(vacuum_volume_compact(cluster.node, make_context(), request))
    vacuum_volume_commit(cluster.node, make_context(), pb.VacuumVolumeCommitRequest(volume_id=VID))
    cluster.check()


@pytest.mark.parametrize("direction", ["to_tier", "to_disk"])
@pytest.mark.slow
def test_a_cut_at_any_step_leaves_a_whole_volume(cluster, direction):
    """Wherever it lies then: what the .vif leads to is all of it, and the other way is open. Slow: a move for each
    step.
    """
    for cut_at in itertools.count(1):
        if direction == "to_disk":
            cluster.to_tier()
        cluster.restart(kind=partial(PlannedTierFiles, steps_of=LASTING_CHANGES))
        files = cluster.store.tiers
        files.steps, files.cut_at = 0, cut_at
        with contextlib.suppress(RpcFailure):
            getattr(cluster, direction)()
        is_over = files.steps < cut_at
        files.cut_at = None
        cluster.restart()
        cluster.check()
        if cluster.volume.is_tiered:
            cluster.to_disk()
            cluster.restart()
        cluster.check()
        assert check_directory(cluster.directory).is_healthy
        if is_over:
            break
    assert cut_at > 5


@pytest.mark.slow
def test_readers_never_miss_while_data_moves(cluster):
    """Slow: moves the data six times."""
    missed, is_over = [], threading.Event()

    def read():
        while not is_over.is_set():
            missed.extend(number for number in (1, 5) if cluster.read(number) != cluster.data[number])

    with ThreadPoolExecutor(2) as threads:
        readers = [threads.submit(read) for _ in range(2)]
        try:
            for _ in range(3):
                cluster.to_tier()
                cluster.to_disk()
        finally:
            is_over.set()
        for reader in readers:
            reader.result()
    assert not missed


@pytest.mark.slow
def test_the_object_stays_while_a_read_uses_it(cluster):
    """Slow: moves the data there and back."""
    cluster.to_tier()
    (key,) = cluster.s3.keys()
    old = cluster.volume.handle.get().dat
    old.retain()
    with ThreadPoolExecutor(1) as threads:
        moved = threads.submit(cluster.to_disk)
        wait_until(lambda: not cluster.volume.is_tiered, "the volume to be served from disk")
        assert cluster.s3.keys() == [key]
        assert old.read(8, 0) == cluster.file(".dat").read_bytes()[:8]
        old.release()
        moved.result(LIMIT_S)
    assert cluster.s3.keys() == []


@pytest.mark.slow
def test_the_time_of_the_data_goes_along(cluster):
    """By it a volume with a TTL expires; the time of an upload or a download would keep the volume, or lose it. Slow:
    moves the data twice and starts three times.
    """
    before = cluster.file(".dat").stat().st_mtime
    long_ago_s = int(before) - 1_000_000
    os.utime(cluster.file(".dat"), (long_ago_s, long_ago_s))
    cluster.restart()
    cluster.to_tier()
    assert cluster.volume.report().modified_at_s == long_ago_s
    cluster.restart()
    assert cluster.volume.report().modified_at_s == long_ago_s
    cluster.to_disk()
    assert int(cluster.file(".dat").stat().st_mtime) == long_ago_s


def test_progress_is_told_now_and_then(cluster, monkeypatch):
    monkeypatch.setattr("native_handlers.grpc.tiers.REPORT_EVERY_S", 0.01)
    usual = S3Tier.upload

    def slow(self, path, size_bytes, progress):
        progress(size_bytes // 2, 50.0)
        assert told.wait(LIMIT_S)
        return usual(self, path, size_bytes, progress)

    told = threading.Event()
    monkeypatch.setattr(S3Tier, "upload", slow)
    request = pb.VolumeTierMoveDatToRemoteRequest(volume_id=VID, destination_backend_name=NAME)
    for answer in volume_tier_move_dat_to_remote(cluster.node, make_context(), request):
        if answer.processed:
            assert answer.processedPercentage == 50.0 or told.is_set()
            told.set()
    assert told.is_set()
