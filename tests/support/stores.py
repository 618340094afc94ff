"""Stores on directories of a test."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from native_handlers.storage.directory.location import LocationConfig
from native_handlers.storage.store import Store, StoreConfig, open_store
from support.files import UNSYNCED_FILES

if TYPE_CHECKING:
    from pathlib import Path

MAX_VOLUMES = 8
NODE = {
    "offset_width_bytes": 4,
    "file_size_limit_bytes": 1 << 20,
    "ip": "127.0.0.1",
    "port": 8080,
    "grpc_port": 18080,
    "public_url": "127.0.0.1:8080",
    "id": "node-1",
    "data_center": "dc1",
    "rack": "r1",
}
"""The store of the node that `grpc_nodes.make_node` makes: its address and its place in the cluster."""


def place(path: Path, idx_path: Path | None = None, *, max_volumes: int = MAX_VOLUMES, **more) -> LocationConfig:
    """A data directory, made when missing; its index files are beside the data unless `idx_path` is given."""
    for directory in (path, idx_path or path):
        directory.mkdir(parents=True, exist_ok=True)
    return LocationConfig(path, idx_path or path, max_volumes, **more)


def open_at(*places: Path | LocationConfig, files=UNSYNCED_FILES, clock_ns=time.time_ns, tiers=None, **config) -> Store:
    """A store on these directories; the caller closes it. `config` are the other fields of a `StoreConfig`.

    Its syncs do nothing; a test that is about the disk itself passes `OS_FILES`.
    """
    locations = tuple(one if isinstance(one, LocationConfig) else place(one) for one in places)
    return open_store(StoreConfig(locations, **config), files=files, clock_ns=clock_ns, tiers=tiers)


@pytest.fixture
def opened():
    """Opens stores as `open_at` does, and allocates `volumes` in them.

    After the test their files fail and hang no more, and all of them are closed, the newest first. A fixture that uses
    file systems or patches requests this one as its last argument, so that the stores are closed before these end.
    """
    with ExitStack() as ending, ExitStack() as going_on:

        def open_one(*places: Path | LocationConfig, files=UNSYNCED_FILES, volumes=(7,), **config) -> Store:
            store = open_at(*places, files=files, **config)
            ending.callback(store.close)
            if hasattr(files, "let_all_go_on"):
                going_on.callback(files.let_all_go_on)
            for volume_id in volumes:
                store.allocate_volume(volume_id)
            return store

        yield open_one
