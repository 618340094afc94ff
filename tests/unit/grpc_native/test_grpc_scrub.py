"""ScrubVolume: the answer for sound and for broken volumes, and marking the broken ones."""

from __future__ import annotations

import dataclasses
import os
import threading
from contextlib import contextmanager

import grpc
import pytest
from support.grpc_nodes import make_context, make_node

from native_handlers.format.errors import FormatError
from native_handlers.format.idx import encode_entry, iter_entries
from native_handlers.format.needle import Needle, actual_size, parse_needle
from native_handlers.grpc import scrub
from native_handlers.grpc.context import RpcFailure
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.volume import scrub as storage_scrub

VID, COOKIE = 7, 0xC0FFEE
INDEX, FULL, LOCAL = pb.VolumeScrubMode.INDEX, pb.VolumeScrubMode.FULL, pb.VolumeScrubMode.LOCAL


@pytest.fixture
def node(directory, store):
    return make_node(directory, store)


@pytest.fixture
def context():
    return make_context()


def fill(store, *sizes, vid=VID):
    store.allocate_volume(vid)
    for needle_id, size in enumerate(sizes, 1):
        store.find_volume(vid).write(Needle(needle_id=needle_id, cookie=COOKIE, data=bytes([needle_id]) * size))


def run(node, context, *volume_ids, mode=FULL, mark=False):
    request = pb.ScrubVolumeRequest(volume_ids=volume_ids, mode=mode, mark_broken_volumes_readonly=mark)
    return scrub.scrub_volume(node, context, request)


def overwrite(path, offset, data):
    with path.open("rb+") as file:
        file.seek(offset)
        file.write(data)


def row_of(directory, needle_id):
    rows = list(iter_entries((directory / "7.idx").read_bytes(), 4))
    return next((number, row) for number, row in enumerate(rows) if row.needle_id == needle_id)


@pytest.mark.parametrize("mode", [INDEX, FULL, LOCAL])
def test_sound_volumes(node, context, store, mode):
    fill(store, 10, 0, 5000, 2_000_000)
    fill(store, 10, vid=8)
    store.find_volume(VID).delete(1, COOKIE)
    store.find_volume(VID).write(Needle(needle_id=3, cookie=COOKIE, data=b"another"))
    store.allocate_volume(9)
    assert run(node, context, mode=mode) == pb.ScrubVolumeResponse(total_volumes=3, total_files=7)
    for wanted in ([8], [8, 8, 8]):
        assert run(node, context, *wanted, mode=mode) == pb.ScrubVolumeResponse(total_volumes=1, total_files=1)


@pytest.mark.damage("a record is damaged on purpose")
@pytest.mark.parametrize("needle_id", [3, 4])
def test_a_damaged_payload_is_named(node, context, store, directory, needle_id):
    fill(store, 10, 20, 5000, 2_000_000)
    _, row = row_of(directory, needle_id)
    overwrite(directory / "7.dat", row.offset * 8 + 1000, b"XXXX")
    answer = run(node, context)
    assert list(answer.broken_volume_ids) == [VID]
    assert len(answer.details) == 1
    assert answer.details[0].startswith(f"failed to read needle {needle_id} on volume 7: ")
    assert not run(node, context, mode=INDEX).broken_volume_ids
    assert not store.find_volume(VID).is_read_only


@pytest.mark.damage("a record is damaged on purpose")
def test_a_row_that_leads_to_another_size(node, context, store, directory):
    fill(store, 10, 20, 30)
    number, row = row_of(directory, 2)
    overwrite(directory / "7.dat", row.offset * 8 + 12, (99).to_bytes(4, "big"))
    (detail,) = run(node, context).details
    assert detail.startswith("failed to read needle 2 on volume 7: ")
    assert detail.endswith(f"needle 2 has size 99 on disk, the index says {row.size}")
    assert number == 1


