"""What the native store puts on disk before the backend gets a volume."""

from __future__ import annotations

import contextlib
import errno

import pytest
from support.files import PlannedFiles, path_of
from support.played_engine import PlayedEngine
from support.stores import open_at

from native_handlers.format.needle import Needle
from supervisor.authority.hand_over import HandOverSteps
from supervisor.authority.holders import NativeHolder
from supervisor.authority.ledger import HandOver
from supervisor.routing.decision import Engine

VID = 7
COOKIE = 0x11223344
SHARDS = {f"{VID}.ec{shard:02d}" for shard in range(14)}
TO_BACKEND = HandOver(VID, Engine.NATIVE, Engine.BACKEND)


class Scene:
    """`synced` has the names of the synced files. The syncs of the file `fails_at` fail."""

    def __init__(self, directory):
        self.synced, self.fails_at, self.log = [], None, []
        self.store = open_at(directory, files=PlannedFiles(before=self._note_sync))
        self.store.allocate_volume(VID)
        for number in range(1, 4):
            self.store.get_volume(VID).write(Needle(needle_id=number, cookie=COOKIE, data=bytes(5000)))
        self.backend = PlayedEngine(self.log, "backend")
        holders = {Engine.NATIVE: NativeHolder(self.store), Engine.BACKEND: self.backend}
        self.steps = HandOverSteps(holders, suppress, lambda: True)

    def _note_sync(self, name, target):
        if name != "sync":
            return
        synced = path_of(target).name
        if synced == self.fails_at:
            raise OSError(errno.EIO, "played")
        self.synced.append(synced)

    def code(self):
        self.store.ec_work.generate(self.store.get_volume(VID), "")
        assert not SHARDS & set(self.synced)

    def hand_over(self):
        self.synced.clear()
        outcome = self.steps.carry_out(TO_BACKEND)
        return outcome.owner, outcome.refusal


@contextlib.contextmanager
def suppress(_hand_over):
    yield lambda: None


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    made.store.close()


@pytest.mark.slow
def test_shards_are_on_disk_before_the_backend_may_delete_the_dat(scene):
    """Slow: codes a volume."""
    scene.code()
    assert scene.hand_over() == (Engine.BACKEND, "")
    assert set(scene.synced) >= SHARDS
    assert scene.backend.volumes == {VID}


def test_so_are_shards_that_are_mounted_without_their_volume(scene):
    scene.code()
    for shard in range(14):
        scene.store.ec.mount("", VID, shard, "")
    scene.store.unmount_volume(VID)
    assert scene.hand_over() == (Engine.BACKEND, "")
    assert set(scene.synced) >= SHARDS
    assert scene.backend.volumes == set()
    assert len(scene.backend.shards[VID].ids) == 14


def test_so_are_those_of_a_volume_that_is_unmounted(scene):
    """No hand-over closes such a volume, and the backend may mount it."""
    scene.code()
    scene.store.unmount_volume(VID)
    assert set(scene.synced) >= SHARDS
    assert scene.hand_over() == (Engine.BACKEND, "")


def test_shards_that_cannot_be_synced_refuse_the_hand_over(scene):
    scene.code()
    scene.fails_at = f"{VID}.ec05"
    owner, refusal = scene.hand_over()
    assert owner is Engine.NATIVE
    assert refusal == "closing volume 7: its shards cannot be put on disk: [Errno 5] played"
    assert scene.log == []
    assert scene.store.get_volume(VID).read(1, cookie=COOKIE).needle.data
    scene.fails_at = None
    assert scene.hand_over() == (Engine.BACKEND, "")


def test_an_unmount_ends_though_shards_cannot_be_synced(scene):
    scene.code()
    scene.fails_at = f"{VID}.ec05"
    with pytest.raises(OSError, match="played"):
        scene.store.unmount_volume(VID)
    assert scene.store.find_volume(VID) is None


def test_a_volume_without_shards_is_synced_alone(scene):
    assert scene.hand_over() == (Engine.BACKEND, "")
    assert sorted(scene.synced) == [f"{VID}.dat", f"{VID}.idx"]
