"""A tier that takes requests and does not answer: it holds up no start, no change of the set of volumes, and no volume
that lies on disk.
"""

from __future__ import annotations

import errno
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.clocks import Clock
from support.files import broken
from support.grpc_nodes import make_context, make_node
from support.planned_tier_files import PlannedTierFiles
from support.played_s3 import played_s3
from support.stores import open_at
from support.waiting import LIMIT_S, wait_until

from native_handlers.format.needle import Needle
from native_handlers.grpc.tiers import volume_tier_move_dat_to_remote
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.model.errors import DeleteFailed
from native_handlers.storage.model.report import FindingKind
from native_handlers.storage.remote import s3_tier
from native_handlers.storage.remote.s3_tier import S3Tier
from native_handlers.storage.remote.tiers import Tiers, TierSettings
from native_handlers.storage.system import crew

VIDS = range(1, 7)
COOKIE = 0x11223344
LATER_S = 4 * 86400
"""The time after which the volumes are to go: their TTL is three days."""


class Tiered:
    """A store with some volumes in a tier, which can be told not to answer."""

    def __init__(self, directory, service) -> None:
        self.directory, self.service = directory, service
        self.clock, self.later_s = Clock(), 0
        self.goes_on = threading.Event()
        self.open()
        for vid in VIDS:
            volume = self.store.allocate_volume(vid, replication="010", ttl="3d")
            volume.write(Needle(needle_id=vid, cookie=COOKIE, data=b"data"))
            request = pb.VolumeTierMoveDatToRemoteRequest(volume_id=vid, destination_backend_name="s3.cold")
            list(volume_tier_move_dat_to_remote(make_node(directory, self.store), make_context(), request))

    def open(self) -> None:
        tiers = Tiers({"s3": S3Tier})
        tiers.load([TierSettings("s3", "cold", self.service.properties())])
        self.files = PlannedTierFiles(tiers, clock_s=self.clock.seconds)
        self.store = open_at(self.directory, files=self.files, tiers=self.files, clock_ns=self.now_ns)
        self.store.set_volume_size_limit(1 << 30)

    def now_ns(self) -> int:
        return time.time_ns() + self.later_s * 10**9

    def restart(self) -> None:
        self.store.close()
        self.service.requests.clear()
        self.open()

    def hang(self) -> None:
        self.service.answer_get = lambda *_: self.goes_on.wait()
        self.service.answer_delete = self.remove_later

    def remove_later(self, request, key) -> None:
        self.goes_on.wait()
        self.service.remove(request, key)

    def answer(self) -> None:
        self.goes_on.set()
        self.service.answer_get, self.service.answer_delete = self.service.send_range, self.service.remove

    def reads(self) -> int:
        return len([method for method, *_ in self.service.requests if method == "GET"])

    def deletes(self) -> list[str]:
        """The keys that were asked for, each once."""
        return sorted({key for method, key, _ in self.service.requests if method == "DELETE"})

    def keys(self) -> list[str]:
        """The key of each volume's object."""
        return [self.store.find_volume(vid).info.files[0].key for vid in VIDS]

    def unreachable(self) -> int:
        return [finding.kind for finding in self.store.findings].count(FindingKind.TIER_UNREACHABLE)


@pytest.fixture
def tiered(tmp_path, monkeypatch):
    monkeypatch.setattr(s3_tier, "HURRIED_LIMIT_S", LIMIT_S)
    with played_s3({}) as service:
        made = Tiered(tmp_path, service)
        yield made
        made.answer()
        made.store.close()


def read(volume):
    found = volume.read(volume.id, cookie=COOKIE)
    try:
        return bytes(found.needle.data)
    finally:
        found.release()


def facts(volume):
    return str(volume.super_block.replica_placement), str(volume.super_block.ttl)


@pytest.mark.slow
def test_a_start_asks_a_tier_that_hangs_once(tiered, monkeypatch):
    """Slow: waits for a tier twice."""
    monkeypatch.setattr(s3_tier, "HURRIED_LIMIT_S", 0.2)
    tiered.hang()
    tiered.restart()
    assert tiered.reads() < len(VIDS), "each of the few threads that load a disk may ask"
    assert tiered.unreachable() == len(VIDS)
    # Another replication would have `volume.fix.replication` delete copies, or make more.
    assert {facts(tiered.store.find_volume(vid)) for vid in VIDS} == {("010", "")}
    tiered.answer()
    assert [read(tiered.store.find_volume(vid)) for vid in VIDS] == [b"data"] * len(VIDS)


@pytest.mark.slow
def test_a_start_asks_a_slow_tier_for_several_volumes_at_the_same_time(tiered, monkeypatch):
    """Slow: waits for a tier several times."""
    monkeypatch.setattr(crew, "run_delay_s", lambda: 0.0)  # whatever else this machine does
    asked, most, lock = [], [], threading.Lock()

    def answer_later(request, key, *wanted):
        with lock:
            asked.append(key)
            most.append(len(asked))
        # Much longer than the processor needs for one volume: only waits let other threads join.
        tiered.goes_on.wait(0.2)
        with lock:
            asked.remove(key)
        tiered.service.send_range(request, key, *wanted)

    tiered.service.answer_get = answer_later
    tiered.restart()
    assert max(most) > 1
    assert {facts(tiered.store.find_volume(vid)) for vid in VIDS} == {("010", "3d")}


