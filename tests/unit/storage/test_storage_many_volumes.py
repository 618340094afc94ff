"""The work for each volume, and the work that is done once for all volumes: counted, not timed."""

from __future__ import annotations

import itertools
import os
import threading
import time
from contextlib import closing
from types import SimpleNamespace

import pytest
from support.clocks import Clock
from support.files import PlannedFiles
from support.stores import open_at, place
from support.waiting import LIMIT_S

from native_handlers.format.needle import Needle
from native_handlers.storage.disk import session_mark
from native_handlers.storage.model.errors import DeleteFailed
from native_handlers.storage.model.report import Finding, FindingKind, Findings
from native_handlers.storage.shared.attach import share_volume
from native_handlers.storage.system import crew
from native_handlers.storage.system.crew import Crew, times_blocked

COOKIE = 0xC0FFEE
FEW, MANY = 4, 24
LONG_AGO_S = 1_600_000_000
REAL_NOW_S = int(time.time())
NOW_S = REAL_NOW_S + 86400
"""The store's clock: a day after the test writes its files. The change time of a file cannot be set."""


class AgedFiles(PlannedFiles):
    """Files of which some changed a day earlier than the file system says."""

    def __init__(self, old) -> None:
        super().__init__()
        self._old = {path.stat().st_ino for path in old}

    def facts(self, path):
        return self._aged(super().facts(path))

    def facts_of(self, fd):
        return self._aged(super().facts_of(fd))

    def _aged(self, facts):
        is_old = facts is not None and facts.identity[1] in self._old
        return facts._replace(changed_at_s=facts.changed_at_s - 86400) if is_old else facts


def make_store(path, count, *, files=None, clock=None):
    """An open store of `count` volumes with a needle each. Their files were written long ago."""
    location = place(path, max_volumes=count + 100)
    with closing(open_at(location)) as store:
        for volume_id in range(1, count + 1):
            store.allocate_volume(volume_id, collection="pictures" if volume_id % 2 else "")
            store.get_volume(volume_id).write(needle(1))
    for file in path.iterdir():
        os.utime(file, (LONG_AGO_S, LONG_AGO_S))
    return open_at(location, files=files or PlannedFiles(), clock_ns=clock or Clock(NOW_S))


def needle(needle_id):
    return Needle(needle_id=needle_id, cookie=COOKIE, data=b"content")


@pytest.fixture
def started(monkeypatch):
    """The names of the threads that the test started."""
    names = []
    start = threading.Thread.start

    def noted(thread):
        names.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted)
    return names


class TestLook:
    @pytest.mark.parametrize("count", [FEW, MANY])
    def test_a_look_asks_the_disk_once_for_all_volumes(self, tmp_path, started, count):
        files = PlannedFiles()
        with closing(make_store(tmp_path, count, files=files)) as store:
            started.clear()
            asked = files.since(store.volume_reports)
            assert asked == {"list_directory": 1}
            assert len(started) == 1
            assert not files.since(store.volume_reports), "looked at less than 30 s ago"
            assert len(started) == 1

    def test_a_report_is_the_same_object_while_nothing_changes(self, tmp_path):
        with closing(make_store(tmp_path, 3)) as store:
            first = store.volume_reports()
            assert all(now is then for now, then in zip(store.volume_reports(), first, strict=True))
            store.get_volume(2).write(needle(7))
            second = store.volume_reports()
            assert [now is then for now, then in zip(second, first, strict=True)] == [True, False, True]
            assert second[1].file_count == 2

    @pytest.mark.parametrize(
        ("change", "field", "value"),
        [
            (lambda store: store.mark_readonly(store.get_volume(2)), "read_only", True),
            (lambda store: store.get_volume(2).delete(1, COOKIE), "delete_count", 1),
            (lambda store: store.configure_volume(2, "001"), "replica_placement.same_rack", 1),
            (lambda store: setattr(store.locations[0].usage, "is_low", True), "read_only", True),
            (lambda store: setattr(store.locations[0].health, "problem", "broken"), "is_announced", False),
        ],
    )
    def test_each_change_makes_a_new_report(self, tmp_path, change, field, value):
        with closing(make_store(tmp_path, 3)) as store:
            before = store.volume_reports()[1]
            change(store)
            after = found = store.volume_reports()[1]
            for name in field.split("."):
                found = getattr(found, name)
            assert found == value
            assert after is not before
            store.locations[0].health.problem = ""

    @pytest.mark.damage("a file is removed under the store")
    def test_those_whose_file_is_gone_are_found_among_many(self, tmp_path):
        clock, files = Clock(NOW_S), PlannedFiles()
        with closing(make_store(tmp_path, MANY, files=files, clock=clock)) as store:
            store.volume_reports()
            (tmp_path / "4.dat").rename(tmp_path / "elsewhere")
            clock.advance(31)
            asked = files.since(lambda: assert_hidden(store, {4}))
            assert asked == {"list_directory": 1, "facts": 1}
            (tmp_path / "elsewhere").rename(tmp_path / "4.dat")
            assert_hidden(store, set())

    def test_a_disk_that_is_out_of_service_is_not_asked(self, tmp_path):
        files = PlannedFiles()
        with closing(make_store(tmp_path, FEW, files=files)) as store:
            store.locations[0].health.problem = "broken"
            assert not files.since(store.volume_reports)
            store.locations[0].health.problem = ""

    def test_a_listing_that_fails_hides_nothing(self, tmp_path, monkeypatch):
        with closing(make_store(tmp_path, FEW)) as store:
            monkeypatch.setattr(PlannedFiles, "list_directory", fail)
            assert_hidden(store, set())

    def test_totals_are_of_the_last_look_and_of_each_change_of_the_set(self, tmp_path, monkeypatch):
        with closing(make_store(tmp_path, 3)) as store:
            looks = []
            reports = store.volume_reports
            monkeypatch.setattr(store, "volume_reports", lambda: looks.append(1) or reports())
            assert store.totals()["pictures"].volumes == 2
            assert store.totals()[""].size_bytes > 8
            assert len(looks) == 1
            store.unmount_volume(1)
            assert store.totals()["pictures"].volumes == 1
            assert len(looks) == 2