@pytest.mark.damage("rows overlap on purpose")
def test_rows_that_overlap(node, context, store, directory):
    fill(store, 100, 100, 100)
    _, first = row_of(directory, 1)
    number, _ = row_of(directory, 2)
    overwrite(directory / "7.idx", number * 16, encode_entry(2, first.offset + 1, 105, 4))
    answer = run(node, context, mode=INDEX)
    assert list(answer.details) == ["needle 2 (#2) at [16-151] overlaps needle 1 at [8-143]"]
    assert answer.total_files == 3


@pytest.mark.damage("a row leads beyond the file on purpose")
@pytest.mark.parametrize("mode", [FULL, LOCAL])
def test_a_row_that_leads_beyond_the_file(node, context, store, directory, mode):
    """`store` has opened the volume before, for an opened volume of such a row takes no writes."""
    fill(store, 100, 100)
    number, row = row_of(directory, 2)
    overwrite(directory / "7.idx", number * 16, encode_entry(2, row.offset + 1000, row.size, 4))
    answer = run(node, context, mode=mode)
    start, length = (row.offset + 1000) * 8, actual_size(row.size, 3)
    end = (directory / "7.dat").stat().st_size
    why = f"its record ends at {start + length}, and .dat at {end}"
    assert f"failed to read needle 2 on volume 7: {why}" in answer.details
    assert answer.broken_volume_ids == [VID]
    assert answer.total_files == 2


@pytest.mark.damage("bytes are added on purpose")
def test_rows_that_do_not_account_for_the_file(node, context, store, directory):
    fill(store, 100, 100)
    with (directory / "7.idx").open("ab") as file:
        file.write(b"half a row")
    details = list(run(node, context).details)
    assert details == ["expected an index file of size 32, got 42"]


@pytest.mark.damage("rows are cut off on purpose")
def test_an_index_that_was_cut_at_a_row(node, context, store, directory):
    fill(store, 100, 100)
    os.truncate(directory / "7.idx", 16)
    assert "expected an index file of size 32, got 16" in run(node, context).details


@pytest.mark.damage("a record is damaged on purpose")
def test_a_broken_volume_is_marked_and_the_master_hears_of_it(node, context, store, directory):
    fill(store, 10, 5000)
    fill(store, 10, vid=8)
    _, row = row_of(directory, 2)
    overwrite(directory / "7.dat", row.offset * 8 + 1000, b"XXXX")
    answer = run(node, context, mark=True)
    assert answer.details[-1] == "volume 7 is now read-only"
    assert [store.find_volume(vid).is_read_only for vid in (7, 8)] == [True, False]
    assert [mark.volume_id for mark in node.masters.marks] == [7, 7]
    store.mark_writable(store.get_volume(7))


@pytest.mark.damage("a record is damaged on purpose")
def test_in_maintenance_mode_nothing_is_marked(node, context, store, directory):
    fill(store, 5000)
    overwrite(directory / "7.dat", 1000, b"XXXX")
    node.state.now.maintenance = True
    with pytest.raises(RpcFailure, match="in maintenance mode"):
        run(node, context, mark=True)
    assert run(node, context).broken_volume_ids == [7]
    assert node.counts.snapshot().scrub_volume_failures == {"FULL": 2}


def test_what_is_refused(node, context, store):
    fill(store, 1)
    with pytest.raises(RpcFailure) as raised:
        run(node, context, 99)
    assert raised.value.message == "volume id 99 not found"
    with pytest.raises(RpcFailure) as raised:
        run(node, context, mode=4)
    assert raised.value.message == "unsupported volume scrub mode 4"


@pytest.mark.parametrize("mode", [INDEX, FULL])
def test_a_client_that_goes_ends_it(node, context, store, mode):
    fill(store, 10)
    context.add_callback = lambda callback: callback() or True
    with pytest.raises(RpcFailure) as raised:
        run(node, context, mode=mode)
    assert raised.value.code is grpc.StatusCode.CANCELLED