@pytest.mark.slow
def test_a_tier_that_was_silent_is_asked_again_later(tiered, monkeypatch):
    """Slow: waits for a tier twice."""
    monkeypatch.setattr(s3_tier, "HURRIED_LIMIT_S", 0.2)
    tiered.hang()
    tiered.restart()
    tiered.answer()
    monkeypatch.setattr(s3_tier, "HURRIED_LIMIT_S", LIMIT_S)

    def mount(vid):
        tiered.service.requests.clear()
        tiered.store.unmount_volume(vid)
        tiered.store.mount_volume(vid)
        return facts(tiered.store.find_volume(vid))

    tiered.clock.advance(59)
    assert mount(1) == ("010", "")
    assert tiered.reads() == 0
    tiered.clock.advance(2)
    # The client of this tier still has the short limit, so the first answer may come too late on a busy machine.
    wait_until(lambda: tiered.clock.advance(61) or mount(1) == ("010", "3d"), "the tier to be asked in time")
    assert mount(2) == ("010", "3d")


@pytest.mark.slow
def test_an_object_that_is_not_there_says_nothing_of_its_tier(tiered):
    """Slow: starts a store on a tier."""
    (first, *_) = sorted(tiered.service.objects, key=lambda key: tiered.store.find_volume(1).info.files[0].key != key)
    data = tiered.service.objects.pop(first)
    tiered.restart()
    assert tiered.unreachable() == 1
    assert [facts(tiered.store.find_volume(vid)) for vid in VIDS] == [("010", ""), *[("010", "3d")] * (len(VIDS) - 1)]
    tiered.service.objects[first] = data


@pytest.mark.slow
def test_a_volume_keeps_what_its_super_block_says_when_it_is_moved(tmp_path):
    """Also where the tier fails right after the upload. Slow: moves the data to a tier."""
    with played_s3({}) as service:
        service.answer_get = lambda request, *_: request.say(403, b"")
        tiered = Tiered(tmp_path, service)
        assert {facts(tiered.store.find_volume(vid)) for vid in VIDS} == {("010", "3d")}
        tiered.store.close()


def delete_one(tiered):
    tiered.store.delete_volume(1, only_empty=False)
    return [1]


def delete_all(tiered):
    tiered.store.delete_collection("")
    return list(VIDS)


def delete_expired(tiered):
    tiered.later_s = LATER_S
    return tiered.store.remove_expired_volumes()


@pytest.mark.slow
@pytest.mark.parametrize("delete", [delete_one, delete_all, delete_expired])
def test_other_volumes_come_and_go_while_the_object_of_a_deleted_one_is_waited_for(tiered, delete):
    """Slow: deletes in a tier that hangs. The answer of the tier comes after the last step of the test."""
    tiered.hang()

    def others():
        tiered.store.allocate_volume(20)
        tiered.store.unmount_volume(20)
        tiered.store.mount_volume(20)
        tiered.store.load_new_volumes()
        tiered.store.remove_expired_volumes()
        tiered.store.close()

    with ThreadPoolExecutor(2) as threads:
        deleted = threads.submit(delete, tiered)
        try:
            wait_until(tiered.deletes, "the tier to be asked")
            assert tiered.store.find_volume(1) is None
            assert not list(tiered.directory.glob("1.*"))
            threads.submit(others).result(LIMIT_S)
            assert len(tiered.service.objects) == len(VIDS)
        finally:
            tiered.answer()
        gone = deleted.result(LIMIT_S)
    wait_until(lambda: len(tiered.service.objects) == len(VIDS) - len(gone), "the objects to be deleted")


@pytest.mark.slow
def test_no_heartbeat_waits_for_the_object_of_an_expired_volume(tiered):
    """Slow: starts a store on a tier."""
    tiered.hang()
    assert delete_expired(tiered) == list(VIDS)
    assert len(tiered.service.objects) == len(VIDS)
    tiered.answer()
    wait_until(lambda: not tiered.service.objects, "the objects to be deleted")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["refuses", "hangs"])
def test_a_volume_is_gone_whose_object_cannot_be_deleted(tiered, monkeypatch, caplog, way):
    """A tier that does not answer is not asked for every object of a collection. Slow: waits for the tier."""
    monkeypatch.setattr(s3_tier, "HURRIED_LIMIT_S", 0.2)
    keys = tiered.keys()
    tiered.hang()
    if way == "refuses":
        tiered.service.answer_delete = lambda request, _key: request.say(403, b"")
    delete_all(tiered)
    assert tiered.store.volumes() == []
    assert not list(tiered.directory.glob("[0-9]*"))
    assert len(tiered.deletes()) == (1 if way == "hangs" else len(VIDS))
    assert all(f"the object {key} of a deleted volume stays in s3.cold" in caplog.text for key in keys)
    tiered.answer()
    tiered.restart()
    assert tiered.store.volumes() == []


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["unlink", "sync_directory"])
def test_an_object_stays_whose_name_may_come_back(tiered, caplog, operation):
    """The next start, or one after a power cut, may find a .vif that names it. Slow: starts a store on a tier."""
    keys = tiered.keys()
    tiered.files.plan[operation] = broken(errno.EIO)
    with pytest.raises(DeleteFailed):
        delete_one(tiered)
    assert tiered.deletes() == []
    assert f"the object {keys[0]} of" in caplog.text
    tiered.files.let_all_go_on()
