"""A native store with two volumes, and the context of a server on it."""

from __future__ import annotations

import pytest
from http_native_kit import make_context

from native_handlers.storage.disk_location import LocationConfig
from native_handlers.storage.store import StoreConfig, open_store


class Clock:
    """Nanoseconds that stand still until a test moves them."""

    def __init__(self):
        self.now_ns = 1_700_000_000_000_000_000

    def __call__(self):
        return self.now_ns


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    """Volume 3 has one copy, volume 4 two, volume 5 a TTL of three minutes."""
    location = LocationConfig(path=tmp_path, idx_path=tmp_path, max_volumes=8)
    opened = open_store(StoreConfig(locations=(location,)), clock_ns=clock)
    opened.allocate_volume(3)
    opened.allocate_volume(4, replication="001")
    opened.allocate_volume(5, ttl="3m")
    yield opened
    opened.close()


@pytest.fixture
def context(store):
    return make_context(store=store)
