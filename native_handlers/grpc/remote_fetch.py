"""FetchAndWriteNeedle: writes a range of an object in remote storage as a needle, here and on the replicas in the
request.

Source: weed/server/volume_grpc_remote.go (FetchAndWriteNeedle).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
from google.protobuf import text_format

from native_handlers.format.errors import FormatError
from native_handlers.format.fid import format_needle_id_cookie
from native_handlers.format.needle import Needle, etag
from native_handlers.grpc.checks import check_maintenance, errors_as_upstream, volume_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.remote.endpoints import EndpointRefused, check_replica
from native_handlers.remote.model import RemoteReadFailed, RemoteStorageUnusable
from native_handlers.storage.model.errors import StorageError
from native_handlers.storage.volume.write import MAX_DATA_BYTES

if TYPE_CHECKING:
    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.volume.volume import Volume

MAX_CONCURRENCY = 64
MAX_UPLOADS_AT_ONCE = 8
"""Each upload has a copy of the needle, and the caller says how many there are. Few volumes have more than two."""
MAX_OFFSET_BYTES = 2**63 - 1
_CREATED = 201
_MAX_ERROR_BYTES = 2000


def fetch_and_write_needle(
    node: GrpcNode, _context: RpcContext, request: pb.FetchAndWriteNeedleRequest
) -> pb.FetchAndWriteNeedleResponse:
    """Fetches the range, writes it here, and uploads it to all replicas; the failure of one does not stop the others.

    The error of this server's own write takes precedence over those of replicas. Where replicas failed, this server and
    the other replicas have the needle.
    """
    check_maintenance(node)
    volume = volume_of(node, request.volume_id)
    with errors_as_upstream():
        volume.check_in_service()
    _check_range(request)
    data = _fetch(node, request)
    if not node.allows_any_endpoint:
        for replica in request.replicas:
            try:
                check_replica(replica.url)
            except EndpointRefused as error:
                raise RpcFailure(f"reject replica target: {error}") from error
    uploads_at_once = min(max(1, len(request.replicas)), MAX_UPLOADS_AT_ONCE)
    with ThreadPoolExecutor(uploads_at_once, thread_name_prefix="remote-replicas") as threads:
        uploads = [threads.submit(_upload, node, request, replica.url, data) for replica in request.replicas]
        local_failure, written_etag = _write(node, volume, request, data)
        failures = [local_failure, *(upload.result() for upload in uploads)]
    failed = next((failure for failure in failures if failure is not None), None)
    if failed is not None:
        raise RpcFailure(failed)
    return pb.FetchAndWriteNeedleResponse(e_tag=written_etag)


def _check_range(request: pb.FetchAndWriteNeedleRequest) -> None:
    """Refuses a range that no needle can hold, before the remote storage is asked for anything.

    As upstream, -fileSizeLimitMB does not count here: a filer asks for a thousandth of a large object at a time.
    """
    if 0 < request.size <= MAX_DATA_BYTES and 0 <= request.offset <= MAX_OFFSET_BYTES - request.size:
        return
    why = f"there is no range of {request.size} bytes at offset {request.offset}"
    if request.size > MAX_DATA_BYTES:
        why = f"{request.size} bytes do not fit a needle, which holds {MAX_DATA_BYTES}"
    raise RpcFailure(f"{_doing(request)}: {why}", grpc.StatusCode.INVALID_ARGUMENT)


def _doing(request: pb.FetchAndWriteNeedleRequest) -> str:
    return f"read from remote {text_format.MessageToString(request.remote_location, as_one_line=True)}"


def _fetch(node: GrpcNode, request: pb.FetchAndWriteNeedleRequest) -> bytes:
    # Imported here, so that the client libraries are loaded only where a fetch needs them.
    from native_handlers.remote.kinds import open_remote  # noqa: PLC0415

    location = request.remote_location
    try:
        client = open_remote(request.remote_conf, os.environ, allows_any_endpoint=node.allows_any_endpoint)
    except EndpointRefused as error:
        raise RpcFailure(f"reject remote endpoint: {error}") from error
    except RemoteStorageUnusable as error:
        if error.is_refusal:
            raise RpcFailure(f"reject remote credentials: {error}") from error
        code = grpc.StatusCode.UNIMPLEMENTED if error.is_missing_extra else grpc.StatusCode.UNKNOWN
        raise RpcFailure(f"get remote client: {error}", code) from error
    doing = _doing(request)
    if not location.path.startswith("/") or not location.bucket:
        raise RpcFailure(f"{doing}: a bucket and a path that begins with / are needed")
    concurrency = min(max(request.download_concurrency, 0), MAX_CONCURRENCY)
    try:
        return client.read(location.bucket, location.path[1:], request.offset, request.size, concurrency)
    except RemoteReadFailed as error:
        raise RpcFailure(f"{doing}: {error}") from error


def _write(
    node: GrpcNode, volume: Volume, request: pb.FetchAndWriteNeedleRequest, data: bytes
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


def _upload(node: GrpcNode, request: pb.FetchAndWriteNeedleRequest, target: str, data: bytes) -> str | None:
    """Why a replica could not write the needle, or None."""
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    from native_handlers.remote.guarded_http import open_free_pool, open_pool  # noqa: PLC0415

    file_id = f"{request.volume_id},{format_needle_id_cookie(request.needle_id, request.cookie)}"
    headers = {"Authorization": f"BEARER {request.auth}"} if request.auth else {}
    pool = open_free_pool() if node.allows_any_endpoint else open_pool(target, allows_private=True)
    try:
        with pool:
            answer = pool.request(
                "POST",
                f"http://{target}/{file_id}?type=replicate",
                fields={"file": ("", data)},
                headers=headers,
                redirect=False,
            )
    except HTTPError as error:
        return f"remote write needle {request.needle_id} size {request.size}: {error}"
    if answer.status != _CREATED:
        text = answer.data[:_MAX_ERROR_BYTES].decode("utf-8", "replace")
        return f"remote write needle {request.needle_id} size {request.size}: {target} answered {answer.status}: {text}"
    return None