def assert_hidden(store, volume_ids):
    assert {report.id for report in store.volume_reports() if not report.is_announced} == volume_ids


def fail(*_):
    raise OSError(5, "Input/output error")


class TestOpening:
    @pytest.mark.slow
    def test_what_a_volume_costs_is_small_and_does_not_depend_on_the_others(self, tmp_path):
        """Slow: many volumes are made and opened."""
        costs = []
        for count in (FEW, MANY):
            path = tmp_path / str(count)
            path.mkdir()
            files = PlannedFiles()
            make_store(path, count, files=files).close()
            costs.append(files.calls)
        assert all(costs[0][name] == costs[1][name] for name in ("list_directory", "disk_space", "lock"))
        each = {name: (costs[1][name] - costs[0][name]) / (MANY - FEW) for name in costs[1]}
        # The .vif, .dat and .idx are opened and read: of the .dat the super block, the last record in two reads, and a
        # record that a row of .idx leads to. The facts of .dat and .idx are read once.
        assert each["open"] == 3
        assert each["facts"] == 1
        assert each["facts_of"] == 1
        assert each["read"] <= 6
        assert each["close"] == 3, "of which two at the end"
        assert each["sync"] == 0

    @pytest.mark.slow
    def test_an_empty_volume_costs_no_more(self, tmp_path):
        """Its .dat is as short as one that upstream leaves beside shards; its .vif says which, and is read once.
        Slow: many volumes are made and opened.
        """
        costs = []
        for count in (FEW, MANY):
            path = tmp_path / str(count)
            path.mkdir()
            with closing(open_at(place(path, max_volumes=count))) as store:
                for volume_id in range(1, count + 1):
                    store.allocate_volume(volume_id)
            files = PlannedFiles()
            with closing(open_at(place(path, max_volumes=count), files=files)) as store:
                assert store.open_count == count
                costs.append(files.calls.copy())
        each = {name: (costs[1][name] - costs[0][name]) / (MANY - FEW) for name in costs[1]}
        assert (each["open"], each["facts"], each["facts_of"], each["read"], each["close"]) == (3, 1, 1, 2, 1)

    @pytest.mark.slow
    def test_a_reload_lists_the_directory_four_times(self, tmp_path):
        """For copies that have arrived, for volumes, for decided replacements of shards, and then for shards.
        Slow: many volumes are made and opened.
        """
        files = PlannedFiles()
        with closing(make_store(tmp_path, MANY, files=files)) as store:
            assert files.since(store.load_new_volumes) == {"list_directory": 4}

    @pytest.mark.slow
    def test_one_of_many_is_mounted_with_one_listing(self, tmp_path):
        """One listing for a copy that has arrived whole, and one for the volume.
        Slow: many volumes are made and opened.
        """
        files = PlannedFiles()
        with closing(make_store(tmp_path, MANY, files=files)) as store:
            store.unmount_volume(4)
            asked = files.since(lambda: store.mount_volume(4))
            assert asked["list_directory"] == 1
            assert asked["open"] == 3
            assert not files.since(lambda: store.find_volume(4))

    def test_mounting_finds_the_volume_whatever_else_has_its_digits(self, tmp_path):
        with closing(make_store(tmp_path, 14)) as store:
            store.unmount_volume(4)
            store.mount_volume(4)
            assert store.find_volume(4).paths.name == "4"

    def test_a_new_volume_is_put_on_disk_at_once(self, tmp_path):
        """The .dat, the .vif and the names of all three files are synced together. The directory is listed for the
        first volume, because files of the id that are not open count, and not for the next one.
        """
        files = PlannedFiles()
        with closing(make_store(tmp_path, FEW, files=files)) as store:
            asked = files.since(lambda: store.allocate_volume(90))
            assert (asked["sync"], asked["sync_directory"], asked["list_directory"]) == (2, 1, 1)
            asked = files.since(lambda: store.allocate_volume(91))
            assert (asked["sync"], asked["sync_directory"], asked["list_directory"]) == (2, 1, 0)
            asked = files.since(lambda: store.delete_volume(90, only_empty=True))
            assert (asked["sync"], asked["sync_directory"], asked["list_directory"]) == (0, 1, 0)

    @pytest.mark.slow
    def test_a_collection_goes_with_one_sync_of_the_directory(self, tmp_path):
        """Slow: many volumes are made and opened."""
        files = PlannedFiles()
        with closing(make_store(tmp_path, MANY, files=files)) as store:
            asked = files.since(lambda: store.delete_collection("pictures"))
            assert (asked["sync"], asked["sync_directory"], asked["list_directory"]) == (0, 1, 0)
            assert store.open_count == MANY // 2

    def test_a_collection_whose_end_is_not_on_disk_is_not_said_to_be_gone(self, tmp_path):
        files = PlannedFiles()
        with closing(make_store(tmp_path, FEW, files=files)) as store:
            files.sync_directory = fail
            with pytest.raises(DeleteFailed, match="Input/output error"):
                store.delete_collection("pictures")
            del files.sync_directory
            assert store.open_count == FEW // 2

    def test_a_new_index_in_a_directory_of_its_own_is_put_on_disk_there(self, tmp_path):
        files, data, index = PlannedFiles(), tmp_path / "data", tmp_path / "index"
        synced = []
        with closing(open_at(place(data, index), files=files)) as store:
            files.sync_directory = synced.append
            store.allocate_volume(90)
            del files.sync_directory
        assert sorted(synced) == [data, index]


