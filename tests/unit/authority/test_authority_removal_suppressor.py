"""The master hears nothing of hand-overs; of volumes that are removed meanwhile it hears the removal."""

from __future__ import annotations

import pytest
import trio
from support.waiting import until

from native_handlers.pb import master_pb2
from supervisor.authority import removal_suppressor
from supervisor.authority.ledger import HandOver
from supervisor.authority.removal_suppressor import RemovalSuppressor
from supervisor.cluster.node_model import NodeModel
from supervisor.routing.decision import Engine


def volume(volume_id=3):
    return master_pb2.VolumeInformationMessage(id=volume_id, version=3)


class Scene:
    """Volume 3 belongs to the backend."""

    def __init__(self):
        self.model = NodeModel(["native", "child"])
        self.native, self.child = self.model.source("native"), self.model.source("child")
        self.native.replace_volumes([])
        self.child.replace_volumes([volume()])
        self.suppressor = RemovalSuppressor(self.model, {Engine.NATIVE: self.native, Engine.BACKEND: self.child})

    @property
    def announced(self):
        return self.model.snapshot().volume_ids

    async def has_gone(self):
        await until(lambda: not self.announced, "the volume to be gone")


@pytest.fixture
async def scene(nursery):
    made = Scene()
    await nursery.start(made.suppressor.serve)
    return made


TO_NATIVE = HandOver(3, Engine.BACKEND, Engine.NATIVE)
TO_BACKEND = HandOver(3, Engine.NATIVE, Engine.BACKEND)


async def test_a_hand_over_is_not_heard_of(autojump_clock, scene):
    with scene.suppressor(TO_NATIVE):
        scene.child.replace_volumes([])
        assert scene.announced == {3}
    await trio.sleep(removal_suppressor.LOOK_S * 2)
    assert scene.announced == {3}
    scene.native.replace_volumes([volume()])
    await trio.sleep(removal_suppressor.LOOK_S * 2)
    scene.native.replace_volumes([])
    assert scene.announced == set()


async def test_the_removal_of_a_volume_that_nobody_has_is_not_suppressed(scene):
    """The volume was deleted right after a hand-over, and requests for it go on."""
    with scene.suppressor(TO_NATIVE):
        scene.child.replace_volumes([])
    scene.native.replace_volumes([volume()])
    with scene.suppressor(TO_BACKEND):
        scene.native.replace_volumes([])
    assert scene.announced == {3}
    with scene.suppressor(TO_NATIVE) as release:
        release()
    await scene.has_gone()


async def test_a_volume_that_the_target_closes_itself_is_gone(scene):
    with scene.suppressor(TO_NATIVE):
        pass
    scene.native.replace_volumes([volume()])
    scene.child.replace_volumes([volume()])  # its word is older than the hand-over
    await until(lambda: scene.suppressor.still_suppressed, "the target's report to be seen")
    scene.native.replace_volumes([])
    scene.child.replace_volumes([])
    await scene.has_gone()


async def test_the_removal_of_a_volume_by_an_operation_is_not_suppressed(scene):
    with scene.suppressor(TO_NATIVE):
        scene.child.replace_volumes([])
    assert scene.announced == {3}
    scene.suppressor.forget(3)
    await scene.has_gone()


async def test_what_no_engine_reports_is_gone_in_the_end(autojump_clock, scene):
    with scene.suppressor(TO_NATIVE):
        scene.child.replace_volumes([])
    await trio.sleep(removal_suppressor.SUPPRESS_S / 2)
    assert scene.announced == {3}
    await trio.sleep(removal_suppressor.SUPPRESS_S)
    assert not scene.announced


def shards(bits):
    return master_pb2.VolumeEcShardInformationMessage(id=3, ec_index_bits=bits)


@pytest.fixture
async def coded(scene):
    """Volume 3 exists as shards, too."""
    scene.child.replace_ec_shards([shards(0b111)])
    return scene


def bits(scene):
    return sum(message.ec_index_bits for message in scene.model.snapshot().ec_shards.values())


async def test_a_hand_over_of_shards_is_not_heard_of(autojump_clock, coded):
    with coded.suppressor(TO_NATIVE):
        coded.child.replace_volumes([])
        coded.child.remove_ec_shards([shards(0b101)])
        coded.native.replace_volumes([volume()])
        coded.native.add_ec_shards([shards(0b001)])
    coded.child.remove_ec_shards([shards(0b010)])
    await trio.sleep(removal_suppressor.LOOK_S * 2)
    assert (bits(coded), coded.announced) == (0b111, {3})
    coded.native.add_ec_shards([shards(0b110)])
    await trio.sleep(removal_suppressor.LOOK_S * 2)
    coded.native.remove_ec_shards([shards(0b100)])
    assert bits(coded) == 0b011


async def test_the_removal_of_shards_by_an_operation_is_not_suppressed(coded):
    with coded.suppressor(TO_NATIVE):
        coded.child.replace_volumes([])
        coded.child.replace_ec_shards([])
    assert bits(coded) == 0b111
    coded.suppressor.forget(3)
    await coded.has_gone()
    assert bits(coded) == 0
