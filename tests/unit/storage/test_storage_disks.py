"""Disks that hang, fail, are slow, are full and recover, and the service of the other disks meanwhile."""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace

import pytest
from support.clocks import Clock
from support.disks import DiskInService, bring_back, played_disks, take_out_of_service
from support.files import UNSYNCED_FILES
from support.stores import open_at, place
from support.waiting import LIMIT_S, wait_until

from native_handlers.format.needle import Needle
from native_handlers.pb import master_pb2
from native_handlers.storage.check import check_directory
from native_handlers.storage.directory.location import LocationConfig
from native_handlers.storage.disk.health import (
    PROBE_BYTES,
    PROBE_FILE_NAME,
    DiskHealth,
    ProbeConfig,
    SpaceAnswers,
    WriteTimes,
    describe,
)
from native_handlers.storage.disk.space import DiskUsage, MinFree
from native_handlers.storage.model import errors
from native_handlers.storage.shared.attach import attach_volume, share_volume
from native_handlers.storage.system.bounded_call import BoundedCall, CallTimedOut
from native_handlers.storage.system.files import DiskSpace

COOKIE = 0xC0FFEE


files = pytest.fixture(played_disks)


ONCE = ProbeConfig(max_stat_failures=1)


@pytest.fixture
def two(tmp_path, files, opened):
    """A store over two disks with volume 1 on the first and 2 on the second, and a needle in each."""
    first, second = place(tmp_path / "a", probe=ONCE), place(tmp_path / "b", disk_type="ssd", probe=ONCE)
    disks = files.add(first.path), files.add(second.path)
    store = opened(first, second, files=files, volumes=(1,))
    store.allocate_volume(2, disk_type="ssd")
    for vid in (1, 2):
        write(store, vid, b"before")
    yield store, *disks
    files.let_all_go_on()
    look_at_all(store)


def write(store, vid, data, needle_id=1, **how):
    return store.get_volume(vid).write(Needle(needle_id=needle_id, cookie=COOKIE, data=data), **how)


def read(store, vid, needle_id=1):
    return store.get_volume(vid).read(needle_id, cookie=COOKIE).needle.data


def announced(store) -> list[int]:
    return [report.id for report in store.volume_reports() if report.is_announced]


@pytest.fixture
def shared(two, files):
    """The store of `two`. Its volume 1 has a needle that another process has written, and that memory does not hold."""
    store, bad, _ = two
    attached = attach_volume(share_volume(store.get_volume(1)), DiskInService(), time.time_ns, UNSYNCED_FILES)
    attached.write(Needle(needle_id=2, cookie=COOKIE, data=b"elsewhere"))
    files.is_cold = True
    yield store, bad
    files.let_all_go_on()
    attached.close()


def look_at_all(store) -> None:
    for location in store.locations:
        location.health.look()


def wait_until_well(store) -> None:
    """Probes until the first disk is back in service."""

    def is_well():
        look_at_all(store)
        return not store.locations[0].is_unavailable

    wait_until(is_well, "the disk to be well again")


def counts_of(store) -> list[int]:
    return [report.file_count for report in store.volume_reports()]


def test_changes_of_other_processes_on_a_disk_that_hangs_are_news_later(shared):
    store, bad = shared
    bad.hang()
    assert counts_of(store) == [1, 1]
    write(store, 2, b"more", needle_id=2)
    assert counts_of(store) == [1, 2]
    bad.go_on()
    wait_until(lambda: counts_of(store) == [2, 2], "the news of the other process")


def test_a_disk_out_of_service_is_not_asked_for_changes_of_other_processes(shared):
    store, bad = shared
    take_out_of_service(store.locations[0])
    before = bad.calls
    assert counts_of(store) == [1, 1]
    assert bad.calls == before
    bring_back(store.locations[0])
    assert counts_of(store) == [2, 1]


