"""ReceiveFile: stores a file of a volume, or of an erasure-coded volume, that another server sends.

Source: weed/server/volume_grpc_copy.go (ReceiveFile).
"""

from __future__ import annotations

import logging
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from native_handlers.grpc.checks import check_maintenance, store_of, unavailable
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.file_names import check_sent_file, os_error_text
from native_handlers.grpc.status_text import shortened
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.erasure_coding.layout import most_bytes_of
from native_handlers.storage.model.errors import DiskUnavailable, StorageError
from native_handlers.storage.model.file_kinds import is_reserved
from native_handlers.storage.transfer.received_files import ReceiveRequest, check_not_mounted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.transfer.receive import StagedFile

log = logging.getLogger(__name__)

_MAX_REFUSAL_CHARACTERS = 8192
"""More than the longest path of a file and its reason."""


class _Refused(Exception):
    """An error that the sender gets within an answer: the call itself succeeds, as upstream's."""


def receive_file(
    node: GrpcNode, _context: RpcContext, requests: Iterator[pb.ReceiveFileRequest]
) -> pb.ReceiveFileResponse:
    """Stores a file. The first message has its facts, the messages after it its content.

    The file gets its name only when all of it has arrived and is on disk. Any earlier failure leaves the file that had
    the name. That is a wilful difference: upstream writes in place. It also accepts facts a second time, a file that
    ends before its announced size, and any name (see `check_sent_file`, `received_files`).
    """
    check_maintenance(node)
    try:
        return pb.ReceiveFileResponse(bytes_written=_receive(node, requests))
    except _Refused as refusal:
        # It may repeat the sender's texts, which may have megabytes.
        text = shortened(str(refusal), _MAX_REFUSAL_CHARACTERS)
        log.warning("a file that was sent here is refused: %s", text)
        return pb.ReceiveFileResponse(error=text)


def _receive(node: GrpcNode, requests: Iterator[pb.ReceiveFileRequest]) -> int:
    """Receives one file and returns the number of bytes stored. A stream without a message stores nothing and is no
    error.
    """
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
            with _unmounted(node, info, file):
                file.commit()
        except StorageError as error:
            raise _Refused(str(error)) from error
        except OSError as error:
            raise _Refused(f"failed to write file: {os_error_text('sync', file.target, error)}") from error
        return file.size_bytes


@contextmanager
def _unmounted(node: GrpcNode, info: pb.ReceiveFileInfo, file: StagedFile) -> Iterator[None]:
    """Inside, no shard of an erasure-coded volume is mounted, and no other collection has data of the id, as when the
    file began to arrive. Raises ReceiveRefused, and as `VolumeIds.naming`.
    """
    store, volume_id = store_of(node), info.volume_id
    ec = store.ec
    if not info.is_ec_volume:
        # A file with another extension joins the mounted volume of the id, whatever collection the sender names.
        is_of_new_volume = is_reserved(info.ext)
        with store.ids.naming(info.collection, volume_id) if is_of_new_volume else nullcontext():
            yield
        return
    with ec.exclusive(volume_id), store.ids.naming(info.collection, volume_id):
        # `coded_disk_ids` learns of new shards a little after their mount, `copies` has them at once.
        own = (one.place.disk_id for one in ec.copies(volume_id))
        check_not_mounted(volume_id, sorted({*own, *node.coded_disk_ids(volume_id)}))
        for location in store.locations:
            if location.path == file.target.parent:
                ec.note_files(location.disk_id, info.collection, volume_id)
        yield


def _open(node: GrpcNode, info: pb.ReceiveFileInfo) -> StagedFile:
    try:
        check_sent_file(info)
        store = store_of(node)
        return store.receive_file(
            ReceiveRequest(
                volume_id=info.volume_id,
                collection=info.collection,
                extension=info.ext,
                is_coded=info.is_ec_volume,
                disk_type=info.disk_type,
                disk_id=info.disk_id,
                size_bytes=info.file_size,
                max_bytes=most_bytes_of(info.ext, store.offset_width_bytes) if info.is_ec_volume else None,
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


def _store(file: StagedFile, request: pb.ReceiveFileRequest) -> None:
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
