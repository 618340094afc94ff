"""Manifests whose chunks are manifests, erasure-coded needles, or damaged."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace

import pytest
from support.http_native import SETTINGS, fetch, make_context

from native_handlers.format.needle import Needle
from native_handlers.http.chunk_manifest import DEPTH_HEADER, MAX_DEPTH
from native_handlers.http.context import Location
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.volume_servers import VolumeServerResponse
from native_handlers.storage.model.errors import CookieMismatch, NotFound

COOKIE = 0x12345678
OTHER = Location("127.0.0.1:8082", "example:8082")
LARGE = os.urandom((2 << 20) + 3)


@dataclass
class FakeEc:
    """Needles of the erasure-coded volume 7, by id. All have one cookie."""

    needles: dict = field(default_factory=dict)

    id = 7

    def find(self, volume_id):
        return self if volume_id == self.id else None

    async def read_needle(self, volume, needle_id, cookie):
        if needle_id not in self.needles:
            raise NotFound(volume.id, needle_id)
        if cookie != COOKIE:
            raise CookieMismatch(COOKIE, cookie)
        return self.needles[needle_id]

    async def delete_needle(self, volume, needle_id, cookie, *, is_exact=False):
        needle = await self.read_needle(volume, needle_id, cookie)
        del self.needles[needle_id]
        return len(needle.data)


@pytest.fixture
def ec():
    needle = Needle(needle_id=1, cookie=COOKIE, data=b"shards!", checksum=0x0BADCAFE)
    return FakeEc({1: needle})


@pytest.fixture
def context(store, ec):
    settings = replace(SETTINGS, file_size_limit_bytes=8 << 20)
    return make_context(store=store, ec_volumes=ec, settings=settings)


def fid(number, volume_id=3):
    return f"{volume_id},{number:02x}{COOKIE:08x}"


async def put(context, number, data, query=""):
    answer = await fetch("http.write", context, method="PUT", target=f"/{fid(number)}{query}", body=data)
    assert answer.status == 201


async def put_manifest(context, number, *chunks):
    entries = [{"fid": chunk, "offset": offset, "size": size} for chunk, offset, size in chunks]
    size = sum(size for _, _, size in chunks)
    await put(context, number, json.dumps({"size": size, "chunks": entries}).encode(), "?cm=true")


async def get(context, file_id, headers=()):
    return await fetch("http.read", context, target=f"/{file_id}", headers=headers)


async def delete(context, file_id, headers=()):
    return await fetch("http.delete", context, method="DELETE", target=f"/{file_id}", headers=headers)


@pytest.fixture
async def nested(context):
    """File 1 is "abc", file 2 a manifest of "def" and "gh", file 3 "i"."""
    for number, data in ((3, b"abc"), (4, b"def"), (5, b"gh"), (6, b"i")):
        await put(context, number, data)
    await put_manifest(context, 2, (fid(4), 0, 3), (fid(5), 3, 2))
    await put_manifest(context, 1, (fid(3), 0, 3), (fid(2), 3, 5), (fid(6), 8, 1))
    return context


async def test_a_manifest_of_manifests_is_one_file(nested):
    answer = await get(nested, fid(1))
    assert (answer.status, answer.body, answer.breaks_off) == (200, b"abcdefghi", False)


@pytest.mark.parametrize(("wanted", "body"), [("2-6", b"cdefg"), ("4-5", b"ef"), ("7-7", b"h"), ("-2", b"hi")])
async def test_ranges_reach_into_nested_manifests(nested, wanted, body):
    answer = await get(nested, fid(1), {"Range": f"bytes={wanted}"})
    assert (answer.status, answer.body) == (206, body)


async def test_deleting_reaches_into_nested_manifests(nested):
    answer = await delete(nested, fid(1))
    assert (answer.status, json.loads(answer.body)) == (202, {"size": 9})
    assert [(await get(nested, fid(number))).status for number in range(1, 7)] == [404] * 6


async def test_a_manifest_that_contains_itself_comes_to_an_end(context):
    await put_manifest(context, 1, (fid(1), 0, 10))
    answer = await get(context, fid(1))
    assert answer.status == 500
    assert f"more than {MAX_DEPTH} manifests".encode() in answer.body
    answer = await delete(context, fid(1))
    assert (answer.status, json.loads(answer.body)) == (202, {"size": 10})
    assert (await get(context, f"{fid(1)}?cm=false")).status == 404


async def test_manifests_that_contain_each_other_are_deleted(context):
    await put(context, 3, b"abc")
    await put_manifest(context, 1, (fid(3), 0, 3), (fid(2), 3, 5))
    await put_manifest(context, 2, (fid(1), 0, 5), (fid(1), 5, 5))
    assert (await delete(context, fid(1))).status == 202
    assert [(await get(context, f"{fid(number)}?cm=false")).status for number in (1, 2, 3)] == [404] * 3


async def test_a_nested_manifest_that_names_a_strangers_file_is_kept_with_it(context):
    """The outer manifest may allow deletions that the inner manifest does not allow."""

    class Scope:
        def changeable(self, _request):
            return fid(1)

    await put(context, 9, b"a stranger's")
    await put_manifest(context, 2, (fid(9), 0, 12))
    await put_manifest(context, 1, (f"{fid(1)}_1", 0, 12))
    guarded = replace(context, token_scope=Scope())
    answer = await delete(guarded, fid(1))
    assert answer.status == 500
    assert json.loads(answer.body)["error"].endswith(f"chunk delete {fid(9)}: wrong jwt")
    assert (await get(context, fid(9))).body == b"a stranger's"


async def test_holders_are_told_how_deep_they_are(context):
    asked = []

    class VolumeServers:
        async def request(self, method, _url, target, headers, _body):
            asked.append((method, target, headers.get(DEPTH_HEADER)))
            return VolumeServerResponse(200, Headers(), self._body())

        async def _body(self):
            yield b"xyz"

    class Lookup:
        async def locations(self, _vid, *, refresh=False):
            return [OTHER]

    context = replace(context, lookup=Lookup(), volume_servers=VolumeServers())
    await put_manifest(context, 2, (fid(1, volume_id=9), 0, 3))
    await put_manifest(context, 1, (fid(2), 0, 3))
    assert (await get(context, fid(1), {DEPTH_HEADER: "4"})).body == b"xyz"
    await delete(context, fid(1), {DEPTH_HEADER: "4"})
    target = f"/{fid(1, volume_id=9)}"
    assert asked == [("GET", target, "6"), ("DELETE", f"{target}?type=replicate", "6")]


@pytest.mark.parametrize("depth", [str(MAX_DEPTH), "999"])
async def test_too_deep_is_refused(nested, depth):
    assert (await get(nested, fid(1), {DEPTH_HEADER: depth})).status == 500


@pytest.mark.parametrize("depth", [str(MAX_DEPTH - 1), str(MAX_DEPTH), "999"])
async def test_a_manifest_at_the_end_of_a_long_chain_is_deleted_with_its_chunks_alone(nested, depth):
    """Deleting a chunk that is a manifest does not delete its chunks: the chain is probably a circle."""
    assert (await delete(nested, fid(1), {DEPTH_HEADER: depth})).status == 202
    assert [(await get(nested, fid(number))).status for number in range(1, 7)] == [404, 404, 404, 200, 200, 404]


@pytest.mark.parametrize("depth", ["", "-1", "x", "1" * 5000, "\xb2"])
async def test_a_depth_that_is_no_number_is_none(nested, depth):
    assert (await get(nested, fid(1), {DEPTH_HEADER: depth})).status == 200


# ---- damage


async def test_a_damaged_large_chunk_breaks_the_answer_off(context, store, tmp_path):
    await put(context, 2, LARGE)
    await put_manifest(context, 1, (fid(2), 0, len(LARGE)))
    assert (await get(context, fid(1))).body == LARGE
    with (tmp_path / "3.dat").open("r+b") as dat:
        dat.seek(dat.read().index(LARGE))
        dat.write(bytes([LARGE[0] ^ 1]))
    answer = await get(context, fid(1))
    assert answer.breaks_off
    assert len(answer.body) < len(LARGE)


# ---- erasure-coded volumes


async def test_an_erasure_coded_volume_is_read(context, ec):
    answer = await get(context, fid(1, 7))
    assert (answer.status, answer.body, answer.headers.get("Etag")) == (200, b"shards!", '"0badcafe"')
    assert (await get(context, fid(1, 7), {"Range": "bytes=1-2"})).body == b"ha"
    assert (await get(context, fid(1, 7), {"If-None-Match": '"0badcafe"'})).status == 304


async def test_what_is_not_in_an_erasure_coded_volume_is_404(context):
    assert (await get(context, fid(2, 7))).status == 404
    assert (await get(context, "7,0187654321")).status == 404


async def test_a_volume_outranks_shards_of_the_same_id_for_reads_only(context, store, ec):
    store.allocate_volume(7)
    assert (await get(context, fid(1, 7))).status == 404
    assert (await delete(context, fid(1, 7))).status == 202
    assert not ec.needles


async def test_deleting_from_an_erasure_coded_volume(context, ec):
    answer = await delete(context, "7,0187654321")
    assert answer.status == 500
    assert json.loads(answer.body)["error"].startswith("Deletion Failed: ")
    answer = await delete(context, fid(1, 7))
    assert (answer.status, json.loads(answer.body)) == (202, {"size": 7})
    assert (await delete(context, fid(1, 7))).status == 500


async def test_chunks_in_an_erasure_coded_volume(context, ec):
    await put(context, 2, b"and ")
    await put_manifest(context, 1, (fid(2), 0, 4), (fid(1, 7), 4, 7))
    assert (await get(context, fid(1))).body == b"and shards!"
    assert (await get(context, fid(1), {"Range": "bytes=3-5"})).body == b" sh"
    assert (await delete(context, fid(1))).status == 202
    assert not ec.needles


async def test_a_chunk_is_read_from_a_volume_that_is_opened_anew_meanwhile(context, store, monkeypatch):
    store.get_volume(4).write(Needle(needle_id=2, cookie=COOKIE, data=b"content"))
    await put_manifest(context, 1, (fid(2, 4), 0, 7))
    find_volume, looked_up = store.find_volume, []

    def goes(volume_id):
        volume = find_volume(volume_id)
        if volume_id == 4 and not looked_up:
            looked_up.append(volume)
            store.unmount_volume(4)
            store.mount_volume(4)
        return volume

    monkeypatch.setattr(store, "find_volume", goes)
    assert (await get(context, fid(1))).body == b"content"
    assert looked_up[0].is_closed


# ---- zstd, which upstream stores and does not know


async def test_zstd_data_goes_out_as_it_is(context, store):
    frame = bytes.fromhex("28b52ffd0400190000616263bf5a0a7d")
    needle = Needle(needle_id=9, cookie=COOKIE, data=frame)
    needle.is_compressed = True
    store.get_volume(3).write(needle)
    for accepted in ("", "gzip", "zstd", "gzip, zstd"):
        answer = await get(context, fid(9), {"Accept-Encoding": accepted})
        assert (answer.status, answer.body, answer.headers.get("Content-Encoding")) == (200, frame, None)


async def test_a_zstd_upload_keeps_its_bytes_and_forgets_its_encoding(context, store):
    frame = bytes.fromhex("28b52ffd0400190000616263bf5a0a7d")
    headers = {"Content-Encoding": "zstd", "Content-Type": "application/x-a"}
    await fetch("http.write", context, method="PUT", target=f"/{fid(9)}", headers=headers, body=frame)
    answer = await get(context, fid(9), {"Accept-Encoding": "zstd"})
    assert (answer.body, answer.headers.get("Content-Encoding")) == (frame, None)
    assert not store.get_volume(3).read(9, cookie=COOKIE).needle.is_compressed
