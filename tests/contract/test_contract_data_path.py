"""Upload, read, delete: the object handler from a client's side."""

import email.utils

import pytest
from harness.http1 import Connection, multipart

pytestmark = pytest.mark.with_workers

TEXT = [("Content-Type", "text/plain")]
PAYLOAD = bytes(range(256)) * 8


def test_a_raw_upload_is_described_and_read_back(server):
    fid = server.new_fid()
    reply = server.http("PUT", f"/{fid}", TEXT, b"hello world")
    assert (reply.status, reply.get("Content-Type")) == (201, "application/json")
    assert reply.json() == {"name": fid, "size": 11, "eTag": "c99465aa", "mime": "text/plain"}
    assert reply.get("Etag") == '"c99465aa"'
    read = server.read(fid)
    assert (read.status, read.body) == (200, b"hello world")
    assert (read.get("Content-Type"), read.get("Etag")) == ("text/plain", '"c99465aa"')
    assert (read.get("Accept-Ranges"), read.get("Content-Length")) == ("bytes", "11")


def test_a_form_upload_keeps_name_and_type(server):
    fid = server.new_fid()
    headers, body = multipart(PAYLOAD, file_name="a b.bin", content_type="application/x-thing")
    reply = server.http("POST", f"/{fid}", headers, body)
    assert reply.status == 201
    answer = reply.json()
    assert answer.pop("eTag") == reply.get("Etag").strip('"')
    assert answer == {"name": "a b.bin", "size": len(PAYLOAD), "mime": "application/x-thing"}
    read = server.read(fid)
    assert read.body == PAYLOAD
    assert read.get("Content-Type") == "application/x-thing"
    assert read.get("Content-Disposition") == 'inline; filename="a b.bin"'


def test_a_put_stores_the_body_as_it_is(server):
    headers, body = multipart(b"not unpacked")
    assert server.read(server.store(body, headers)).body == body


def test_a_post_that_names_no_type_is_refused(server):
    fid = server.new_fid()
    reply = server.http("POST", f"/{fid}", [], b"x")
    assert (reply.status, reply.json()) == (400, {"error": "request Content-Type isn't multipart/form-data"})
    assert server.read(fid).status == 404


def test_a_post_of_another_type_is_a_raw_upload(server):
    fid = server.new_fid()
    assert server.http("POST", f"/{fid}", TEXT, b"plain").status == 201
    assert server.read(fid).body == b"plain"


def test_an_empty_file_is_a_file(server):
    fid = server.store(b"")
    read = server.read(fid)
    assert (read.status, read.body, read.get("Content-Length")) == (200, b"", "0")


def test_the_modification_time_and_the_pairs_are_kept(server):
    fid = server.store(b"x", [("Seaweed-Color", "red"), *TEXT], query="?ts=1600000000")
    read = server.read(fid)
    assert read.get("Last-Modified") == "Sun, 13 Sep 2020 12:26:40 GMT"
    assert read.get("Color") == "red"


def test_without_a_time_the_servers_own_is_taken(server):
    read = server.read(server.store(b"x"))
    modified = email.utils.parsedate_to_datetime(read.get("Last-Modified"))
    dated = email.utils.parsedate_to_datetime(read.get("Date"))
    assert 0 <= (dated - modified).total_seconds() <= 2


def test_head_is_get_without_the_body(server):
    fid = server.store(PAYLOAD, TEXT)
    with Connection(server.admin) as connection:
        got, head = connection.request("GET", f"/{fid}"), connection.request("HEAD", f"/{fid}")
    different = {"Date", "X-Amz-Request-Id"}
    assert head.status == 200
    assert [pair for pair in head.headers if pair[0] not in different] == [
        pair for pair in got.headers if pair[0] not in different
    ]


