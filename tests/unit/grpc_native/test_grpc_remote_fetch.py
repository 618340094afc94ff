"""FetchAndWriteNeedle against an S3 server."""

from __future__ import annotations

import http.server
from contextlib import contextmanager
from random import Random

import grpc
import pytest
from support.grpc_nodes import make_context, make_node
from support.s3_server import s3_server
from support.threaded_servers import running

from native_handlers.grpc import remote_fetch
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.remote_fetch import fetch_and_write_needle
from native_handlers.pb import remote_pb2
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.remote.model import RemoteStorageUnusable
from native_handlers.storage.volume.write import MAX_DATA_BYTES

VID = 3
COOKIE = 0xABCDEF01
OBJECT = Random(5).randbytes(10_000_000)


@pytest.fixture(scope="module")
def s3():
    with s3_server("volumes") as server:
        server.put("dir/a name+&.bin", OBJECT)
        yield server


@pytest.fixture
def volume(store):
    return store.allocate_volume(VID)


@pytest.fixture
def free_node(tmp_path, store):
    return make_node(tmp_path, store, allows_any_endpoint=True)


def request(s3, *, offset=0, size=100, path="/dir/a name+&.bin", kind="s3", **more):
    conf = remote_pb2.RemoteConf(
        type=kind, s3_endpoint=s3.endpoint, s3_access_key="a", s3_secret_key="b", s3_force_path_style=True
    )
    location = remote_pb2.RemoteStorageLocation(name="there", bucket=s3.bucket, path=path)
    return pb.FetchAndWriteNeedleRequest(
        volume_id=VID,
        needle_id=5,
        cookie=COOKIE,
        offset=offset,
        size=size,
        remote_conf=conf,
        remote_location=location,
        **more,
    )


def failure_of(node, wanted):
    with pytest.raises(RpcFailure) as caught:
        fetch_and_write_needle(node, make_context(), wanted)
    return caught.value


@pytest.mark.parametrize(
    ("offset", "size", "concurrency"),
    [(0, 1, 0), (17, 1000, 3), (0, len(OBJECT), 0), (4 << 20, 4 << 20, 1), (len(OBJECT) - 1, 1, 999)],
)
def test_a_range_becomes_a_needle(s3, free_node, volume, offset, size, concurrency):
    answer = fetch_and_write_needle(
        free_node, make_context(), request(s3, offset=offset, size=size, download_concurrency=concurrency)
    )
    read = volume.read(5, cookie=COOKIE)
    data = read.needle.data if read.payload is None else read.payload.read(0, read.payload.length_bytes)
    read.release()
    assert data == OBJECT[offset : offset + size]
    assert answer.e_tag


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"path": "/dir/none"}, "failed to download file volumes/dir/none: status 404"),
        ({"offset": len(OBJECT) - 5, "size": 10}, "got 5 bytes, want 10"),
        ({"offset": len(OBJECT) + 5}, "status 416"),
        ({"path": "no-slash"}, "a path that begins with /"),
    ],
)
def test_what_cannot_be_read_is_not_written(s3, free_node, volume, changes, why):
    failure = failure_of(free_node, request(s3, **changes))
    assert failure.message.startswith('read from remote name: "there"')
    assert why in failure.message
    assert not volume.has_needles


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"size": 0}, "there is no range of 0 bytes at offset 0"),
        ({"size": -(2**63)}, f"there is no range of {-(2**63)} bytes"),
        ({"offset": -1}, "at offset -1"),
        ({"offset": 2**63 - 100, "size": 101}, f"there is no range of 101 bytes at offset {2**63 - 100}"),
        ({"size": MAX_DATA_BYTES + 1}, f"2147352576 bytes do not fit a needle, which holds {MAX_DATA_BYTES}"),
        ({"size": 1 << 42}, f"{1 << 42} bytes do not fit a needle"),
    ],
)
def test_a_range_that_no_needle_holds_is_refused_before_anything_is_asked_for(
    s3, free_node, volume, monkeypatch, changes, why
):
    opened = []
    monkeypatch.setattr("native_handlers.remote.kinds.open_remote", lambda *_args, **_fields: opened.append(1))
    failure = failure_of(free_node, request(s3, **changes))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.message.startswith('read from remote name: "there"')
    assert why in failure.message
    assert not opened
    assert not volume.has_needles


def test_the_longest_needle_may_be_fetched_whatever_the_file_size_limit(s3, free_node, volume, monkeypatch):
    wanted = []

    class Objects:
        def read(self, _bucket, _key, offset, size, _concurrency):
            wanted.append((offset, size))
            return b"x"

    monkeypatch.setattr("native_handlers.remote.kinds.open_remote", lambda *_args, **_fields: Objects())
    fetch_and_write_needle(free_node, make_context(), request(s3, size=MAX_DATA_BYTES))
    assert wanted == [(0, MAX_DATA_BYTES)]


