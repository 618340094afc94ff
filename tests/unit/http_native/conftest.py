"""A native store with two volumes, and the context of a server on it."""

from __future__ import annotations

import pytest
from support.http_native import make_context
from support.waiting import LIMIT_S

from native_handlers.runtime import content_threads


@pytest.fixture
def store(tmp_path, clock, opened):
    """Volume 3 has one copy, volume 4 two, volume 5 a TTL of three minutes."""
    store = opened(tmp_path, clock_ns=clock, volumes=(3,))
    store.allocate_volume(4, replication="001")
    store.allocate_volume(5, ttl="3m")
    return store


@pytest.fixture
def context(store):
    return make_context(store=store)


@pytest.fixture
def autojump_clock(autojump_clock, monkeypatch):
    """The virtual clock, which does not wait for threads. Short work on contents needs none, however slow the machine
    is at the moment.
    """
    monkeypatch.setattr(content_threads, "INLINE_S", LIMIT_S)
    return autojump_clock
