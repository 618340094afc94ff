"""A node with a real store in a temporary directory."""

from __future__ import annotations

import pytest
from support.grpc_nodes import FakeMasters, make_context, make_node
from support.stores import NODE, place

from native_handlers.grpc.state_keeper import StoreStateKeeper


@pytest.fixture
def directory(tmp_path):
    """The directory of the node's volumes."""
    return tmp_path / "volumes"


@pytest.fixture
def store(directory, opened):
    return opened(place(directory, min_free_percent=0.0), volumes=(), **NODE)


@pytest.fixture
def node(tmp_path, store):
    return make_node(tmp_path, store, state=StoreStateKeeper(store), masters=FakeMasters())


@pytest.fixture
def context():
    return make_context()
