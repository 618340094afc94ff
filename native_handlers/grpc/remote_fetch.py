"""FetchAndWriteNeedle: writes a range of an object in remote storage as a needle, here and on the replicas in the
request.

Source: weed/server/volume_grpc_remote.go (FetchAndWriteNeedle).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Timer
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import text_format

from native_handlers.format.errors import FormatError
from native_handlers.format.fid import format_needle_id_cookie
from native_handlers.format.needle import Needle, etag
from native_handlers.grpc.checks import check_maintenance, errors_as_upstream, volume_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.copy_client import CallEnd
from native_handlers.grpc.status_text import shortened
from native_handlers.pb import remote_pb2
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.remote.endpoints import EndpointRefused, check_replica
from native_handlers.remote.model import RemoteReadFailed, RemoteStorageUnusable
from native_handlers.remote.parts import memory_of
from native_handlers.storage.model.errors import StorageError
from native_handlers.storage.volume.write import MAX_DATA_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.remote.guarded_http import CallConnections
    from native_handlers.remote.model import RemoteObjects
    from native_handlers.storage.volume.volume import Volume

MAX_CONCURRENCY = 64
MAX_UPLOADS_AT_ONCE = 8
"""The caller says how many replicas there are. Few volumes have more than two."""
MAX_REPLICAS = 100
MAX_OFFSET_BYTES = 2**63 - 1
LIMIT_S = 120.0
LEAST_BYTES_PER_S = 64 << 10
"""A fetch, and the uploads after it, may take LIMIT_S and the time that their bytes take at this pace: hosts that send
or take a byte now and then would keep the call's threads for ever."""
_CREATED = 201
_MAX_ERROR_BYTES = 2000
_MAX_PATH_CHARACTERS = 1024
"""As long as a key of S3."""
_PIECE_BYTES = 1 << 20


def fetch_and_write_needle(
    node: GrpcNode, context: RpcContext, request: pb.FetchAndWriteNeedleRequest
) -> pb.FetchAndWriteNeedleResponse:
    """Fetches the range, writes it here, and uploads it to all replicas; the failure of one does not stop the others.

    The error of this server's own write takes precedence over those of replicas. Where replicas failed, this server and
    the other replicas have the needle.

    Wilful differences: the call ends when the client goes, or when the bytes come too slowly, and takes MAX_REPLICAS at
    most. It waits for a share of the memory for fetched needles.
    """
    check_maintenance(node)
    volume = volume_of(node, request.volume_id)
    with errors_as_upstream():
        volume.check_in_service()
    _check_request(request)
    call = _FetchCall(context)
    with node.fetched_memory.holding(memory_of(request.size, _concurrency(request)), call.check):
        return _fetch_and_write(node, call, volume, request)


def _fetch_and_write(
    node: GrpcNode, call: _FetchCall, volume: Volume, request: pb.FetchAndWriteNeedleRequest
) -> pb.FetchAndWriteNeedleResponse:
    data = _fetch(node, call, request)
    if not node.allows_any_endpoint:
        for replica in request.replicas:
            try:
                check_replica(replica.url)
            except EndpointRefused as error:
                raise RpcFailure(f"reject replica target: {error}") from error
    call.check()
    uploads_at_once = min(max(1, len(request.replicas)), MAX_UPLOADS_AT_ONCE)
    with (
        call.connections(len(data) * len(request.replicas)) as connections,
        ThreadPoolExecutor(uploads_at_once, thread_name_prefix="remote-replicas") as threads,
    ):
        upload = partial(_upload, node, connections, request, data)
        uploads = [threads.submit(upload, replica.url) for replica in request.replicas]
        local_failure, written_etag = _write(node, volume, request, data)
        failures = [local_failure, *(one.result() for one in uploads)]
    failed = next((failure for failure in failures if failure is not None), None)
    if failed is not None:
        raise RpcFailure(failed)
    return pb.FetchAndWriteNeedleResponse(e_tag=written_etag)


class _FetchCall:
    """The client's call, and the time that it may take."""

    def __init__(self, context: RpcContext) -> None:
        self._end = CallEnd(context)
        self.check = self._end.check

    @contextmanager
    def connections(self, size_bytes: int) -> Iterator[CallConnections]:
        """Connections that end with the block, with the call, and when `size_bytes` should have passed long ago."""
        from native_handlers.remote.guarded_http import CallConnections  # noqa: PLC0415  as in _fetch

        made = CallConnections()
        limit_s = LIMIT_S + size_bytes / LEAST_BYTES_PER_S
        timer = Timer(limit_s, made.end, [f"{size_bytes} bytes took longer than {limit_s:.0f} s"])
        timer.daemon = True
        timer.start()
        self._end.guard(partial(made.end, "the client is gone"))
        try:
            yield made
        finally:
            timer.cancel()
            made.end("the call is over")


def _check_request(request: pb.FetchAndWriteNeedleRequest) -> None:
    """Refuses a range that no needle can hold, and more replicas than a volume can have, before the remote storage is
    asked for anything.

    As upstream, -fileSizeLimitMB does not count here: a filer asks for a thousandth of a large object at a time.
    """
    if len(request.replicas) > MAX_REPLICAS:
        why = f"{len(request.replicas)} replicas are more than {MAX_REPLICAS}"
        raise RpcFailure(f"{_doing(request)}: {why}", grpc.StatusCode.INVALID_ARGUMENT)
    if 0 < request.size <= MAX_DATA_BYTES and 0 <= request.offset <= MAX_OFFSET_BYTES - request.size:
        return
    why = f"there is no range of {request.size} bytes at offset {request.offset}"
    if request.size > MAX_DATA_BYTES:
        why = f"{request.size} bytes do not fit a needle, which holds {MAX_DATA_BYTES}"
    raise RpcFailure(f"{_doing(request)}: {why}", grpc.StatusCode.INVALID_ARGUMENT)