class TestBoundedCall:
    def test_what_the_call_gives_or_raises(self):
        bounded = BoundedCall("it", LIMIT_S)
        assert bounded.run(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            bounded.run(lambda: 1 // 0)
        with pytest.raises(TimeoutError):
            bounded.run(self._time_out)

    @staticmethod
    def _time_out():
        raise TimeoutError(errno.ETIMEDOUT, "of the call itself")

    def test_one_that_hangs_is_given_up_and_is_the_only_one(self):
        bounded, go_on, calls = BoundedCall("it", 0.01), threading.Event(), []

        def hang():
            calls.append(1)
            go_on.wait(LIMIT_S)

        before = set(threading.enumerate())
        with pytest.raises(CallTimedOut, match="it timeout"):
            bounded.run(hang)
        for _ in range(5):
            with pytest.raises(CallTimedOut, match="it still in progress"):
                bounded.run(hang)
        assert (len(calls), len(set(threading.enumerate()) - before)) == (1, 1)
        go_on.set()
        self._until_answered(bounded)

    @staticmethod
    def _until_answered(bounded):
        def is_answered():
            with suppress(CallTimedOut):
                return bounded.run(lambda: "again")

        assert wait_until(is_answered, "the call to end") == "again"

    def test_callers_at_once_wait_for_each_other(self):
        bounded, answers = BoundedCall("it", LIMIT_S), []
        threads = [threading.Thread(target=lambda: answers.append(bounded.run(lambda: 1))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [1] * 20


class TestRules:
    """The numbers are those of weed/stats/disk.go."""

    def test_failures_in_a_row_make_unavailable_and_answers_in_a_row_available(self):
        answers = SpaceAnswers(ProbeConfig(max_stat_failures=3, recovery_coefficient=0.25))
        for _ in range(2):
            answers.failed("x")
        answers.succeeded()
        for _ in range(2):
            answers.failed("x")
        assert answers.problem == ""
        answers.failed("why")
        assert answers.problem == "statfs: why"
        # 3 * (1 / 0.25 - 1) answers in a row.
        for _ in range(8):
            answers.succeeded()
        answers.failed("again")
        for _ in range(8):
            answers.succeeded()
            assert answers.problem
        answers.succeeded()
        assert answers.problem == ""

    @pytest.mark.parametrize(
        ("failures", "coefficient", "successes"),
        [
            (5, 0.5, 5),
            (3, 0.5, 3),
            (5, 0, 10),
            (5, -1, 10),
            (5, 1, 1),
            (5, 2, 1),
            (1, 0.1, 1),
            (0, 0.5, 1),
            (4, 0.3, 9),
        ],
    )
    def test_how_many_answers_it_takes(self, failures, coefficient, successes):
        config = ProbeConfig(max_stat_failures=failures, recovery_coefficient=coefficient)
        assert config.stat_successes_to_recover == successes

    CONFIG = ProbeConfig(
        is_enabled=True, interval_s=1, timeout_s=1, slow_s=0.1, window_s=100, min_samples=10,
        slow_percent=20, error_percent=10,
    )  # fmt: skip

    def _times(self, samples, config=CONFIG) -> WriteTimes:
        times = WriteTimes(config)
        for now_s, sample in enumerate(samples):
            if sample is None:
                times.failed("EIO", now_s)
            else:
                times.took(sample, now_s)
        return times

    @pytest.mark.parametrize(
        ("samples", "is_failing"),
        [
            ([None] * 9, False),
            ([None] * 10, True),
            ([0.01] * 9 + [None], True),
            ([0.01] * 10 + [None], False),
            ([0.01] * 8 + [0.1, 0.1], True),
            ([0.01] * 8 + [0.1, 0.099], False),
            ([0.01] * 100, False),
        ],
    )
    def test_too_many_slow_or_failed_ones(self, samples, is_failing):
        assert bool(self._times(samples).problem) is is_failing

    def test_the_reason_is_the_last_bad_one(self):
        assert self._times([0.25] * 10 + [0.01]).problem == "io: disk io degradation detected latency=250ms"
        assert self._times([None] * 10 + [0.01]).problem == "io: EIO"

    def test_it_is_well_again_below_a_share_of_the_limit(self):
        # 10 of 100 slow ones are half of 20 %, which is not more than half.
        samples = [0.2] * 10 + [0.01] * 89
        assert self._times(samples).problem
        assert not self._times([*samples, 0.01]).problem

    def test_old_samples_do_not_count(self):
        config = replace(self.CONFIG, window_s=30)
        times = self._times([None] * 10, config)
        assert times.problem
        for now_s in range(10, 40):
            times.took(0.01, now_s)
        assert not times.problem

    def test_a_window_that_cannot_hold_the_samples_is_widened(self):
        """With upstream's defaults the window holds one sample of the required ten, so the probe would never reach a
        verdict.
        """
        config = ProbeConfig(is_enabled=True)
        times = WriteTimes(config)
        for number in range(config.min_samples):
            times.failed("EIO", number * 62.0)
        assert times.problem == "io: EIO"

    def test_several_reasons_are_one_text(self):
        assert describe(("", "")) == ""
        assert describe(("a", "")) == "disk health check failed: a"
        assert describe(("a", "b")) == "disk health check failed: a; b"


class TestHangingDisk:
    @pytest.mark.slow
    def test_nobody_waits_for_it_and_the_other_disk_is_served(self, two):
        """Slow: waits for a disk several times."""
        store, first, _ = two
        first.hang()
        look_at_all(store)
        assert store.locations[0].health.problem == "disk health check failed: statfs: statfs timeout"
        assert announced(store) == [2]
        assert store.max_volume_counts() == {"ssd": 8}
        assert [slots for *_, slots in store.disk_tags()] == [0, 8]
        for refused in (
            lambda: read(store, 1),
            lambda: write(store, 1, b"during"),
            lambda: write(store, 1, b"during", fsync=True),
            lambda: store.get_volume(1).delete(1, COOKIE),
            lambda: store.mark_writable(store.get_volume(1)),
            lambda: store.find_volume(1).read_blob(8, 15),
            lambda: store.find_volume(1).write_blob(1, b"", 0),
            lambda: store.find_volume(1).open_for_copy(".dat"),
            lambda: store.find_volume(1).open_log().__enter__(),
            lambda: store.find_volume(1).move_index(store.locations[1].path),
            lambda: next(store.find_volume(1).live_needles(lambda: True)),
        ):
            with pytest.raises(errors.DiskUnavailable, match="is out of service: disk health check failed: statfs"):
                refused()
        with pytest.raises(errors.NoFreeSpace):
            store.allocate_volume(3)
        write(store, 2, b"during")
        assert read(store, 2) == b"during"
        store.allocate_volume(4, disk_type="ssd")
        statuses = store.disk_statuses()
        assert [bool(status.error) for status in statuses] == [True, False]
        assert statuses[0].all == 1000 << 20, "what it said last"
        assert store.adjust_max_volumes() is False
        assert store.remove_expired_volumes() == []

    def test_it_comes_back_by_itself(self, two, caplog):
        store, first, _ = two
        first.hang()
        look_at_all(store)
        with pytest.raises(errors.DiskUnavailable):
            read(store, 1)
        first.go_on()
        wait_until_well(store)
        assert announced(store) == [1, 2]
        assert read(store, 1) == b"before"
        write(store, 1, b"after")
        assert "a is out of service: disk health check failed: statfs: statfs timeout" in caplog.text
        assert "a is well again and back in service" in caplog.text

    @pytest.mark.slow
    def test_reports_do_not_hang_before_it_is_known_to(self, two):
        """The query for an unlinked .dat uses the disk as well; the last known state stays. Slow: waits for a disk."""
        store, first, _ = two
        first.hang()
        assert announced(store) == [1, 2]
        assert [status.free for status in store.disk_statuses()] == [500 << 20] * 2
        assert first.calls
        before = set(threading.enumerate())
        for _ in range(20):
            store.volume_reports()
            store.disk_statuses()
        assert not set(threading.enumerate()) - before

    def test_no_new_volume_comes_to_a_disk_that_did_not_answer(self, two):
        store, first, _ = two
        first.hang()
        store.disk_statuses()
        assert not store.locations[0].is_unavailable
        with pytest.raises(errors.NoFreeSpace):
            store.allocate_volume(3)

    def test_a_sync_has_the_other_disks_first(self, two, monkeypatch):
        store, first, _ = two
        synced = []
        for volume in store.volumes():
            monkeypatch.setattr(volume, "sync", lambda vid=volume.id: synced.append(vid))
        first.error = errno.EIO
        look_at_all(store)
        store.sync()
        assert synced == [2, 1]

    @pytest.mark.slow
    def test_a_hung_disk_at_the_start_is_in_service_until_it_is_known_to_fail(self, tmp_path, files):
        """Slow: waits for a disk several times."""
        disk = files.add(tmp_path)
        disk.hang()
        gauge = DiskUsage(files, tmp_path, MinFree(1.0, None))
        watch = DiskHealth(files, tmp_path, gauge, ProbeConfig())
        watch.look()
        assert (watch.problem, gauge.is_low, gauge.is_answering) == ("", False, False)
        for _ in range(4):
            watch.look()
        assert watch.problem == "disk health check failed: statfs: statfs still in progress"


class TestFailingDisk:
    def test_one_that_fails_is_out_until_it_answers(self, two):
        store, first, _ = two
        first.error = errno.EIO
        look_at_all(store)
        with pytest.raises(errors.DiskUnavailable, match=r"/a is out of service: .* statfs: Input/output error"):
            read(store, 1)
        assert read(store, 2) == b"before"
        first.error = None
        look_at_all(store)
        assert read(store, 1) == b"before"

    def test_expired_volumes_of_a_disk_that_is_out_are_left_alone(self, tmp_path, files):
        disk = files.add(tmp_path)
        clock = Clock(time.time())
        with closing(open_at(place(tmp_path, probe=ONCE), files=files, clock_ns=clock)) as store:
            store.set_volume_size_limit(1 << 30)
            store.allocate_volume(1, ttl="1m")
            write(store, 1, b"short-lived")
            clock.advance(3600)
            disk.error = errno.EIO
            look_at_all(store)
            assert store.remove_expired_volumes() == []
            disk.error = None
            look_at_all(store)
            assert store.remove_expired_volumes() == [1]


class Ticks:
    """A clock that advances by `step_s` with each call."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.step_s = 0.001

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


class TestProbe:
    CONFIG = ProbeConfig(is_enabled=True, interval_s=1, timeout_s=5, slow_s=0.1, window_s=30, min_samples=3)

    @pytest.fixture
    def clock(self):
        return Ticks()

    @pytest.fixture
    def watch(self, tmp_path, files, clock):
        self.disk = files.add(tmp_path)
        made = DiskHealth(
            files, tmp_path, DiskUsage(files, tmp_path, MinFree(1.0, None)), self.CONFIG, monotonic_s=clock
        )
        made.look()
        return made

    def _probe(self, watch, times):
        for _ in range(times):
            watch.probe()

    def test_a_well_disk(self, watch, tmp_path):
        self._probe(watch, 5)
        assert watch.problem == ""
        assert (tmp_path / PROBE_FILE_NAME).read_bytes() == bytes(PROBE_BYTES)

    def test_a_slow_one_goes_out_and_comes_back(self, watch, clock):
        self._probe(watch, 3)
        clock.step_s = 0.3
        self._probe(watch, 3)
        assert watch.problem == "disk health check failed: io: disk io degradation detected latency=300ms"
        clock.step_s = 0.001
        clock.now_s += 100
        self._probe(watch, 3)
        assert watch.problem == ""

    def test_a_failing_one(self, watch):
        self.disk.sync_error = errno.EIO
        self._probe(watch, 2)
        assert watch.problem == ""
        self._probe(watch, 1)
        assert watch.problem == "disk health check failed: io: Input/output error"

    def test_a_read_only_file_system_is_failing(self, watch):
        self.disk.error = errno.EROFS
        self._probe(watch, 3)
        assert watch.problem == "disk health check failed: io: Read-only file system"

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_a_full_one_is_not_failing(self, watch, code):
        self.disk.sync_error = code
        self._probe(watch, 10)
        assert watch.problem == ""

    @pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
    def test_one_that_no_descriptor_is_left_for_is_not_failing(self, watch, code):
        self.disk.error = code
        self._probe(watch, 10)
        assert watch.problem == ""

    def test_a_hanging_one_keeps_one_thread(self, tmp_path, files):
        disk = files.add(tmp_path)
        config = replace(self.CONFIG, timeout_s=0.01)
        watch = DiskHealth(files, tmp_path, DiskUsage(files, tmp_path, MinFree(1.0, None)), config)
        watch.look()
        disk.hang()
        before = set(threading.enumerate())
        self._probe(watch, 5)
        assert watch.problem == "disk health check failed: io: disk io still in progress"
        assert len(set(threading.enumerate()) - before) == 1

    def test_what_does_not_answer_is_not_written_to(self, watch):
        self.disk.error = errno.EIO
        watch.look()
        calls = self.disk.calls
        self._probe(watch, 5)
        assert self.disk.calls == calls

    def test_off_by_default(self, tmp_path, files):
        watch = DiskHealth(files, tmp_path, DiskUsage(files, tmp_path, MinFree(1.0, None)), ProbeConfig())
        watch.look()
        watch.probe()
        assert list(tmp_path.iterdir()) == []

    def test_a_window_too_short_is_said(self, tmp_path, files, caplog):
        config = ProbeConfig(is_enabled=True)
        DiskHealth(files, tmp_path, DiskUsage(files, tmp_path, MinFree(1.0, None)), config)
        assert "the window is 682 s instead of 60 s, for it has to hold 10 samples, one every 60 s" in caplog.text


class TestLocations:
    """Each list flag of the disk locations, as the store applies it."""

    def _store(self, tmp_path, files, *fields, idx=None):
        locations = []
        for number, more in enumerate(fields):
            path = tmp_path / f"d{number}"
            path.mkdir(exist_ok=True)
            locations.append(LocationConfig(path, idx or path, **{"max_volumes": 8} | more))
        return closing(open_at(*locations, files=files))

    @pytest.mark.parametrize("reserve", [{"min_free_percent": 10.0}, {"min_free_bytes": 100 << 20}])
    def test_a_full_disk_takes_no_writes_until_there_is_room_again(self, tmp_path, files, reserve):
        disk = files.add(tmp_path / "d0")
        with self._store(tmp_path, files, reserve, {"disk_type": "ssd"} | reserve) as store:
            store.allocate_volume(1)
            store.allocate_volume(2, disk_type="ssd")
            for vid in (1, 2):
                write(store, vid, b"before")
            disk.space = DiskSpace(1000 << 20, (100 << 20) - 1)
            look_at_all(store)
            with pytest.raises(errors.ReadOnly) as caught:
                write(store, 1, b"during", needle_id=2)
            assert caught.value.reason == "low disk space"
            assert read(store, 1) == b"before"
            report = store.volume_reports()[0]
            assert (report.read_only, report.is_announced) == (True, True)
            assert store.max_volume_counts() == {"": 1, "ssd": 8}, "no more slots than are used"
            with pytest.raises(errors.NoFreeSpace):
                store.allocate_volume(3)
            assert store.get_volume(1).delete(1, COOKIE)
            write(store, 2, b"the other disk")
            disk.space = DiskSpace(1000 << 20, 100 << 20)
            look_at_all(store)
            write(store, 1, b"after", needle_id=2)
            assert read(store, 1, 2) == b"after"
            assert not store.volume_reports()[0].read_only
            assert store.max_volume_counts() == {"": 8, "ssd": 8}

    def test_automatic_slots_follow_the_free_space(self, tmp_path, files):
        disk = files.add(tmp_path / "d0")
        files.add(tmp_path / "d1")
        with self._store(tmp_path, files, {"max_volumes": 0}, {"max_volumes": 3}) as store:
            store.set_volume_size_limit(100 << 20)
            assert store.adjust_max_volumes()
            assert [slots for *_, slots in store.disk_tags()] == [5, 3]
            assert not store.adjust_max_volumes()
            store.allocate_volume(1)
            store.allocate_volume(2)
            # The bytes that the volume there may still grow into are reserved.
            assert [len(location.volumes) for location in store.locations] == [1, 1]
            disk.space = DiskSpace(1000 << 20, 300 << 20)
            assert store.adjust_max_volumes()
            assert store.disk_tags()[0][3] == 3
            disk.space = DiskSpace(1000 << 20, 1000 << 20)
            assert store.adjust_max_volumes()
            assert store.disk_tags()[0][3] == 10
            disk.hang()
            assert not store.adjust_max_volumes(), "a disk that does not answer keeps its slots"
            disk.go_on()

    def test_no_size_limit_of_a_master_gives_more_slots_than_a_heartbeat_can_say(self, tmp_path, files):
        with self._store(tmp_path, files, *[{"max_volumes": 0}] * 3) as store:
            for index in range(3):
                files.add(tmp_path / f"d{index}").space = DiskSpace(1 << 40, 1 << 39)
            store.set_volume_size_limit(1)
            assert store.adjust_max_volumes()
            beat = master_pb2.Heartbeat(max_volume_counts=store.max_volume_counts())
            assert beat.max_volume_counts[""] == 2**32 - 1
            assert [slots for *_, slots in store.disk_tags()] == [2**31 - 1] * 3

    def test_placement_goes_by_type_and_by_room(self, tmp_path, files):
        fields = ({"max_volumes": 1}, {"disk_type": "ssd"}, {"disk_type": "ssd"}, {"disk_type": "nvme"})
        with self._store(tmp_path, files, *fields) as store:
            for vid in range(10, 14):
                store.allocate_volume(vid, disk_type="SSD")
            assert [len(location.volumes) for location in store.locations] == [0, 2, 2, 0]
            store.allocate_volume(1, disk_type="hdd")
            with pytest.raises(errors.NoFreeSpace):
                store.allocate_volume(2)
            store.allocate_volume(3, disk_type="nvme")
            with pytest.raises(errors.NoFreeSpace):
                store.allocate_volume(4, disk_type="tape")
            assert store.max_volume_counts() == {"": 1, "ssd": 16, "nvme": 8}
            assert [report.disk_type for report in store.volume_reports()] == ["", "nvme", *["ssd"] * 4]
            assert [report.disk_id for report in store.volume_reports()] == [0, 3, 1, 2, 1, 2]

    def test_tags_belong_to_their_directory(self, tmp_path, files):
        with self._store(tmp_path, files, {"tags": ("fast", "new")}, {}) as store:
            assert [tags for _, _, tags, _ in store.disk_tags()] == [("fast", "new"), ()]

    def test_one_index_directory_for_two_data_directories(self, tmp_path, files):
        index = tmp_path / "idx"
        index.mkdir()
        with self._store(tmp_path, files, {}, {}, idx=index) as store:
            for vid in (1, 2, 3, 4):
                store.allocate_volume(vid)
                write(store, vid, b"v%d" % vid)
            assert [len(location.volumes) for location in store.locations] == [2, 2]
        assert sorted(path.name for path in index.glob("*.idx")) == ["1.idx", "2.idx", "3.idx", "4.idx"]
        assert not list(tmp_path.glob("d*/*.idx"))
        for name in ("d0", "d1"):
            assert check_directory(tmp_path / name, index_path=index).is_healthy
        with self._store(tmp_path, files, {}, {}, idx=index) as store:
            assert store.findings == []
            assert [read(store, vid) for vid in (1, 2, 3, 4)] == [b"v1", b"v2", b"v3", b"v4"]

    def test_each_directory_is_locked(self, tmp_path, files):
        with self._store(tmp_path, files, {}, {}):
            for name in ("d0", "d1"):
                location = place(tmp_path / name)
                with pytest.raises(errors.DirectoryLocked, match=f"{name} is in use by pid {os.getpid()}"):
                    open_at(location)
        with self._store(tmp_path, files, {}, {}) as store:
            assert store.findings == []
