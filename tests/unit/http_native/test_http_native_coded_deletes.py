"""Deletes of needles and chunks in erasure-coded volumes whose shards are on several servers."""

from __future__ import annotations

import os
import shutil

import pytest
from support.coded_volumes import put_coded_volume
from support.http_native import SETTINGS, delete, fetch, get, make_context, manifest_of, put
from support.moved_volumes import Master, Servers, unreachable

from native_handlers.format.needle import Needle
from native_handlers.http.context import Location
from native_handlers.http.ec_volumes import StoreEcVolumes
from native_handlers.http.holders import HOLDER_HEADER, NO, REQUIRED, SHARDS, YES
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.volume_servers import VolumeServerResponse
from native_handlers.storage.model.errors import VolumeClosed

VID, PLAIN = 3, 4
COOKIE = 0x12345678
ONE, TWO, GONE, OTHER, ZERO = (
    f"{VID},{rest}" for rest in ("0112345678", "0212345678", "0912345678", "0199999999", "0100000000")
)
MANIFEST = f"/{PLAIN},01000000aa"
B, C, DOWN = (Location(url, url) for url in ("127.0.0.2:8080", "127.0.0.3:8080", "127.0.0.4:8080"))


class OtherHalf:
    """The shards of both servers, as one of them sees those of the other one."""

    def __init__(self, stores, own):
        self.stores, self.own = stores, own

    def holders(self, _volume_id):
        return {shard: [B.url if shard < 7 else C.url] for shard in range(14)}

    def is_self(self, address):
        return address == self.own

    def begin_read(self, address, wanted):
        volume, shard = self.stores[address].ec.find_shard(wanted.volume_id, wanted.shard_id)

        class Pending:
            def result(_self):
                entry = volume.find(wanted.needle_id)
                if entry is not None and entry.size < 0:
                    return None
                return shard.read(wanted.length_bytes, wanted.offset_bytes)

            def cancel(_self):
                pass

        return Pending()

    def delete(self, address, volume_id, _collection, needle_id, _version):
        ec = self.stores[address].ec
        ec.delete(ec.find(volume_id), needle_id)


class Cluster(Servers):
    """Servers that answer with the handlers of this program, and others that are played."""

    def __init__(self, contexts, **played):
        super().__init__(played)
        self.contexts = contexts

    async def request(self, method, url, target, headers, body):
        if url not in self.contexts:
            return await super().request(method, url, target, headers, body)
        route = "http.delete" if method == "DELETE" else "http.read"
        answer = await fetch(route, self.contexts[url], method=method, target=target, headers=dict(headers))

        async def chunks():
            yield answer.body

        return VolumeServerResponse(answer.status, Headers(list(answer.headers)), chunks())


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """The files of a coded volume with the needles 1 and 2."""
    directory = tmp_path_factory.mktemp("coded")
    needles = [Needle(needle_id=number, cookie=COOKIE, data=bytes((number,)) * 5000) for number in (1, 2)]
    put_coded_volume(directory, VID, *needles)
    return sorted(directory.glob(f"{VID}.*"))


@pytest.fixture
def holders(tmp_path, opened, coded):
    """Two servers with seven shards each."""
    for name, others in (("b", range(7, 14)), ("c", range(7))):
        (tmp_path / name).mkdir()
        for path in coded:
            if path.name not in {f"{VID}.ec{shard:02d}" for shard in others}:
                # Nothing writes to a shard.
                (os.link if path.suffix[3:].isdigit() else shutil.copy)(path, tmp_path / name / path.name)
    stores = {url: opened(tmp_path / name, volumes=()) for url, name in ((B.url, "b"), (C.url, "c"))}
    for url, store in stores.items():
        store.ec_reader.remote = OtherHalf(stores, url)
    return {
        url: make_context(store=store, ec_volumes=StoreEcVolumes(store), settings=SETTINGS)
        for url, store in stores.items()
    }


@pytest.fixture
def elsewhere(tmp_path, opened, holders):
    """Makes a server that has the volume of manifests and no shard."""
    store = opened(tmp_path / "a", volumes=(PLAIN,))

    def make(*named, **played):
        cluster = Cluster(holders, **{name.replace("_", ":"): answer for name, answer in played.items()})
        return make_context(store=store, lookup=Master(list(named or (B, C))), volume_servers=cluster)

    return make


@pytest.fixture(params=["here", "elsewhere"])
def server(request, elsewhere, holders, opened, tmp_path):
    """A server with the manifest, with and without shards of its own."""
    if request.param == "elsewhere":
        return elsewhere()
    store = holders[B.url].store
    store.allocate_volume(PLAIN)
    return holders[B.url]


