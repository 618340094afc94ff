"""ReceiveFile: a file that another server sends, of a volume or an erasure-coded one.

Source: weed/server/volume_grpc_copy.go (ReceiveFile).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from native_handlers.grpc.checks import check_maintenance, store_of, unavailable
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.file_names import check_collection, check_extension, os_error_text
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.errors import DiskUnavailable, StorageError
from native_handlers.storage.wanted_file import WantedFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.incoming import IncomingFile

log = logging.getLogger(__name__)


class _Refused(Exception):
    """What the sender is told within an answer: the call itself succeeds, as upstream has it."""


def receive_file(
    node: GrpcNode, _context: RpcContext, requests: Iterator[pb.ReceiveFileRequest]
) -> pb.ReceiveFileResponse:
    """Stores a file whose facts come in the first message and whose content in those after it.

    The file has its name only when all of it is here and on disk; whatever goes wrong before leaves what had the name.
    That is a wilful difference to upstream, which writes in place; it also takes facts a second time, and a file that
    ends before the size that was announced for it.
    """
    check_maintenance(node)
    try:
        return pb.ReceiveFileResponse(bytes_written=_receive(node, requests))
    except _Refused as refusal:
        log.warning("a file that was sent here is refused: %s", refusal)
        return pb.ReceiveFileResponse(error=str(refusal))


def _receive(node: GrpcNode, requests: Iterator[pb.ReceiveFileRequest]) -> int:
    """How many bytes were stored. No message at all is a file of no name, and no error."""
    first = next(requests, None)
    if first is None:
        return 0
    match first.WhichOneof("data"):
        case "info":
            info = first.info
        case "file_content":
            raise _Refused("file info must be sent first")
        case _:
            raise _Refused("unknown message type")
    with _open(node, info) as file:
        for request in requests:
            _store(file, request)
        if file.size_bytes < info.file_size:
            raise _Refused(f"file ended after {file.size_bytes} of {info.file_size} bytes")
        try:
            file.commit()
        except OSError as error:
            raise _Refused(f"failed to write file: {os_error_text('sync', file.target, error)}") from error
        return file.size_bytes


def _open(node: GrpcNode, info: pb.ReceiveFileInfo) -> IncomingFile:
    try:
        check_extension(info.ext)
        check_collection(info.collection)
        return store_of(node).receive_file(
            WantedFile(
                volume_id=info.volume_id,
                collection=info.collection,
                extension=info.ext,
                is_coded=info.is_ec_volume,
                disk_type=info.disk_type,
                disk_id=info.disk_id,
                mounted_disk_ids=node.coded_disk_ids(info.volume_id) if info.is_ec_volume else (),
            )
        )
    except RpcFailure as failure:
        raise _Refused(failure.message) from failure
    except DiskUnavailable as error:
        raise unavailable(error) from error
    except StorageError as error:
        raise _Refused(str(error)) from error
    except OSError as error:
        text = os_error_text("open", error.filename or info.ext, error)
        raise _Refused(f"failed to create file: {text}") from error


def _store(file: IncomingFile, request: pb.ReceiveFileRequest) -> None:
    match request.WhichOneof("data"):
        case "file_content":
            try:
                file.write(request.file_content)
            except OSError as error:
                raise _Refused(f"failed to write file: {os_error_text('write', file.target, error)}") from error
        case "info":
            raise _Refused("file info was sent already")
        case _:
            raise _Refused("unknown message type")
