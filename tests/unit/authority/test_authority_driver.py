"""Authority over two engines that are played by the test: what they are told, and in which order."""

import threading
from contextlib import contextmanager, nullcontext

import pytest
import trio
import trio.testing

from supervisor.authority.authority import Authority
from supervisor.authority.errors import AccessRefused, After, HolderFailed
from supervisor.routing.decision import Engine
from supervisor.routing.registry import AccessKind

NATIVE, BACKEND = Engine.NATIVE, Engine.BACKEND
READ, WRITE = AccessKind.VOLUME_READ, AccessKind.VOLUME_WRITE
LIMIT_S = 10.0


class PlayedEngine:
    """Has `volumes` open. `failures` holds, by ("open" or "close"), what to raise next, one by one."""

    def __init__(self, log, name, volumes=()):
        self.log, self.name, self.volumes = log, name, set(volumes)
        self.failures = {"open": [], "close": []}
        self.gate = threading.Event()
        self.gate.set()

    def close_volume(self, volume_id):
        self._step("close", volume_id)
        was_open = volume_id in self.volumes
        self.volumes.discard(volume_id)
        return was_open

    def open_volume(self, volume_id):
        self._step("open", volume_id)
        self.volumes.add(volume_id)

    def _step(self, verb, volume_id):
        assert self.gate.wait(LIMIT_S)
        self.log.append(f"{self.name} {verb} {volume_id}")
        if self.failures[verb]:
            raise HolderFailed(volume_id, verb, "played", self.failures[verb].pop(0))


class Scene:
    def __init__(self):
        self.log = []
        self.native = PlayedEngine(self.log, "native")
        self.backend = PlayedEngine(self.log, "backend", {3, 4})
        self.is_ready = True
        self.held = []
        self.authority = Authority(
            {NATIVE: self.native, BACKEND: self.backend}, self.hold, is_backend_ready=lambda: self.is_ready
        )

    @contextmanager
    def hold(self, hand_over):
        self.held.append(hand_over.volume_id)
        with nullcontext():
            yield


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
    assert scene.held == [3, 3]


async def test_a_volume_that_nobody_has_open_is_opened_by_nobody(scene):
    await use(scene, NATIVE, WRITE, 99)
    assert scene.log == ["backend close 99"]
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
    assert scene.log == ["backend close 3", "native open 3"]


async def test_a_volume_that_nobody_could_open_is_tried_again(scene):
    scene.native.failures["open"] = [After.FAILED]
    scene.backend.failures["open"] = [After.FAILED]
    with pytest.raises(AccessRefused):
        await use(scene, NATIVE)
    scene.log.clear()
    await use(scene, BACKEND)
    assert scene.log == ["backend open 3"]


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
        with scene.authority.access_all([4, 3, 4], NATIVE, READ, LIMIT_S):
            return sorted(scene.native.volumes)

    assert await trio.to_thread.run_sync(in_thread) == [3, 4]
    await use(scene, BACKEND)
    assert scene.native.volumes == {4}


async def test_a_thread_that_waits_in_vain_is_refused(scene):
    ticket = await scene.authority.enter(3, BACKEND, READ)
    with pytest.raises(AccessRefused, match="in use"):
        await trio.to_thread.run_sync(scene.authority.enter_blocking, 3, NATIVE, READ, 0.01)
    scene.authority.leave(ticket)
    await use(scene, BACKEND)
    assert scene.log == []


async def test_a_starting_backend_finds_native_volumes_unwritten_and_closes_them(scene):
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


async def test_a_bug_in_an_engine_is_told_to_who_waits(scene, caplog):

    def broken(_volume_id):
        raise KeyError("a bug")

    scene.native.open_volume = broken
    with pytest.raises(AccessRefused, match="a bug"):
        await use(scene, NATIVE)
    assert "handing volume 3 over failed" in caplog.text
