"""Reads and deletions of objects on a real store. Expected texts are observed answers of the Go server."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace

import pytest
from support.descriptors import open_descriptors
from support.http_native import (
    SETTINGS,
    delete,
    get,
    make_context,
    put,
)

from native_handlers.storage.system.files import NotCached, OsFiles

FID = "/3,0212345678"
HELLO = b"hello world, hello world"
ETAG = '"d3152e74"'
TEXT = {"Content-Type": "text/plain"}


# ---- reading


@pytest.fixture
async def stored(context):
    """An object with a name, a type and a time."""
    headers = {"Content-Type": "application/x-thing", "Content-Disposition": 'name="a b.bin"'}
    await put(context, FID + "?ts=1700000000", HELLO, headers)
    return context


async def test_headers_of_a_read(stored):
    answer = await get(stored, FID)
    assert answer.body == HELLO
    assert list(answer.headers) == [
        ("Accept-Ranges", "bytes"),
        ("Content-Disposition", 'inline; filename="a b.bin"'),
        ("Content-Length", "24"),
        ("Content-Type", "application/x-thing"),
        ("Etag", ETAG),
        ("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT"),
        ("Server", "SeaweedFS Volume 30GB 4.44"),
        ("X-Amz-Request-Id", "18EA8ACC380FBF5585995737"),
    ]


@pytest.mark.parametrize("target", ["/3,0212345678", "/3/0212345678", "/3,0212345678.jpg", "/3/0212345678/n.txt",
                                    "/3,000000000000000212345678", "/3,212345678", "/3,0112345678_1",
                                    "/3%2C0212345678"])  # fmt: skip
async def test_the_many_forms_of_a_path(stored, target):
    assert (await get(stored, target)).body == HELLO


@pytest.mark.parametrize("target", ["/x,0212345678", "/3", "/", "/3,02", "/3,0212345678_x", "/a/b/c/3,0212345678",
                                    "/3,zz12345678", "/stats/counter", "/99999999999999999999,0212345678"])  # fmt: skip
async def test_bad_paths_are_400_without_a_body(stored, target):
    answer = await get(stored, target)
    assert (answer.status, answer.body) == (400, b"")


@pytest.mark.parametrize("target", ["/3,0912345678", "/3,0212345679"])
async def test_absent_and_other_cookie_are_404_without_a_body(stored, target):
    answer = await get(stored, target)
    assert (answer.status, answer.body) == (404, b"")


async def test_the_name_in_the_path_beats_the_stored_one(stored):
    answer = await get(stored, "/3/0212345678/n%C3%A4me.pdf?dl=true")
    assert answer.headers.get("Content-Disposition") == "attachment; filename*=utf-8''n%C3%A4me.pdf"


@pytest.mark.parametrize(("query", "kind"), [("?dl=1", "attachment"), ("?dl=yes", "inline"), ("?dl=T", "attachment")])
async def test_download_flag(stored, query, kind):
    answer = await get(stored, FID + query)
    assert answer.headers.get("Content-Disposition").startswith(kind)


async def test_query_overrides_win(stored):
    query = (
        "?Response-Content-Type=x/y&response-cache-control=no-store&response-content-disposition=attachment"
        "&response-expires=never&response-content-language=de&response-content-encoding=x-y&dl=1"
    )
    headers = (await get(stored, FID + query)).headers
    assert headers.get("Content-Type") == "x/y"
    assert headers.get("Cache-Control") == "no-store"
    assert headers.get("Content-Disposition") == "attachment"
    assert headers.get("Expires") == "never"
    assert headers.get("Content-Language") == "de"
    assert headers.get("Content-Encoding") == "x-y"


async def test_not_modified_since_has_no_etag(stored):
    answer = await get(stored, FID, {"If-Modified-Since": "Tue, 14 Nov 2023 22:13:20 GMT", "If-None-Match": "x"})
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers.get("Last-Modified") == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert "Etag" not in answer.headers


async def test_same_etag(stored):
    assert (await get(stored, FID, {"If-None-Match": ETAG})).status == 304
    assert (await get(stored, FID, {"If-None-Match": "*"})).status == 200


async def test_head(stored):
    answer = await get(stored, FID, {"Range": "bytes=0-3"}, method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers.get("Content-Length") == "24"
    assert answer.headers.get("Accept-Ranges") == "bytes"


async def test_one_range(stored):
    answer = await get(stored, FID, {"Range": "bytes=0-3"})
    assert (answer.status, answer.body) == (206, b"hell")
    assert answer.headers.get("Content-Range") == "bytes 0-3/24"
    assert answer.headers.get("Content-Length") == "4"


async def test_an_empty_range_at_the_end(stored):
    answer = await get(stored, FID, {"Range": "bytes=24-"})
    assert (answer.status, answer.body) == (206, b"")
    assert answer.headers.get("Content-Range") == "bytes 24-23/24"


async def test_several_ranges(stored):
    answer = await get(stored, FID, {"Range": "bytes=0-3,5-6"})
    assert answer.status == 206
    kind, _, boundary = answer.headers.get("Content-Type").partition("; boundary=")
    assert kind == "multipart/byteranges"
    assert len(boundary) == 60
    part = "--%s\r\nContent-Range: bytes %s/24\r\nContent-Type: application/x-thing\r\n\r\n%s\r\n"
    expected = part % (boundary, "0-3", "hell") + part % (boundary, "5-6", " w") + f"--{boundary}--\r\n"
    assert answer.body.decode() == expected
    assert answer.headers.get("Content-Length") == str(len(expected))


@pytest.mark.parametrize("header", ["bytes=25-", "bytes=3-1", "chars=0-3"])
async def test_unsatisfiable_ranges(stored, header):
    answer = await get(stored, FID, {"Range": header})
    assert (answer.status, answer.body) == (416, b"invalid range\n")
    assert answer.headers.get("Content-Type") == "text/plain; charset=utf-8"
    assert answer.headers.get("X-Content-Type-Options") == "nosniff"
    assert answer.headers.get("Etag") == ETAG
    assert "Content-Length" not in answer.headers


@pytest.mark.parametrize("header", ["bytes=", "bytes=0-20,3-20"])
async def test_ranges_that_send_nothing(stored, header):
    answer = await get(stored, FID, {"Range": header})
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    ("name", "mime", "body", "expected"),
    [
        ("a.png", "application/octet-stream", b"abc", "image/png"),
        ("a", "application/octet-stream", b"%PDF-1.4", "application/pdf"),
        ("a", "application/octet-stream; x=y", b"a\0b", "application/octet-stream"),
        ("a.png", "x/y", b"abc", "x/y"),
    ],
)
async def test_content_types(context, name, mime, body, expected):
    await put(context, FID, body, {"Content-Type": mime, "Content-Disposition": f"name={name}"})
    assert (await get(context, FID)).headers.get("Content-Type") == expected


async def test_compressed_content_as_the_client_takes_it(context):
    data = b"words " * 100
    await put(context, FID, data, TEXT)
    packed = await get(context, FID, {"Accept-Encoding": "br, gzip"})
    clear = await get(context, FID, {"Accept-Encoding": "br"})
    assert packed.headers.get("Content-Encoding") == "gzip"
    assert gzip.decompress(packed.body) == data
    assert clear.body == data
    assert "Content-Encoding" not in clear.headers
    assert packed.headers.get("Etag") == clear.headers.get("Etag")


async def test_ranges_of_compressed_content_count_what_is_sent(context):
    data = b"words " * 100
    await put(context, FID, data, TEXT)
    assert (await get(context, FID, {"Range": "bytes=0-5"})).body == b"words "
    packed = await get(context, FID, {"Range": "bytes=0-1", "Accept-Encoding": "gzip"})
    assert packed.body == b"\x1f\x8b"


async def test_damaged_gzip_is_sent_as_it_is(context):
    damaged = gzip.compress(b"words " * 100)[:-9]
    await put(context, FID, damaged, {"Content-Encoding": "gzip"})
    assert (await get(context, FID)).body == damaged


async def test_a_bomb_is_sent_compressed(context):
    bomb = gzip.compress(b"\0" * (SETTINGS.file_size_limit_bytes + 1))
    await put(context, FID, bomb, {"Content-Encoding": "gzip"})
    answer = await get(context, FID)
    assert answer.body == bomb
    assert answer.headers.get("Content-Encoding") == "gzip"


async def test_an_empty_object(context):
    answer = await put(context, FID, b"", {"Content-Type": "a/b"})
    assert json.loads(answer.body)["eTag"] == "00000000"
    answer = await get(context, "/3,0299999999")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers.get("Content-Length") == "0"
    assert "Content-Type" not in answer.headers
    assert "Last-Modified" not in answer.headers


async def test_cors_on_reads(stored):
    answer = await get(stored, FID, {"Origin": "http://a"})
    assert answer.headers.get("Access-Control-Allow-Origin") == "*"


BIG = os.urandom(3 << 20)


@pytest.fixture
async def big(store):
    """An object that is streamed from its file."""
    context = make_context(store=store, settings=replace(SETTINGS, file_size_limit_bytes=8 << 20))
    await put(context, FID, BIG, {"Content-Type": "application/x-big"})
    return context


async def test_a_large_object(big):
    answer = await get(big, FID)
    assert answer.body == BIG
    assert answer.headers.get("Content-Length") == str(len(BIG))
    assert answer.headers.get("Content-Type") == "application/x-big"


async def test_ranges_of_a_large_object(big):
    assert (await get(big, FID, {"Range": "bytes=1000000-2999999"})).body == BIG[1000000:3000000]
    answer = await get(big, FID, {"Range": "bytes=0-0,-2"})
    assert BIG[:1] in answer.body
    assert BIG[-2:] in answer.body
    assert answer.headers.get("Content-Length") == str(len(answer.body))


async def test_a_large_object_without_a_type_is_sniffed(big):
    await put(big, "/3,0312345678", b"%PDF-" + BIG, {"Content-Type": "application/octet-stream"})
    assert (await get(big, "/3,0312345678")).headers.get("Content-Type") == "application/pdf"
    ranged = await get(big, "/3,0312345678", {"Range": "bytes=5-9"})
    assert ranged.headers.get("Content-Type") != "application/pdf"


async def test_head_of_a_large_object_holds_nothing_open(big, store):
    before = open_descriptors()
    answer = await get(big, FID, method="HEAD")
    assert answer.headers.get("Content-Length") == str(len(BIG))
    assert not open_descriptors() - before


async def test_an_expired_object_is_gone(context, clock):
    await put(context, "/5,0212345678", HELLO)
    assert (await get(context, "/5,0212345678")).status == 200
    clock.advance(4 * 60)
    assert (await get(context, "/5,0212345678")).status == 404


async def test_damage_on_disk_is_500(context, store, tmp_path):
    await put(context, FID, HELLO)
    with (tmp_path / "3.dat").open("r+b") as dat:
        content = dat.read()
        dat.seek(content.index(HELLO))
        dat.write(b"J")
    answer = await get(context, FID)
    assert (answer.status, answer.body) == (500, b"")


async def test_a_disk_out_of_service_is_503_with_the_reason(context, store, tmp_path):
    await put(context, FID, HELLO)
    store.locations[0].health.problem = "disk health check failed: statfs: Input/output error"
    reason = f"disk {tmp_path} is out of service: disk health check failed: statfs: Input/output error"
    answer = await get(context, FID)
    assert (answer.status, answer.body) == (503, f"{reason}\n".encode())
    assert (await get(context, FID, method="HEAD")).status == 503
    assert (await get(context, "/77,0212345678")).status == 404
    answer = await put(context, FID, b"other")
    assert (answer.status, json.loads(answer.body)) == (503, {"error": reason})
    answer = await delete(context, FID)
    assert (answer.status, json.loads(answer.body)) == (503, {"error": f"Deletion Failed: {reason}"})
    store.locations[0].health.problem = ""
    assert (await get(context, FID)).body == HELLO


# ---- deleting


async def test_delete_and_its_size(context):
    await put(context, FID + "?ts=1700000000", HELLO, {"Content-Type": "a/b"})
    answer = await delete(context, FID)
    size = 4 + 24 + 1 + 1 + len("3,0212345678") + 1 + 3 + 5
    assert (answer.status, json.loads(answer.body)) == (202, {"size": size})
    assert (await get(context, FID)).status == 404
    assert (await get(context, FID + "?readDeleted=true")).body == HELLO


@pytest.mark.parametrize("ts", ["1", "18446744073709551615", "-1", "soon", ""])
async def test_the_time_of_a_deletion_cannot_be_chosen(context, tmp_path, clock, ts):
    """Upstream reads `ts` of a DELETE into the needle. The record that it writes has only the append time."""
    await put(context, FID, HELLO)
    clock.advance(1)
    assert (await delete(context, f"{FID}?ts={ts}")).status == 202
    last_record = (tmp_path / "3.dat").read_bytes()[-32:]
    assert last_record[20:28] == clock.now_ns.to_bytes(8, "big")


async def test_deleting_twice_is_404(context):
    await put(context, FID, HELLO)
    await delete(context, FID)
    answer = await delete(context, FID)
    assert (answer.status, answer.body) == (404, b'{"size":0}')


@pytest.mark.parametrize("target", ["/abc,0212345678", "/77,0212345678", "/3,0912345678"])
async def test_deleting_what_is_not_there(context, target):
    answer = await delete(context, target)
    assert (answer.status, answer.body) == (404, b'{"size":0}')


async def test_deleting_with_another_cookie(context):
    await put(context, FID, HELLO)
    answer = await delete(context, "/3,0212345679")
    assert (answer.status, answer.body) == (400, b'{"error":"File Random Cookie does not match."}')
    assert (await get(context, FID)).status == 200


async def test_deleting_a_bad_file_id(context):
    answer = await delete(context, "/3")
    assert (answer.status, answer.body) == (400, b'{"error":"Invalid fid: "}')


async def test_deleting_from_a_read_only_volume(context, store):
    await put(context, FID, HELLO)
    store.mark_readonly(store.get_volume(3))
    answer = await delete(context, FID)
    assert (answer.status, json.loads(answer.body)) == (500, {"error": "Deletion Failed: volume 3 is read only"})


async def test_deleting_an_empty_object(context):
    await put(context, FID, b"")
    answer = await delete(context, FID)
    assert (answer.status, answer.body) == (202, b'{"size":0}')


async def test_a_server_without_a_store_has_nothing():
    context = make_context()
    assert (await get(context, FID)).status == 404
    assert (await delete(context, FID)).status == 404
    assert (await put(context, FID, HELLO)).status == 500


async def test_what_is_not_in_memory_is_read_in_a_thread(stored, monkeypatch):
    def read_cached(_files, _fd, _length_bytes, _offset_bytes):
        raise NotCached

    monkeypatch.setattr(OsFiles, "read_cached", read_cached)
    answer = await get(stored, FID)
    assert (answer.status, answer.body) == (200, HELLO)
