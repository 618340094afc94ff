"""Authority over two engines that the test plays: the calls that they get, and their order."""

from contextlib import contextmanager, nullcontext

import pytest
import trio
import trio.testing
from support.played_engine import LIMIT_S, PlayedEngine

from supervisor.authority import authority as authority_module
from supervisor.authority.authority import Authority
from supervisor.authority.errors import AccessRefused, After, ServedElsewhere
from supervisor.authority.form import Mark, Shards
from supervisor.authority.ledger import BackendEffect
from supervisor.routing.decision import Engine
from supervisor.routing.registry import AccessKind

NATIVE, BACKEND = Engine.NATIVE, Engine.BACKEND
READ, WRITE, EXCLUSIVE = AccessKind.VOLUME_READ, AccessKind.VOLUME_WRITE, AccessKind.VOLUME_EXCLUSIVE


class Scene:
    def __init__(self):
        self.log = []
        self.native = PlayedEngine(self.log, "native")
        self.backend = PlayedEngine(self.log, "backend", {3, 4})
        self.is_ready = True
        self.suppressed = []
        self.released = []
        self.authority = Authority(
            {NATIVE: self.native, BACKEND: self.backend}, self.suppress, is_backend_ready=lambda: self.is_ready
        )

    @contextmanager
    def suppress(self, hand_over):
        self.suppressed.append(hand_over.volume_id)
        with nullcontext():
            yield lambda: self.released.append(hand_over.volume_id)


@pytest.fixture
def scene():
    made = Scene()
    yield made
    made.native.gate.set()
    made.backend.gate.set()
    made.authority.close()


async def use(scene, engine, kind=READ, volume_id=3):
    with trio.fail_after(LIMIT_S):
        async with scene.authority.access(volume_id, engine, kind):
            pass


async def test_a_volume_is_closed_here_and_opened_there(scene):
    await use(scene, NATIVE)
    assert scene.log == ["backend close 3", "native open 3"]
    await use(scene, NATIVE, WRITE)
    await use(scene, BACKEND, WRITE)
    assert scene.log[2:] == ["native close 3", "backend open 3"]
    assert scene.suppressed == [3, 3]


async def test_a_volume_that_nobody_has_open_is_opened_by_nobody(scene):
    await use(scene, NATIVE, WRITE, 99)
    assert scene.log == []
    assert scene.released == [99]
    assert scene.authority.native_volumes() == []


async def test_an_engine_that_cannot_open_it_leaves_it_with_its_owner(scene):
    scene.native.failures["open"] = [After.FAILED]
    with pytest.raises(AccessRefused, match="played"):
        await use(scene, NATIVE)
    assert scene.log == ["backend close 3", "native open 3", "backend open 3"]
    await use(scene, BACKEND)
    assert len(scene.log) == 3


async def test_a_backend_that_gives_no_answer_is_taken_to_have_the_volume(scene):
    await use(scene, NATIVE)
    scene.backend.failures["open"] = [After.UNKNOWN]
    with pytest.raises(AccessRefused):
        await use(scene, BACKEND)
    assert 3 not in scene.native.volumes
    assert scene.authority.owner_of(3) is BACKEND
    scene.log.clear()
    await use(scene, NATIVE)
    assert scene.log == ["backend open 3", "backend close 3", "native open 3"]


async def test_a_backend_that_still_gives_no_answer_keeps_the_volume(scene):
    await use(scene, NATIVE)
    for engine in (BACKEND, NATIVE):
        scene.backend.failures["open"] = [After.UNKNOWN]
        with pytest.raises(AccessRefused):
            await use(scene, engine)
    assert scene.native.volumes == set()
    await use(scene, BACKEND)


async def test_a_volume_that_nobody_could_open_is_tried_again(scene):
    scene.native.failures["open"] = [After.FAILED]
    scene.backend.failures["open"] = [After.FAILED]
    with pytest.raises(AccessRefused):
        await use(scene, NATIVE)
    scene.log.clear()
    await use(scene, BACKEND)
    assert scene.log == ["backend close 3", "backend open 3"]


async def test_nothing_is_begun_while_the_backend_is_away(scene):
    scene.is_ready = False
    with pytest.raises(AccessRefused, match="not ready"):
        await use(scene, NATIVE)
    assert scene.log == []
    await use(scene, BACKEND)


async def test_a_hand_over_waits_for_what_is_under_way(scene):
    ticket = await scene.authority.enter(3, BACKEND, READ)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(use, scene, NATIVE)
        await trio.testing.wait_all_tasks_blocked()
        assert scene.log == []
        scene.authority.leave(ticket)
    assert scene.log == ["backend close 3", "native open 3"]


async def test_who_is_cancelled_no_longer_waits(scene):
    ticket = await scene.authority.enter(3, BACKEND, READ)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(use, scene, NATIVE)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await use(scene, BACKEND)
    scene.authority.leave(ticket)
    assert scene.log == []


