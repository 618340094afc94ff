"""Chunked files from outside: read whole and in ranges, nested, and deleted with their chunks."""

import hashlib
import json

import pytest

CHUNK = [("Content-Type", "application/x-chunk")]
ALPHABET = b"abcdefghijklmnopqrstuvwxyz"


def store_manifest(server, *chunks, **fields):
    """Uploads a manifest of (file id, length) pairs in their order. Returns its file id and length."""
    entries, end = [], 0
    for fid, size in chunks:
        entries.append({"fid": fid, "offset": end, "size": size})
        end += size
    body = json.dumps({"name": "letters.txt", "mime": "text/x-letters", "size": end, "chunks": entries, **fields})
    return server.store(body.encode(), CHUNK, query="?cm=true"), end


def store_chunk(server, data):
    return server.store(data, CHUNK), len(data)


@pytest.fixture
def nested(server):
    """(file id, ids of all parts) of the alphabet, in two manifests and five chunks."""
    pieces = [store_chunk(server, ALPHABET[start:end]) for start, end in ((0, 5), (5, 6), (6, 15), (15, 20), (20, 26))]
    inner = store_manifest(server, *pieces[1:4])
    outer, _ = store_manifest(server, pieces[0], inner, pieces[4])
    return outer, [fid for fid, _ in (*pieces, inner)]


def test_a_manifest_of_manifests_reads_as_one_file(server, nested):
    reply = server.read(nested[0])
    assert (reply.status, reply.body) == (200, ALPHABET)
    assert reply.get("Content-Type") == "text/x-letters"
    assert reply.get("X-File-Store") == "chunked"
    assert reply.get("Content-Disposition") == "inline; filename=letters.txt"
    assert reply.get("Content-Length") == "26"


@pytest.mark.parametrize(("start", "end"), [(0, 0), (4, 5), (5, 14), (3, 22), (14, 15), (25, 25)])
def test_a_range_finds_its_chunks_however_deep(server, nested, start, end):
    reply = server.http("GET", f"/{nested[0]}", [("Range", f"bytes={start}-{end}")])
    assert (reply.status, reply.body) == (206, ALPHABET[start : end + 1])
    assert reply.get("Content-Range") == f"bytes {start}-{end}/26"


def test_the_manifest_itself_is_there_for_who_asks(server, nested):
    reply = server.http("GET", f"/{nested[0]}?cm=false")
    assert reply.json()["size"] == 26
    assert reply.get("X-File-Store") is None


def test_large_chunks(server):
    data = [hashlib.shake_256(name).digest((1 << 20) + 7) for name in (b"one", b"two")]
    fid, size = store_manifest(server, *(store_chunk(server, one) for one in data))
    whole = b"".join(data)
    assert server.read(fid).body == whole
    reply = server.http("GET", f"/{fid}", [("Range", f"bytes={1 << 20}-{size - 2}")])
    assert reply.body == whole[1 << 20 : -1]


def test_deleting_a_file_deletes_its_chunks(server):
    chunks = [store_chunk(server, b"one"), store_chunk(server, b"two")]
    fid, size = store_manifest(server, *chunks)
    reply = server.http("DELETE", f"/{fid}")
    assert (reply.status, reply.json()) == (202, {"size": size})
    assert [server.read(one).status for one in (fid, *(chunk for chunk, _ in chunks))] == [404] * 3


@pytest.mark.parametrize(
    "text",
    [
        b"null",
        b'{"size":-5}',
        b'{"chunks":[{"fid":"@","offset":0,"size":-5}]}',
        b'{"Chunks":[{"FID":"@","offset":-1}]}',
        b'{"chunks":[{"fid":"@"}],"x":[[[]]],"chunks":[{"size":3}]}',
    ],
)
def test_whatever_can_be_stored_can_be_deleted_with_what_it_names(server, text):
    chunk, _ = store_chunk(server, b"one")
    fid = server.store(text.replace(b"@", chunk.encode()), CHUNK, query="?cm=true")
    assert server.http("DELETE", f"/{fid}").status == 202
    assert server.read(fid).status == 404
    assert server.read(chunk).status == (404 if b"@" in text else 200)


@pytest.mark.only(lambda implementation: "native" in {implementation.mode, implementation.backend})
@pytest.mark.parametrize("text", [b"no json", b"[]", b'{"size":"5"}', b"[" * 20_000])
def test_what_is_no_manifest_is_deleted_too(server, text):
    """Go keeps these for ever: 500."""
    fid = server.store(text, CHUNK, query="?cm=true")
    assert server.http("DELETE", f"/{fid}").status == 202
    assert server.http("GET", f"/{fid}?cm=false").status == 404


@pytest.mark.parametrize("text", [b'{"chunks":[{"fid":"x","size":1}]}', b'{"chunks":[{}]}'])
def test_a_manifest_that_names_no_file_is_kept(server, text):
    fid = server.store(text, CHUNK, query="?cm=true")
    assert server.http("DELETE", f"/{fid}").status == 500
    assert server.http("GET", f"/{fid}?cm=false").status == 200


@pytest.mark.only(lambda implementation: implementation.mode == "native")
def test_a_manifest_that_names_no_file_can_be_deleted_itself(server):
    """Go keeps it for ever: 500."""
    chunk, _ = store_chunk(server, b"one")
    fid = server.store(b'{"chunks":[{"fid":"x"},null,{"fid":"%s"}]}' % chunk.encode(), CHUNK, query="?cm=true")
    assert server.http("DELETE", f"/{fid}?cm=false").status == 202
    assert server.http("GET", f"/{fid}?cm=false").status == 404
    assert server.read(chunk).status == 404


@pytest.mark.only(lambda implementation: implementation.name == "native" or implementation.is_go)
def test_deleting_a_manifest_of_manifests(server, nested):
    """Go leaves the parts of the inner manifest behind, unreachable; a native server deletes them."""
    outer, parts = nested
    reply = server.http("DELETE", f"/{outer}")
    assert (reply.status, reply.json()) == (202, {"size": 26})
    inner_chunks = parts[1:4]
    for fid in (outer, *parts):
        stays = server.implementation.is_go and fid in inner_chunks
        assert server.read(fid).status == (200 if stays else 404)