def test_callers_may_not_name_this_machine(s3, node, volume):
    failure = failure_of(node, request(s3))
    assert failure.message.startswith(f'reject remote endpoint: remote endpoint "{s3.endpoint}" resolves to loopback')
    assert not volume.has_needles


def test_a_kind_that_nobody_knows(s3, node, volume):
    assert failure_of(node, request(s3, kind="odd")).message == "get remote client: remote storage type odd not found"


def test_a_kind_whose_library_is_not_installed_is_unimplemented(s3, node, volume, monkeypatch):
    def missing(_conf, _environ, *, allows_any_endpoint):
        raise RemoteStorageUnusable("pip install 'weed-volume-py[gcs]'", is_missing_extra=True)

    monkeypatch.setattr("native_handlers.remote.kinds.open_remote", missing)
    failure = failure_of(node, request(s3, kind="gcs"))
    assert failure.code is grpc.StatusCode.UNIMPLEMENTED
    assert failure.message == "get remote client: pip install 'weed-volume-py[gcs]'"


def test_credentials_that_callers_may_not_give_are_refused(s3, node, volume, monkeypatch):
    def refuses(_conf, _environ, *, allows_any_endpoint):
        raise RemoteStorageUnusable("gcs credentials must be inline JSON", is_refusal=True)

    monkeypatch.setattr("native_handlers.remote.kinds.open_remote", refuses)
    failure = failure_of(node, request(s3, kind="gcs"))
    assert failure.message == "reject remote credentials: gcs credentials must be inline JSON"
    assert not volume.has_needles


def test_order_of_the_checks(s3, node, store):
    assert failure_of(node, request(s3)).message == f"not found volume id {VID}"


@contextmanager
def replica(status):
    """A volume server that answers uploads with `status`, and the uploads that it received."""
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers.get("Authorization"), body))
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with running(server):
        yield f"127.0.0.1:{server.server_port}", got


def test_replicas_get_the_same_bytes(s3, free_node, volume):
    with replica(201) as (address, got):
        url = pb.FetchAndWriteNeedleRequest.Replica(url=address)
        fetch_and_write_needle(free_node, make_context(), request(s3, replicas=[url], auth="token"))
    ((path, authorization, body),) = got
    assert path == f"/{VID},05abcdef01?type=replicate"
    assert authorization == "BEARER token"
    assert OBJECT[:100] in body


def test_few_replicas_are_written_at_the_same_time(s3, free_node, volume, monkeypatch):
    threads = []

    class Threads(remote_fetch.ThreadPoolExecutor):
        def __init__(self, count, **more):
            threads.append(count)
            super().__init__(count, **more)

    monkeypatch.setattr(remote_fetch, "ThreadPoolExecutor", Threads)
    with replica(201) as (address, got):
        replicas = [pb.FetchAndWriteNeedleRequest.Replica(url=address)] * 20
        fetch_and_write_needle(free_node, make_context(), request(s3, replicas=replicas))
    assert (threads, len(got)) == ([8], 20)


def test_a_replica_that_fails_is_told_and_the_others_are_written(s3, free_node, volume):
    with replica(500) as (bad, _), replica(201) as (good, got):
        replicas = [pb.FetchAndWriteNeedleRequest.Replica(url=url) for url in (bad, good)]
        failure = failure_of(free_node, request(s3, replicas=replicas))
    assert failure.message.startswith(f"remote write needle 5 size 100: {bad} answered 500")
    assert len(got) == 1
    assert volume.has_needles


def test_replicas_are_checked_before_anything_is_written(s3, node, volume, monkeypatch):
    monkeypatch.setattr("native_handlers.remote.kinds.check_endpoint", lambda _endpoint: None)
    monkeypatch.setattr("native_handlers.remote.kinds.open_pool", lambda _endpoint: _free_pool())
    replicas = [pb.FetchAndWriteNeedleRequest.Replica(url="127.0.0.1:80")]
    failure = failure_of(node, request(s3, replicas=replicas))
    assert failure.message.startswith("reject replica target: ")
    assert not volume.has_needles


def _free_pool():
    from native_handlers.remote.guarded_http import open_free_pool  # noqa: PLC0415

    return open_free_pool()


def test_a_guarded_connection_does_not_reach_this_machine(s3):
    from native_handlers.remote.guarded_http import open_pool  # noqa: PLC0415
    from native_handlers.remote.model import RemoteReadFailed  # noqa: PLC0415
    from native_handlers.remote.s3_objects import S3Access, S3Objects  # noqa: PLC0415

    objects = S3Objects(S3Access(s3.endpoint), open_pool(s3.endpoint))
    with pytest.raises(RemoteReadFailed, match="loopback"):
        objects.read(s3.bucket, "dir/a name+&.bin", 0, 10)
