"""Query: rows selected from stored JSON."""

import gzip
import json

import grpc
import pytest
from harness.calls import LIMIT_S

from native_handlers.pb import volume_server_pb2 as pb

pytestmark = pytest.mark.native_rpcs

JSON = pb.QueryRequest.InputSerialization(json_input={"type": "LINES"})
CSV = pb.QueryRequest.InputSerialization(csv_input={})
SCORES = b'{"score":3}\n{"score":12}\n{"score":18}\n'
PERSON = rb"""{"name": {"first": "Tom", "last": "\u00c9"}, "age": 3.70e1, "none": null, "yes": true, "fav.movie": "X",
 "children": ["Sara", "Alex"], "friends": [{"age": 44}, {"age": 68, "nets": ["fb"]}, "x"], "@timestamp": 5}"""


def put(server, data):
    return server.store(data, [("Content-Type", "application/octet-stream")])


def stripes(server, *fids, where=("score", ">", "10"), select=("score",), reads=JSON):
    field, operand, value = where
    request = pb.QueryRequest(
        from_file_ids=fids,
        selections=select,
        filter={"field": field, "operand": operand, "value": value},
        input_serialization=reads,
    )
    return [stripe.records for stripe in server.rpc.Query(request, timeout=LIMIT_S)]


def test_a_stripe_for_each_needle(server):
    fids = put(server, SCORES), put(server, b'{"score":1}'), put(server, SCORES)
    assert stripes(server, *fids) == [b"{score:12}{score:18}", b"", b"{score:12}{score:18}"]


def test_csv_gives_nothing(server):
    assert stripes(server, put(server, SCORES), reads=CSV) == []


def test_a_wrong_cookie_ends_the_stream_quietly(server):
    fid = put(server, SCORES)
    wrong = f"{fid[:-8]}{int(fid[-8:], 16) ^ 1:08x}"
    assert stripes(server, fid, wrong, fid) == [b"{score:12}{score:18}"]


@pytest.mark.parametrize(
    ("fid", "text"), [("bad-fid", "Wrong fid format."), ("999999,01637037d6", "volume 999999 not")]
)
def test_what_is_refused(server, fid, text):
    with pytest.raises(grpc.RpcError) as raised:
        stripes(server, fid)
    assert raised.value.code() is grpc.StatusCode.UNKNOWN
    assert text in raised.value.details()


def test_a_needle_that_is_not_there(server):
    fid = server.new_fid()
    with pytest.raises(grpc.RpcError) as raised:
        stripes(server, fid)
    assert raised.value.code() is grpc.StatusCode.UNKNOWN


@pytest.mark.parametrize(
    ("where", "passes"),
    [
        (("age", "", ""), True), (("nobody", "", ""), False), (("age", "=", "37"), True), (("age", ">=", "38"), False),
        (("age", "<", "1e2"), True), (("age", "%", "3*"), False), (("name.first", "%", "T?m"), True),
        (("name.first", "!%", "T*"), False), (("name.last", "=", "É"), True), (("name.first", ">", "Tim"), True),
        (("yes", ">", "false"), True), (("none", "", ""), True), (("none", "!=", "x"), False),
        (("children", "!=", "x"), False), (("children.#", "=", "2"), True), (("friends.1.nets.0", "=", "fb"), True),
        (("age", "~", "37"), False), (("", "", ""), False),
    ],
)  # fmt: skip
def test_filters(server, where, passes):
    assert stripes(server, put(server, PERSON), where=where, select=()) == [b"{}" if passes else b""]


def test_selections_stand_as_in_the_document(server):
    select = ("age", "name", "none", "nobody", "children.1", "friends.#.age", r"fav\.movie", "@timestamp", "child*.#")
    assert stripes(server, put(server, PERSON), where=("age", "", ""), select=select) == [
        rb'{age:3.70e1,name:{"first": "Tom", "last": "\u00c9"},none:,nobody:,children.1:"Alex",friends.#.age:[44,68],'
        rb'fav\.movie:"X",@timestamp:5,child*.#:2}'
    ]


def test_broken_documents(server):
    payload = b'\xff}{"score":11}{"score":}[[[{"score":12}]]]nonsense {"score":13 "and":{"score":1}{"score":14'
    assert stripes(server, put(server, payload)) == [b"{score:11}{score:13}"]
    assert stripes(server, put(server, b'{"score":15')) == [b"{score:15}"]
    assert stripes(server, put(server, b"[" * 100_000 + b'{"score":15}')) == [b""]


def test_a_compressed_payload_is_taken_as_it_is_stored(server):
    headers = [("Content-Type", "application/json"), ("Content-Encoding", "gzip")]
    fid = server.store(gzip.compress(SCORES * 100, mtime=0), headers)
    assert json.loads(server.read(fid).body.split(b"\n")[1]) == {"score": 12}
    assert stripes(server, fid) == [b""]


def test_a_large_payload(server):
    payload = b"\n".join(json.dumps({"score": number, "text": "x" * 200}).encode() for number in range(20_000))
    assert stripes(server, put(server, payload)) == [b"".join(b"{score:%d}" % number for number in range(11, 20_000))]


@pytest.mark.only(lambda implementation: implementation.name not in {"go", "exec-go"})
def test_a_query_without_a_filter_or_a_format_ends_no_server(server):
    """One such query ends the process of upstream's server."""
    fid = put(server, SCORES)
    request = pb.QueryRequest(from_file_ids=[fid], selections=["score"], input_serialization=JSON)
    assert [stripe.records for stripe in server.rpc.Query(request, timeout=LIMIT_S)] == [
        b"{score:3}{score:12}{score:18}"
    ]
    for less in ({}, {"filter": {"field": "score"}}):
        request = pb.QueryRequest(from_file_ids=[fid], selections=["score"], **less)
        assert list(server.rpc.Query(request, timeout=LIMIT_S)) == []
    assert server.read(fid).status == 200
