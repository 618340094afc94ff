"""The volumes that workers read: the parent shares them, and ends that; a worker attaches, and lets go."""

import contextlib
import gc
import os
import threading
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from support.disks import bring_back, take_out_of_service
from support.files import UNSYNCED_FILES
from support.stores import place
from support.waiting import LIMIT_S, until

from native_handlers.format.needle import Needle
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import DiskUnavailable, LeftToOwner
from native_handlers.storage.shared.attach import share_volume
from native_handlers.storage.shared.share import PASSING_BYTES
from native_handlers.storage.shared.state import BUSY
from supervisor.assembly.shared_volumes import SharedVolumes
from supervisor.assembly.shown_disks import show_disks
from supervisor.assembly.worker_volumes import ASK_AGAIN_S, WorkerVolumes
from supervisor.workers.board import ConnectionBoard
from supervisor.workers.channel import CallRefused
from supervisor.workers.messages import Fields
from supervisor.workers.service import SharedVolume

COOKIE = 0xC0FFEE


@pytest.fixture
def store(tmp_path, opened):
    made = opened(tmp_path, files=UNSYNCED_FILES, volumes=(7, 8))
    for volume in made.volumes():
        volume.write(Needle(needle_id=1, cookie=COOKIE, data=b"data"))
    return made


@pytest.fixture
def board():
    made = ConnectionBoard.create(2)
    yield made
    made.close()


class Parent:
    """The parent's side, and a way to it without a channel. `told` are the volumes that workers had to let go."""

    def __init__(self, store, most=10):
        self.told = []
        self.asked = []
        self.workers = []
        self.shared = SharedVolumes(store, most, self.tell)

    async def tell(self, volume_ids):
        for worker in self.workers:
            await worker.release(volume_ids)
        self.told += volume_ids

    async def ask(self, volume_id):
        return SharedVolume.from_data(Fields(await self.shared.share(Fields({"volume_id": volume_id}))))

    async def share(self, volume_id):
        """As `ParentVolumes.share`."""
        self.asked.append(volume_id)
        try:
            return await self.ask(volume_id)
        except CallRefused:
            return None


