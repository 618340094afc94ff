"""Writers that wait for the disk together: the number of syncs, and each writer's own result."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.files import PlannedFiles
from support.waiting import LIMIT_S, wait_until

from native_handlers.format.needle import Needle
from native_handlers.storage.model import errors
from native_handlers.storage.volume.group_commit import (
    MAX_BYTES,
    MAX_WRITES,
    BatchAborted,
    GroupCommit,
    PendingWrite,
    WriteResult,
)

COOKIE = 0xC0FFEE
WRITERS = 32


class SyncGate:
    """Records syncs. The first sync after `arm` waits until `is_open`. The sync with the number `failing` fails."""

    def __init__(self) -> None:
        self.syncs: list[int] = []
        self.is_open = lambda: True
        self.failing: int | None = None

    def arm(self, is_open) -> None:
        self.syncs.clear()
        self.is_open = is_open

    def __call__(self, operation, fd):
        if operation != "sync":
            return
        self.syncs.append(fd)
        if len(self.syncs) == 1:
            wait_until(self.is_open)
        if len(self.syncs) == self.failing:
            raise OSError(errno.EIO, "injected")


@pytest.fixture
def gate():
    return SyncGate()


@pytest.fixture
def store(tmp_path, gate, opened):
    store = opened(tmp_path, files=PlannedFiles(before=gate))
    for needle_id in range(1, WRITERS + 1):
        write(store, needle_id, b"old", fsync=False)
    yield store
    gate.failing = None


def write(store, needle_id, data, *, fsync=True, cookie=COOKIE):
    return store.get_volume(7).write(Needle(needle_id=needle_id, cookie=cookie, data=data), fsync=fsync)


def read(store, needle_id):
    return store.get_volume(7).read(needle_id, cookie=COOKIE).needle.data


def write_at_once(store, gate, jobs):
    """Runs `jobs` in threads. All but the first gather while the .dat of the first is synced. Returns results or
    errors.
    """
    volume = store.find_volume(7)
    gate.arm(lambda: volume.waiting_writes == len(jobs) - 1)
    outcomes: list[object] = [None] * len(jobs)

    def run(number):
        try:
            outcomes[number] = jobs[number]()
        except errors.StorageError as error:
            outcomes[number] = error

    with ThreadPoolExecutor(len(jobs)) as pool:
        pool.submit(run, 0)
        wait_until(lambda: len(gate.syncs) == 1)
        for number in range(1, len(jobs)):
            pool.submit(run, number)
    return outcomes


def new_data(store, needle_id):
    return lambda: write(store, needle_id, b"new %d" % needle_id)


class TestStore:
    @pytest.mark.slow
    def test_32_writers_cost_four_syncs(self, store, gate):
        """The first writer makes two syncs, the other 31 writers together make two. Slow: 32 threads."""
        outcomes = write_at_once(store, gate, [new_data(store, number) for number in range(1, WRITERS + 1)])
        assert all(isinstance(outcome, WriteResult) for outcome in outcomes)
        assert len(gate.syncs) == 4
        assert [read(store, number) for number in range(1, WRITERS + 1)] == [
            b"new %d" % number for number in range(1, WRITERS + 1)
        ]

    def test_a_lone_writer_waits_for_nobody(self, store, gate):
        gate.arm(lambda: True)
        write(store, 1, b"new")
        assert len(gate.syncs) == 2

    def test_a_data_file_that_cannot_be_synced_takes_the_batch_back(self, store, gate, tmp_path):
        gate.failing = 3
        outcomes = write_at_once(store, gate, [new_data(store, number) for number in range(1, WRITERS + 1)])
        assert isinstance(outcomes[0], WriteResult)
        assert {type(outcome) for outcome in outcomes[1:]} == {errors.WriteFailed}
        assert len({id(outcome) for outcome in outcomes}) == WRITERS, "each gets an error of its own"
        assert [read(store, number) for number in range(2, WRITERS + 1)] == [b"old"] * (WRITERS - 1)
        assert (tmp_path / "7.dat").stat().st_size == store.find_volume(7).size_bytes
        write(store, 2, b"later")
        assert read(store, 2) == b"later"

    def test_an_index_that_cannot_be_synced_fails_the_batch_and_stops_the_volume(self, store, gate):
        gate.failing = 4
        outcomes = write_at_once(store, gate, [new_data(store, number) for number in range(1, WRITERS + 1)])
        assert {type(outcome) for outcome in outcomes[1:]} == {errors.WriteFailed}
        with pytest.raises(errors.ReadOnly):
            write(store, 1, b"later")

    def test_one_bad_write_does_not_harm_the_others(self, store, gate):
        bad = lambda: write(store, 3, b"x", cookie=1)  # noqa: E731  one of a list of jobs
        outcomes = write_at_once(store, gate, [new_data(store, 1), new_data(store, 2), bad, new_data(store, 4)])
        assert [type(outcome) for outcome in outcomes] == [WriteResult, WriteResult, errors.CookieMismatch, WriteResult]
        assert [read(store, number) for number in (1, 2, 3, 4)] == [b"new 1", b"new 2", b"old", b"new 4"]

    def test_writes_of_one_needle_see_each_other(self, store, gate):
        jobs = [new_data(store, 1), *([lambda: write(store, 90, b"same")] * 3)]
        outcomes = write_at_once(store, gate, jobs)
        assert sorted(outcome.is_unchanged for outcome in outcomes[1:]) == [False, True, True]
        assert len({outcome.offset for outcome in outcomes[1:]}) == 1
        with pytest.raises(errors.CookieMismatch):
            write(store, 90, b"same", cookie=1)

    def test_a_needle_that_is_stored_already_is_synced_too(self, store, gate):
        gate.arm(lambda: True)
        assert write(store, 1, b"old").is_unchanged
        assert len(gate.syncs) == 2

    def test_after_a_failed_sync_the_same_needle_is_written_again(self, store, gate):
        """The kernel may have dropped the pages that were not synced; the next sync would succeed nevertheless."""
        gate.arm(lambda: True)
        gate.failing = 1
        with pytest.raises(errors.WriteFailed):
            write(store, 2, b"new")
        assert not write(store, 1, b"old").is_unchanged
        assert write(store, 1, b"old").is_unchanged

    def test_a_volume_that_is_closed_meanwhile_tells_everyone(self, store):
        volume = store.find_volume(7)
        store.unmount_volume(7)
        with pytest.raises(errors.VolumeClosed):
            volume.write(Needle(needle_id=1, cookie=COOKIE, data=b"x"), fsync=True)

    @pytest.mark.slow
    def test_many_writers_all_get_their_answer(self, store, gate):
        """Slow: some hundreds of commits."""
        gate.arm(lambda: True)

        def work(writer):
            for number in range(20):
                needle_id = 1000 + writer * 20 + number
                write(store, needle_id, b"%d" % needle_id)

        with ThreadPoolExecutor(WRITERS) as pool:
            for job in [pool.submit(work, writer) for writer in range(WRITERS)]:
                job.result(timeout=60)
        for needle_id in range(1000, 1000 + WRITERS * 20):
            assert read(store, needle_id) == b"%d" % needle_id
        assert len(gate.syncs) <= 2 * WRITERS * 20


def pending_writes(sizes):
    return [PendingWrite(Needle(needle_id=n, data=bytes(size)), check_cookie=True) for n, size in enumerate(sizes)]


class TestGroups:
    """`GroupCommit` alone, with a commit that waits."""

    def run(self, sizes, commit):
        """The first write waits in `commit` until all other writers wait."""
        count, entered = len(sizes), threading.Event()

        def hold():
            wait_until(lambda: group.waiting_count == count - 1)

        def note(batch):
            entered.set()
            commit(batch, hold)

        group = GroupCommit(note)
        writes = pending_writes(sizes)
        with ThreadPoolExecutor(count) as pool:
            jobs = [pool.submit(group.write, writes[0])]
            assert entered.wait(LIMIT_S)
            jobs += [pool.submit(group.write, write) for write in writes[1:]]
        return jobs

    def batches_of(self, sizes):
        batches = []

        def commit(batch, hold):
            batches.append(len(batch))
            if len(batches) == 1:
                hold()
            for write in batch:
                write.result = WriteResult(write.needle.needle_id, 0, is_unchanged=False)

        jobs = self.run(sizes, commit)
        assert [job.result().offset for job in jobs] == list(range(len(sizes)))
        return batches

    @pytest.mark.slow
    def test_a_batch_is_bounded_in_count(self):
        """Slow: a thread waits with each write of a full batch."""
        assert self.batches_of([1] * (1 + MAX_WRITES + 3)) == [1, MAX_WRITES, 3]

    def test_a_batch_is_bounded_in_bytes(self):
        assert self.batches_of([MAX_BYTES // 2] * 6) == [1, 2, 2, 1]

    def test_writes_that_come_together_are_committed_in_as_many_batches_as_they_need(self):
        batches = []

        def commit(batch):
            batches.append([write.needle.needle_id for write in batch])
            for write in batch:
                write.result = WriteResult(write.needle.needle_id, 0, is_unchanged=False)

        group = GroupCommit(commit)
        writes = pending_writes([1] * (MAX_WRITES + 3))
        group.write_all(writes)
        assert batches == [list(range(MAX_WRITES)), list(range(MAX_WRITES, MAX_WRITES + 3))]
        assert [write.outcome().offset for write in writes] == list(range(MAX_WRITES + 3))
        group.write_all([])
        assert group.write(*pending_writes([1])).offset == 0

    def test_writes_that_come_together_join_the_batch_of_another_writer(self):
        batches = []
        entered = threading.Event()

        def commit(batch):
            batches.append(len(batch))
            if len(batches) == 1:
                entered.set()
                wait_until(lambda: group.waiting_count == 4)
            for write in batch:
                write.result = WriteResult(write.needle.needle_id, 0, is_unchanged=False)

        group = GroupCommit(commit)
        first, *together, last = pending_writes([1] * 5)
        with ThreadPoolExecutor(3) as pool:
            jobs = [pool.submit(group.write, first)]
            assert entered.wait(LIMIT_S)
            jobs += [pool.submit(group.write_all, together), pool.submit(group.write, last)]
        assert batches == [1, 4]
        assert [job.result() for job in jobs[:2]] == [first.result, None]
        assert all(write.is_finished for write in [*together, last])

    def test_a_defect_among_writes_that_come_together_leaves_nobody_waiting(self):
        calls = []

        def commit(batch):
            calls.append(len(batch))
            if len(calls) == 1:
                raise KeyError("defect")
            for write in batch:
                write.result = WriteResult(0, 0, is_unchanged=False)

        group = GroupCommit(commit)
        writes = pending_writes([1] * (MAX_WRITES + 3))
        with pytest.raises(KeyError, match="defect"):
            group.write_all(writes)
        assert calls == [MAX_WRITES, 3]
        assert not writes[0].is_finished
        assert {type(write.error) for write in writes[1:MAX_WRITES]} == {BatchAborted}
        assert all(write.result for write in writes[MAX_WRITES:])
        assert group.write(*pending_writes([1]))

    @pytest.mark.slow
    def test_a_defect_in_one_batch_reaches_its_writers_and_no_others(self):
        """Slow: a thread waits with each write of a full batch."""
        calls = []

        def commit(batch, hold):
            calls.append(batch)
            if len(calls) == 1:
                hold()
                raise ZeroDivisionError
            if len(calls) == 2:
                raise KeyError("defect")
            for write in batch:
                write.result = WriteResult(0, 0, is_unchanged=False)

        jobs = self.run([1] * (MAX_WRITES + 3), commit)
        kinds = [type(job.exception()) for job in jobs]
        assert kinds[0] is ZeroDivisionError
        assert sorted(kind.__name__ for kind in kinds[1:]) == ["BatchAborted"] * (MAX_WRITES - 1) + [
            "KeyError",
            *["NoneType"] * 2,
        ]
        assert BatchAborted in kinds
