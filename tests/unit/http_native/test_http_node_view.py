"""The rows of /status for one native store."""

import json
import threading

import pytest

from native_handlers.format.needle import Needle
from native_handlers.http.node_view import NodeState, StoreNodeView


@pytest.fixture
def store(tmp_path, opened):
    return opened(tmp_path, volumes=(1, 2))


def view_of(store, details=dict):
    return StoreNodeView(store, NodeState(details=details, is_heartbeating=lambda: True, is_stopping=lambda: False))


@pytest.mark.parametrize("is_pretty", [False, True])
async def test_only_the_row_of_a_volume_that_has_changed_is_made_anew(store, is_pretty):
    view = view_of(store)
    before = dict(await view.volume_rows(is_pretty=is_pretty))
    await view.volume_rows(is_pretty=not is_pretty)
    store.get_volume(1).write(Needle(cookie=1, needle_id=2, data=b"content"))
    after = dict(await view.volume_rows(is_pretty=is_pretty))
    assert after[2] is before[2]
    assert (json.loads(before[1])["FileCount"], json.loads(after[1])["FileCount"]) == (0, 1)
    assert ("\n" in after[1]) == is_pretty


async def test_the_row_of_a_volume_that_is_gone_is_not_kept(store):
    view = view_of(store)
    await view.volume_rows(is_pretty=True)
    store.unmount_volume(2)
    assert [volume_id for volume_id, _ in await view.volume_rows(is_pretty=True)] == [1]
    assert view.kept_rows == 1


async def test_the_details_of_the_status_page_are_not_gathered_on_the_event_loop(store):
    """Those of erasure-coded volumes may read whole indexes, and wait for a disk."""
    assert await view_of(store, details=threading.get_ident).details() != threading.get_ident()
