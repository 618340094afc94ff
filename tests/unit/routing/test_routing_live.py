"""Hot reload: a good file takes over within a poll, a bad one changes nothing and says why once."""

from __future__ import annotations

import os
import threading

import pytest
import trio
from support.waiting import BREATH_S, until
from support.waiting import LIMIT_S as DEADLINE_S

from supervisor.config.config import Mode
from supervisor.routing.errors import TableError
from supervisor.routing.live import POLL_INTERVAL_S, LiveTable, open_live_table, serve_table_reload
from supervisor.routing.registry import ROUTES_BY_NAME
from supervisor.routing.states import State

EVERY_NAME = frozenset(ROUTES_BY_NAME)


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "table.yaml"
    file.write_text("phase: 1\n")
    return file


@pytest.fixture
def live(file):
    return LiveTable.open(file, native_names=EVERY_NAME)


def rewrite(file, text):
    """Replaces the file by a rename, as careful editors and deployments do."""
    fresh = file.with_name("fresh")
    fresh.write_text(text)
    fresh.rename(file)


def errors_in(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


def test_an_unchanged_file_is_not_read(live):
    before = live.current()
    assert not live.reload_if_changed()
    assert live.current() is before


def test_a_changed_file_takes_over_and_the_log_says_what_changed(live, file, caplog):
    caplog.set_level("INFO")
    rewrite(file, "phase: 1\nroutes: {http.ui: forward}\n")
    assert live.reload_if_changed()
    assert live.current().states["http.ui"] is State.FORWARD
    assert f"routing table {file} loaded: http.ui native -> forward" in caplog.messages


def test_a_write_in_place_is_noticed(live, file):
    before = file.stat()
    file.write_text("phase: 0\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert live.reload_if_changed()
    assert live.current().phase == 0


def test_a_bad_file_keeps_the_old_table_and_is_told_once(live, file, caplog):
    before = live.current()
    rewrite(file, "phase: 1\nroutes: {http.raed: native, http.ui: bogus}\n")
    assert live.reload_if_changed()
    assert not live.reload_if_changed()
    assert live.current() is before
    first, second = errors_in(caplog)
    assert first.startswith(f"routing table refused, the old one stays: {file}:2: there is no route 'http.raed'")
    assert "http.ui" in second


def test_a_reload_on_demand_reads_an_unchanged_file_and_tells_again(live, file, caplog):
    rewrite(file, "phase: 9\n")
    live.reload()
    live.reload()
    assert len(errors_in(caplog)) == 2
    assert not live.reload_if_changed()


def test_a_repaired_file_takes_over(live, file):
    rewrite(file, "phase: 9\n")
    live.reload_if_changed()
    rewrite(file, "phase: 0\n")
    live.reload_if_changed()
    assert live.current().phase == 0


def test_a_file_that_goes_and_comes_back(live, file, caplog):
    before = live.current()
    file.unlink()
    assert live.reload_if_changed()
    assert not live.reload_if_changed()
    assert live.current() is before
    assert len(errors_in(caplog)) == 1
    rewrite(file, "phase: 0\n")
    assert live.reload_if_changed()
    assert live.current().phase == 0


@pytest.mark.parametrize(("first", "second"), [("phase: 1\n", "phase: 4\n"), ("phase: 4\n", "phase: 1\n")])
def test_volumes_are_not_moved_to_the_other_engine_live(file, caplog, first, second):
    file.write_text(first)
    live = LiveTable.open(file, native_names=EVERY_NAME)
    rewrite(file, second)
    live.reload()
    assert live.current().phase == int(first[7])
    assert "restart to put it in force" in errors_in(caplog)[0]


def test_routes_on_volumes_flip_live_where_both_engines_have_volumes(file):
    shared = 'phase: 2\nroutes:\n  "grpc.*": forward\n'
    file.write_text(shared)
    live = LiveTable.open(file, native_names=EVERY_NAME)
    rewrite(file, shared + "  http.read: forward\n")
    live.reload()
    assert live.current().states["http.read"] is State.FORWARD
    rewrite(file, "phase: 1\n")
    live.reload()
    assert live.current().phase == 2


def test_a_file_that_is_bad_at_the_start_is_an_error(file):
    file.write_text("phase: 9")
    with pytest.raises(TableError):
        LiveTable.open(file, native_names=EVERY_NAME)


def test_readers_in_other_threads_see_whole_tables(live, file):
    stop = threading.Event()
    seen: set[tuple[State, ...]] = set()

    def read():
        while not stop.is_set():
            seen.add(tuple(live.current().states.values()))
            stop.wait(BREATH_S)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for turn in range(40):
            rewrite(file, f"phase: {turn % 2}\n")
            live.reload()
    finally:
        stop.set()
        thread.join(DEADLINE_S)
    assert 1 <= len(seen) <= 2


def test_only_mixed_mode_reads_a_file(file):
    file.write_text("phase: 0\n")
    mixed = open_live_table(Mode.MIXED, file, native_names=EVERY_NAME)
    assert mixed.is_followed
    assert mixed.current().source == file
    file.write_text("broken")
    proxy = open_live_table(Mode.PROXY, file, native_names=())
    assert proxy.current().forwards_anything
    native = open_live_table(Mode.NATIVE, file, native_names={"http.read"})
    assert not native.current().forwards_anything
    for fixed in (proxy, native):
        assert not fixed.is_followed
        before = fixed.current()
        fixed.reload()
        assert not fixed.reload_if_changed()
        assert fixed.current() is before
    with pytest.raises(ValueError, match="exec mode"):
        open_live_table(Mode.EXEC, None, native_names=())


async def test_the_watcher_puts_a_changed_file_in_force(live, file, monkeypatch):
    monkeypatch.setattr("supervisor.routing.live.POLL_INTERVAL_S", 0.001)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_table_reload, live)
        rewrite(file, "phase: 0\n")
        await until(lambda: live.current().phase == 0, "the changed table")
        rewrite(file, "not a table\n")
        rewrite(file, "phase: 1\nroutes:\n")
        await until(lambda: live.current().phase == 1, "the corrected table")
        nursery.cancel_scope.cancel()


async def test_the_watcher_of_a_fixed_table_waits_for_the_end(autojump_clock):
    live = open_live_table(Mode.PROXY, None, native_names=())
    with trio.move_on_after(10 * POLL_INTERVAL_S) as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_table_reload, live)
    assert scope.cancelled_caught