@asynccontextmanager
async def worker_of(parent, board, most=10):
    volumes = WorkerVolumes(parent, board, most, number=0, count=2)
    parent.workers.append(volumes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(volumes.serve)
        yield volumes
        nursery.cancel_scope.cancel()
    await volumes.close()


async def opened_in(volumes, volume_id):
    """The volume, once it is open in the worker."""
    await until(lambda: volumes.find_volume(volume_id) is not None)
    return volumes.find_volume(volume_id)


def get(volume):
    return volume.read(1, cookie=COOKIE).needle.data


async def test_the_first_read_of_a_volume_attaches_it(store, board):
    parent = Parent(store)
    async with worker_of(parent, board) as volumes:
        assert volumes.find_volume(7) is None
        assert not volumes.is_open(7)
        volume = await opened_in(volumes, 7)
        assert get(volume) == b"data"
        assert volumes.is_open(7)
        assert volumes.find_volume(7) is volume
        assert (volume.disk_id, volume.disk_type) == (0, store.find_volume(7).disk_type)
        assert parent.asked == [7]
        assert store.find_volume(8).handle.share_generation == 0, "nobody has asked for it"
    assert volume.is_closed


async def writer_in(volumes, volume_id):
    """The volume for changes, once it is open in the worker."""
    await until(lambda: volumes.find_writer(volume_id) is not None)
    return volumes.find_writer(volume_id)


async def test_a_volume_is_attached_for_changes_at_its_first_change(store, board):
    parent = Parent(store)
    store.add_listener(parent.shared.note)
    hide_disks = show_disks(store, board, 2)
    async with worker_of(parent, board) as volumes:
        reader = await opened_in(volumes, 7)
        assert volumes.find_writer(7) is None
        writer = await writer_in(volumes, 7)
        assert writer is not reader
        await trio.to_thread.run_sync(writer.write, Needle(needle_id=1, cookie=COOKIE, data=b"newer"))
        assert get(reader) == get(store.find_volume(7)) == b"newer"
        assert board.appended_by_workers(2) == board.appended_by_workers(1) > 0
        await trio.to_thread.run_sync(store.unmount_volume, 7)
        assert parent.told == [7]
        assert reader.is_closed
        assert writer.is_closed
    hide_disks()


async def test_a_volume_with_shards_here_is_changed_by_the_parent_alone(store, board, monkeypatch):
    """A deletion is one of the shards then."""
    parent, coded = Parent(store), set()
    remove = store.ec.add_listener(parent.shared.note_shards)
    monkeypatch.setattr(store.ec, "copies", lambda volume_id: tuple(coded & {volume_id}))
    async with worker_of(parent, board) as volumes:
        await writer_in(volumes, 7)
        coded.add(7)
        await trio.to_thread.run_sync(store.ec.tell)
        assert parent.told == [7]
        assert get(await opened_in(volumes, 7)) == b"data"
        assert volumes.find_writer(7) is None
        await until(lambda: not volumes.is_asking(7))
        assert volumes.find_writer(7) is None
        coded.clear()
        await trio.to_thread.run_sync(store.ec.tell)
        assert parent.told == [7, 7]
        await writer_in(volumes, 7)
    remove()


async def test_a_worker_that_asks_in_the_middle_of_a_change_hides_it_from_no_other(store, board, monkeypatch):
    """The shards count already, and nobody has been told: another worker would go on deleting in the volume alone."""
    parent, coded = Parent(store), set()
    remove = store.ec.add_listener(parent.shared.note_shards)
    monkeypatch.setattr(store.ec, "copies", lambda volume_id: tuple(coded & {volume_id}))
    async with worker_of(parent, board) as volumes:
        writer = await writer_in(volumes, 7)
        coded.add(7)
        with pytest.raises(CallRefused, match="has just changed"):
            await parent.ask(7)
        await trio.to_thread.run_sync(store.ec.tell)
        assert writer.is_closed, "whoever changes the volume waits for that"
        assert not (await parent.ask(7)).may_write
    remove()


async def test_a_worker_that_asks_after_a_vacuum_frees_the_files_of_the_others(store, board):
    """Also where nobody is told of the vacuum."""
    parent = Parent(store)
    async with worker_of(parent, board) as volumes:
        writer = await writer_in(volumes, 7)
        list(store.find_volume(7).compaction.run(CompactionOptions()))
        await trio.to_thread.run_sync(store.commit_compaction, store.get_volume(7))
        assert not parent.told
        with pytest.raises(CallRefused, match="has just changed"):
            await parent.ask(7)
        await until(lambda: parent.told == [7])
        assert writer.is_closed
        assert (await parent.ask(7)).may_write


async def test_what_others_write_is_followed_without_a_read(store, board):
    """A reader that is far behind would be read in threads."""
    parent = Parent(store)
    async with worker_of(parent, board) as volumes:
        reader, owner = await opened_in(volumes, 7), store.find_volume(7)
        for number in range(2, 2 + PASSING_BYTES // 16 + 10):
            owner.write(Needle(needle_id=number, cookie=COOKIE, data=b"data"))
        assert reader.handle.is_behind
        assert reader.try_read_cached(1, COOKIE) is None
        await until(lambda: not reader.handle.is_behind)
        assert reader.try_read_cached(1, COOKIE).data == b"data"


async def test_what_a_worker_left_is_repaired_when_it_has_ended(store, board, caplog):
    """Not at the next change, which may be long after."""
    parent = Parent(store)
    hide_disks = show_disks(store, board, 2)
    async with worker_of(parent, board) as volumes:
        writer = await writer_in(volumes, 7)
        opened = writer.handle.opened
        os.pwrite(opened.idx.fd, b"half a r", opened.idx_end_bytes)
        opened.share.state.words[BUSY] = 1
        with pytest.raises(LeftToOwner):
            await trio.to_thread.run_sync(writer.write, Needle(needle_id=2, cookie=COOKIE, data=b"data"))
        parent.shared.note_death()
        await until(lambda: not opened.share.was_left_busy)
        assert os.fstat(opened.idx.fd).st_size == opened.idx_end_bytes
        await trio.to_thread.run_sync(writer.write, Needle(needle_id=2, cookie=COOKIE, data=b"data"))
        parent.shared.note_death()
        # No process that follows the protocol does this.
        os.pwrite(opened.dat.fd, b"\xff" * 64, opened.dat_end_bytes)
        opened.share.state.words[BUSY] = 1
        parent.shared.note_death()
        await until(lambda: store.find_volume(7).is_read_only)
        os.ftruncate(opened.dat.fd, opened.dat_end_bytes)
    hide_disks()


@pytest.fixture
def two_disks(tmp_path, opened):
    """Volumes 1 to 6 are on the first disk, 7 is on the second."""
    first, second = place(tmp_path / "a", max_volumes=10), place(tmp_path / "b", disk_type="ssd")
    made = opened(first, second, files=UNSYNCED_FILES, volumes=range(1, 7))
    made.allocate_volume(7, disk_type="ssd")
    for volume in made.volumes():
        volume.write(Needle(needle_id=1, cookie=COOKIE, data=b"data"))
    return made


@pytest.fixture
def hang():
    """A function of any arguments that waits until the test ends."""
    go_on = threading.Event()
    yield lambda *_args: go_on.wait(LIMIT_S)
    go_on.set()


async def test_a_disk_that_hangs_keeps_the_parent_from_sharing_no_volumes_of_others(
    two_disks, monkeypatch, nursery, hang
):
    parent, stuck = Parent(two_disks), range(1, 7)
    for volume_id in stuck:
        monkeypatch.setattr(two_disks.find_volume(volume_id), "share", hang)
        nursery.start_soon(parent.share, volume_id)
    await trio.testing.wait_all_tasks_blocked()
    with trio.fail_after(LIMIT_S):
        assert (await parent.ask(7)).disk_id == 1
    nursery.cancel_scope.cancel()


async def test_a_disk_that_hangs_keeps_a_worker_from_attaching_no_volumes_of_others(two_disks, board):
    parent = Parent(two_disks)
    share = parent.share

    async def slow(volume_id):
        if volume_id < 7:
            await trio.sleep_forever()
        return await share(volume_id)

    parent.share = slow
    async with worker_of(parent, board) as volumes:
        for volume_id in range(1, 7):
            assert volumes.find_volume(volume_id) is None
        with trio.fail_after(LIMIT_S):
            assert get(await opened_in(volumes, 7)) == b"data"


async def test_a_disk_that_hangs_keeps_a_worker_from_following_no_volumes_of_others(
    two_disks, board, monkeypatch, hang
):
    parent = Parent(two_disks)
    async with worker_of(parent, board) as volumes:
        stuck, reader = await opened_in(volumes, 1), await opened_in(volumes, 7)
        monkeypatch.setattr(stuck.handle, "refresh", hang)
        for volume_id in (1, 7):
            two_disks.find_volume(volume_id).write(Needle(needle_id=2, cookie=COOKIE, data=b"data"))
        with trio.fail_after(LIMIT_S):
            await until(lambda: not reader.handle.is_behind)
        assert stuck.handle.is_behind


async def test_the_parents_event_loop_follows_little_of_what_workers_write(store, board):
    parent = Parent(store)
    hide_disks = show_disks(store, board, 2)
    async with worker_of(parent, board) as volumes:
        writer, owner = await writer_in(volumes, 7), store.find_volume(7)

        def write_many():
            for number in range(2, 2 + PASSING_BYTES // 16 + 10):
                writer.write(Needle(needle_id=number, cookie=COOKIE, data=b"data"))

        await trio.to_thread.run_sync(write_many)
        assert owner.try_read_cached(1, COOKIE) is None
        assert not owner.is_closed
        assert owner.handle.is_behind, "neither has followed"
        assert (await trio.to_thread.run_sync(owner.report)).file_count == 2 + PASSING_BYTES // 16 + 9
        assert owner.try_read_cached(1, COOKIE).data == b"data"
    hide_disks()


async def test_the_room_of_a_disk_is_the_servers(store, board):
    [location] = store.locations
    hide_disks = show_disks(store, board, 2)
    assert board.has_room(0, 2)
    location.usage.left_bytes = 1000
    location.usage.tell()
    board.note_appended(1, 999)
    assert board.has_room(0, 2)
    board.note_appended(0, 1)
    assert not board.has_room(0, 2)
    asked = []
    location.usage.ask = lambda: asked.append(1)
    location.usage.note_appended(1)
    assert asked, "the parent has less left than it would have alone"
    del location.usage.ask
    location.usage.ask()
    assert board.has_room(0, 2)
    location.usage.is_low = True
    location.usage.tell()
    assert not board.has_room(0, 2)
    location.usage.ask()
    assert board.has_room(0, 2)
    location.room.lacks_reserve = location.room.is_short = True
    location.usage.tell()
    assert not board.has_room(0, 2)
    location.health.look()
    assert board.has_room(0, 2), "the reserve is whole again"
    hide_disks()


async def test_an_unmount_returns_when_the_workers_have_let_go(store, board):
    parent = Parent(store)
    store.add_listener(parent.shared.note)
    async with worker_of(parent, board) as volumes:
        volume = await opened_in(volumes, 7)
        await trio.to_thread.run_sync(store.unmount_volume, 7)
        assert parent.told == [7]
        assert volume.is_closed
        assert not volumes.is_open(7)
        store.mount_volume(7)
        assert get(await opened_in(volumes, 7)) == b"data"
        store.delete_volume(7, only_empty=False)
        await until(lambda: parent.told == [7, 7])  # on the event loop nobody waits for it
        assert not volumes.is_open(7)


async def test_other_files_of_a_volume_are_told_and_marks_are_not(store, board):
    parent = Parent(store)
    store.add_listener(parent.shared.note)
    async with worker_of(parent, board) as volumes:
        await opened_in(volumes, 7)
        await trio.to_thread.run_sync(lambda: store.mark_readonly(store.get_volume(7)))
        assert not parent.told
        await trio.to_thread.run_sync(store.mark_writable, store.get_volume(7))
        assert not parent.told
        list(store.find_volume(7).compaction.run(CompactionOptions()))
        await trio.to_thread.run_sync(store.commit_compaction, store.get_volume(7))
        assert parent.told == [7], "the old files take room until every worker has closed them"
        assert get(await opened_in(volumes, 7)) == b"data"
        await trio.to_thread.run_sync(store.unmount_volume, 8)
        assert parent.told == [7], "no worker had volume 8"


async def test_a_volume_that_is_let_go_while_it_is_attached_is_not_kept(store, board):
    parent = Parent(store)
    answer, may_answer = parent.share, trio.Event()

    async def slow(volume_id):
        found = await answer(volume_id)
        await may_answer.wait()
        return found

    parent.share = slow
    async with worker_of(parent, board) as volumes, trio.open_nursery() as nursery:
        volumes.find_volume(7)
        await until(lambda: parent.asked)
        nursery.start_soon(parent.tell, [7])
        await trio.testing.wait_all_tasks_blocked()
        assert not parent.told, "a file may be open yet"
        may_answer.set()
        await until(lambda: parent.told)
        assert not volumes.is_open(7)
        assert get(await opened_in(volumes, 7)) == b"data"


async def test_what_the_parent_refuses_is_not_asked_for_at_each_read(store, board, autojump_clock):
    parent = Parent(store)
    async with worker_of(parent, board) as volumes:
        for _ in range(5):
            assert volumes.find_volume(99) is None
            await trio.sleep(ASK_AGAIN_S / 10)
        assert parent.asked == [99]
        await trio.sleep(ASK_AGAIN_S)
        assert volumes.find_volume(99) is None
        await trio.sleep(ASK_AGAIN_S / 10)
        assert parent.asked == [99, 99]


async def test_a_worker_opens_no_more_volumes_than_it_may(store, board):
    parent = Parent(store)
    async with worker_of(parent, board, most=1) as volumes:
        await opened_in(volumes, 7)
        assert volumes.find_volume(8) is None
        await trio.testing.wait_all_tasks_blocked()
        assert parent.asked == [7]


async def test_the_parent_shares_no_more_than_it_may_and_what_it_may(store):
    parent = Parent(store, most=1)
    await parent.ask(7)
    assert (await parent.ask(7)).disk_id == 0
    with pytest.raises(CallRefused, match="1 volumes are shared"):
        await parent.ask(8)
    parent.shared.note(7)
    with pytest.raises(CallRefused, match="not here"):
        await parent.ask(99)
    with store.settling.settle(7), pytest.raises(CallRefused, match="only this process can read it"):
        await parent.ask(7)
    store.unmount_volume(7)
    with pytest.raises(CallRefused, match="not here"):
        await parent.ask(7)


async def test_a_volume_that_is_closed_while_it_is_shared_is_refused(store, monkeypatch):
    parent = Parent(store)
    volume = store.find_volume(7)
    share = volume.share

    def share_and_close(create):
        descriptor = share(create)
        store.unmount_volume(7)
        parent.shared.note(7)
        return descriptor

    monkeypatch.setattr(volume, "share", share_and_close)
    with pytest.raises(CallRefused, match="closed meanwhile"):
        await parent.ask(7)
    assert not parent.told


async def test_a_number_that_leads_elsewhere_by_now_is_no_volume(store, board, caplog):
    """The parent has closed the volume, and another file has got its number."""
    parent = Parent(store)
    other = share_volume(store.find_volume(8))
    for path in ("/dev/null", f"/proc/self/fd/{other}", "/proc/self/fd/987654"):

        async def misled(volume_id, path=path):
            parent.asked.append(volume_id)
            await trio.lowlevel.checkpoint()
            return SharedVolume(path, 0, "")

        parent.share = misled
        async with worker_of(parent, board) as volumes:
            volumes.find_volume(7)
            await until(lambda: parent.asked)
            await until(lambda volumes=volumes: not volumes.is_asking(7))
            assert not volumes.is_open(7)
        parent.asked.clear()
    assert "left to the main process" in caplog.text


async def test_a_disk_out_of_service_is_so_in_every_worker_at_once(store, board):
    parent = Parent(store)
    [location] = store.locations
    hide_disks = show_disks(store, board, 2)
    async with worker_of(parent, board) as volumes:
        volume = await opened_in(volumes, 7)
        take_out_of_service(location)
        with pytest.raises(DiskUnavailable):
            get(volume)
        with pytest.raises(CallRefused):
            await parent.ask(8)
        bring_back(location)
        assert get(volume) == b"data"
        hide_disks()
        take_out_of_service(location)
        assert get(volume) == b"data", "the board is gone"
        bring_back(location)


async def test_a_shared_volume_is_found_by_its_path_only_while_it_is_open(store):
    shared = await Parent(store).ask(7)
    assert shared.path.startswith(f"/proc/{os.getpid()}/fd/")
    is_open = partial(is_anywhere_open, os.stat(shared.path))
    assert is_open()
    store.unmount_volume(7)

    def is_released():
        gc.collect()
        return not is_open()

    await until(is_released)


def is_anywhere_open(file):
    """Whether a descriptor of this process leads to `file`. Other tests' volumes may have the same name."""
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), file):
                return True
    return False
