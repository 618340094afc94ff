"""Contents that are work: encoded, compressed, with headers of their own; what is answered, what it costs others."""

import base64
import gzip
import hashlib
import os
import signal

import pytest
from harness.http1 import Connection, Disconnected, multipart, request_bytes
from harness.processes import memory_bytes
from support.waiting import wait_until

pytestmark = pytest.mark.with_workers

OCTETS = [("Content-Type", "application/octet-stream")]
GZIP = [("Content-Encoding", "gzip"), *OCTETS]
QUOTED = [("Content-Transfer-Encoding", "quoted-printable")]
BOMB = gzip.compress(bytes(64 << 20), 9)
ours = pytest.mark.only(lambda implementation: implementation.name == "native")


def post_quoted(server, encoded):
    fid = server.new_fid()
    headers, body = multipart(encoded, content_type="application/octet-stream", part_headers=QUOTED)
    return fid, server.http("POST", f"/{fid}", headers, body)


@pytest.mark.parametrize(
    ("encoded", "data"),
    [
        (b"a=3Db=3db =\r\nc=\nd", b"a=b=b cd"),
        (b"blanks \t\r\nat ends \n", b"blanks\r\nat ends\n"),
        (b"= \t\nbehind= ", b"behind"),
        (b"=zz=3 ==41=", b"=zz=3 =A"),
        (b"\n" * 100_000, b"\n" * 100_000),
        (b"=E4=\n" * 100_000, b"\xe4" * 100_000),
        ((b"a" * 4095 + b"\n") * 20, (b"a" * 4095 + b"\n") * 20),
    ],
    ids=["escapes", "blanks", "blanks behind a soft break", "no escapes", "line feeds", "soft breaks", "long lines"],
)
def test_a_quoted_printable_part_is_stored_decoded(server, encoded, data):
    fid, reply = post_quoted(server, encoded)
    assert reply.status == 201
    assert reply.json()["size"] == len(data)
    assert server.read(fid).body == data


@pytest.mark.parametrize(
    ("encoded", "error"),
    [
        (b"a\x00", "quotedprintable: invalid unescaped byte 0x00 in body"),
        (b"x\na=\r\r\n", 'quotedprintable: invalid bytes after =: "\\r\\r\\n"'),
        (b"a==\nb", "unexpected EOF"),
        (b"=\rb\n", "quotedprintable: invalid hex byte 0x0d"),
        (b"a" * 5000 + b"\n", "bufio: buffer full"),
    ],
)
def test_a_part_that_is_no_quoted_printable_is_refused(server, encoded, error):
    fid, reply = post_quoted(server, encoded)
    assert (reply.status, reply.json()) == (400, {"error": error})
    assert server.read(fid).status == 404