@pytest.mark.parametrize(
    ("spec", "content_range", "body"),
    [
        ("bytes=0-4", "bytes 0-4/11", b"hello"),
        ("bytes=6-", "bytes 6-10/11", b"world"),
        ("bytes=-3", "bytes 8-10/11", b"rld"),
        ("bytes=4-100", "bytes 4-10/11", b"o world"),
        ("bytes=10-10", "bytes 10-10/11", b"d"),
    ],
)
def test_a_range_is_partial_content(server, spec, content_range, body):
    fid = server.store(b"hello world", TEXT)
    reply = server.http("GET", f"/{fid}", [("Range", spec)])
    assert (reply.status, reply.get("Content-Range"), reply.body) == (206, content_range, body)
    assert reply.get("Content-Length") == str(len(body))


@pytest.mark.parametrize("spec", ["bytes=100-", "lines=1", "bytes=5-4", "bytes=x"])
def test_a_range_that_cannot_be_is_416(server, spec):
    fid = server.store(b"hello world", TEXT)
    reply = server.http("GET", f"/{fid}", [("Range", spec)])
    assert (reply.status, reply.body) == (416, b"invalid range\n")


def test_several_ranges_are_one_multipart_answer(server):
    fid = server.store(b"hello world", TEXT)
    reply = server.http("GET", f"/{fid}", [("Range", "bytes=0-1,3-4")])
    assert reply.status == 206
    kind, _, boundary = reply.get("Content-Type").partition("; boundary=")
    assert kind == "multipart/byteranges"
    parts = reply.body.split(b"--" + boundary.encode())[1:-1]
    assert [part.rpartition(b"\r\n\r\n")[2] for part in parts] == [b"he\r\n", b"lo\r\n"]
    assert b"Content-Range: bytes 3-4/11" in parts[1]


def test_conditional_reads(server):
    fid = server.store(b"x", TEXT, query="?ts=1600000000")
    etag, modified = '"' + server.read(fid).get("Etag").strip('"') + '"', "Sun, 13 Sep 2020 12:26:40 GMT"
    earlier = "Sun, 13 Sep 2020 12:26:39 GMT"

    def status(name, value):
        return server.http("GET", f"/{fid}", [(name, value)]).status

    assert status("If-None-Match", etag) == 304
    assert status("If-None-Match", '"other"') == 200
    assert status("If-None-Match", f"W/{etag}") == 200
    assert status("If-Modified-Since", modified) == 304
    assert status("If-Modified-Since", earlier) == 200
    assert status("If-Modified-Since", "yesterday") == 200


def test_a_304_has_no_body_and_no_etag_and_keeps_the_connection(server):
    fid = server.store(b"x", TEXT)
    with Connection(server.admin) as connection:
        etag = connection.request("GET", f"/{fid}").get("Etag")
        reply = connection.request("GET", f"/{fid}", [("If-None-Match", etag)])
        assert (reply.status, reply.get("Etag"), reply.get("Content-Length")) == (304, None, None)
        assert connection.request("GET", f"/{fid}").body == b"x"


def test_reads_by_the_other_spellings_of_a_file_id(server):
    fid = server.store(b"same", TEXT)
    volume_id, _, key = fid.partition(",")
    for target in (f"/{volume_id}/{key}", f"/{volume_id}/{key}/name.txt", f"/{fid}.txt"):
        assert server.http("GET", target).body == b"same", target
    named = server.http("GET", f"/{volume_id}/{key}/name.txt?dl=true")
    assert named.get("Content-Disposition") == "attachment; filename=name.txt"


def test_a_delta_addresses_the_needles_that_follow(server):
    first = server.new_fid()
    second = server.new_fid()
    server.store(b"first", fid=first)
    server.store(b"second", fid=second)
    assert server.http("GET", f"/{first}_1").body == b"second"


def test_a_delete_says_how_much_and_is_final(server):
    fid = server.store(b"to go", TEXT)
    reply = server.http("DELETE", f"/{fid}")
    assert (reply.status, reply.get("Content-Type")) == (202, "application/json")
    assert reply.json()["size"] > 5
    assert server.read(fid).status == 404
    again = server.http("DELETE", f"/{fid}")
    assert (again.status, again.json()) == (404, {"size": 0})