async def test_threads_and_tasks_share_it(scene):
    def in_thread():
        tickets = scene.authority.enter_all([4, 3, 4], NATIVE, READ, LIMIT_S)
        found = sorted(scene.native.volumes)
        for ticket in tickets:
            scene.authority.leave(ticket)
        return found

    assert await trio.to_thread.run_sync(in_thread) == [3, 4]
    await use(scene, BACKEND)
    assert scene.native.volumes == {4}


async def test_a_thread_that_waits_in_vain_is_refused(scene):
    await use(scene, NATIVE)
    scene.log.clear()
    ticket = await scene.authority.enter(3, NATIVE, READ)
    with pytest.raises(AccessRefused, match="in use"):
        await trio.to_thread.run_sync(scene.authority.enter_blocking, 3, BACKEND, READ, 0.01)
    scene.authority.leave(ticket)
    await use(scene, NATIVE)
    assert scene.log == []


async def test_whoever_waits_natively_for_too_long_goes_elsewhere(scene, monkeypatch):
    monkeypatch.setattr(authority_module, "FALL_BACK_AFTER_S", 0.001)
    ticket = await scene.authority.enter(3, BACKEND, READ)
    with pytest.raises(ServedElsewhere):
        await use(scene, NATIVE, WRITE)
    with pytest.raises(ServedElsewhere):
        await trio.to_thread.run_sync(scene.authority.enter_blocking, 3, NATIVE, READ, LIMIT_S)
    scene.authority.leave(ticket)
    await use(scene, NATIVE)


async def test_a_starting_backend_finds_native_volumes_unwritten_and_closes_them(scene, monkeypatch):
    monkeypatch.setattr("supervisor.authority.authority.RETRY_S", 0.01)
    await use(scene, NATIVE)
    writing = await scene.authority.enter(3, NATIVE, WRITE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.authority.before_backend_start)
        await trio.testing.wait_all_tasks_blocked()
        scene.authority.leave(writing)
    scene.backend.volumes = {3, 4}
    scene.backend.failures["close"] = [After.UNKNOWN]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(use, scene, NATIVE, WRITE)
        await trio.testing.wait_all_tasks_blocked()
        await use(scene, NATIVE, READ)
        await scene.authority.before_backend_ready()
    assert scene.backend.volumes == {4}
    assert scene.native.volumes == {3}


async def test_native_changes_that_go_on_are_ended_before_the_backend_starts(scene, autojump_clock):
    """Each volume waits for them, not only their own. A read goes on, and so does what ends in time."""
    reading = await scene.authority.enter(3, NATIVE, READ, cancel=lambda: pytest.fail("a read was ended"))
    short = await scene.authority.enter(4, NATIVE, WRITE, cancel=lambda: pytest.fail("it was about to end"))
    ended = []

    def end():
        ended.append(trio.current_time())
        scene.authority.leave(long)

    long = await scene.authority.enter(3, NATIVE, EXCLUSIVE, is_long=True, cancel=end)
    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.authority.before_backend_start)
        await trio.sleep(authority_module.CHANGES_END_WITHIN_S / 2)
        scene.authority.leave(short)
    assert [at_s - began_s for at_s in ended] == [pytest.approx(authority_module.CHANGES_END_WITHIN_S)]
    scene.authority.leave(reading)


async def test_a_native_change_that_cannot_be_ended_is_waited_for(scene, autojump_clock, caplog):
    writing = await scene.authority.enter(3, NATIVE, WRITE)
    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.authority.before_backend_start)
        await trio.sleep(100 * authority_module.CHANGES_END_WITHIN_S)
        assert "the native work on volume 3 is waited for" in caplog.text
        scene.authority.leave(writing)
    assert trio.current_time() - began_s == pytest.approx(100 * authority_module.CHANGES_END_WITHIN_S)


async def test_a_bug_in_an_engine_is_told_to_who_waits(scene, caplog):

    def broken(_volume_id, _form):
        raise KeyError("a bug")

    scene.native.open_volume = broken
    with pytest.raises(AccessRefused, match="a bug"):
        await use(scene, NATIVE)
    assert "handing volume 3 over failed" in caplog.text


async def test_an_engine_that_cannot_be_asked_keeps_the_volume(scene):
    scene.backend.failures["look"] = [After.FAILED]
    with pytest.raises(AccessRefused, match="played"):
        await use(scene, NATIVE)
    assert scene.log == []
    await use(scene, BACKEND)


async def test_a_mark_goes_with_the_volume_both_ways(scene):
    ticket = await scene.authority.enter(3, BACKEND, WRITE)
    scene.authority.leave(ticket, BackendEffect(mark=Mark.READ_ONLY_CAN_DELETE))
    await use(scene, NATIVE)
    assert scene.native.marks == {3: Mark.READ_ONLY_CAN_DELETE}
    await use(scene, BACKEND)
    assert scene.backend.marks == {3: Mark.READ_ONLY_CAN_DELETE}
    await use(scene, NATIVE)
    scene.native.marks.clear()
    await use(scene, BACKEND)
    assert scene.backend.marks == {}