HTTP_FORWARDED = 'phase: 1\nroutes:\n  "http.*": forward\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("phase: 4\nroutes:\n  grpc.Ping: forward\n", "forwarded, or nothing at all; http.status is native"),
        ("phase: 1\n", "-workers needs every HTTP route forwarded, or nothing at all; http.status is native"),
        (HTTP_FORWARDED + "  http.favicon: native\n", "or nothing at all; http.favicon is native"),
    ],
)
def test_a_table_that_divides_http_is_refused_where_workers_serve(file, caplog, text, why):
    file.write_text(text)
    with pytest.raises(TableError, match=f"{why}; forward it, or leave -workers out"):
        open_live_table(Mode.MIXED, file, native_names=EVERY_NAME, has_workers=True)
    assert open_live_table(Mode.MIXED, file, native_names=EVERY_NAME).current().source == file
    file.write_text(HTTP_FORWARDED)
    live = open_live_table(Mode.MIXED, file, native_names=EVERY_NAME, has_workers=True)
    before = live.current()
    rewrite(file, text)
    live.reload()
    assert live.current() is before
    assert errors_in(caplog)[0].startswith("routing table refused, the old one stays: ")


def test_workers_serve_beside_a_native_control_plane_of_grpc(file):
    file.write_text(HTTP_FORWARDED)
    live = open_live_table(Mode.MIXED, file, native_names=EVERY_NAME, has_workers=True)
    rewrite(file, HTTP_FORWARDED + "  grpc.Ping: forward\n")
    live.reload()
    assert live.current().states["grpc.Ping"] is State.FORWARD


def test_a_table_that_forwards_all_http_gives_this_process_no_volumes(file):
    file.write_text(HTTP_FORWARDED + "  grpc.VolumeStatus: native\n")
    with pytest.raises(TableError, match=r"set http\.status, http\.ui to native"):
        open_live_table(Mode.MIXED, file, native_names=EVERY_NAME, has_workers=True)


def test_workers_serve_where_nothing_is_forwarded(file):
    file.write_text("phase: 4\n")
    live = open_live_table(Mode.MIXED, file, native_names=EVERY_NAME, has_workers=True)
    assert not live.current().forwards_anything
    assert not open_live_table(Mode.NATIVE, None, native_names=EVERY_NAME, has_workers=True).is_followed


def test_proxy_mode_forwards_all_http():
    live = open_live_table(Mode.PROXY, None, native_names=EVERY_NAME, has_workers=True)
    assert not live.is_followed