@pytest.mark.damage("records are damaged on purpose")
def test_what_is_said_of_one_volume_is_bounded(node, context, store, directory, monkeypatch):
    monkeypatch.setattr(storage_scrub, "MAX_PROBLEMS", 3)
    fill(store, *[100] * 10)
    size = os.path.getsize(directory / "7.dat")
    overwrite(directory / "7.dat", 8, b"\xee" * (size - 8))
    details = run(node, context).details
    assert len(details) == 4
    assert details[-1] == "and more than 3 problems; the rest is not listed"


def test_the_pace_is_that_of_maintenance(node, context, store, monkeypatch):
    fill(store, 500_000, 500_000)
    pauses = []
    slow = dataclasses.replace(node, facts=dataclasses.replace(node.facts, maintenance_bytes_per_s=1_000_000))

    class Gone(threading.Event):
        def wait(self, timeout=None):
            pauses.append(timeout)
            return False

    monkeypatch.setattr(threading, "Event", Gone)
    run(slow, context)
    assert 0.9 < pauses[-1] < 1.1


@pytest.mark.damage("a record is damaged on purpose")
@pytest.mark.parametrize("fields", [{}, {"name": b"a.txt", "mime": b"text/x-one"}], ids=["plain", "with fields"])
def test_a_record_is_broken_for_a_scrub_where_it_is_for_a_reader(directory, node, context, store, fields):
    """Each byte is damaged once: a scrub has a short way for records without fields, and no other rule."""
    store.allocate_volume(VID)
    store.find_volume(VID).write(Needle(needle_id=1, cookie=COOKIE, data=b"0123456789" * 3, **fields))
    path = directory / "7.dat"
    _, row = row_of(directory, 1)
    start, whole = row.offset * 8, path.read_bytes()
    found = set()
    for at in range(start, len(whole)):
        overwrite(path, at, bytes((whole[at] ^ 0x15,)))
        record = path.read_bytes()[start:]
        try:
            is_sound = parse_needle(record, 3).size == row.size
        except FormatError:
            is_sound = False
        assert bool(run(node, context).broken_volume_ids) != is_sound, at - start
        found.add(is_sound)
        overwrite(path, at, whole[at : at + 1])
    assert found == {True, False}


class TestWithAnotherEngine:
    """Each volume is open here only inside `taking`: before and afterwards the other engine has it."""

    @pytest.fixture
    def taken(self, node, context, store):
        for vid in (VID, 8):
            fill(store, 10, 5000, vid=vid)
            store.unmount_volume(vid)
        taken = []

        @contextmanager
        def taking(volume_id, *, changes=False):
            taken.append((volume_id, changes))
            is_here = volume_id in {VID, 8}
            if is_here:
                store.mount_volume(volume_id)
            try:
                yield
            finally:
                if is_here:
                    store.unmount_volume(volume_id)

        context.taking, context.volume_ids = taking, [VID, 8, 9]
        return taken

    def test_each_volume_is_taken_until_its_files_are_open(self, node, context, taken):
        assert run(node, context) == pb.ScrubVolumeResponse(total_volumes=2, total_files=4)
        assert taken == [(VID, False), (8, False), (9, False)]

    def test_a_volume_in_the_request_must_be_there(self, node, context, taken):
        with pytest.raises(RpcFailure, match="volume id 9 not found"):
            run(node, context, 8, 9)

    @pytest.mark.damage("a record is damaged on purpose")
    def test_a_broken_volume_is_taken_again_to_mark_it(self, node, context, store, directory, taken):
        _, row = row_of(directory, 2)
        overwrite(directory / "7.dat", row.offset * 8 + 1000, b"XXXX")
        assert run(node, context, VID, mark=True).details[-1] == "volume 7 is now read-only"
        assert taken == [(VID, False), (VID, True)]
        store.mount_volume(VID)
        assert store.find_volume(VID).is_read_only
