"""Uploads of objects to a real store. Expected texts are observed answers of the Go server."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from support.http_native import (
    SETTINGS,
    MemoryBody,
    fetch,
    file_part,
    get,
    make_context,
    make_request,
    multipart,
    post,
    put,
)

from native_handlers.format.needle import Needle
from native_handlers.http import read, upload_body
from native_handlers.http.upload_body import MAX_FORM_BYTES
from native_handlers.http_model.message import BodyError
from native_handlers.http_model.query import NO_QUERY
from native_handlers.runtime.content_threads import ContentThreads
from supervisor.routing.native import NATIVE_HTTP

FID = "/3,0212345678"
HELLO = b"hello world, hello world"
ETAG = '"d3152e74"'
BAD_ID = "Parse needleId error: needle id"
BAD_NUMBER = "strconv.ParseUint: parsing"
TEXT = {"Content-Type": "text/plain"}


async def test_a_multipart_upload(context):
    answer = await post(context, FID, file_part(HELLO, "h.txt", "Content-Type: text/plain"))
    assert answer.status == 201
    assert answer.body == b'{"name":"h.txt","size":24,"eTag":"d3152e74","mime":"text/plain"}'
    assert list(answer.headers)[:3] == [
        ("Content-Md5", ""),
        ("Content-Type", "application/json"),
        ("Etag", ETAG),
    ]


async def test_the_same_upload_again_is_204_without_a_body(context):
    await post(context, FID, file_part(HELLO))
    answer = await post(context, FID, file_part(HELLO))
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers.get("Etag") == ETAG
    assert answer.headers.get("Content-Md5") == ""


async def test_204_echoes_the_md5(context):
    md5 = base64.b64encode(hashlib.md5(HELLO).digest()).decode()
    await put(context, FID, HELLO, {"Content-MD5": md5})
    answer = await put(context, FID, HELLO, {"Content-MD5": md5})
    assert (answer.status, answer.headers.get("Content-Md5")) == (204, md5)


async def test_a_volume_with_a_ttl_writes_the_same_again(context):
    await put(context, "/5,0212345678", HELLO)
    assert (await put(context, "/5,0212345678", HELLO)).status == 201


async def test_a_raw_upload_is_named_by_its_path(context):
    answer = await put(context, FID, b"\0abc", {"Content-Type": "a/b"})
    assert json.loads(answer.body) == {
        "name": "3,0212345678", "size": 4, "eTag": answer.headers.get("Etag").strip('"'), "mime": "a/b",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('name="a b.bin"', "a b.bin"),
        ('attachment; filename="d/e.bin"; name=x', "e.bin"),
        ("filename=C:\\d\\e.bin", "3,0212345678"),
        ('inline; filename="C:\\d\\e.bin"', "e.bin"),
        ("attachment", "3,0212345678"),
        ("inline; name=", "3,0212345678"),
    ],
)
async def test_a_raw_upload_may_be_named_by_its_disposition(context, disposition, name):
    answer = await put(context, FID, b"\0abc", {"Content-Disposition": disposition})
    assert json.loads(answer.body)["name"] == name


async def test_octets_keep_their_type_in_raw_uploads_only(context):
    octets = "application/octet-stream"
    raw = await put(context, FID, HELLO, {"Content-Type": octets})
    part = await post(context, "/3,0312345678", file_part(HELLO, "x.zzz", f"Content-Type: {octets}"))
    assert json.loads(raw.body)["mime"] == octets
    assert "mime" not in json.loads(part.body)


async def test_a_type_that_the_name_says_is_stored_too(context):
    answer = await post(context, FID, file_part(b"\x89PNG", "a.PNG"))
    assert json.loads(answer.body)["mime"] == "image/png"


async def test_the_first_later_part_with_a_name_wins_with_its_own_headers(context, store):
    md5 = base64.b64encode(hashlib.md5(b"second").digest()).decode()
    field = (('Content-Disposition: form-data; name="x"', "Content-Type: text/plain", "Content-MD5: x"), b"12345")
    second = file_part(b"second", "s.bin", "Content-Type: a/b", f"Content-MD5: {md5}")
    answer = await post(context, FID, field, second, file_part(b"third", "t.txt"))
    assert json.loads(answer.body) == {
        "name": "s.bin", "size": 6, "eTag": json.loads(answer.body)["eTag"], "mime": "a/b", "contentMd5": md5,
    }  # fmt: skip


def field_part(name, content):
    return ((f'Content-Disposition: form-data; name="{name}"',), content)


@pytest.mark.parametrize("is_file_first", [False, True])
async def test_the_fields_of_a_form_set_time_and_ttl(context, store, is_file_first):
    fields = [field_part("ts", b"1700000000"), field_part("x", b"y"), field_part("ttl", b"7d")]
    file = file_part(b"content", "s.bin")
    answer = await post(context, FID, *([file, *fields] if is_file_first else [*fields, file]))
    assert answer.status == 201
    needle = store.get_volume(3).read(2, cookie=0x12345678).needle
    assert (needle.data, needle.last_modified_s, str(needle.ttl)) == (b"content", 1700000000, "1w")


async def test_the_query_wins_over_the_fields_of_a_form(context, store):
    fields = [field_part("ts", b"1700000000"), field_part("ttl", b"7d")]
    await post(context, f"{FID}?ts=1600000000&ttl=3h", *fields, file_part(b"content", "s.bin"))
    needle = store.get_volume(3).read(2, cookie=0x12345678).needle
    assert (needle.last_modified_s, str(needle.ttl)) == (1600000000, "3h")


async def test_a_field_that_is_too_long_is_passed_over(context, store):
    fields = [field_part("x", b""), field_part("ts", b"1" * 1000), field_part("ttl", b"7d")]
    await post(context, FID, *fields, file_part(b"content", "s.bin"))
    needle = store.get_volume(3).read(2, cookie=0x12345678).needle
    assert (needle.data, str(needle.ttl)) == (b"content", "1w")


@pytest.mark.parametrize("is_file_first", [False, True])
async def test_the_first_field_of_a_name_counts_and_no_other_is_kept(is_file_first):
    fields = [*(field_part("ttl", b"%dd" % days) for days in range(7, 99)), field_part("ts", b"")] * 10
    file = file_part(b"content", "s.bin")
    form = multipart(*([file, *fields] if is_file_first else [*fields, file]))
    request = make_request("POST", FID, {"Content-Type": "multipart/form-data; boundary=x"}, form)
    body = await upload_body.read_upload(request, NO_QUERY, MAX_FORM_BYTES, ContentThreads())
    assert sorted(body.fields.pairs) == [("ts", ""), ("ttl", "7d")]


async def test_without_any_name_the_first_part_counts(context):
    answer = await post(context, FID, ((), b"first"), ((), b"second"))
    assert "name" not in json.loads(answer.body)
    assert (await get(context, FID)).body == b"first"


async def test_a_broken_tail_after_a_nameless_part_is_forgiven(context):
    body = b"--x\r\n\r\nfirst\r\n--x\r\nbad header\r\n\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = await fetch("http.write", context, method="POST", target=FID, headers=headers, body=body)
    assert answer.status == 201


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        ("", b"abc", "request Content-Type isn't multipart/form-data"),
        ("x-form-data", b"abc", "request Content-Type isn't multipart/form-data"),
        ("multipart/form-data", b"abc", "no multipart boundary param in Content-Type"),
        ("multipart/form-data; boundary=x", b"abc", "multipart: NextPart: EOF"),
        ("multipart/form-data; boundary=x", b"--x--", "EOF"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nab", "unexpected EOF"),
        ('multipart/form-data; boundary=""', b"--x\r\n\r\nab", "multipart: boundary is empty"),
        ("text/x; y", b"abc", "mime: invalid media parameter"),
    ],
)
async def test_bad_posts_say_why(context, content_type, body, message):
    headers = {"Content-Type": content_type} if content_type else {}
    answer = await fetch("http.write", context, method="POST", target=FID, headers=headers, body=body)
    assert answer.status == 400
    assert json.loads(answer.body) == {"error": message}


async def test_a_urlencoded_body_is_a_form_and_no_file(context):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await put(context, FID, b"ts=1700000000&abc", headers)
    assert json.loads(answer.body) == {
        "name": "3,0212345678", "eTag": "00000000", "mime": "application/x-www-form-urlencoded",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "message"), [(b"a=%zz", 'invalid URL escape "%zz"'), (b"a" * (MAX_FORM_BYTES + 1), "http: POST too large")]
)
async def test_bad_forms(context, body, message):
    answer = await put(context, FID, body, {"Content-Type": "application/x-www-form-urlencoded"})
    assert (answer.status, json.loads(answer.body)) == (400, {"error": message})


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/abc,0112345678", 'strconv.ParseUint: parsing "abc": invalid syntax'),
        ("/99999999999999999999,0112345678", 'strconv.ParseUint: parsing "99999999999999999999": value out of range'),
        ("/3,0112", "Invalid fid: 0112"),
        ("/3,zz12345678", f"{BAD_ID} zz format error: {BAD_NUMBER} \"zz\": invalid syntax"),
        ("/3/0412345678", f"{BAD_ID} /3/04 format error: {BAD_NUMBER} \"/3/04\": invalid syntax"),
        ("/3,0112345678?a=b;c", "invalid semicolon separator in query"),
        ("/3,0112345678?a=%zz", 'invalid URL escape "%zz"'),
        ("/stats/x", 'strconv.ParseUint: parsing "stats": invalid syntax'),
    ],
)  # fmt: skip
async def test_bad_targets_of_uploads(context, target, message):
    answer = await put(context, target, b"a")
    assert (answer.status, json.loads(answer.body)) == (400, {"error": message})


async def test_a_volume_id_beyond_32_bits_wraps(context):
    assert (await put(context, "/4294967299,0212345678", HELLO)).status == 201
    assert (await get(context, FID)).body == HELLO


async def test_the_query_sets_time_and_ttl(context, store):
    await put(context, FID + "?ts=1600000000&ttl=5d", HELLO)
    needle = store.get_volume(3).read(2, cookie=0x12345678).needle
    assert needle.last_modified_s == 1600000000
    assert str(needle.ttl) == "5d"


@pytest.mark.parametrize("query", ["?ts=abc&ttl=x5", "?ts=-1&ttl=0m", "?ts=&ttl="])
async def test_bad_times_and_ttls_are_ignored(context, store, query):
    assert (await put(context, FID + query, HELLO)).status == 201
    needle = store.get_volume(3).read(2, cookie=0x12345678).needle
    assert needle.last_modified_s > 1700000000
    assert not needle.has_ttl


async def test_a_volume_gives_its_ttl(context, store):
    await put(context, "/5,0212345678", HELLO)
    assert str(store.get_volume(5).read(2, cookie=0x12345678).needle.ttl) == "3m"


async def test_pairs_are_kept_and_come_back_as_headers(context, store):
    headers = [("Seaweed-Foo-bar", "v<1"), ("seaweed-x", "\xc3\xa4"), ("Seaweed-X", "second"), ("X-Other", "no")]
    await put(context, FID, HELLO, headers)
    assert store.get_volume(3).read(2, cookie=0x12345678).needle.pairs == b'{"Foo-Bar":"v\\u003c1","X":"\xc3\xa4"}'
    answer = await get(context, FID)
    assert answer.headers.get("Foo-Bar") == "v<1"
    assert answer.headers.get("X") == "\xc3\xa4"
    assert "X-Other" not in answer.headers


@pytest.mark.parametrize(
    "pairs", [b"no json", b"[1]", b'{"A":5}', b"[" * 60_000], ids=["no json", "a list", "a number", "nested"]
)
async def test_stored_pairs_that_are_none_do_no_harm(context, store, pairs):
    needle = Needle(needle_id=2, cookie=0x12345678, data=HELLO, pairs=pairs)
    needle.has_pairs = True
    store.get_volume(3).write(needle)
    answer = await get(context, FID)
    assert (answer.status, answer.body) == (200, HELLO)
    assert "A" not in answer.headers


@pytest.mark.parametrize("count", [3, 3000])
async def test_many_stored_pairs_are_read_by_the_threads_for_contents(context, store, monkeypatch, count):
    """WriteNeedleBlob stores more of them than any upload: thousands take tens of milliseconds."""
    threads, loads = [], json.loads

    def watched_loads(text):
        threads.append(threading.get_ident())
        return loads(text)

    monkeypatch.setattr(read, "json", SimpleNamespace(loads=watched_loads))
    names = [f"X-{number:04}" for number in range(count)]
    pairs = {**dict.fromkeys(reversed(names), "a\r\nb"), "Content-Length": "7", "Keep-Alive": "x", "Etag": "other"}
    needle = Needle(needle_id=2, cookie=0x12345678, data=HELLO, pairs=json.dumps(pairs).encode())
    needle.has_pairs = True
    store.get_volume(3).write(needle)
    answer = await get(context, FID)
    assert (answer.status, answer.body) == (200, HELLO)
    assert [field for field in answer.headers if field[0] in names] == [(name, "a  b") for name in names]
    assert answer.headers.get("Etag") == "other"
    assert answer.headers.get("Content-Length") == str(len(HELLO))
    assert "Keep-Alive" not in answer.headers
    assert [thread == threading.get_ident() for thread in threads] == [count < 100]


async def test_pairs_of_64_kib_and_more_are_dropped(context, store):
    await put(context, FID, HELLO, {"Seaweed-A": "x" * 65536})
    assert not store.get_volume(3).read(2, cookie=0x12345678).needle.has_pairs


async def test_long_names_and_types_are_dropped_and_empty_ones_flagged(context, store):
    disposition = "filename=" + "n" * 256
    await put(context, FID, HELLO, {"Content-Disposition": disposition, "Content-Type": "a/" + "b" * 254})
    needle = store.get_volume(3).read(2, cookie=0x12345678).needle
    assert (needle.has_name, needle.has_mime) == (False, False)
    await post(context, "/3,0312345678", ((), HELLO))
    needle = store.get_volume(3).read(3, cookie=0x12345678).needle
    assert (needle.has_name, needle.name, needle.has_mime, needle.mime) == (True, b"", True, b"")


async def test_text_is_compressed_and_reported_by_its_clear_size(context, store):
    data = b"words " * 1000
    answer = await put(context, FID, data, TEXT)
    assert json.loads(answer.body)["size"] == len(data)
    needle = store.get_volume(3).read(2, cookie=0x12345678).needle
    assert needle.is_compressed
    assert gzip.decompress(needle.data) == data


@pytest.mark.parametrize(
    ("headers", "query"),
    [({"Content-Type": "application/json"}, ""), ({"Content-Type": "image/svg+xml"}, ""), (TEXT, "?type=replicate")],
)
async def test_other_types_and_replicas_are_not_compressed(context, store, headers, query):
    await put(context, FID + query, b"words " * 1000, headers)
    assert not store.get_volume(3).read(2, cookie=0x12345678).needle.is_compressed


async def test_an_untyped_upload_is_sniffed(context, store):
    await put(context, FID, b"words " * 1000)
    assert store.get_volume(3).read(2, cookie=0x12345678).needle.is_compressed


async def test_a_clients_gzip_is_kept(context, store):
    data = os.urandom(100)
    md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
    answer = await put(context, FID, gzip.compress(data), {"Content-Encoding": "gzip", "Content-MD5": md5})
    assert json.loads(answer.body)["size"] == 100
    assert json.loads(answer.body)["contentMd5"] == md5
    assert (await get(context, FID)).body == data


async def test_what_only_claims_to_be_gzip_is_stored_as_it_is(context):
    answer = await put(context, FID, HELLO, {"Content-Encoding": "gzip"})
    assert json.loads(answer.body)["size"] == 24
    assert (await get(context, FID)).body == HELLO


async def test_a_wrong_md5_is_refused(context):
    answer = await put(context, FID, HELLO, {"Content-MD5": "aaa", **TEXT})
    assert answer.status == 400
    assert answer.body == (
        b'{"error":"Content-MD5 did not match md5 of file data expected [aaa] '
        b'received [edlqFvxm1quTw4+ZWM7Trg==] size 24"}'
    )
    assert (await get(context, FID)).status == 404


async def test_the_md5_of_compressed_uploads_is_that_of_their_content(context):
    data = b"words " * 1000
    md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
    assert (await put(context, FID, data, {"Content-MD5": md5, **TEXT})).status == 201


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_the_size_limit(context, method):
    context = make_context(store=context.store, settings=replace(SETTINGS, file_size_limit_bytes=1000))
    for size, status in ((1000, 201), (1001, 400)):
        content = b"\0" * size
        if method == "PUT":
            answer = await put(context, FID, MemoryBody(content, is_chunked=True))
        else:
            answer = await post(context, FID, file_part(content))
        assert answer.status == status
    assert json.loads(answer.body) == {"error": "file over the limited 1000 bytes"}


async def test_a_refused_body_is_read_to_its_end(context):
    context = make_context(store=context.store, settings=replace(SETTINGS, file_size_limit_bytes=1000))
    body = MemoryBody(*[b"a" * 600] * 10)
    assert (await put(context, FID, body)).status == 400
    assert body.left_bytes == 0


async def respond_to_refused(context, body):
    request = make_request("PUT", "/3,0112", {}, body)
    return await NATIVE_HTTP["http.write"](context, request)


async def test_a_refused_body_without_an_end_closes_the_connection(context, monkeypatch):
    context = make_context(store=context.store, settings=replace(SETTINGS, file_size_limit_bytes=1000))
    assert (await respond_to_refused(context, MemoryBody(*[b"a" * 600] * 9))).close_connection is False
    assert (await respond_to_refused(context, MemoryBody(*[b"a" * 600] * 9, breaks=True))).close_connection
    monkeypatch.setattr(upload_body, "MAX_DRAIN_BYTES", 2000)
    assert (await respond_to_refused(context, MemoryBody(*[b"a" * 600] * 9))).close_connection


async def test_a_client_that_vanishes_stores_nothing(context):
    answer = await put(context, FID, MemoryBody(b"abc", breaks=True))
    assert answer.status == 400
    assert (await get(context, FID)).status == 404
    with pytest.raises(BodyError):
        await MemoryBody(breaks=True).receive_some()


async def test_another_cookie_does_not_overwrite(context):
    await put(context, FID, HELLO)
    answer = await put(context, "/3,0212345679", b"other")
    assert answer.status == 500
    assert json.loads(answer.body) == {"error": "failed to write to local disk: mismatching cookie 12345679"}
    assert (await get(context, FID)).body == HELLO


async def test_a_read_only_volume_refuses_with_500(context, store):
    store.mark_readonly(store.get_volume(3))
    answer = await put(context, FID, HELLO)
    assert (answer.status, json.loads(answer.body)) == (
        500,
        {"error": "failed to write to local disk: volume 3 is read only"},
    )


@pytest.mark.parametrize("query", ["", "?type=replicate"])
async def test_a_volume_that_nobody_has_is_never_201(context, query):
    answer = await put(context, "/77,0212345678" + query, HELLO)
    assert answer.status == 500


async def test_a_delta_is_added_to_the_id(context):
    assert (await put(context, "/3,0212345678_1", HELLO)).status == 201
    assert (await get(context, "/3,0312345678")).body == HELLO
    answer = await put(context, "/3,ffffffffffffffff12345678_1", HELLO)
    assert answer.status == 400
    assert b"overflows needle id" in answer.body


async def test_fsync_is_passed_to_the_store(context, store, monkeypatch):
    seen = []
    volume = store.get_volume(3)
    write = volume.write
    monkeypatch.setattr(volume, "write", lambda *a, **k: seen.append(k["fsync"]) or write(*a, **k))
    await put(context, FID + "?fsync=true", HELLO)
    await put(context, FID + "?fsync=1", b"other")
    assert seen == [True, False]
