"""Reads from an erasure-coded volume: the answers are those from the plain volume, and memory is read at once."""

from __future__ import annotations

import gzip
import random

import pytest
import trio
from support.coded_volumes import FakeRemote
from support.files import PlannedFiles
from support.http_native import SETTINGS, file_part, get, make_context, manifest_of, post, put
from support.images import encoded, oriented, picture

from native_handlers.http.ec_volumes import StoreEcVolumes

VID = 3
DATA = random.Random(3).randbytes(2_500_000)
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
async def test_answers_are_those_from_the_plain_volume(context, store, lost):
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
