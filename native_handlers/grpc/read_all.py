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
    """The needles, volume by volume in the order asked for, each volume's in the order of its .dat; each is a
    ReadAllNeedlesResponse.

    A volume that is not here ends the stream, after those before it. So does a corrupt needle, which upstream sends
    as it is. One needle is in memory at a time. Payloads are as stored: `needle_blob_compressed` tells.
    """
    for volume_id in request.volume_ids:
        volume = volume_of(node, volume_id, _ABSENT)
        with errors_as_upstream(f"visit needle error: volume {volume_id}", absent=_ABSENT % volume_id):
            volume.check_in_service()
            with closing(volume.live_needles(context.is_active)) as needles:
                for needle in needles:
                    yield response_of(volume_id, needle)


def response_of(volume_id: int, needle: Needle) -> bytes:
    """A ReadAllNeedlesResponse, around a payload that may be as large as memory allows."""
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
