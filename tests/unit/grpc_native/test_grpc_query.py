"""Query: rows of stored JSON, needle by needle."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import grpc
import pytest
from support.grpc_nodes import make_context

from native_handlers.format.needle import FLAG_IS_COMPRESSED, Needle
from native_handlers.grpc import query
from native_handlers.grpc.context import RpcFailure
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.query import documents
from native_handlers.query import strings as query_strings
from native_handlers.query.paths import JsonPath

VID, COOKIE = 7, 0xC0FFEE
JSON = pb.QueryRequest.InputSerialization(json_input={"type": "LINES"})
CSV = pb.QueryRequest.InputSerialization(csv_input={})
SCORES = b'{"score":3}\n{"score":12}\n{"score":18}\n'


@pytest.fixture
def volume(store):
    return store.allocate_volume(VID)


def put(volume, data, needle_id=1, **fields):
    volume.write(Needle(needle_id=needle_id, cookie=COOKIE, data=data, **fields))
    return fid_of(needle_id)


def fid_of(needle_id=1, cookie=COOKIE, vid=VID):
    return f"{vid},{needle_id:02x}{cookie:08x}"


def stripes(node, *fids, where=("score", ">", "10"), select=("score",), reads=JSON, context=None):
    request = pb.QueryRequest(from_file_ids=fids, selections=select, input_serialization=reads)
    if where is not None:
        field, operand, value = where
        request.filter.CopyFrom(pb.QueryRequest.Filter(field=field, operand=operand, value=value))
    return [stripe.records for stripe in query.query(node, context or make_context(), request)]


def test_rows_of_what_passes(node, volume):
    assert stripes(node, put(volume, SCORES)) == [b"{score:12}{score:18}"]


def test_a_stripe_for_each_needle_also_without_a_match(node, volume):
    fids = [put(volume, SCORES, 1), put(volume, b"", 2), put(volume, b'{"score":1}', 3), put(volume, SCORES, 4)]
    assert stripes(node, *fids) == [b"{score:12}{score:18}", b"", b"", b"{score:12}{score:18}"]


def test_csv_and_no_format_give_nothing(node, volume):
    fid = put(volume, SCORES)
    assert stripes(node, fid, reads=CSV) == []
    assert stripes(node, fid, reads=None) == []
    both = pb.QueryRequest.InputSerialization(csv_input={}, json_input={})
    assert stripes(node, fid, reads=both) == [b"{score:12}{score:18}"]


def test_without_a_filter_all_pass(node, volume):
    fid = put(volume, SCORES)
    assert stripes(node, fid, where=None) == [b"{score:3}{score:12}{score:18}"]
    # As in upstream, an empty one asks for a field without a name.
    assert stripes(node, fid, where=("", "", "")) == [b""]


def test_a_wrong_cookie_ends_the_stream_quietly(node, volume):
    fids = [put(volume, SCORES, 1), fid_of(1, COOKIE + 1), put(volume, SCORES, 2)]
    assert stripes(node, *fids) == [b"{score:12}{score:18}"]


def test_an_empty_needle_has_any_cookie(node, volume):
    put(volume, b"")
    assert stripes(node, fid_of(1, COOKIE + 1)) == [b""]


@pytest.mark.parametrize(
    ("fid", "text"),
    [
        ("bad-fid", "Wrong fid format."),
        (",01c0ffee00", "Wrong fid format."),
        ("7,01", "Invalid fid: 01"),
        ("8,0100c0ffee", "volume 8 not found"),
        ("x,0100c0ffee", "volume 0 not found"),
    ],
)
def test_what_is_refused(node, volume, fid, text):
    put(volume, SCORES)
    with pytest.raises(RpcFailure) as caught:
        stripes(node, fid)
    assert (caught.value.code, caught.value.message) == (grpc.StatusCode.UNKNOWN, text)


def test_what_cannot_be_read_ends_the_stream_after_the_rows_before(node, volume, context):
    request = pb.QueryRequest(from_file_ids=[put(volume, SCORES), fid_of(2)], input_serialization=JSON)
    answer = query.query(node, context, request)
    assert next(answer).records == b"{}{}{}"
    with pytest.raises(RpcFailure) as caught:
        next(answer)
    assert caught.value.code is grpc.StatusCode.UNKNOWN


@pytest.mark.slow
def test_a_large_payload_is_read_in_pieces(node, volume):
    """Slow: tens of thousands of documents are selected."""
    lines = [json.dumps({"score": number, "text": "x" * (number % 300)}) for number in range(30_000)]
    fid = put(volume, "\n".join(lines).encode())
    rows = b"".join(b"{score:%d}" % number for number in range(11, 30_000))
    assert stripes(node, fid) == [rows]


@pytest.mark.slow
def test_memory_is_a_documents_not_a_payloads(node, volume):
    """Slow: a document of 16 MB, with each allocation traced."""
    line = b'{"score":11,"text":"%b"}\n' % (b"x" * 100_000)
    fid = put(volume, line * 160)
    tracemalloc.start()
    try:
        found = stripes(node, fid)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == [b"{score:11}" * 160]
    assert peak_bytes < 10 * len(line)


@pytest.mark.slow
def test_many_rows_come_in_several_stripes(node, volume):
    """Slow: a document of 5 MB."""
    line = b'{"score":11,"text":"%b"}\n' % (b"x" * 1000)
    fid = put(volume, line * 5000)
    found = stripes(node, fid, select=("text",))
    row = b'{text:"%b"}' % (b"x" * 1000)
    assert b"".join(found) == row * 5000
    assert len(found) == 3
    assert all(len(stripe) <= query.STRIPE_BYTES and len(stripe) % len(row) == 0 for stripe in found)


def test_a_row_longer_than_a_stripe_is_cut(node, volume):
    value = b'"%b"' % (b"x" * (query.STRIPE_BYTES - 20))
    fid = put(volume, b'{"score":11}{"score":12,"text":%b}{"score":13}' % value)
    found = stripes(node, fid, select=("text", "text", "score"))
    assert b"".join(found) == b"{text:,text:,score:11}{text:%b,text:%b,score:12}{text:,text:,score:13}" % (value, value)
    assert found[0] == b"{text:,text:,score:11}"
    assert max(map(len, found)) <= query.STRIPE_BYTES


def test_a_compressed_payload_is_taken_as_it_is_stored(node, volume):
    fid = put(volume, gzip.compress(SCORES * 100, mtime=0), flags=FLAG_IS_COMPRESSED)
    assert stripes(node, fid) == [b""]


def test_a_damaged_payload_gives_no_rows(node, volume, tmp_path):
    fid = put(volume, SCORES * 100_000)
    with (tmp_path / "volumes" / f"{VID}.dat").open("r+b") as dat:
        dat.seek(2_000_000)
        dat.write(b"?")
    with pytest.raises(RpcFailure, match="CRC"):
        stripes(node, fid)


def test_a_document_too_long_to_hold(node, volume, monkeypatch):
    monkeypatch.setattr(documents.Documents.__init__, "__defaults__", (100_000,))
    fid = put(volume, b'{"score":11} [' + b"1," * 200_000)
    with pytest.raises(RpcFailure) as caught:
        stripes(node, fid)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.message == f"query {fid}: the JSON document at byte 13 is longer than 100000 bytes"


@pytest.mark.parametrize("request_fields", [{"where": ("a", "%", "*x?y*")}, {"where": None, "select": ("*x?y*",)}])
def test_a_pattern_too_costly(node, volume, monkeypatch, request_fields):
    monkeypatch.setattr(query_strings, "MAX_TRIES", 1000)
    long = b"x" * 5000
    fid = put(volume, b'{"a":"%b","%b":1}' % (long, long))
    with pytest.raises(RpcFailure, match=f"query {fid}: a pattern with") as caught:
        stripes(node, fid, **request_fields)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_nobody_waits_for_the_rows(node, volume):
    context = make_context()
    context.is_active = lambda: False
    assert stripes(node, put(volume, SCORES), context=context) == [b""]


@pytest.mark.slow
def test_deep_odd_and_broken_documents(node, volume):
    """Slow: a document of two hundred thousand levels is walked."""
    deep = b'{"a":' * 100_000 + b"[" * 100_000
    odd = b'\xff{"score":1' + b"0" * 1000 + b'}{"score":"\xff\xfe","a":\x00 1e99999999}' + deep
    assert stripes(node, put(volume, odd), select=("a",)) == [b"{a:}{a:1e99999999}"]
    assert stripes(node, put(volume, b'{"score":"\xff"}'), where=("score", "%", "?")) == [b'{score:"\xff"}']


@pytest.mark.parametrize("select", [("a",) * (query.MAX_SELECTIONS + 1), ("a" * query.MAX_SELECTION_BYTES, "b")])
def test_more_selections_than_are_taken(node, volume, select):
    """Anybody may ask, and each path is parsed before the first needle is read."""
    put(volume, b"{}")
    with pytest.raises(RpcFailure, match="at most 1024 of 65536 are taken") as failure:
        stripes(node, fid_of(), select=select)
    assert failure.value.code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("where", [("a" * query.MAX_SELECTION_BYTES, "=", "1"), ("a", "%", "*?" * 40_000)])
def test_a_larger_filter_than_is_taken(node, volume, where):
    put(volume, b"{}")
    with pytest.raises(RpcFailure, match="at most 1024 of 65536 are taken"):
        stripes(node, fid_of(), where=where)


def test_a_row_of_a_large_document_ends_with_the_client(node, volume, context, monkeypatch):
    """Each absent field costs a pass over the document."""
    put(volume, b'{"score": 11, "a": "' + b"x" * 100_000 + b'"}')
    found = []
    real = JsonPath.find

    def find(path, document):
        found.append(path)
        if len(found) == 3:
            context.is_active = lambda: False
        return real(path, document)

    monkeypatch.setattr(JsonPath, "find", find)
    with pytest.raises(RpcFailure, match="the client has gone"):
        stripes(node, fid_of(), select=("absent",) * 200, context=context)
    assert len(found) < 10


@pytest.mark.slow
def test_the_needle_is_let_go(node, volume, context, store):
    """Slow: millions of values are selected."""
    fid = put(volume, SCORES * 100_000)
    request = pb.QueryRequest(from_file_ids=[fid], selections=["score"] * 20, input_serialization=JSON)
    answer = query.query(node, context, request)
    next(answer)
    answer.close()
    store.unmount_volume(VID)
