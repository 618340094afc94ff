"""The boundaries between messages: refused forms, tolerated forms, and no smuggled request. Go's own server is laxer in
a few points (bare line feeds, folded headers, both lengths at once). A front-end that forwards must not be: request
smuggling needs two parsers that read one message differently.
"""

import threading
from contextlib import suppress

import pytest
from harness.http1 import Connection, Disconnected, request_bytes

OUR_FRONT = pytest.mark.only(lambda implementation: implementation.is_front)

MALFORMED = {
    "no host": b"GET /status HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /status HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "space before the colon": b"GET /status HTTP/1.1\r\nHost : a\r\n\r\n",
    "two spaces in the request line": b"GET  /status HTTP/1.1\r\nHost: a\r\n\r\n",
    "no request line": b"garbage\r\n\r\n",
    "a NUL in a value": b"GET /status HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    "a control character in a name": b"GET /status HTTP/1.1\r\nHost: a\r\nX\x01Y: b\r\n\r\n",
    "a signed length": b"GET /status HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
    "a negative length": b"GET /status HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "two lengths that differ": b"GET /status HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "an unknown transfer coding": b"PUT /1,01 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "another protocol version": b"GET /status HTTP/2.0\r\nHost: a\r\n\r\n",
}

AMBIGUOUS = {
    "both lengths": b"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare line feeds": b"GET /status HTTP/1.1\nHost: a\n\n",
    "a folded header": b"GET /status HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    "a header name with a space": b"GET /status HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello",
    "chunked named twice": b"PUT /1,01 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "a coding in disguise": b"PUT /1,01 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding for HTTP/1.0": b"PUT /1,01 HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}

BAD_CHUNKS = {
    "no number": b"zz\r\nhello\r\n0\r\n\r\n",
    "a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "a prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "too long for its size": b"3\r\nhello\r\n0\r\n\r\n",
    "too big a number": b"fffffffffffffffff1\r\nhello\r\n0\r\n\r\n",
}


def assert_refused(connection, statuses):
    """One error answer, then the connection is closed without further bytes."""
    reply = connection.read_reply()
    assert reply.status in statuses, reply
    assert connection.is_closed_by_server()


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_heads_are_refused(server, name):
    with Connection(server.admin) as connection:
        connection.send(MALFORMED[name])
        assert_refused(connection, {400, 501, 505})


@OUR_FRONT
@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous_heads_are_refused(server, name):
    with Connection(server.admin) as connection:
        connection.send(AMBIGUOUS[name])
        assert_refused(connection, {400, 501})


@OUR_FRONT
@pytest.mark.parametrize("port", ["admin", "public"])
def test_a_request_hidden_in_an_ambiguous_one_is_not_executed(server, port):
    fid = server.store(b"still here")
    hidden = request_bytes("DELETE", f"/{fid}")
    head = f"GET /{fid} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(hidden) + 5}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Connection(getattr(server, port)) as connection:
        connection.send(head.encode() + b"0\r\n\r\n" + hidden)
        assert_refused(connection, {400})
    assert server.read(fid).body == b"still here"


