"""The cost of contents for other clients: each kind is sent, or read, while a reader reads a small file. For each kind:
its duration, the longest and the median read beside it, and the growth of the server's memory.
"""

import gzip
import http.client
import json
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from harness.http1 import Connection, multipart, request_bytes
from harness.processes import memory_bytes, reset_peak_memory
from harness.transfer import MIB
from reader_beside import reader_beside
from tables import ms, print_head, print_row

from native_handlers.pb import volume_server_pb2

SERVERS = "go,native"
LIMIT_S = 900
MEMBER_BYTES = 64 * MIB
BOMB_MEMBERS = 16
BOMBS_AT_ONCE = 40
SLOW_READERS = 12
SMALL_PARTS = 64
DELETED_NEEDLES = 1_000_000
LONG_QUERIES, LONG_QUERIES_AT_ONCE = 200, 4
LONG_QUERY_PAIRS = 9_990
MANIFEST_CHUNKS = 200_000
TINY_CHUNKS = 1_000_000
IMAGE_SIDE = 6000
"""Pixels, twice: 36 million, within the limit of ours."""
IMAGE_PARTS = 20_000
IMAGES_AT_ONCE = 4
COOKIE = "637037d6"
FORM = [("Content-Type", "application/x-www-form-urlencoded")]
GZIP = [("Content-Encoding", "gzip"), ("Content-Type", "application/octet-stream")]
TEXT = [("Content-Type", "text/plain")]
QUOTED = [("Content-Transfer-Encoding", "quoted-printable")]


@dataclass
class Row:
    kind: str
    server: str
    elapsed_s: float
    stalls: object
    grown_bytes: int
    note: str


def run(servers):
    """Prints the table of all kinds against all servers."""
    print("\nBeside contents that are much work: one reader\n")
    print_head("kind", "server", "took", "longest read", "read, median", "memory", "also")
    for kind, load in KINDS.items():
        for server in servers:
            print_measured(measured(kind, load, server))


def measured(kind, load, server):
    small = f"/{server.store(bytes(1024))}"
    pid = server.process.pid
    reset_peak_memory(pid)
    before = memory_bytes(pid, "VmRSS")
    with reader_beside(server.admin, small) as stalls:
        started = time.perf_counter()
        note = load(server) or ""
        elapsed_s = time.perf_counter() - started
    return Row(kind, server.name, elapsed_s, stalls, memory_bytes(pid, "VmHWM") - before, note)


def print_measured(row):
    failed = f"; {row.stalls.failed} reads failed" if row.stalls.failed else ""
    print_row(
        row.kind,
        row.server,
        f"{row.elapsed_s:.1f} s",
        ms(row.stalls.longest_s),
        ms(row.stalls.median_s, 1),
        f"{row.grown_bytes / MIB:+,.0f} MiB",
        f"{row.note}{failed}",
    )


def ask(server, method, target, headers=(), body=None):
    """One request; its status."""
    with Connection(server.admin, limit_s=LIMIT_S) as connection:
        return connection.request(method, target, headers, body)


def post_quoted(server, encoded):
    headers, body = multipart(encoded, content_type="application/octet-stream", part_headers=QUOTED)
    return f"answered {ask(server, 'POST', f'/{server.new_fid()}', headers, body).status}"


