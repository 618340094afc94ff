"""A node with a real store in a temporary directory."""

from __future__ import annotations

import pytest
from grpc_native_fakes import FakeMasters, make_context, make_node

from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.storage.disk_location import LocationConfig
from native_handlers.storage.store import StoreConfig, open_store


@pytest.fixture
def store(tmp_path):
    directory = tmp_path / "volumes"
    directory.mkdir()
    location = LocationConfig(
        path=directory,
        idx_path=directory,
        max_volumes=8,
        disk_type="",
        tags=(),
        min_free_percent=0.0,
        min_free_bytes=None,
    )
    config = StoreConfig(
        locations=(location,),
        offset_width_bytes=4,
        file_size_limit_bytes=1 << 20,
        ip="127.0.0.1",
        port=8080,
        grpc_port=18080,
        public_url="127.0.0.1:8080",
        id="node-1",
        data_center="dc1",
        rack="r1",
    )
    opened = open_store(config)
    yield opened
    opened.close()


@pytest.fixture
def node(tmp_path, store):
    return make_node(tmp_path, store, state=StoreStateKeeper(store), masters=FakeMasters())


@pytest.fixture
def context():
    return make_context()