async def statuses(holders, *fids):
    """What each server answers to reads."""
    return [[(await get(context, f"/{fid}")).status for fid in fids] for context in holders.values()]


async def put_manifest(context, *fids):
    chunks = [(fid, 5000 * number, 5000) for number, fid in enumerate(fids)]
    assert (await put(context, f"{MANIFEST}?cm=true", manifest_of(*chunks, size=5000 * len(fids)))).status == 201


@pytest.mark.slow
async def test_a_needle_is_deleted_through_a_server_without_the_volume(elsewhere, holders):
    """Slow: codes a volume."""
    answer = await delete(elsewhere(), f"/{ONE}")
    assert (answer.status, answer.body) == (202, b'{"size":5005}')
    assert await statuses(holders, ONE, TWO) == [[404, 200], [404, 200]]
    assert [(await delete(elsewhere(), f"/{fid}")).status for fid in (ONE, GONE, f"{VID},0299999999")] == [
        404,
        404,
        400,
    ]


async def test_a_manifest_goes_with_its_chunks(server, holders):
    await put_manifest(server, ONE, TWO)
    assert (await delete(server, MANIFEST)).status == 202
    assert await statuses(holders, ONE, TWO) == [[404, 404], [404, 404]]
    assert (await get(server, f"{MANIFEST}?cm=false")).status == 404


async def test_a_manifest_goes_whose_chunks_are_gone(server, holders):
    """An earlier delete has failed after the first chunk, or a chunk was deleted by itself."""
    await put_manifest(server, ONE, GONE, TWO)
    assert (await delete(holders[C.url], f"/{ONE}")).status == 202
    assert (await delete(server, MANIFEST)).status == 202
    assert await statuses(holders, TWO) == [[404], [404]]


@pytest.mark.parametrize("fid", [OTHER, ZERO])
async def test_a_chunk_with_another_cookie_is_passed_over(server, holders, fid):
    """Cookie 0 is a cookie like others."""
    await put_manifest(server, fid, TWO)
    assert (await delete(server, MANIFEST)).status == 202
    assert await statuses(holders, ONE, TWO) == [[200, 404], [200, 404]]


async def test_one_holder_of_shards_is_enough(elsewhere, holders):
    """A server with some of the shards may be away."""
    server = elsewhere(B, DOWN, C, **{DOWN.url.replace(":", "_"): unreachable})
    await put_manifest(server, ONE, TWO)
    assert (await delete(server, MANIFEST)).status == 202
    assert await statuses(holders, ONE, TWO) == [[404, 404], [404, 404]]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("already deleted", 202),
        ("locate in local ec volume: FindNeedleFromEcx: needle not found", 202),
        ("unexpected cookie 12345678", 202),
        ("ReadEcShardIntervals: too few shards given", 500),
        ("already deleted or not", 500),
    ],
)
async def test_what_a_go_server_with_shards_says(elsewhere, error, status):
    def answer(_url):
        return 500, [], b'{"error":"Deletion Failed: %s"}' % error.encode()

    server = elsewhere(DOWN, **{DOWN.url.replace(":", "_"): answer})
    await put_manifest(server, ONE)
    assert (await delete(server, MANIFEST)).status == status


async def test_a_go_server_that_finds_another_cookie_is_believed(elsewhere):
    def answer(_url):
        return 500, [], b'{"error":"Deletion Failed: unexpected cookie 12345678"}'

    answer = await delete(elsewhere(DOWN, **{DOWN.url.replace(":", "_"): answer}), f"/{ONE}")
    assert (answer.status, answer.body) == (400, b'{"error":"File Random Cookie does not match."}')


async def test_what_a_holder_of_shards_tells_a_server_and_a_client(holders, monkeypatch):
    """A client gets upstream's answers."""
    context = holders[B.url]

    async def told(fid, headers=()):
        answer = await fetch(
            "http.delete", context, method="DELETE", target=f"/{fid}?type=replicate", headers=dict(headers)
        )
        return answer.status, answer.headers.get(HOLDER_HEADER)

    ask = [(HOLDER_HEADER, REQUIRED)]
    assert [await told(fid) for fid in (GONE, OTHER)] == [(500, None)] * 2
    assert [await told(fid, ask) for fid in (GONE, OTHER, ZERO)] == [(404, YES), (400, YES), (400, YES)]
    assert [await told(ONE, ask), await told(ONE, ask), await told(ONE)] == [(202, SHARDS), (404, YES), (500, None)]
    assert await told(f"{VID},0200000000") == (202, None)  # as upstream, for a client

    async def went(volume, *_needle, **_more):
        raise VolumeClosed(volume.id)

    monkeypatch.setattr(context.ec_volumes, "delete_needle", went)
    assert [await told(TWO, ask), await told(TWO)] == [(404, NO), (500, None)]