def test_a_form_is_no_file_however_long(server):
    for length in (10, 100_000, 10_000_000):
        fid, body = server.new_fid(), b"ttl=3m&a=" + b"%41" * (length // 3)
        reply = server.http("POST", f"/{fid}", [("Content-Type", "application/x-www-form-urlencoded")], body)
        assert (reply.status, reply.json().get("size")) == (201, None)
        assert server.read(fid).body == b""
    reply = server.http("POST", f"/{fid}", [("Content-Type", "application/x-www-form-urlencoded")], bytes(11 << 20))
    assert (reply.status, reply.json()) == (400, {"error": "http: POST too large"})


@pytest.fixture(scope="module")
def long_text():
    return b"".join(b"line %d\n" % number for number in range(60_000))


@pytest.mark.parametrize("members", [1, 3])
def test_gzip_is_read_clear_in_any_part_by_who_does_not_take_it(server, long_text, members):
    fid = server.store(gzip.compress(long_text) * members, GZIP)
    clear = long_text * members
    whole = server.read(fid)
    assert (whole.status, whole.get("Content-Length"), whole.get("Content-Encoding")) == (200, str(len(clear)), None)
    assert whole.body == clear
    assert whole.get("Content-Type") == "text/plain; charset=utf-8"
    assert server.http("HEAD", f"/{fid}").get("Content-Length") == str(len(clear))
    for start, end in ((0, 0), (5, 300_000), (len(clear) - 1, len(clear) - 1)):
        part = server.http("GET", f"/{fid}", [("Range", f"bytes={start}-{end}")])
        assert (part.status, part.body) == (206, clear[start : end + 1])
        assert part.get("Content-Range") == f"bytes {start}-{end}/{len(clear)}"
    parts = server.http("GET", f"/{fid}", [("Range", "bytes=400000-400009,7-9,-5")]).body
    assert parts.index(clear[400_000:400_010]) < parts.index(clear[7:10]) < parts.index(clear[-5:])


def test_the_size_of_gzip_is_that_of_its_content(server):
    for data, size in (
        (BOMB, 64 << 20),
        (BOMB[:-1], len(BOMB) - 1),
        (BOMB + b"zz", len(BOMB) + 2),
        (BOMB * 2, 128 << 20),
    ):
        reply = server.http("PUT", f"/{server.new_fid()}", GZIP, data)
        assert (reply.status, reply.json()["size"]) == (201, size)


def test_the_md5_of_gzip_is_that_of_its_content(server):
    md5 = base64.b64encode(hashlib.md5(bytes(64 << 20)).digest()).decode()
    reply = server.http("PUT", f"/{server.new_fid()}", [*GZIP, ("Content-MD5", md5)], BOMB)
    assert (reply.status, reply.json()["contentMd5"]) == (201, md5)
    reply = server.http("PUT", f"/{server.new_fid()}", [*GZIP, ("Content-MD5", md5)], BOMB * 2)
    assert (reply.status, reply.json()["error"].split()[0]) == (400, "Content-MD5")


@pytest.mark.parametrize(
    ("name", "value"), [("Content-Length", "5"), ("Content-Length", "x"), ("Content-Range", "bytes 0-1/2")]
)
def test_stored_headers_do_not_say_how_long_an_answer_is(server, name, value):
    fid = server.store(b"hello world", [(f"Seaweed-{name}", value), ("Seaweed-Kept", "k"), *OCTETS])
    whole = server.read(fid)
    assert (whole.status, whole.body, whole.get_all("Content-Length")) == (200, b"hello world", ["11"])
    assert whole.get("Kept") == "k"
    part = server.http("GET", f"/{fid}", [("Range", "bytes=1-4")])
    assert (part.status, part.body, part.get_all("Content-Range")) == (206, b"ello", ["bytes 1-4/11"])
    assert server.http("HEAD", f"/{fid}").get_all("Content-Length") == ["11"]


@ours
@pytest.mark.parametrize(
    ("name", "value"), [("Content-Length", "5"), ("Content-Length", "x"), ("Transfer-Encoding", "chunked")]
)
def test_nor_where_nothing_of_the_content_is_sent(server, name, value):
    """Go breaks the connection off, or sends what no client can make sense of."""
    fid = server.store(b"hello world", [(f"Seaweed-{name}", value), *OCTETS])
    nothing = server.http("GET", f"/{fid}", [("Range", "bytes=0-9,0-9")])
    assert (nothing.status, nothing.body, nothing.get_all("Content-Length")) == (200, b"", ["0"])
    assert server.http("GET", f"/{fid}", [("Range", "bytes=99-")]).status == 416


class Uploads:
    """Uploads under way at once, each of its own connection, whose answers nobody reads yet."""

    def __init__(self, server, count, headers, data):
        self.connections = [Connection(server.admin, limit_s=60) for _ in range(count)]
        for connection in self.connections:
            connection.send(request_bytes("PUT", f"/{server.new_fid()}", headers, data))

    def answered(self):
        """How many have an answer by now."""
        for connection in self.connections:
            connection.socket.setblocking(False)
        count = 0
        for connection in self.connections:
            try:
                connection.read_reply()
                count += 1
            except (BlockingIOError, Disconnected):
                pass
        return count

    def close(self):
        for connection in self.connections:
            connection.socket.close()


@ours
def test_an_upload_is_answered_while_many_bombs_are_measured(fresh_server):
    """All of them together take minutes, for their MD5 has to be known."""
    server = fresh_server()
    bombs = Uploads(server, 40, [*GZIP, ("Content-MD5", "x")], BOMB * 63)
    try:
        for _ in range(3):
            data = b"some words " * 10_000
            fid = server.store(data, [("Content-Type", "text/plain")])
            assert server.read(fid).body == data
        assert not bombs.answered()
    finally:
        bombs.close()


@ours
def test_a_stop_does_not_wait_for_contents(fresh_server):
    """A second signal cuts what is under way, as the end of the 30 s does."""
    server = fresh_server()
    bombs = Uploads(server, 40, [*GZIP, ("Content-MD5", "x")], BOMB * 63)
    server.store(b"to see that the others are under way")
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "SIGTERM: stopping" in server.process.log_tail(), "the server to begin to stop")
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.process.exit_code is not None, "the server to end")
    bombs.close()
    assert server.process.exit_code == 0


def memory_of_slow_readers(server, fid, count, headers=(), starts=b""):
    """How much the server's memory has grown when that many clients have taken the beginning of an answer each."""
    before = memory_bytes(server.process.pid, "VmRSS")
    readers = [Connection(server.admin, limit_s=60) for _ in range(count)]
    for reader in readers:
        reader.send(request_bytes("GET", f"/{fid}", headers))
        reader.read_head()
        assert reader.read_exactly(len(starts)) == starts
    grown = memory_bytes(server.process.pid, "VmRSS") - before
    for reader in readers:
        reader.socket.close()
    return grown


@ours
def test_slow_readers_of_a_bomb_do_not_hold_its_content(server):
    fid = server.store(BOMB, GZIP)
    assert memory_of_slow_readers(server, fid, 20, starts=bytes(1000)) < 100 << 20


@ours
@pytest.mark.parametrize("accepted", ["gzip", "identity"])
def test_slow_readers_of_large_gzip_do_not_hold_it(fresh_server, accepted):
    server = fresh_server()
    data = os.urandom(30 << 20)
    packed = gzip.compress(data, 1)
    fid = server.store(packed, GZIP)
    starts = (packed if accepted == "gzip" else data)[:1000]
    assert memory_of_slow_readers(server, fid, 6, [("Accept-Encoding", accepted)], starts) < 64 << 20


def test_any_part_of_large_gzip(server):
    data = os.urandom(3 << 20)
    packed = gzip.compress(data, 1)
    fid = server.store(packed, GZIP)
    for accepted, sent in (("identity", data), ("gzip", packed)):
        headers = [("Accept-Encoding", accepted)]
        whole = server.http("GET", f"/{fid}", headers)
        assert (whole.status, whole.body, whole.get("Content-Length")) == (200, sent, str(len(sent)))
        assert whole.get("Content-Encoding") == ("gzip" if accepted == "gzip" else None)
        part = server.http("GET", f"/{fid}", [*headers, ("Range", "bytes=1000000-2999999")])
        assert (part.status, part.body) == (206, sent[1_000_000:3_000_000])
