"""VolumeTailReceiver: applies the records that another server appends to its copy of a volume to the copy here.

Each record is written anew with the same payload, metadata and cookie, and a new append time: append times grow within
a volume, and clocks differ. A needle that is stored already is not stored again, so a repeated tail leaves the same
needles.

Source: weed/server/volume_grpc_tail.go, weed/operation/tail_volume.go.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import grpc

from native_handlers.format.errors import Corrupt, Truncated, UnsupportedVersion
from native_handlers.format.needle import actual_size, parse_needle, parse_needle_header
from native_handlers.format.types import CURRENT_VERSION, NEEDLE_HEADER_BYTES, SUPPORTED_VERSIONS
from native_handlers.grpc.checks import check_other, errors_as_upstream, store_of, volume_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.copy_client import ended
from native_handlers.grpc.heard import heard
from native_handlers.pb import volume_server_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from native_handlers.format.needle import Needle, NeedleHeader
    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.store import Store


def volume_tail_receiver(
    node: GrpcNode, context: RpcContext, request: pb.VolumeTailReceiverRequest
) -> pb.VolumeTailReceiverResponse:
    """Applies records until the source has had none for `idle_timeout_seconds` of its rounds.

    Ends at once when the client goes, where upstream would follow the source to its end; applied records stay. As in
    upstream, maintenance mode does not forbid the call.

    Raises:
        RpcFailure: there is no such volume here; the source is this server itself, and nothing was applied; the
            source's own failure, with its code and text; the source sent no valid record; a record cannot be stored.
            All records before it are stored.
    """
    volume = volume_of(node, request.volume_id, "receiver not found volume id %d")
    with errors_as_upstream():
        # Checked first, so that the source does not begin for nothing.
        volume.check_in_service()
    store = store_of(node)
    wanted = pb.VolumeTailSenderRequest(
        volume_id=request.volume_id,
        since_ns=request.since_ns,
        idle_timeout_seconds=request.idle_timeout_seconds,
    )
    with node.volume_servers.open_volume_server(request.source_volume_server) as source:
        messages = source.VolumeTailSender(wanted)
        if not context.add_callback(messages.cancel):
            messages.cancel()
        try:
            holding = partial(node.fetched_memory.holding, check=partial(_check_active, context))
            with errors_as_upstream(), closing(received_needles(heard(messages), holding)) as received:
                for needle in received:
                    apply_needle(store, request.volume_id, needle)
                    del needle  # The next one may have its memory.
        except grpc.RpcError as error:
            check_other(node, error, "tail a volume")
            raise RpcFailure(error.details() or "", error.code()) from error
    return pb.VolumeTailReceiverResponse()


def _check_active(context: RpcContext) -> None:
    if not context.is_active():
        raise ended()


def apply_needle(store: Store, volume_id: int, needle: Needle) -> None:
    """Applies one record of a source. An empty record is a deletion, because a record does not tell a deletion from an
    empty needle. (Upstream stores an empty needle, so a needle that was deleted at the source exists again, and is
    empty.) The deletion of a needle that is not here changes nothing.
    """
    volume = store.get_volume(volume_id, store.on_this_server)
    if needle.size:
        volume.write(needle, check_cookie=False)
    else:
        volume.delete(needle.needle_id, needle.cookie, checksum=needle.checksum)


def received_needles(
    messages: Iterator[pb.VolumeTailSenderResponse],
    holding: Callable[[int], AbstractContextManager[object]] = nullcontext,
) -> Generator[Needle, None, None]:
    """Yields the needles in `messages`, each verified. A message without a header only tells that the source is alive.

    Memory is that of one needle, as record and as needle, and no more than its header announced.

    Args:
        holding: has a share for so many bytes inside the block; see `FetchedMemory.holding`. The share is held until
            the next needle is asked for.

    Raises:
        FormatError: the messages hold no valid record; the stream cannot be used any more.
    """
    for message in messages:
        if message.needle_header:
            record = _announced(message)
            with holding(2 * record.length_bytes):
                yield _needle_of(record, message, messages)


class _Announced(NamedTuple):
    """A record as its first message announces it."""

    header: NeedleHeader
    version: int
    length_bytes: int


def _announced(first: pb.VolumeTailSenderResponse) -> _Announced:
    version = first.version or CURRENT_VERSION
    if version not in SUPPORTED_VERSIONS:
        raise UnsupportedVersion(version)
    header = parse_needle_header(first.needle_header)
    if header.size < 0:
        raise Corrupt(f"needle {header.needle_id:x}", f"size {header.size} is negative")
    return _Announced(header, version, actual_size(header.size, version))


def _needle_of(
    announced: _Announced, first: pb.VolumeTailSenderResponse, more: Iterator[pb.VolumeTailSenderResponse]
) -> Needle:
    what, length = f"needle {announced.header.needle_id:x}", announced.length_bytes
    record = bytearray(first.needle_header[:NEEDLE_HEADER_BYTES])
    message: pb.VolumeTailSenderResponse | None = first
    while message is not None:
        if message.needle_header != first.needle_header:
            raise Corrupt(what, f"another begins after {len(record)} of its {length} bytes")
        if len(record) + len(message.needle_body) > length:
            raise Corrupt(what, f"more than its {length} bytes came")
        record += message.needle_body
        if message.is_last_chunk:
            return parse_needle(memoryview(record), announced.version)
        message = next(more, None)
    raise Truncated(what, length, len(record))