@OUR_FRONT
@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_bad_chunks_store_nothing_and_end_the_connection(server, name):
    fid = server.new_fid()
    with Connection(server.admin) as connection:
        connection.send(f"PUT /{fid} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        connection.send(BAD_CHUNKS[name])
        with suppress(Disconnected, ConnectionResetError):  # an answer is a courtesy: no request was ever complete
            assert connection.read_reply().status in {400, 502}
        connection.read_to_end()
    assert server.read(fid).status == 404


def test_a_head_without_end_is_refused(server):
    with Connection(server.admin) as connection:
        connection.send(b"GET /status HTTP/1.1\r\nHost: a\r\n")
        try:
            for _ in range(256):
                connection.send(b"X-Filler: " + b"y" * 16000 + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            return
        try:
            assert connection.read_reply().status == 431
        except (Disconnected, ConnectionResetError):
            return


def test_pipelined_requests_are_answered_in_order(server):
    fids = [server.store(f"number {at}".encode()) for at in range(5)]
    with Connection(server.admin) as connection:
        connection.send(b"".join(request_bytes("GET", f"/{fid}") for fid in fids))
        assert [connection.read_reply().body for _ in fids] == [f"number {at}".encode() for at in range(5)]


def test_a_request_pipelined_behind_an_upload_sees_its_effect(server):
    fid = server.new_fid()
    upload, read = request_bytes("PUT", f"/{fid}", body=b"fresh"), request_bytes("GET", f"/{fid}")
    delete = request_bytes("DELETE", f"/{fid}")
    with Connection(server.admin) as connection:
        connection.send(upload + read + delete + read)
        replies = [connection.read_reply() for _ in range(4)]
    assert [reply.status for reply in replies] == [201, 200, 202, 404]
    assert replies[1].body == b"fresh"


def test_a_request_may_come_byte_by_byte(server):
    fid = server.new_fid()
    with Connection(server.admin) as connection:
        for byte in request_bytes("PUT", f"/{fid}", body=b"slow"):
            connection.send(bytes([byte]))
        assert connection.read_reply().status == 201
    assert server.read(fid).body == b"slow"


def test_expect_is_answered_before_the_body(server):
    fid = server.new_fid()
    with Connection(server.admin) as connection:
        connection.send(f"PUT /{fid} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n".encode())
        assert connection.read_reply().status == 100
        connection.send(b"body")
        assert connection.read_reply().status == 201
        assert connection.request("GET", f"/{fid}").body == b"body"


def test_an_expectation_that_nobody_knows_fails(server):
    with Connection(server.admin) as connection:
        assert connection.request("GET", "/status", [("Expect", "a miracle")]).status == 417


def test_an_upload_may_be_chunked(server):
    fid = server.new_fid()
    with Connection(server.admin) as connection:
        connection.send(f"PUT /{fid} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for piece in (b"one ", b"two ", b"three"):
            connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        connection.send(b"0\r\n\r\n")
        reply = connection.read_reply()
        assert (reply.status, reply.json()["size"]) == (201, 13)
        assert connection.request("GET", f"/{fid}").body == b"one two three"


def test_chunk_extensions_and_trailers_are_put_up_with(server):
    fid = server.new_fid()
    with Connection(server.admin) as connection:
        connection.send(f"PUT /{fid} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        connection.send(b"5;a=b\r\nhello\r\n0\r\nX-Trailer: y\r\n\r\n")
        assert connection.read_reply().status == 201
        assert connection.request("GET", f"/{fid}").body == b"hello"


def chunked_upload(fid, chunk, count):
    head = f"PUT /{fid} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + chunk * count + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("count", "extension", "status"),
    [(50_000, b"", 201), (1000, b";" + b"x" * 30, 201), (60, b";" + b"x" * 250, 201), (100, b";" + b"x" * 250, 400)],
    ids=["single bytes", "short extensions", "few long extensions", "many long extensions"],
)
def test_a_body_may_be_mostly_framing_up_to_a_bound(server, count, extension, status):
    """Upstream's library allows each chunk 16 bytes, each byte of content two, and each body 16 KiB more."""
    fid = server.new_fid()
    with Connection(server.admin) as connection:
        connection.send(chunked_upload(fid, b"1" + extension + b"\r\na\r\n", count))
        assert connection.read_reply().status == status
    assert server.read(fid).body == (b"a" * count if status == 201 else b"")


@OUR_FRONT
def test_a_body_of_tiny_chunks_does_not_keep_others_waiting(server):
    """A front that takes a whole MiB of chunks before it serves another client answers fewer than ten reads meanwhile.
    Go itself stores the body before a client has read twenty times.
    """
    small, fid, count = server.store(b"small"), server.new_fid(), 1_000_000
    replies = []

    def upload():
        with Connection(server.admin, limit_s=120) as sender:
            sender.send(chunked_upload(fid, b"1\r\na\r\n", count))
            replies.append(sender.read_reply())

    sending = threading.Thread(target=upload)
    with Connection(server.admin, limit_s=120) as reader:
        sending.start()
        answered = 0
        while sending.is_alive():
            assert reader.request("GET", f"/{small}").body == b"small"
            answered += 1
        sending.join()
    assert [(reply.status, reply.json()["size"]) for reply in replies] == [(201, count)]
    assert answered >= 20


def test_a_client_that_has_said_everything_still_gets_its_answer(server):
    fid = server.store(b"answer")
    with Connection(server.admin) as connection:
        connection.send(request_bytes("GET", f"/{fid}"))
        connection.end_sending()
        assert connection.read_reply().body == b"answer"
        assert connection.is_closed_by_server()


def test_an_upload_that_breaks_off_stores_nothing(server):
    fid = server.new_fid()
    with Connection(server.admin) as connection:
        connection.send(f"PUT /{fid} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello".encode())
        connection.end_sending()
        connection.read_to_end()
    assert server.read(fid).status == 404


def test_http_1_0_is_answered_and_closed(server):
    with Connection(server.admin) as connection:
        connection.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert connection.read_reply().status == 200
        assert connection.is_closed_by_server()


def test_http_1_0_never_gets_chunks(server):
    with Connection(server.admin) as connection:
        connection.send(b"GET /ui/index.html HTTP/1.0\r\n\r\n")
        reply = connection.read_reply()
        assert (reply.status, reply.get("Transfer-Encoding")) == (200, None)
        assert reply.body.rstrip().endswith(b"</html>")


def test_a_client_may_ask_for_the_close(server):
    with Connection(server.admin) as connection:
        reply = connection.request("GET", "/healthz", [("Connection", "close")])
        assert (reply.status, reply.get("Connection")) == (200, "close")
        assert connection.is_closed_by_server()


def test_an_absolute_target_is_understood(server):
    fid = server.store(b"absolute")
    assert server.http("GET", f"http://any.example/{fid}").body == b"absolute"


def test_escapes_and_queries_are_passed_on_as_they_are(server):
    fid = server.store(b"escaped")
    assert server.http("GET", f"/{fid.replace(',', '%2C')}?a=%20b&c=;d").body == b"escaped"
