"""A native store with two volumes, and the context of a server on it."""

from __future__ import annotations

import pytest
from support.http_native import make_context
from support.stores import open_at


@pytest.fixture
def store(tmp_path, clock):
    """Volume 3 has one copy, volume 4 two, volume 5 a TTL of three minutes."""
    opened = open_at(tmp_path, clock_ns=clock)
    opened.allocate_volume(3)
    opened.allocate_volume(4, replication="001")
    opened.allocate_volume(5, ttl="3m")
    yield opened
    opened.close()


@pytest.fixture
def context(store):
    return make_context(store=store)
