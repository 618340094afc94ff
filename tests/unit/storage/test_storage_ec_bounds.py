"""The bounds of reads and deletions of erasure-coded needles: shares of one disk or several."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.waiting import LIMIT_S, wait_until

from native_handlers.storage.erasure_coding import bounds
from native_handlers.storage.erasure_coding.bounds import Bound


class Work:
    """Work that wants shares of a bound. `woken` has the names of those that got their share after a wait."""

    def __init__(self, bound):
        self.bound, self.shares, self.woken = bound, {}, []

    def begin(self, name, parts, held_bytes):
        """Returns whether the work has its share at once."""
        self.shares[name] = self.bound.begin(parts, held_bytes, lambda: self.woken.append(name))
        return self.shares[name].is_held

    def end(self, *names):
        for name in names:
            self.bound.end(self.shares.pop(name))


def test_work_waits_in_order_until_there_is_memory():
    work = Work(Bound(100))
    assert work.begin("a", [1], 60)
    assert not work.begin("b", [1], 60)
    assert not work.begin("small, and behind b", [1], 10)
    assert work.begin("no memory", [1], 0)
    assert work.begin("elsewhere", [None], 60)
    work.end("a")
    assert work.woken == ["b", "small, and behind b"]


def test_work_that_needs_more_than_there_is_goes_on_alone():
    work = Work(Bound(100))
    assert work.begin("small", [1], 1)
    assert not work.begin("large", [1], 1000)
    work.end("small")
    assert work.woken == ["large"]
    assert not work.begin("small", [1], 1)
    work.end("large")
    assert work.woken == ["large", "small"]


def test_work_that_gives_up_lets_those_behind_it_go_on():
    work = Work(Bound(100))
    assert work.begin("a", [1], 60)
    assert not work.begin("large", [1], 90)
    assert not work.begin("b", [1], 30)
    work.end("large")
    assert work.woken == ["b"]
    work.end("a", "b")
    assert work.begin("all", [1], 100)


def test_places_bound_work_that_holds_no_memory():
    work = Work(Bound(100, places=2))
    assert work.begin("a", [1], 0)
    assert work.begin("b", [1], 0)
    assert not work.begin("c", [1], 0)
    assert work.begin("on another disk", [2], 0)
    work.end("a")
    assert work.woken == ["c"]


def test_one_of_many_that_waits_no_longer_is_not_looked_for_among_the_others(monkeypatch):
    compared = 0

    class CountedShare(bounds.Share):
        __hash__ = bounds.Share.__hash__

        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return self is other

    monkeypatch.setattr(bounds, "Share", CountedShare)
    work, names = Work(Bound(100)), range(200)
    assert work.begin("a", [1], 100)
    assert not any(work.begin(name, [1], 10) for name in names)
    work.end(*reversed(names))
    assert compared <= len(names)
    assert work.bound.waiting_count == 0


class TestSeveralDisks:
    def test_work_that_waits_for_one_holds_nothing_of_the_others(self):
        """The first disk hangs."""
        work = Work(Bound(100, places=1))
        assert work.begin("hangs", [1], 10)
        assert not work.begin("both", [1, 2], 10)
        assert work.begin("other", [2], 10)
        work.end("other")
        assert work.begin("next", [2], 10)
        work.end("hangs")
        assert work.woken == []
        work.end("next")
        assert work.woken == ["both"]
        assert not work.begin("last", [2], 10)

    def test_later_work_leaves_the_disk_that_earlier_work_waits_for(self):
        work = Work(Bound(100))
        assert work.begin("a", [1], 60)
        assert not work.begin("both", [1, 2], 60)
        assert not work.begin("small", [1], 10)
        assert not work.begin("three", [1, 3], 10)
        work.end("a")
        assert work.woken == ["both", "small", "three"]

    @pytest.mark.slow
    def test_one_that_hangs_takes_as_much_of_the_work_as_one_disk_may(self):
        """Of the deletions of volumes on one to three of twelve disks. Slow: thousands of deletions."""
        bound, disks = Bound(100, places=40), range(12)
        sets = [one for size in (1, 2, 3) for one in itertools.combinations(disks, size)]
        work = Work(bound)
        for number in range(10):
            for disk_ids in sets:
                work.begin((number, disk_ids), disk_ids, 0)
                if 0 not in disk_ids:
                    work.end((number, disk_ids))
        stuck = [name for name, share in work.shares.items() if share.is_held]
        assert len(stuck) == 40
        assert len(work.woken) == 0
        assert work.begin("others", disks[1:], 0)


class TestDiskOutOfService:
    """Something hangs on the disk, and has its share."""

    @pytest.fixture
    def work(self):
        work = Work(Bound(100))
        assert work.begin("hangs", [1], 60)
        return work

    def put_out(self, work):
        work.bound.put_out(1, lambda: OSError("out"))

    def refused(self, work):
        return [name for name, share in work.shares.items() if share.refusal is not None]

    def test_nothing_goes_on_waiting_for_it(self, work):
        assert not work.begin("waits", [1], 60)
        assert not work.begin("both", [1, 2], 60)
        assert work.bound.waiting_count == 2
        self.put_out(work)
        assert sorted(work.woken) == sorted(self.refused(work)) == ["both", "waits"]
        assert work.bound.waiting_count == 0
        work.end("waits", "both")
        assert work.begin("other", [2], 100)

    def test_what_would_have_to_wait_is_refused_and_what_has_room_is_not(self, work):
        self.put_out(work)
        assert not work.begin("large", [1], 60)
        assert not work.begin("both", [1, 2], 60)
        assert work.begin("small", [1], 10)
        assert (self.refused(work), work.woken) == (["large", "both"], [])

    def test_what_waited_behind_goes_on(self, work):
        assert work.begin("a", [2], 60)
        assert not work.begin("both", [1, 2], 60)
        assert not work.begin("behind", [2], 40)
        self.put_out(work)
        assert work.woken == ["both", "behind"]
        assert self.refused(work) == ["both"]

    def test_work_waits_again_when_it_is_back(self, work):
        self.put_out(work)
        work.bound.take_back(1)
        assert not work.begin("later", [1], 60)
        assert self.refused(work) == []
        work.end("hangs")
        assert work.woken == ["later"]

    def test_threads_get_the_error(self):
        bound = Bound(100)

        def wait():
            with bound.holding([1], 60):
                pytest.fail("there is no room")

        with bound.holding([1], 60), ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(wait)
            wait_until(lambda: bound.waiting_count)
            bound.put_out(1, lambda: OSError("out"))
            with pytest.raises(OSError, match="out"):
                waiting.result(LIMIT_S)
            with pytest.raises(OSError, match="out"):
                wait()
        with bound.holding([1], 100):
            assert bound.waiting_count == 0


def test_threads_wait_too():
    bound = Bound(100)
    order, has_begun = [], threading.Event()

    def work(name):
        has_begun.set()
        with bound.holding([1], 60):
            order.append(name)

    with ThreadPoolExecutor(1) as pool:
        with bound.holding([1], 60):
            waiting = pool.submit(work, "second")
            assert has_begun.wait(LIMIT_S)
            order.append("first")
        waiting.result(LIMIT_S)
    assert order == ["first", "second"]


def test_a_block_that_fails_gives_its_share_back():
    bound = Bound(100)
    with pytest.raises(OSError, match="why"), bound.holding([1], 100):
        raise OSError("why")
    assert bound.begin([1], 100, pytest.fail).is_held
