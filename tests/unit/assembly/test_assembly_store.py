"""The end of the native store."""

from __future__ import annotations

import threading

import pytest
import trio

from supervisor.assembly import store as assembly_store
from supervisor.assembly.store import close_store


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
    with trio.fail_after(30):
        await close_store(store)
    assert not store.is_closed.is_set()
    assert "the store was not closed within 0.01 s" in caplog.text


async def test_it_is_closed_though_the_server_is_cancelled(store, caplog):
    store.go_on.set()
    with trio.move_on_after(0):
        await close_store(store)
    assert store.is_closed.is_set()
    assert not caplog.text
