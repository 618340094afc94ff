"""VolumeTailReceiver: applies what another server appends to its copy of a volume to ours.

Each record becomes one of ours with the same payload, metadata and cookie, and a new append time, for these grow within
a volume and clocks differ. What is stored already is not stored again, so a repeated tail leaves the same needles.

Source: weed/server/volume_grpc_tail.go, weed/operation/tail_volume.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from native_handlers.format.errors import Corrupt, Truncated, UnsupportedVersion
from native_handlers.format.needle import actual_size, parse_needle, parse_needle_header
from native_handlers.format.types import CURRENT_VERSION, NEEDLE_HEADER_BYTES, SUPPORTED_VERSIONS
from native_handlers.grpc.checks import errors_as_upstream, store_of, volume_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.pb import volume_server_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.format.needle import Needle
    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.store import Store


def volume_tail_receiver(
    node: GrpcNode, context: RpcContext, request: pb.VolumeTailReceiverRequest
) -> pb.VolumeTailReceiverResponse:
    """Returns when the source has nothing more to say, `idle_timeout_seconds` of its rounds long.

    Ends at once when the client goes, where upstream would follow the source to its end; what was applied stays.
    Maintenance mode does not forbid it, as upstream.

    Raises:
        RpcFailure: there is no such volume here; the source's own failure, with its code and text; a record that is
            none; a record that cannot be stored. All records before it are stored.
    """
    volume = volume_of(node, request.volume_id, "receiver not found volume id %d")
    with errors_as_upstream():
        # Otherwise the source would begin for nothing.
        volume.check_in_service()
    store = store_of(node)
    wanted = pb.VolumeTailSenderRequest(
        volume_id=request.volume_id,
        since_ns=request.since_ns,
        idle_timeout_seconds=request.idle_timeout_seconds,
    )
    with node.peers.open_volume_server(request.source_volume_server) as source:
        messages = source.VolumeTailSender(wanted)
        if not context.add_callback(messages.cancel):
            messages.cancel()
        try:
            with errors_as_upstream():
                for needle in received_needles(messages):
                    _apply(store, request.volume_id, needle)
        except grpc.RpcError as error:
            raise RpcFailure(error.details() or "", error.code()) from error
    return pb.VolumeTailReceiverResponse()


def _apply(store: Store, volume_id: int, needle: Needle) -> None:
    """An empty record is a deletion: nothing tells it from an empty needle. (Upstream stores the latter, so that what
    was deleted at the source is there again, and empty.) One of a needle that is not here changes nothing.
    """
    if needle.size:
        store.write_needle(volume_id, needle, check_cookie=False)
    else:
        store.delete_needle(volume_id, needle.needle_id, needle.cookie, checksum=needle.checksum)


def received_needles(messages: Iterator[pb.VolumeTailSenderResponse]) -> Iterator[Needle]:
    """The needles that come in `messages`, each verified. Messages without a header only say that the source lives.

    Memory is that of one needle, and no more than its header announced.

    Raises:
        FormatError: what came is no record; the stream is not to be used any more.
    """
    for message in messages:
        if message.needle_header:
            yield _needle_of(message, messages)


def _needle_of(first: pb.VolumeTailSenderResponse, more: Iterator[pb.VolumeTailSenderResponse]) -> Needle:
    version = first.version or CURRENT_VERSION
    if version not in SUPPORTED_VERSIONS:
        raise UnsupportedVersion(version)
    header = parse_needle_header(first.needle_header)
    what = f"needle {header.needle_id:x}"
    if header.size < 0:
        raise Corrupt(what, f"size {header.size} is negative")
    length = actual_size(header.size, version)
    record = bytearray(first.needle_header[:NEEDLE_HEADER_BYTES])
    message: pb.VolumeTailSenderResponse | None = first
    while message is not None:
        if message.needle_header != first.needle_header:
            raise Corrupt(what, f"another begins after {len(record)} of its {length} bytes")
        if len(record) + len(message.needle_body) > length:
            raise Corrupt(what, f"more than its {length} bytes came")
        record += message.needle_body
        if message.is_last_chunk:
            return parse_needle(memoryview(record), version)
        message = next(more, None)
    raise Truncated(what, length, len(record))