@pytest.mark.parametrize("volumes", [set(), {3}])
async def test_shards_go_with_the_volume_both_ways(scene, volumes):
    """A volume that is encoded and not yet deleted changes hands as both forms."""
    scene.backend.volumes, scene.backend.shards[3] = set(volumes), Shards("c", (0, 13))
    await use(scene, NATIVE)
    assert (scene.native.volumes, scene.native.shards) == (volumes, {3: Shards("c", (0, 13))})
    assert (scene.backend.volumes, scene.backend.shards) == (set(), {})
    scene.native.shards[3] = Shards("c", (13,))
    await use(scene, BACKEND)
    assert (scene.backend.volumes, scene.backend.shards) == (volumes, {3: Shards("c", (13,))})
    assert (scene.native.volumes, scene.native.shards) == (set(), {})


async def test_the_disk_type_that_a_mount_named_goes_with_the_shards(scene):
    scene.backend.shards[3] = Shards("c", (1,))
    ticket = await scene.authority.enter(3, BACKEND, WRITE)
    scene.authority.leave(ticket, BackendEffect(shard_disk_type="ssd"))
    await use(scene, NATIVE)
    assert scene.native.shards == {3: Shards("c", (1,), "ssd")}
    await use(scene, BACKEND)
    scene.backend.shards[3] = Shards("c", (1,))
    await use(scene, NATIVE)
    assert scene.native.shards == {3: Shards("c", (1,), "ssd")}


@pytest.mark.parametrize("second", [After.FAILED, After.UNKNOWN])
async def test_shards_outlive_a_hand_over_that_failed(scene, second):
    scene.backend.volumes, scene.backend.shards[3] = set(), Shards("c", (0, 13))
    await use(scene, NATIVE)
    scene.backend.failures["open"] = [second]
    with pytest.raises(AccessRefused):
        await use(scene, BACKEND)
    await use(scene, BACKEND)
    assert scene.backend.shards == {3: Shards("c", (0, 13))}
    assert scene.native.shards == {}


@pytest.mark.parametrize("second", [After.FAILED, After.UNKNOWN])
async def test_a_mark_outlives_a_hand_over_that_failed(scene, second):
    await use(scene, NATIVE)
    scene.native.marks[3] = Mark.READ_ONLY
    scene.backend.failures["open"] = [second]
    with pytest.raises(AccessRefused):
        await use(scene, BACKEND)
    await use(scene, BACKEND)
    assert scene.backend.marks == {3: Mark.READ_ONLY}


async def test_a_pinned_volume_is_served_by_the_backend_until_it_says_otherwise(scene):
    ticket = await scene.authority.enter(3, BACKEND, WRITE)
    scene.authority.leave(ticket, BackendEffect(pin=True))
    with pytest.raises(ServedElsewhere):
        await use(scene, NATIVE)
    with pytest.raises(ServedElsewhere):
        await trio.to_thread.run_sync(scene.authority.enter_all, [4, 3], NATIVE, READ, LIMIT_S)
    await use(scene, BACKEND, WRITE, 4)
    ticket = await scene.authority.enter(3, BACKEND, WRITE)
    scene.authority.leave(ticket, BackendEffect(pin=False))
    await use(scene, NATIVE)


async def test_who_waits_for_a_volume_that_a_long_operation_gets_goes_elsewhere(scene):
    ticket = await scene.authority.enter(3, BACKEND, WRITE, is_long=True)
    with pytest.raises(ServedElsewhere):
        await use(scene, NATIVE)
    await use(scene, BACKEND)
    scene.authority.leave(ticket)
    await use(scene, NATIVE)


async def test_a_native_volume_that_was_left_closed_is_not_opened_while_a_backend_starts(scene):
    await use(scene, NATIVE)
    scene.native.failures = {"look": [], "close": [After.FAILED], "open": [After.FAILED]}
    with pytest.raises(AccessRefused):
        await use(scene, BACKEND)
    await scene.authority.before_backend_start()
    scene.log.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(use, scene, NATIVE, READ)
        await trio.testing.wait_all_tasks_blocked()
        assert scene.log == []
        await scene.authority.before_backend_ready()
    assert scene.log == ["native open 3"]


@pytest.mark.parametrize("engine", Engine)
async def test_a_volume_that_the_backend_broke_is_opened_anew_before_its_next_use(scene, engine):
    ticket = await scene.authority.enter(3, BACKEND, WRITE)
    scene.authority.leave(ticket, BackendEffect(pin=False, is_broken=True))
    await use(scene, engine)
    closed = scene.log.index("backend close 3")
    assert scene.log[closed:] == ["backend close 3", f"{engine.value} open 3"]
