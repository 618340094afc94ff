"""CopyFile: streams a file of a volume, or of an erasure-coded volume, to the server that copies it.

Source: weed/server/volume_grpc_copy.go (CopyFile).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from native_handlers.grpc.checks import errors_as_upstream, store_of, volume_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.copy_messages import encode_copy_piece
from native_handlers.grpc.file_names import check_collection, check_extension, os_error_text
from native_handlers.storage.model.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.pb import volume_server_pb2 as pb
    from native_handlers.storage.volume.file_reader import FileReader

log = logging.getLogger(__name__)

ANY_REVISION = 2**32 - 1
_INT64_LIMIT = 2**63


def copy_file(node: GrpcNode, _context: RpcContext, request: pb.CopyFileRequest) -> Iterator[bytes]:
    """Yields the file up to the stop offset, in messages of 64 KiB to 2 MiB; the first one has the modification time.

    The first message is sent even for an empty file, because no message at all means that there is no such file. The
    volume is synced to disk first. The file stays open to the end, also when the volume is closed meanwhile.
    """
    check_extension(request.ext)
    check_collection(request.collection)
    file = _open(node, request)
    if file is None:
        return
    with file:
        modified_at_ns = file.modified_at_ns
        try:
            # Upstream counts in a signed number, so values of 2**63 and more are negative there.
            for piece in file.pieces(request.stop_offset if request.stop_offset < _INT64_LIMIT else 0):
                yield encode_copy_piece(piece, modified_at_ns)
                modified_at_ns = 0
        except OSError as error:
            raise RpcFailure(os_error_text("read", file.path, error)) from error
        if modified_at_ns:
            yield encode_copy_piece(b"", modified_at_ns)


def _open(node: GrpcNode, request: pb.CopyFileRequest) -> FileReader | None:
    """Opens the file; None where a missing file is no error."""
    with errors_as_upstream(absent=None if request.is_ec_volume else f"not found volume id {request.volume_id}"):
        try:
            return _open_coded(node, request) if request.is_ec_volume else _open_of_volume(node, request)
        except FileNotFoundError as error:
            # A request for nothing is met by a missing file.
            if request.ignore_source_file_not_found or request.stop_offset == 0:
                return None
            raise _failure(error) from error
        except OSError as error:
            raise _failure(error) from error


def _open_of_volume(node: GrpcNode, request: pb.CopyFileRequest) -> FileReader:
    volume = volume_of(node, request.volume_id)
    _check_revision(request, volume.compaction_revision)
    volume.check_in_service()
    try:
        volume.sync_in_passing()
    except StorageError as error:
        # The written bytes can be read without the sync, and a failing disk is a good reason to copy from it.
        log.warning("volume %d is copied from without a sync: %s", request.volume_id, error)
    file = volume.open_for_copy(request.ext)
    try:
        _check_revision(request, file.revision)
    except RpcFailure:
        file.close()
        raise
    return file


def _check_revision(request: pb.CopyFileRequest, revision: int | None) -> None:
    if request.compaction_revision not in {ANY_REVISION, revision}:
        raise RpcFailure(f"volume {request.volume_id} is compacted")


def _open_coded(node: GrpcNode, request: pb.CopyFileRequest) -> FileReader | None:
    """Opens the file wherever it lies, whether the volume is mounted or not."""
    file = store_of(node).open_coded_file(request.collection, request.volume_id, request.ext)
    if file is None and not request.ignore_source_file_not_found:
        raise RpcFailure(f"CopyFile not found ec volume id {request.volume_id}")
    return file


def _failure(error: OSError) -> RpcFailure:
    path: Path | str = error.filename or "the file"
    return RpcFailure(os_error_text("open", path, error))
