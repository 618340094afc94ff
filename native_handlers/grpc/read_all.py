"""Streams every live needle of some volumes. Source: weed/server/volume_grpc_read_all.go."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from native_handlers.format import crc
from native_handlers.grpc.checks import errors_as_upstream, volume_of
from native_handlers.grpc.message_bytes import message_around
from native_handlers.pb import volume_server_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.format.needle import Needle
    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode

_ABSENT = "not found volume id %d"


def read_all_needles(node: GrpcNode, context: RpcContext, request: pb.ReadAllNeedlesRequest) -> Iterator[bytes]:
    """Yields every live needle as a ReadAllNeedlesResponse, volume by volume in the requested order, each volume's in
    the order of its .dat.

    A volume that is not here ends the stream, after the volumes before it. So does a corrupt needle, which upstream
    sends unchanged. One needle is in memory at a time. Payloads are as stored; `needle_blob_compressed` says whether
    that is compressed.
    """
    for volume_id in request.volume_ids:
        doing = f"visit needle error: volume {volume_id}"
        with node.counts.counting_read_failure(), errors_as_upstream(doing, absent=_ABSENT % volume_id):
            volume = volume_of(node, volume_id, _ABSENT)
            volume.check_in_service()
            with closing(volume.live_needles(context.is_active)) as needles:
                for needle in needles:
                    yield response_of(volume_id, needle)


def response_of(volume_id: int, needle: Needle) -> bytes:
    """A ReadAllNeedlesResponse for a needle whose payload may be very large."""
    before = pb.ReadAllNeedlesResponse(volume_id=volume_id, needle_id=needle.needle_id, cookie=needle.cookie)
    after = pb.ReadAllNeedlesResponse(
        needle_blob_compressed=needle.is_compressed,
        last_modified=needle.last_modified_s,
        crc=crc.legacy_form(needle.checksum),
        name=needle.name,
        mime=needle.mime,
    )
    return message_around(
        pb.ReadAllNeedlesResponse.NEEDLE_BLOB_FIELD_NUMBER,
        bytes(needle.data),
        before=before.SerializeToString(),
        after=after.SerializeToString(),
    )
