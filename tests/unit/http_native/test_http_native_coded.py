"""Reads from an erasure-coded volume: the answers are those from the plain volume, and memory is read at once."""

from __future__ import annotations

import gzip
import random
import shutil
import threading
from functools import partial

import pytest
import trio
import trio.testing
from support.coded_volumes import FakeRemote, put_coded_volume
from support.disks import bring_back, take_out_of_service
from support.files import PlannedFiles, path_of
from support.http_native import SETTINGS, file_part, get, make_context, manifest_of, post, put
from support.images import encoded, oriented, picture
from support.waiting import LIMIT_S, until

from native_handlers.format.needle import Needle
from native_handlers.http.ec_volumes import StoreEcVolumes
from native_handlers.storage.erasure_coding.bounds import EcBounds
from native_handlers.storage.model.errors import Deleted, DiskUnavailable, VolumeClosed

VID = 3
DATA = random.Random(3).randbytes(2_500_000)
LARGE = b"larger" * 1000
TEXT = b"some text that is worth packing\n" * 400


def fid(number):
    return f"{VID},{number:02x}12345678"


@pytest.fixture
def files():
    return PlannedFiles()


@pytest.fixture
def store(tmp_path, files, opened):
    return opened(tmp_path, files=files, volumes=(VID,))


@pytest.fixture
def context(store):
    return make_context(store=store, ec_volumes=StoreEcVolumes(store), settings=SETTINGS)


def code(store, *, lost=()):
    store.ec_work.generate(store.find_volume(VID), "")
    for shard in range(14):
        if shard not in lost:
            store.ec.mount("", VID, shard)
    store.delete_volume(VID, only_empty=False)


UPLOADS = {
    1: file_part(encoded(picture(300, 200)), "a.png", "Content-Type: image/png"),
    2: file_part(oriented(6), "b.jpg", "Content-Type: image/jpeg"),
    3: file_part(gzip.compress(TEXT), "c.txt", "Content-Type: text/plain", "Content-Encoding: gzip"),
    4: file_part(DATA[:500_000], "part"),
    5: file_part(DATA[500_000:900_000], "part"),
    6: file_part(b"small", "d.txt", "Content-Type: text/plain"),
}
READS = [
    (1, "", {}),
    (1, "?width=50", {}),
    (1, "?width=40&height=40&mode=fill", {}),
    (1, ".png?crop_x1=3&crop_x2=90&crop_y2=70", {}),
    (2, "?height=20&mode=fit", {}),
    (3, "", {}),
    (3, "", {"Accept-Encoding": "gzip"}),
    (3, "", {"Range": "bytes=100-199"}),
    (4, "", {"Range": "bytes=400000-"}),
    (4, "", {"Range": "bytes=500000-"}),
    (6, "?dl=true", {}),
    (6, "", {"If-None-Match": '"other"'}),
    (7, "", {}),
    (7, "", {"Range": "bytes=499990-500009"}),
    (7, "?cm=false", {}),
    (8, "?width=60", {}),
    (8, "", {}),
    (9, "", {}),
]


async def fill(context):
    for number, part in UPLOADS.items():
        answer = await post(context, f"/{fid(number)}", part)
        assert answer.status == 201
    png = UPLOADS[1][1]
    for number, manifest in (
        (7, manifest_of((fid(4), 0, 500_000), (fid(5), 500_000, 400_000), size=900_000)),
        (8, manifest_of((fid(1), 0, len(png)), size=len(png), name="big.png", mime="image/png")),
    ):
        assert (await put(context, f"/{fid(number)}?cm=true", manifest)).status == 201


async def answers(context):
    found = {}
    for number, query, headers in READS:
        for method in ("GET", "HEAD"):
            target = f"/{fid(number)}{query}"
            answer = await get(context, target, headers, method)
            fields = sorted(answer.headers)
            found[method, target, str(headers)] = answer.status, fields, answer.body
    return found


@pytest.mark.parametrize("lost", [(), (0, 1, 11)])
@pytest.mark.slow
async def test_answers_are_those_from_the_plain_volume(context, store, lost):
    """Slow: codes a volume."""
    await fill(context)
    plain = await answers(context)
    assert {status for status, _, _ in plain.values()} == {200, 206, 404}
    assert plain["GET", f"/{fid(7)}", "{}"][2] == DATA[:900_000]
    assert plain["GET", f"/{fid(1)}?width=50", "{}"][2] != UPLOADS[1][1]
    code(store, lost=lost)
    coded = await answers(context)
    assert coded.keys() == plain.keys()
    assert {key: (coded[key], plain[key]) for key in plain if coded[key] != plain[key]} == {}


