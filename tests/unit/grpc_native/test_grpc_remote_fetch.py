"""FetchAndWriteNeedle against an S3 server."""

from __future__ import annotations

import gc
import http.server
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from random import Random

import grpc
import pytest
from support.grpc_nodes import make_context, make_node
from support.played_s3 import played_s3
from support.s3_server import s3_server
from support.threaded_servers import running
from support.waiting import LIMIT_S

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
@pytest.mark.slow
def test_a_range_becomes_a_needle(s3, free_node, volume, offset, size, concurrency):
    """Slow: fetches from an S3 server."""
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
@pytest.mark.slow
def test_what_cannot_be_read_is_not_written(s3, free_node, volume, changes, why):
    """Slow: fetches from an S3 server."""
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


def test_a_long_place_is_not_repeated_whole(s3, free_node, volume):
    failure = failure_of(free_node, request(s3, path="/" + "x" * 1_000_000, size=0))
    assert failure.message.startswith('read from remote name: "there" bucket: "volumes" path: "/xxx')
    assert len(failure.message) < 1500


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
    def missing(_conf, _environ, **_fields):
        raise RemoteStorageUnusable("pip install 'weed-volume-py[gcs]'", is_missing_extra=True)

    monkeypatch.setattr("native_handlers.remote.kinds.open_remote", missing)
    failure = failure_of(node, request(s3, kind="gcs"))
    assert failure.code is grpc.StatusCode.UNIMPLEMENTED
    assert failure.message == "get remote client: pip install 'weed-volume-py[gcs]'"


def test_credentials_that_callers_may_not_give_are_refused(s3, node, volume, monkeypatch):
    def refuses(_conf, _environ, **_fields):
        raise RemoteStorageUnusable("gcs credentials must be inline JSON", is_refusal=True)

    monkeypatch.setattr("native_handlers.remote.kinds.open_remote", refuses)
    failure = failure_of(node, request(s3, kind="gcs"))
    assert failure.message == "reject remote credentials: gcs credentials must be inline JSON"
    assert not volume.has_needles


def test_order_of_the_checks(s3, node, store):
    assert failure_of(node, request(s3)).message == f"not found volume id {VID}"


@contextmanager
def replica(status, answer=None):
    """A volume server that answers uploads with `status`, or as `answer` does, and the uploads that it received."""
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers, body))
            if answer is not None:
                answer(self)
                return
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
        fetch_and_write_needle(free_node, make_context(), request(s3, replicas=[url], auth="token", size=3 << 20))
    ((path, headers, body),) = got
    assert path == f"/{VID},05abcdef01?type=replicate"
    assert headers["Authorization"] == "BEARER token"
    boundary = headers["Content-Type"].removeprefix("multipart/form-data; boundary=")
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename=""\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    assert body == head.encode() + OBJECT[: 3 << 20] + f"\r\n--{boundary}--\r\n".encode()


class DiscardedObjects:
    """Objects of remote storage, of which each read returns `data`."""

    def __init__(self, data):
        self.data = data

    def read(self, *_range):
        return self.data


@pytest.mark.slow
def test_the_needle_is_not_copied_for_each_replica(s3, free_node, volume, monkeypatch):
    """Slow: sends 16 MiB twice."""
    data = bytes(16 << 20)
    monkeypatch.setattr("native_handlers.remote.kinds.open_remote", lambda *_args, **_fields: DiscardedObjects(data))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            left = int(self.headers["Content-Length"])
            while left:
                left -= len(self.rfile.read(min(left, 1 << 16)))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_args):
            pass

    def peak_bytes(replicas):
        gc.collect()
        tracemalloc.start()
        try:
            wanted = request(s3, size=len(data), replicas=replicas)
            fetch_and_write_needle(free_node, make_context(), wanted)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with running(server):
        url = pb.FetchAndWriteNeedleRequest.Replica(url=f"127.0.0.1:{server.server_port}")
        peak_bytes([url])
        alone = peak_bytes([])
        assert peak_bytes([url] * 4) - alone < len(data) // 2


@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_an_answer_without_end_is_not_read(s3, free_node, volume, coding):
    ended = threading.Event()

    def answers_without_end(handler):
        handler.send_response(500)
        handler.send_header("Content-Length", str(1 << 40))
        handler.send_header("Content-Encoding", coding)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"much " * 20_000)
        except OSError:
            ended.set()

    with replica(500, answers_without_end) as (address, _):
        url = pb.FetchAndWriteNeedleRequest.Replica(url=address)
        failure = failure_of(free_node, request(s3, replicas=[url]))
        assert ended.wait(LIMIT_S)
    assert failure.message == f"remote write needle 5 size 100: {address} answered 500: {'much ' * 400}"


