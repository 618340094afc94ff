"""The tasks that watch disks: each disk separately, and none delays the server's end."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import trio
from support.waiting import LIMIT_S, until

from native_handlers.storage.disk.health import ProbeConfig
from supervisor.assembly.store import watch_disk


@dataclass
class FakeWatch:
    """Counts, and hangs in `look` where it `hangs`."""

    config: ProbeConfig
    hangs: threading.Event | None = None
    looks: int = 0
    probes: int = 0
    within_s: float | None = None
    is_seen: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        self.looks += 1
        if self.looks >= 3:
            self.is_seen.set()
        if self.hangs is not None:
            self.hangs.wait(60)

    def next_look_within_s(self) -> float | None:
        return self.within_s

    def probe(self) -> None:
        self.probes += 1
        if self.probes >= 3:
            self.is_seen.set()


async def test_a_hung_disk_delays_neither_another_nor_the_end():
    go_on = threading.Event()
    hung, well = FakeWatch(ProbeConfig(), hangs=go_on), FakeWatch(ProbeConfig())
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for watch in (hung, well):
                nursery.start_soon(lambda watch=watch: watch_disk(watch, look_interval_s=0.001))
            await trio.to_thread.run_sync(well.is_seen.wait, abandon_on_cancel=True)
            # Its thread may begin late on a busy machine.
            await until(lambda: hung.looks, "the look that hangs")
            nursery.cancel_scope.cancel()
    assert (hung.looks, hung.probes, well.probes) == (1, 0, 0)
    go_on.set()


async def test_the_probe_is_on_where_it_is_wanted():
    watch = FakeWatch(ProbeConfig(is_enabled=True, interval_s=0))
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: watch_disk(watch, min_probe_interval_s=0.001))
            await trio.to_thread.run_sync(watch.is_seen.wait, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()
    assert watch.looks == 1


async def test_a_disk_is_looked_at_when_all_shared_threads_wait_for_it(no_shared_threads):
    watch = FakeWatch(ProbeConfig(is_enabled=True, interval_s=0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: watch_disk(watch, look_interval_s=0.001, min_probe_interval_s=0.001))
        await until(lambda: watch.looks >= 2 and watch.probes >= 2, "two looks and two probes")
        nursery.cancel_scope.cancel()


async def test_a_disk_that_becomes_short_of_room_is_looked_at_soon(autojump_clock, monkeypatch):
    """Also when that is noticed between two looks."""
    watch = FakeWatch(ProbeConfig())
    looked_at_s = []

    async def look_at_once(work, **_how):
        looked_at_s.append(round(trio.current_time() - began_at_s))
        work()

    # The clock of the test would not wait for a thread.
    monkeypatch.setattr(trio.to_thread, "run_sync", look_at_once)
    began_at_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_disk, watch)
        await trio.sleep(72)
        watch.within_s = 5.0
        await trio.sleep(15)
        watch.within_s = None
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert looked_at_s == [0, 60, 75, 80, 85, 145]
