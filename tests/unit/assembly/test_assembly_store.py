"""The beginning and the end of the native store."""

from __future__ import annotations

import gc
import threading
from functools import partial
from types import SimpleNamespace

import pytest
import trio
from support.waiting import LIMIT_S

from native_handlers.storage.directory.location import LocationConfig
from native_handlers.storage.store import StoreConfig
from native_handlers.storage.system.files import OsFiles
from supervisor.assembly import store as assembly_store
from supervisor.assembly.store import close_store, load_late_modules, load_without_collection, open_without_collection


class FakeStore:
    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.is_closed = threading.Event()

    def close(self) -> None:
        assert self.go_on.wait(60)
        self.is_closed.set()


@pytest.fixture
def store():
    made = FakeStore()
    yield made
    made.go_on.set()
    assert made.is_closed.wait(60)


async def test_a_store_that_hangs_does_not_keep_the_process_from_ending(store, monkeypatch, caplog):
    monkeypatch.setattr(assembly_store, "CLOSE_S", 0.01)
    with trio.fail_after(LIMIT_S):
        await close_store(store)
    assert not store.is_closed.is_set()
    assert "the store was not closed within 0.01 s" in caplog.text


async def test_it_is_closed_though_the_server_is_cancelled(store, caplog):
    store.go_on.set()
    with trio.move_on_after(0):
        await close_store(store)
    assert store.is_closed.is_set()
    assert not caplog.text


class PlayedStore:
    """Tells of a volume, or of shards, through the callbacks in the order of registration."""

    def __init__(self, open_count):
        self.open_count = open_count
        self.callbacks = []
        self.ec = SimpleNamespace(add_listener=self.add_listener)

    def add_listener(self, callback):
        self.callbacks.append(callback)
        return partial(self.callbacks.remove, callback)


@pytest.mark.parametrize("which", [0, 1])
async def test_late_modules_wait_for_the_first_volume(monkeypatch, autojump_clock, which):
    loaded = []
    monkeypatch.setattr(assembly_store, "load_arrays", lambda: loaded.append(1))
    store = PlayedStore(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load_late_modules, store)
        await trio.sleep(1000)
        assert not loaded
        arguments = ([7], [])[which]
        await trio.to_thread.run_sync(partial(store.callbacks[which], *arguments))
    assert loaded == [1]
    assert not store.callbacks


async def test_the_wait_for_a_first_volume_ends_with_the_server(autojump_clock):
    store = PlayedStore(0)
    with trio.move_on_after(5):
        await load_late_modules(store)
    assert not store.callbacks


async def test_late_modules_are_loaded_in_a_thread_without_collections(monkeypatch):
    seen = []
    monkeypatch.setattr(
        assembly_store, "load_arrays", lambda: seen.append((threading.current_thread(), gc.isenabled()))
    )
    frozen = gc.get_freeze_count()
    await load_late_modules(PlayedStore(1))
    assert seen[0][0] is not threading.main_thread()
    assert not seen[0][1]
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen


async def test_a_process_does_not_end_while_late_modules_are_loaded(monkeypatch):
    begun, go_on, is_loaded = threading.Event(), threading.Event(), threading.Event()

    def load():
        begun.set()
        assert go_on.wait(LIMIT_S)
        is_loaded.set()

    monkeypatch.setattr(assembly_store, "load_arrays", load)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load_late_modules, PlayedStore(1))
            await trio.to_thread.run_sync(begun.wait, LIMIT_S)
            nursery.cancel_scope.cancel()
            assert not is_loaded.is_set()
            go_on.set()
    assert is_loaded.is_set()


def test_the_collector_of_cycles_does_not_run_while_volumes_are_opened(tmp_path, monkeypatch):
    on, seen, facts = gc.isenabled(), [], OsFiles.facts

    def note(files, path):
        seen.append(gc.isenabled())
        return facts(files, path)

    monkeypatch.setattr(OsFiles, "facts", note)
    store = open_without_collection(StoreConfig((LocationConfig(tmp_path, tmp_path, 2),)))
    try:
        store.allocate_volume(1)
        assert (seen[0], seen[-1]) == (False, on)
        store.unmount_volume(1)
        seen.clear()
        load_without_collection(store)
        assert store.open_count == 1
        assert set(seen) == {False}
        assert gc.isenabled() == on
    finally:
        store.close()