async def test_what_the_client_has_is_not_sent_again(context, store):
    await fill(context)
    etag = (await get(context, f"/{fid(6)}")).headers.get("Etag")
    code(store)
    assert (await get(context, f"/{fid(6)}", {"If-None-Match": etag})).status == 304


@pytest.fixture
def threads(monkeypatch):
    """The number of works that were given to a thread."""
    run, given = trio.to_thread.run_sync, []

    async def counted(work, *args, **how):
        given.append(work)
        return await run(work, *args, **how)

    monkeypatch.setattr(trio.to_thread, "run_sync", counted)
    return given


async def test_a_small_read_from_memory_takes_no_thread_and_no_call(context, store, threads):
    await fill(context)
    code(store)
    remote = store.ec_reader.remote = FakeRemote({})
    # Once, so that memory has the index and the shard.
    assert (await get(context, f"/{fid(6)}")).body == b"small"
    threads.clear()
    assert (await get(context, f"/{fid(6)}")).body == b"small"
    assert threads == []
    assert (remote.asked, remote.requests) == (0, [])


@pytest.mark.parametrize("why", ["it is large", "it is not in memory", "its shard is elsewhere"])
async def test_other_reads_take_one_thread(context, store, files, tmp_path, threads, why):
    await fill(context)
    code(store)
    number, content = (4, DATA[:500_000]) if why == "it is large" else (6, b"small")
    remote = store.ec_reader.remote = FakeRemote({"a": {0: (tmp_path / f"{VID}.ec00").read_bytes()}})
    if why == "its shard is elsewhere":
        # Those that are left here do not make the data.
        for shard in range(5):
            store.ec.unmount(VID, shard)
            remote.shards["a"][shard] = (tmp_path / f"{VID}.ec{shard:02d}").read_bytes()
    files.is_cold = why == "it is not in memory"
    threads.clear()
    assert (await get(context, f"/{fid(number)}")).body == content
    assert len(threads) == 1
    assert len(remote.requests) == (why == "its shard is elsewhere")


# ---- what hangs


class Hanging:
    """Something that hangs until the test ends it."""

    def __init__(self):
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    def wait(self):
        self.has_begun.set()
        assert self.may_end.wait(LIMIT_S)


@pytest.fixture
def hanging():
    return Hanging()


class HangingRemote(FakeRemote):
    """Another server, which hangs."""

    def __init__(self, shards, hanging):
        super().__init__(shards)
        self.hanging = hanging

    def begin_read(self, address, wanted):
        self.hanging.wait()
        return super().begin_read(address, wanted)

    def delete(self, *_call):
        self.hanging.wait()


def code_two(store, tmp_path, hanging):
    """Volume 3 has shard 0 and others elsewhere, and volume 4 all here. Each has a small needle and a larger one."""
    store.delete_volume(VID, only_empty=False)
    for volume_id in (VID, 4):
        needles = [Needle(needle_id=number, cookie=5, data=data) for number, data in ((1, b"small"), (2, LARGE))]
        put_coded_volume(tmp_path, volume_id, *needles)
        store.ec_work.load_shards(volume_id)
    for shard in range(5):
        store.ec.unmount(VID, shard)
    content = {shard: (tmp_path / f"{VID}.ec{shard:02d}").read_bytes() for shard in range(5)}
    store.ec_reader.remote = HangingRemote({"a": content}, hanging)