class TestClosing:
    @pytest.mark.slow
    def test_only_what_was_written_to_is_synced(self, tmp_path):
        """Slow: many volumes are made and opened."""
        files = PlannedFiles()
        store = make_store(tmp_path, MANY, files=files)
        store.get_volume(3).write(needle(9))
        assert files.since(store.close)["sync"] == 2

    def test_what_was_synced_is_not_synced_again(self, tmp_path):
        files = PlannedFiles()
        store = make_store(tmp_path, FEW, files=files)
        store.get_volume(3).write(needle(9), fsync=True)
        assert not files.since(store.close)["sync"]

    def test_what_other_processes_may_have_written_to_is_synced(self, tmp_path):
        files = PlannedFiles()
        store = make_store(tmp_path, FEW, files=files)
        share_volume(store.find_volume(3))
        assert files.since(store.close)["sync"] == 2

    def test_what_was_written_before_the_files_were_opened_anew_is_synced(self, tmp_path):
        files, clock = PlannedFiles(), Clock(NOW_S)
        store = make_store(tmp_path, FEW, files=files, clock=clock)
        store.get_volume(3).write(needle(9))
        os.utime(tmp_path / "pictures_3.dat", (LONG_AGO_S, LONG_AGO_S))
        store.find_volume(3).handle.opened.damage = "so it is opened anew"
        store.mark_writable(store.get_volume(3))
        assert files.since(store.close)["sync"] == 2

    @pytest.mark.parametrize("extension", [".dat", ".idx"])
    def test_what_was_restored_shortly_before_with_its_old_times_may_not_be_on_disk(self, tmp_path, extension):
        """rsync -t and cp -p keep the old content time; the time of the file's change is new."""
        make_store(tmp_path, FEW).close()
        path = tmp_path / f"4{extension}"
        files = AgedFiles(file for file in tmp_path.iterdir() if file != path)
        assert path.stat().st_mtime == LONG_AGO_S
        store = open_at(tmp_path, files=files, clock_ns=Clock(REAL_NOW_S))
        assert files.since(store.close)["sync"] == 2

    @pytest.mark.parametrize(("expire", "interval"), [(b"30000000\n", b"500\n"), (b"3000\n", b"0\n"), (b"?", b"500\n")])
    def test_where_the_kernel_keeps_changes_for_long_nothing_is_taken_for_written(
        self, tmp_path, monkeypatch, expire, interval
    ):
        make_store(tmp_path, FEW).close()
        for name, text in (("_EXPIRE", expire), ("_INTERVAL", interval)):
            file = tmp_path / name
            file.write_bytes(text)
            monkeypatch.setattr(session_mark, name, file)
        files = PlannedFiles()
        store = open_at(tmp_path, files=files, clock_ns=Clock(NOW_S))
        assert files.since(store.close)["sync"] == 2 * FEW

    def test_what_a_killed_server_wrote_may_not_be_on_disk(self, tmp_path):
        make_store(tmp_path, FEW).close()
        mark = tmp_path / ".weed-volume-py.session"
        store = open_at(tmp_path, clock_ns=Clock(NOW_S))
        left = mark.read_bytes().split()
        store.close()
        mark.write_bytes(b"%s %d\n" % (left[0], LONG_AGO_S - 1))
        files = PlannedFiles()
        store = open_at(tmp_path, files=files, clock_ns=Clock(NOW_S))
        assert files.since(store.close)["sync"] == 2 * FEW