def post_escapes(server):
    return post_quoted(server, (b"=41" * 25 + b"=\r\n") * (32 * MIB // 78))


def post_line_feeds(server):
    return post_quoted(server, b"\n" * (16 * MIB))


def post_long_form(server):
    return f"answered {ask(server, 'POST', f'/{server.new_fid()}', FORM, b'a=' + b'%41' * (10 * MIB // 3 - 1)).status}"


def read_long_queries(server):
    """Some readers at once, whose queries all differ. Each has as many pairs as are accepted."""
    fid = server.store(b"a")
    targets = (f"/{fid}?n={number}&" + "%41=+&" * LONG_QUERY_PAIRS for number in range(LONG_QUERIES))
    with ThreadPoolExecutor(LONG_QUERIES_AT_ONCE) as pool:
        statuses = {reply.status for reply in pool.map(lambda target: ask(server, "GET", target), targets)}
    return f"answered {statuses}"


def bomb(members):
    return gzip.compress(bytes(MEMBER_BYTES), 9) * members


def post_bombs(server):
    """Many uploads at once, and a small upload of text beside them."""
    data = bomb(BOMB_MEMBERS)
    with ThreadPoolExecutor(BOMBS_AT_ONCE) as pool:
        statuses = pool.map(
            lambda _: ask(server, "PUT", f"/{server.new_fid()}", GZIP, data).status, range(BOMBS_AT_ONCE)
        )
        threading.Event().wait(0.5)
        started = time.perf_counter()
        ask(server, "PUT", f"/{server.new_fid()}", TEXT, b"some words " * 9000)
        beside_s = time.perf_counter() - started
        return f"100 KB upload beside: {beside_s:.2f} s; answered {sorted(set(statuses))}"


def read_slowly(server):
    """Readers that take some bytes and no more, until all have them."""
    fid = server.store(bomb(3) + gzip.compress(bytes(63 * MIB), 9), GZIP)
    connections = [http.client.HTTPConnection(*server.admin, timeout=LIMIT_S) for _ in range(SLOW_READERS)]
    for connection in connections:
        connection.request("GET", f"/{fid}")
    lengths = set()
    for connection in connections:
        answer = connection.getresponse()
        answer.read(4096)
        lengths.add(answer.length + 4096)
    for connection in connections:
        connection.close()
    return f"length {lengths}"


def post_small_parts(server):
    """Parts of less than 32 KiB, each with 30 MB inside."""
    headers, body = multipart(gzip.compress(bytes(30 * MIB), 9), part_headers=[("Content-Encoding", "gzip")])
    with ThreadPoolExecutor(8) as pool:
        replies = pool.map(lambda _: ask(server, "POST", f"/{server.new_fid()}", headers, body), range(SMALL_PARTS))
        return f"sizes { ({reply.json()['size'] for reply in replies}) }"


def delete_many(server):
    fids = [f"{server.volume_id},{number + 0x10000000:x}{COOKIE}" for number in range(DELETED_NEEDLES)]
    request = volume_server_pb2.BatchDeleteRequest(file_ids=fids).SerializeToString()
    call = server.channel.unary_unary("/volume_server_pb.VolumeServer/BatchDelete", None, None)
    return f"answer of {len(call(request, timeout=LIMIT_S)):,} bytes"


def read_manifest(server):
    chunks = [{"fid": f"{server.volume_id},01{COOKIE}", "offset": at, "size": 1} for at in range(MANIFEST_CHUNKS)]
    body = json.dumps({"name": "a", "size": MANIFEST_CHUNKS, "chunks": chunks}).encode()
    fid = server.new_fid()
    ask(server, "PUT", f"/{fid}?cm=true", [("Content-Type", "application/json")], body)
    for _ in range(5):
        ask(server, "HEAD", f"/{fid}")
    return f"{len(body):,} bytes, asked 5 times"


def png(side, parts=0):
    """A square picture of one colour, all its rows the same, with so many texts of a few bytes in front of it."""
    rows = zlib.compressobj(1)
    row = b"\0" + b"\x40\x80\xc0" * side
    data = b"".join(rows.compress(row) for _ in range(side)) + rows.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    texts = png_part(b"tEXt", b"a\0b") * parts
    return b"\x89PNG\r\n\x1a\n" + png_part(b"IHDR", head) + texts + png_part(b"IDAT", data) + png_part(b"IEND", b"")


def png_part(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def gif(frames):
    """A picture of one pixel, so many times."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    control = b"\x21\xf9\x04\0\0\0\0\0"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return head + (control + frame) * frames + b";"


def scale(server, name, mime, data):
    """Some readers at once who want a picture small."""
    fid = server.store(data, [("Content-Type", mime)])
    with ThreadPoolExecutor(IMAGES_AT_ONCE) as pool:
        path = f"/{fid.replace(',', '/')}/{name}"
        targets = [f"{path}?width={width}" for width in range(50, 50 + IMAGES_AT_ONCE)]
        replies = list(pool.map(lambda target: ask(server, "GET", target), targets))
    lengths = sorted(len(reply.body) for reply in replies)
    return f"{len(data):,} bytes; answered { ({reply.status for reply in replies}) }, {lengths[0]:,} bytes and more"


def scale_large(server):
    return scale(server, "a.png", "image/png", png(IMAGE_SIDE))


def scale_parts(server):
    return scale(server, "a.png", "image/png", png(100, IMAGE_PARTS))


def scale_frames(server):
    return scale(server, "a.gif", "image/gif", gif(IMAGE_PARTS))


def put_tiny_chunks(server):
    head = request_bytes("PUT", f"/{server.new_fid()}", [("Transfer-Encoding", "chunked")])
    with Connection(server.admin, limit_s=LIMIT_S) as connection:
        connection.send(head + b"1\r\na\r\n" * TINY_CHUNKS + b"0\r\n\r\n")
        return f"answered {connection.read_reply().status}"


KINDS = {
    "32 MB quoted-printable": post_escapes,
    "16 MB of quoted line feeds": post_line_feeds,
    "a form of 10 MB of escapes": post_long_form,
    f"{LONG_QUERIES} reads with 60 KB of query": read_long_queries,
    f"{SMALL_PARTS} gzip parts of 30 KB": post_small_parts,
    f"{BOMBS_AT_ONCE} uploads of a bomb of 1 GiB": post_bombs,
    f"{SLOW_READERS} slow readers of 255 MB gzip": read_slowly,
    "BatchDelete of a million": delete_many,
    "HEAD of a manifest": read_manifest,
    "a million tiny chunks": put_tiny_chunks,
    f"{IMAGES_AT_ONCE} readers of a large PNG, scaled": scale_large,
    f"the same, a PNG of {IMAGE_PARTS:,} parts": scale_parts,
    f"the same, a GIF of {IMAGE_PARTS:,} frames": scale_frames,
}
"""What is done, by its name in the table."""
