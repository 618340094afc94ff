"""/status and the UI page of a server with many volumes: the bytes stay the same, and the event loop keeps running."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.http_native import fetch, make_context

from native_handlers.format.replica_placement import ReplicaPlacement
from native_handlers.format.ttl import EMPTY_TTL, Ttl
from native_handlers.http import node_view
from native_handlers.http.context import NodeDetails
from native_handlers.http.node_view import NodeState, StoreNodeView, volume_status
from native_handlers.http_model.go_json import EncodedList, encode_item, encode_json, format_float32
from native_handlers.storage.model.report import DiskStatus, Finding, FindingKind, VolumeReport

VOLUMES = 2000
REPORT = VolumeReport(
    id=7,
    size_bytes=1000,
    content_size_bytes=900,
    collection="pic<t>ures",
    file_count=3,
    delete_count=1,
    deleted_byte_count=20,
    read_only=False,
    replica_placement=ReplicaPlacement.parse("001"),
    version=3,
    ttl=Ttl(3, 2),
    compact_revision=0,
    modified_at_s=1_700_000_000,
    disk_type="",
    disk_id=0,
    remote_storage_name="",
    remote_storage_key="",
    max_needle_id=9,
)
FLAT = st.none() | st.booleans() | st.integers() | st.text() | st.floats(-1e30, 1e30)
JSON = st.recursive(FLAT, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


class FakeStore:
    """The part of a store that a view uses."""

    def __init__(self, count, tmp_path):
        self.reports = [replace(REPORT, id=number + 1, ttl=EMPTY_TTL) for number in range(count)]
        self.has_findings = count > 0
        self.findings = [Finding(FindingKind.IDX_LOST, tmp_path / str(number), "2 rows") for number in range(count)]

    def volume_reports(self):
        return list(self.reports)

    def disk_statuses(self):
        return [DiskStatus("/data", 9, 4, 5, 55.5, 44.5, "")]


def view_of(store):
    state = NodeState(
        details=lambda: NodeDetails(started_at_s=0), is_heartbeating=lambda: True, is_stopping=lambda: False
    )
    return StoreNodeView(store, state)


class LoopThreadOnly:
    """Records the work that runs in the event loop's thread."""

    def __init__(self, monkeypatch):
        self.here = []
        self._monkeypatch = monkeypatch

    def watch(self, module, name):
        work = getattr(module, name)

        def watched(*arguments, **named):
            try:
                trio.lowlevel.current_task()
            except RuntimeError:
                pass
            else:
                self.here.append(name)
            return work(*arguments, **named)

        self._monkeypatch.setattr(module, name, watched)


def reference(value, newline=""):
    """Go's JSON, value by value."""
    deeper = f"{newline}  " if newline else ""
    if isinstance(value, float):
        return format_float32(value)
    if isinstance(value, dict):
        colon = ": " if newline else ":"
        items = [f"{reference(key)}{colon}{reference(item, deeper)}" for key, item in value.items()]
        return f"{{{deeper}{f',{deeper}'.join(items)}{newline}}}" if items else "{}"
    if isinstance(value, list):
        items = [reference(item, deeper) for item in value]
        return f"[{deeper}{f',{deeper}'.join(items)}{newline}]" if items else "[]"
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        for character in "<>&\u2028\u2029":
            text = text.replace(character, f"\\u{ord(character):04x}")
        text = "".join("\\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
    return text


@given(JSON, st.booleans())
def test_json_is_the_same_as_value_by_value(value, is_pretty):
    assert encode_json(value, is_pretty=is_pretty) == reference(value, "\n" if is_pretty else "").encode()


@given(st.lists(JSON, min_size=1, max_size=4), st.booleans())
def test_a_list_put_together_from_items_is_the_same_as_in_one_go(values, is_pretty):
    items = EncodedList.of([encode_item(value, is_pretty=is_pretty) for value in values], is_pretty=is_pretty)
    pieces = encode_json({"a": 1, "Volumes": items, "z": 2}, is_pretty=is_pretty)
    assert pieces == encode_json({"a": 1, "Volumes": values, "z": 2}, is_pretty=is_pretty)


@pytest.mark.parametrize("query", ["", "?pretty=y"])
async def test_status_lists_every_volume_as_one_by_one(tmp_path, query):
    store = FakeStore(5, tmp_path)
    answer = await fetch("http.status", make_context(node=view_of(store)), target=f"/status{query}")
    said = json.loads(answer.body)
    assert said["Volumes"] == [volume_status(report) for report in store.reports]
    assert encode_json(said, is_pretty=bool(query)) == answer.body


@pytest.mark.parametrize("target", ["/status", "/status?pretty=y", "/ui/index.html"])
@pytest.mark.slow
async def test_the_event_loop_goes_on_while_a_page_of_many_volumes_is_made(tmp_path, monkeypatch, target):
    """A thread does the work for each volume. The loop takes many turns before the page is complete. Slow: a page of
    thousands of volumes.
    """
    store, loop = FakeStore(VOLUMES, tmp_path), LoopThreadOnly(monkeypatch)
    for name in ("volume_status", "finding_row", "encode_item"):
        loop.watch(node_view, name)
    context = make_context(node=view_of(store))
    turns = 0
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def count():
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        route = "http.status" if "status" in target else "http.ui"
        answer = await fetch(route, context, target=target)
        nursery.cancel_scope.cancel()
    assert answer.status == 200
    assert str(VOLUMES).encode() in answer.body
    assert not loop.here
    assert turns > 20


async def test_a_volume_that_has_not_changed_is_not_encoded_again(tmp_path, monkeypatch):
    store = FakeStore(10, tmp_path)
    context = make_context(node=view_of(store))
    first = (await fetch("http.status", context)).body
    encoded = []
    monkeypatch.setattr(
        node_view,
        "encode_item",
        lambda row, *, is_pretty: encoded.append(row["Id"]) or encode_item(row, is_pretty=is_pretty),
    )
    assert (await fetch("http.status", context)).body == first
    assert not encoded
    store.reports[4] = replace(store.reports[4], file_count=99)
    del store.reports[8]
    said = json.loads((await fetch("http.status", context)).body)["Volumes"]
    assert encoded == [5]
    assert [row["Id"] for row in said] == [1, 2, 3, 4, 5, 6, 7, 8, 10]
    assert said[4]["FileCount"] == 99