class TestCrew:
    def test_one_thread_does_what_keeps_the_processor_busy(self, started, monkeypatch):
        """All passed time is this process's own, whatever else the machine does meanwhile."""
        seconds = itertools.count()
        monkeypatch.setattr(crew, "time", SimpleNamespace(monotonic=seconds.__next__, process_time=seconds.__next__))
        monkeypatch.setattr(crew, "run_delay_s", lambda: 0.0)
        done = []
        Crew(range(50), done.append, times_blocked).run()
        assert done == list(range(50))
        assert not started

    def test_others_join_where_the_disk_is_waited_for(self, monkeypatch):
        monkeypatch.setattr(crew, "run_delay_s", lambda: 0.0)  # whatever else this machine does
        together = threading.Barrier(2)
        alone = threading.Event()

        def work(item):
            # The first items only let time pass, as a disk does. The last two run at the same time.
            if item < 5:
                alone.wait(0.02)
            else:
                together.wait(LIMIT_S)

        Crew(range(7), work, times_blocked).run()

    def test_the_threads_that_there_are_do_all_of_the_work(self, give_threads, monkeypatch):
        """Where the system gives no more of them, it is not asked again."""
        monkeypatch.setattr(crew, "run_delay_s", lambda: 0.0)
        asked, alone, done = [], threading.Event(), []

        class Refused(threading.Thread):
            def start(self):
                asked.append(self.name)
                super().start()

        give_threads(0, "volume-crew")
        monkeypatch.setattr(crew.threading, "Thread", Refused)
        Crew(range(7), lambda item: done.append(item) or alone.wait(0.02), itertools.count().__next__).run()
        assert done == list(range(7))
        assert asked == ["volume-crew"]

    def test_nobody_joins_where_other_programs_keep_the_processor(self, started, monkeypatch):
        """Time in which this process computes nothing is then not time of the disk."""
        clock = Clock()
        monkeypatch.setattr(crew, "time", SimpleNamespace(monotonic=clock.seconds, process_time=lambda: 0.0))
        monkeypatch.setattr(crew, "run_delay_s", clock.seconds)
        Crew(range(6), lambda _item: clock.advance(0.02), itertools.count().__next__).run()
        assert not started

    def test_nobody_joins_where_nothing_is_read_from_the_disk(self, started, monkeypatch):
        """As where the host of a virtual machine takes the processor away."""
        monkeypatch.setattr(crew, "run_delay_s", lambda: 0.0)
        alone = threading.Event()
        Crew(range(6), lambda _item: alone.wait(0.02), waits=lambda: 5).run()
        assert not started

    def test_the_first_error_is_raised_when_all_is_done(self):
        done = []

        def work(item):
            done.append(item)
            if item in {2, 4}:
                raise ValueError(item)

        with pytest.raises(ValueError, match="2"):
            Crew(range(6), work, times_blocked).run()
        assert done == list(range(6))


class TestFindings:
    def test_those_of_one_volume_go_and_the_others_keep_their_order(self, tmp_path):
        findings = Findings()
        made = [Finding(FindingKind.NOT_LOADED, tmp_path / name, detail) for name, detail in ("a1", "b1", "a2", "c1")]
        findings.add(made)
        findings.add(made[:1])
        assert findings.all() == made
        findings.forget(tmp_path / "b")
        assert findings.all() == [made[0], made[2], made[3]]
        findings.replace(tmp_path / "a", [])
        assert findings.all() == [made[3]]
        assert findings
        findings.forget(tmp_path / "c")
        assert not findings
