"""The product's own check over every directory that a storage test leaves."""

from __future__ import annotations

import pytest

from native_handlers.storage.check import check_directory
from native_handlers.storage.store import Store


@pytest.fixture(autouse=True)
def checked_directories(request, tmp_path, monkeypatch):
    """After a test, every directory in which it opened a store must be healthy.

    Tests that leave damage on purpose are marked: ``@pytest.mark.damage("why")``. pytest removes the `tmp_path` of a
    test that passed. This fixture requests it, so that this comes after the check.
    """
    stores: list[Store] = []
    real_init = Store.__init__

    def remember(self, *arguments, **named):
        real_init(self, *arguments, **named)
        stores.append(self)

    monkeypatch.setattr(Store, "__init__", remember)
    yield
    if request.node.get_closest_marker("damage") is not None:
        return
    assert tmp_path.is_dir(), "nothing is left to be checked"
    # A directory that was opened several times is checked as the last store left it.
    places = {one.path: (one.idx_path, store.offset_width_bytes) for store in stores for one in store.locations}
    for path, (idx_path, width) in places.items():
        if path.is_dir():
            report = check_directory(path, index_path=idx_path, offset_width_bytes=width)
            assert report.is_healthy, f"the test leaves an unhealthy directory:\n{report}"