async def while_it_hangs(hanging, work, act):
    """Does `act` while `work` hangs, and then ends that."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        with trio.fail_after(LIMIT_S):
            assert await trio.to_thread.run_sync(hanging.has_begun.wait, LIMIT_S)
            try:
                await act()
            finally:
                hanging.may_end.set()


@pytest.mark.slow
async def test_shards_that_are_opened_anew_after_the_look_up_are_read_and_deleted_from(store, tmp_path, hanging):
    """Slow: codes a volume."""
    code_two(store, tmp_path, hanging)
    volumes = StoreEcVolumes(store)
    store.ec_reader.remote = None
    closed = volumes.find(4)
    store.ec.unload(4)
    with pytest.raises(VolumeClosed):
        await volumes.read_needle(closed, 1, 5)
    for shard in range(14):
        store.ec.mount("", 4, shard)
    assert (await volumes.read_needle(closed, 1, 5)).data == b"small"
    assert await volumes.delete_needle(closed, 1, 5)
    with pytest.raises(Deleted):
        await volumes.read_needle(volumes.find(4), 1, 5)


@pytest.mark.slow
async def test_reads_that_wait_for_another_server_take_no_thread_from_reads_here(store, files, tmp_path, hanging):
    """Slow: codes a volume, and dozens of readers wait."""
    code_two(store, tmp_path, hanging)
    volumes = StoreEcVolumes(store, threads=1)
    files.is_cold = True

    async def read(volume_id):
        assert (await volumes.read_needle(volumes.find(volume_id), 1, 5)).data == b"small"

    await while_it_hangs(hanging, lambda: read(VID), lambda: read(4))


@pytest.mark.slow
async def test_deletions_that_wait_for_another_server_take_no_thread_from_reads(store, files, tmp_path, hanging):
    """Slow: codes a volume, and dozens of callers wait."""
    code_two(store, tmp_path, hanging)
    store.ec.mount("", VID, 0)
    volumes = StoreEcVolumes(store, threads=1)
    files.is_cold = True

    async def read():
        for volume_id in (4, VID):
            assert (await volumes.read_needle(volumes.find(volume_id), 1, 5)).data == b"small"

    await while_it_hangs(hanging, lambda: volumes.delete_needle(volumes.find(VID), 1, 5), read)


class TestTwoDisks:
    """The disk of one volume hangs, and that of the other does not. Each disk has one thread for reads, and lets one
    deletion begin.
    """

    @pytest.fixture
    def store(self, tmp_path, opened, hanging):
        paths = [tmp_path / name for name in ("one", "two")]
        self.files, self.victims = PlannedFiles(), []

        def before(name, target):
            if name.startswith(("read_into", "sync")) and self.victims and path_of(target) in self.victims:
                hanging.wait()

        self.files.before = before
        for path, volume_id in zip(paths, (VID, 4), strict=True):
            put_coded_volume(path, volume_id, Needle(needle_id=1, cookie=5, data=b"small"))
        store = opened(*paths, files=self.files, volumes=())
        store.ec_reader.bounds = EcBounds(deletions=1)
        self.home, self.other = paths
        self.files.is_cold = True
        return store

    @pytest.fixture
    def volumes(self, store):
        return StoreEcVolumes(store, threads=1)

    @pytest.mark.slow
    async def test_reads_that_wait_for_one_take_no_thread_from_the_other(self, volumes, hanging):
        """Slow: codes two volumes."""
        self.victims.append(self.home / f"{VID}.ec00")

        async def read(volume_id):
            assert (await volumes.read_needle(volumes.find(volume_id), 1, 5)).data == b"small"

        await while_it_hangs(hanging, lambda: read(VID), lambda: read(4))

    @pytest.mark.slow
    async def test_deletions_that_wait_for_one_take_no_thread_from_the_other(self, volumes, hanging):
        """Slow: codes two volumes."""
        self.victims.append(self.home / f"{VID}.ecj")
        await while_it_hangs(
            hanging,
            lambda: volumes.delete_needle(volumes.find(VID), 1, 5),
            lambda: volumes.delete_needle(volumes.find(4), 1, 5),
        )

    @pytest.mark.parametrize("is_read", [True, False], ids=["read", "deletion"])
    @pytest.mark.slow
    async def test_what_waits_for_room_ends_when_the_disk_goes_out_of_service(self, store, hanging, is_read):
        """What hangs there has all of the room. Slow: codes two volumes."""
        store.ec_reader.bounds = bounds = EcBounds(1, 1)
        volumes, location = StoreEcVolumes(store), store.locations[store.ec.find(VID).place.disk_id]
        self.victims.append(self.home / (f"{VID}.ec00" if is_read else f"{VID}.ecj"))
        work = volumes.read_needle if is_read else volumes.delete_needle
        first, second = (partial(work, volumes.find(VID), 1, 5) for _ in range(2))
        bound = bounds.reads if is_read else bounds.deletions

        async def act():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(refused)
                await until(lambda: bound.waiting_count)
                take_out_of_service(location)

        async def refused():
            with pytest.raises(DiskUnavailable, match=f"disk {self.home} is out of service"):
                await second()

        await while_it_hangs(hanging, first, act)
        bring_back(location)

    async def test_deletions_on_both_take_no_more_threads_of_the_one_that_hangs(self, store, volumes, hanging, threads):
        """They wait for the thread, and hold none of the other disk meanwhile."""
        for extension in (".ec13", ".ecx", ".ecj", ".vif"):
            shutil.copy(self.home / f"{VID}{extension}", self.other / f"5{extension}")
            shutil.copy(self.home / f"{VID}{extension}", self.home / f"5{extension}")
        for shard in range(13):
            shutil.copy(self.home / f"{VID}.ec{shard:02d}", self.home / f"5.ec{shard:02d}")
        store.ec_work.load_shards(5)
        assert [volume.place.disk_id for volume in store.ec.copies(5)] == [0, 1]
        self.victims += [self.home / f"{volume_id}.ecj" for volume_id in (VID, 5)]
        self.files.is_cold = False  # So the look-up takes no thread.
        both = partial(volumes.delete_needle, volumes.find(5), 1, 5)

        async def act():
            nursery.start_soon(both)
            await trio.testing.wait_all_tasks_blocked()
            given = sum("delete_needle" in str(work) for work in threads)
            await volumes.delete_needle(volumes.find(4), 1, 5)
            assert given == 1

        async with trio.open_nursery() as nursery:
            await while_it_hangs(hanging, lambda: volumes.delete_needle(volumes.find(VID), 1, 5), act)


class TestMemory:
    """The needles of volume 3, whose first shards are on another server, which hangs.

    A read of the small needle holds its 40 bytes twice, and ten shards' for what is computed: 480 bytes.
    """

    SMALL = 480

    @pytest.fixture
    def read(self, store, tmp_path, hanging, threads):
        """Begins reads, of the small needle unless told otherwise; each hangs once it is in a thread."""
        code_two(store, tmp_path, hanging)
        assert store.ec_reader.memory_of(store.ec.find(VID), 1) == (80, self.SMALL)
        assert store.ec_reader.memory_of(store.ec.find(VID), 2).elsewhere_bytes > 2 * self.SMALL
        threads.clear()

        async def read(volumes, needle_id=1):
            data = b"small" if needle_id == 1 else LARGE
            assert (await volumes.read_needle(volumes.find(VID), needle_id, 5)).data == data

        return read

    async def test_bounds_the_reads_that_are_made_together(self, store, read, hanging, threads):
        store.ec_reader.bounds, volumes = EcBounds(2 * self.SMALL), StoreEcVolumes(store)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(read, volumes)
            await trio.testing.wait_all_tasks_blocked()
            hanging_count = len(threads)
            hanging.may_end.set()
        assert (hanging_count, len(threads)) == (2, 4)

    async def test_a_needle_that_is_larger_is_read_alone(self, store, read, hanging, threads):
        store.ec_reader.bounds, volumes = EcBounds(2 * self.SMALL), StoreEcVolumes(store)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, volumes, 2)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(read, volumes)
            await trio.testing.wait_all_tasks_blocked()
            hanging_count = len(threads)
            hanging.may_end.set()
        assert (hanging_count, len(threads)) == (1, 2)

    async def test_one_that_is_cancelled_lets_those_behind_it_go_on(self, store, read, hanging, threads):
        store.ec_reader.bounds = EcBounds(2 * self.SMALL)
        volumes, cancelled = StoreEcVolumes(store), trio.CancelScope()

        async def give_up():
            with cancelled:
                await read(volumes, 2)

        async with trio.open_nursery() as nursery:
            for work in (partial(read, volumes), give_up, partial(read, volumes)):
                nursery.start_soon(work)
                await trio.testing.wait_all_tasks_blocked()
            before = len(threads)
            cancelled.cancel()
            await trio.testing.wait_all_tasks_blocked()
            after = len(threads)
            hanging.may_end.set()
        assert (before, after) == (1, 2)

    async def test_one_that_ends_gives_its_memory_back(self, store, read, hanging):
        hanging.may_end.set()
        store.ec_reader.bounds, volumes = EcBounds(1), StoreEcVolumes(store)
        with trio.fail_after(LIMIT_S):
            for needle_id in (1, 2, 1):
                await read(volumes, needle_id)