def _concurrency(request: pb.FetchAndWriteNeedleRequest) -> int:
    return min(max(request.download_concurrency, 0), MAX_CONCURRENCY)


def _doing(request: pb.FetchAndWriteNeedleRequest) -> str:
    """The beginning of a failure's text. It repeats no more of a long place than its beginning."""
    there = request.remote_location
    shown = remote_pb2.RemoteStorageLocation(
        name=shortened(there.name), bucket=shortened(there.bucket), path=shortened(there.path, _MAX_PATH_CHARACTERS)
    )
    return f"read from remote {text_format.MessageToString(shown, as_one_line=True)}"


def _fetch(node: GrpcNode, call: _FetchCall, request: pb.FetchAndWriteNeedleRequest) -> bytes | memoryview:
    location, doing = request.remote_location, _doing(request)
    with call.connections(request.size) as connections:
        client = _open_remote(node, connections, request)
        if not location.path.startswith("/") or not location.bucket:
            raise RpcFailure(f"{doing}: a bucket and a path that begins with / are needed")
        try:
            return client.read(location.bucket, location.path[1:], request.offset, request.size, _concurrency(request))
        except RemoteReadFailed as error:
            call.check()
            why = f"{connections.over}: {error}" if connections.over else str(error)
            raise RpcFailure(f"{doing}: {why}") from error


def _open_remote(node: GrpcNode, connections: CallConnections, request: pb.FetchAndWriteNeedleRequest) -> RemoteObjects:
    # Imported here, so that the client libraries are loaded only where a fetch needs them.
    from native_handlers.remote.kinds import open_remote  # noqa: PLC0415

    try:
        return open_remote(
            request.remote_conf,
            os.environ,
            allows_any_endpoint=node.allows_any_endpoint,
            connections=connections,
        )
    except EndpointRefused as error:
        raise RpcFailure(f"reject remote endpoint: {error}") from error
    except RemoteStorageUnusable as error:
        if error.is_refusal:
            raise RpcFailure(f"reject remote credentials: {error}") from error
        code = grpc.StatusCode.UNIMPLEMENTED if error.is_missing_extra else grpc.StatusCode.UNKNOWN
        raise RpcFailure(f"get remote client: {error}", code) from error


def _write(
    node: GrpcNode, volume: Volume, request: pb.FetchAndWriteNeedleRequest, data: bytes | memoryview
) -> tuple[str | None, str]:
    """Why this server could not write the needle, or None, and the needle's ETag."""
    now_s = node.clock_ns() // 10**9
    needle = Needle(needle_id=request.needle_id, cookie=request.cookie, data=data, last_modified_s=now_s)
    needle.has_last_modified = True
    try:
        with node.counts.counting_write_failure():
            volume.write(needle)
    except (StorageError, FormatError, OSError) as error:
        return f"local write needle {request.needle_id} size {request.size}: {error}", ""
    return None, etag(needle)


def _upload(
    node: GrpcNode,
    connections: CallConnections,
    request: pb.FetchAndWriteNeedleRequest,
    data: bytes | memoryview,
    target: str,
) -> str | None:
    """Why a replica could not write the needle, or None."""
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    from native_handlers.remote.guarded_http import open_free_pool, open_pool  # noqa: PLC0415

    file_id = f"{request.volume_id},{format_needle_id_cookie(request.needle_id, request.cookie)}"
    headers, body = _form(data)
    if request.auth:
        headers["Authorization"] = f"BEARER {request.auth}"
    if node.allows_any_endpoint:
        pool = open_free_pool(connections)
    else:
        pool = open_pool(target, allows_private=True, connections=connections)
    doing = f"remote write needle {request.needle_id} size {request.size}"
    try:
        with pool:
            answer = pool.request(
                "POST",
                f"http://{target}/{file_id}?type=replicate",
                body=body,
                headers=headers,
                redirect=False,
                preload_content=False,
            )
            try:
                if answer.status == _CREATED:
                    return None
                text = answer.read(_MAX_ERROR_BYTES, decode_content=False).decode("utf-8", "replace")
            finally:
                answer.close()
    except (HTTPError, ValueError) as error:
        # ValueError: an address or a token that no request can have.
        return f"{doing}: {connections.over}: {error}" if connections.over else f"{doing}: {error}"
    return f"{doing}: {target} answered {answer.status}: {text}"


def _form(data: bytes | memoryview) -> tuple[dict[str, str], Iterator[Any]]:
    """Headers and body of a form with `data` as its file. The body is made in pieces, which copy nothing of `data`."""
    from urllib3.filepost import choose_boundary, encode_multipart_formdata  # noqa: PLC0415

    boundary = choose_boundary()
    form, content_type = encode_multipart_formdata({"file": ("", b"")}, boundary)
    end = f"\r\n--{boundary}--\r\n".encode()
    head = form.removesuffix(end)
    pieces = memoryview(data)
    length = len(head) + len(data) + len(end)

    def body() -> Iterator[bytes | memoryview]:
        yield head
        for start in range(0, len(data), _PIECE_BYTES):
            yield pieces[start : start + _PIECE_BYTES]
        yield end

    return {"Content-Type": content_type, "Content-Length": str(length)}, body()