def test_a_token_that_no_header_can_have_is_told(s3, free_node, volume):
    with replica(201) as (address, got):
        url = pb.FetchAndWriteNeedleRequest.Replica(url=address)
        failure = failure_of(free_node, request(s3, replicas=[url], auth="a\nb"))
    assert failure.message.startswith("remote write needle 5 size 100: Invalid header value")
    assert not got
    assert volume.has_needles


def test_more_replicas_than_a_volume_has_are_refused_before_anything_is_asked_for(s3, free_node, volume, monkeypatch):
    opened = []
    monkeypatch.setattr("native_handlers.remote.kinds.open_remote", lambda *_args, **_fields: opened.append(1))
    replicas = [pb.FetchAndWriteNeedleRequest.Replica(url="10.0.0.1:80")] * 101
    failure = failure_of(free_node, request(s3, replicas=replicas))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.message.endswith("101 replicas are more than 100")
    assert not opened


class Client:
    """A client that leaves when it is told to."""

    def __init__(self):
        self.callbacks = []
        self.context = replace(make_context(), add_callback=lambda call: not self.callbacks.append(call))

    def leave(self):
        for call in self.callbacks:
            call()


class DrippingHost:
    """Sends a byte now and then until its connection ends."""

    def __init__(self):
        self.has_begun, self.has_ended, self._is_over = threading.Event(), threading.Event(), threading.Event()

    @contextmanager
    def ending(self):
        """It ends at last with the block: a test that fails must not wait for it."""
        try:
            yield
        finally:
            self._is_over.set()

    def drip(self, handler):
        handler.connection.settimeout(0.01)
        try:
            while not self._is_over.is_set():
                handler.wfile.write(b"x")
                self.has_begun.set()
                with suppress(TimeoutError):
                    if not handler.connection.recv(1):
                        return
        except OSError:
            return
        finally:
            self.has_ended.set()

    def answer_get(self, handler, _key, _data, first, last):
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {first}-{last}/{1 << 30}")
        handler.send_header("Content-Length", str(last - first + 1))
        handler.end_headers()
        self.drip(handler)


@pytest.fixture
def dripping():
    host = DrippingHost()
    with played_s3({"a": b"x"}) as played:
        played.answer_get = host.answer_get
        host.bucket, host.endpoint = played.bucket, played.endpoint
        yield host


def test_a_fetch_ends_with_its_client(dripping, free_node, volume):
    client = Client()
    wanted = request(dripping, path="/a", size=10 << 20)
    with ThreadPoolExecutor(1) as threads, dripping.ending():
        call = threads.submit(fetch_and_write_needle, free_node, client.context, wanted)
        assert dripping.has_begun.wait(LIMIT_S)
        client.leave()
        with pytest.raises(RpcFailure, match="the client is gone") as caught:
            call.result(LIMIT_S)
    assert caught.value.code is grpc.StatusCode.CANCELLED
    assert dripping.has_ended.wait(LIMIT_S)
    assert not volume.has_needles


def test_a_fetch_that_is_too_slow_ends(dripping, free_node, volume, monkeypatch):
    class Timer(threading.Thread):
        """Its time is over when the host has begun to send."""

        def __init__(self, limit_s, end, arguments):
            super().__init__(daemon=True)
            self.limit_s, self.end, self.arguments = limit_s, end, arguments

        def run(self):
            assert dripping.has_begun.wait(LIMIT_S)
            self.end(*self.arguments)

        def cancel(self):
            pass

    monkeypatch.setattr(remote_fetch, "Timer", Timer)
    failure = failure_of(free_node, request(dripping, path="/a", size=640 << 10))
    assert f": {640 << 10} bytes took longer than 130 s: " in failure.message
    assert dripping.has_ended.wait(LIMIT_S)
    assert not volume.has_needles


def test_nothing_is_written_for_a_client_that_is_gone(s3, free_node, volume, monkeypatch):
    client = Client()

    class Objects:
        def read(self, *_range):
            client.leave()
            return b"x"

    monkeypatch.setattr("native_handlers.remote.kinds.open_remote", lambda *_args, **_fields: Objects())
    with pytest.raises(RpcFailure, match="the client is gone"):
        fetch_and_write_needle(free_node, client.context, request(s3))
    assert not volume.has_needles


def test_uploads_end_with_the_client(s3, free_node, volume):
    client, host = Client(), DrippingHost()
    with replica(201, host.drip) as (address, _), ThreadPoolExecutor(1) as threads, host.ending():
        url = pb.FetchAndWriteNeedleRequest.Replica(url=address)
        call = threads.submit(fetch_and_write_needle, free_node, client.context, request(s3, replicas=[url]))
        assert host.has_begun.wait(LIMIT_S)
        client.leave()
        with pytest.raises(RpcFailure, match="remote write needle 5 size 100: the client is gone"):
            call.result(LIMIT_S)
        assert host.has_ended.wait(LIMIT_S)


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
    monkeypatch.setattr("native_handlers.remote.kinds.open_pool", lambda _endpoint, **_fields: _free_pool())
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