def test_a_deleted_id_can_be_written_again(server):
    fid = server.store(b"old")
    server.http("DELETE", f"/{fid}")
    server.store(b"new", fid=fid)
    assert server.read(fid).body == b"new"


def test_an_overwrite_replaces(server):
    fid = server.store(b"one")
    server.store(b"two", fid=fid)
    assert server.read(fid).body == b"two"


def other_cookie(fid):
    return f"{fid[:-8]}00000001"


def test_a_wrong_cookie_reads_nothing(server):
    fid = server.store(b"secret")
    reply = server.read(other_cookie(fid))
    assert (reply.status, reply.body) == (404, b"")


def test_a_wrong_cookie_deletes_nothing(server):
    fid = server.store(b"kept")
    reply = server.http("DELETE", f"/{other_cookie(fid)}")
    assert (reply.status, reply.json()) == (400, {"error": "File Random Cookie does not match."})
    assert server.read(fid).body == b"kept"


def test_a_wrong_cookie_overwrites_nothing(server):
    fid = server.store(b"kept")
    reply = server.http("PUT", f"/{other_cookie(fid)}", TEXT, b"other")
    assert reply.status == 500
    assert reply.json() == {"error": "failed to write to local disk: mismatching cookie 1"}
    assert server.read(fid).body == b"kept"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("where", ["volume", "needle"])
def test_what_is_not_there_is_an_empty_404(server, method, where):
    target = "/99999,01637037d6" if where == "volume" else f"/{server.new_fid()}"
    reply = server.http(method, target)
    assert (reply.status, reply.body) == (404, b"")
    assert reply.get("Content-Length") in ({"0"} if method == "GET" else {"0", None})


def test_deleting_in_a_volume_that_is_not_there_is_404(server):
    reply = server.http("DELETE", "/99999,01637037d6")
    assert (reply.status, reply.json()) == (404, {"size": 0})


MALFORMED = ["/1", "/,", "/1,", "/abc,01637037d6", "/1,0163", "/-1,01637037d6", "/1,01637037zz", "/1,zz"]


@pytest.mark.parametrize("target", MALFORMED)
def test_a_malformed_id_reads_as_an_empty_400(server, target):
    reply = server.http("GET", target)
    assert (reply.status, reply.body) == (400, b"")


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("/1", "Invalid fid: "),
        ("/1,0163", "Invalid fid: 0163"),
        ("/1,zz", "Invalid fid: zz"),
        ("/1,01637037d6/a/b", "Invalid fid: a"),
    ],
)
def test_a_malformed_id_deletes_as_a_400_with_the_reason(server, target, error):
    reply = server.http("DELETE", target)
    assert (reply.status, reply.json()) == (400, {"error": error})


def test_a_delta_beyond_the_last_id_is_refused(server):
    reply = server.http("DELETE", "/1,ffffffffffffffff637037d6_1")
    assert reply.status == 400
    assert reply.json()["error"].startswith("delta 1 overflows needle id ")


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("/1", "Invalid fid: /1"),
        ("/1,0163", "Invalid fid: 0163"),
        ("/abc,01637037d6", 'strconv.ParseUint: parsing "abc": invalid syntax'),
        ("/-1,01637037d6", 'strconv.ParseUint: parsing "-1": invalid syntax'),
    ],
)
def test_a_malformed_id_uploads_as_a_400_with_the_reason(server, target, error):
    reply = server.http("PUT", target, TEXT, b"x")
    assert (reply.status, reply.json()) == (400, {"error": error})


def test_json_answers_are_written_as_go_writes_them(server):
    headers, body = multipart(b"x", file_name="<x>&y")
    reply = server.http("POST", f"/{server.new_fid()}", headers, body)
    assert reply.body.startswith(b'{"name":"\\u003cx\\u003e\\u0026y","size":1,"eTag":"')
