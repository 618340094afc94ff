"""The threads of erasure coding, and what becomes of the work where the system gives fewer of them."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from support.coded_volumes import code_volume
from support.files import PlannedFiles, path_of
from support.stores import open_at
from support.waiting import LIMIT_S

from native_handlers.format.needle import Needle
from native_handlers.storage.erasure_coding import parallel

VID = 7


@pytest.fixture(autouse=True)
def four_processors(monkeypatch):
    monkeypatch.setattr(parallel, "thread_count", lambda: 4)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_the_threads_that_there_are_do_all_of_the_work(give_threads, count):
    """The caller closes its files when the call ends: no worker may run on."""
    given = give_threads(count, "ec-worker")
    together = threading.Barrier(count + 1)
    done = []

    def make_worker():
        together.wait(LIMIT_S)
        return done.append

    parallel.in_parallel(range(50), make_worker)
    assert sorted(done) == list(range(50))
    assert len(given) == count
    assert not any(thread.is_alive() for thread in given)


def test_an_error_between_two_starts_leaves_no_worker(monkeypatch):
    """As where memory runs out."""
    started, start, goes_on = [], threading.Thread.start, threading.Event()

    def starts(thread):
        if started:
            goes_on.set()
            raise MemoryError
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starts)
    with pytest.raises(MemoryError):
        parallel.in_parallel(range(50), lambda: lambda _item: goes_on.wait(LIMIT_S))
    assert len(started) == 1
    assert not started[0].is_alive()


@pytest.mark.parametrize("count", [0, 1])
def test_work_beside_other_work_is_done_in_any_case(give_threads, count):
    given, done = give_threads(count, "ec-beside"), []
    with parallel.beside(lambda: done.append(threading.current_thread())):
        pass
    assert done == (given or [threading.current_thread()])


def test_work_beside_other_work_that_fails_without_a_thread_is_not_begun(give_threads):
    give_threads(0, "ec-beside")
    with pytest.raises(OSError, match="the body"), parallel.beside(pytest.fail):
        raise OSError("the body")


def test_a_volume_is_coded_without_further_threads(give_threads, tmp_path):
    give_threads(0, "ec-worker")
    give_threads(0, "ec-beside")
    store = code_volume(tmp_path, VID, Needle(needle_id=1, cookie=5, data=b"content" * 100_000))
    assert store.ec_reader.read_needle(VID, 1, 5).data == b"content" * 100_000
    store.close()


@pytest.mark.parametrize("closes", [lambda ec: ec.unmount(VID, 0), lambda ec: ec.unload(VID)], ids=["shard", "volume"])
def test_a_shard_that_is_closed_under_a_reader_stays_open_until_the_read_ends(tmp_path, closes):
    """Else the read gets the bytes of the file that is opened next, under the same number."""
    data = bytes(range(250)) * 100
    code_volume(tmp_path / "disk", VID, Needle(needle_id=1, cookie=5, data=data)).close()
    begun, goes_on, used = threading.Event(), threading.Event(), []

    def hold(name, target):
        is_reader = threading.current_thread().name.startswith("reader")
        if name.startswith("read") and is_reader and path_of(target).suffix == ".ec00" and not used:
            used.append(target)
            begun.set()
            assert goes_on.wait(LIMIT_S)

    files = PlannedFiles(before=hold)
    with closing(open_at(tmp_path / "disk", files=files)) as store, ThreadPoolExecutor(1, "reader") as readers:
        reading = readers.submit(store.ec_reader.read_needle, VID, 1, 5)
        assert begun.wait(LIMIT_S)
        closes(store.ec)
        assert store.ec.find_shard(VID, 0) is None
        (fd,) = used
        assert fd in files.open_fds
        assert os.readlink(f"/proc/self/fd/{fd}").endswith(".ec00")
        goes_on.set()
        assert bytes(reading.result(LIMIT_S).data) == data
        assert fd not in files.open_fds
