"""RPCs that read and write records as they are on disk. Tools that repair replicas copy needles with them.

None is gated: any client that reaches the port may call them, with any offset and size. Source:
weed/server/volume_grpc_read_write.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from native_handlers.format import crc
from native_handlers.grpc.checks import check_maintenance, errors_as_upstream, volume_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.message_bytes import message_around
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.volume.blobs import blob_size

if TYPE_CHECKING:
    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode

_ABSENT = "not found volume id %d"
_ABSENT_META = "not found volume id %d and read needle metadata at ec shards is not supported"
_NEEDLE_BLOB_FIELD = pb.ReadNeedleBlobResponse.NEEDLE_BLOB_FIELD_NUMBER
_MAX_MESSAGE_BYTES = 1 << 30
"""The greatest size of one message. A longer record is refused before it is read, because it could not be sent."""


def read_needle_blob(node: GrpcNode, _context: RpcContext, request: pb.ReadNeedleBlobRequest) -> bytes:
    """The bytes at the named place, whatever they are, as a ReadNeedleBlobResponse. Wilful difference: a size far below
    zero is refused; upstream's process ends on it.
    """
    doing = f"read needle blob offset {request.offset} size {request.size}"
    with node.counts.counting_read_failure(), errors_as_upstream(doing, absent=_ABSENT % request.volume_id):
        volume = volume_of(node, request.volume_id, _ABSENT)
        volume.check_in_service()
        length = blob_size(request.size, volume.version)
        if length >= _MAX_MESSAGE_BYTES:
            text = f"trying to send message larger than max ({length} vs. {_MAX_MESSAGE_BYTES})"
            raise RpcFailure(text, grpc.StatusCode.RESOURCE_EXHAUSTED)
        return message_around(_NEEDLE_BLOB_FIELD, volume.read_blob(request.offset, request.size))


def read_needle_meta(
    node: GrpcNode, _context: RpcContext, request: pb.ReadNeedleMetaRequest
) -> pb.ReadNeedleMetaResponse:
    """The metadata of the record at the named place, also that of a deletion; `needle_id` is not compared.

    `crc` is in the legacy form.
    """
    with node.counts.counting_read_failure(), errors_as_upstream(absent=_ABSENT_META % request.volume_id):
        volume = volume_of(node, request.volume_id, _ABSENT_META)
        volume.check_in_service()
        needle = volume.read_meta(request.offset, request.size)
    return pb.ReadNeedleMetaResponse(
        cookie=needle.cookie,
        last_modified=needle.last_modified_s,
        crc=crc.legacy_form(needle.checksum),
        ttl=str(needle.ttl) if needle.has_ttl and needle.ttl else "",
        append_at_ns=needle.append_at_ns,
    )


def write_needle_blob(
    node: GrpcNode, _context: RpcContext, request: pb.WriteNeedleBlobRequest
) -> pb.WriteNeedleBlobResponse:
    """Appends a record unchanged, under the named id. The same record again is not written again."""
    check_maintenance(node)
    doing = f"write blob needle {request.needle_id} size {request.size}"
    with node.counts.counting_write_failure(), errors_as_upstream(doing, absent=_ABSENT % request.volume_id):
        volume = volume_of(node, request.volume_id, _ABSENT)
        volume.check_in_service()
        volume.write_blob(request.needle_id, request.needle_blob, request.size)
    return pb.WriteNeedleBlobResponse()
