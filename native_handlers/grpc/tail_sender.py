"""VolumeTailSender: sends the records that are appended to a volume, deletions too, for as long as the client wants.

A round sends the new records and then waits. Between rounds no file of the volume is open, so the space of a deleted
volume is freed. Within a round the open files do not change, so the round has a fixed end. Therefore no other engine
that works on the volume has to wait for the client (`RpcContext.pausing`).

Source: weed/server/volume_grpc_tail.go.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from native_handlers.grpc.checks import errors_as_upstream, store_of, volume_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.records import dataclass
from native_handlers.storage.volume.append_log import append_time_ns, first_row_after, walk_records

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.system.files import SharedFile
    from native_handlers.storage.volume.append_log import AppendLog

ROUND_S = 2.0
"""The wait between two rounds. Upstream counts these rounds, not seconds, against the idle timeout. This server does
the same, because tools choose the timeout for that."""

_FOLLOWING = "streamFollow"


@dataclass(slots=True)
class _Follower:
    """The progress of a client: up to a row of the index file `idx`; in any other index file, up to a time."""

    volume_id: int
    revision: int
    since_ns: int
    idx: SharedFile | None = None
    next_row: int = 0


def volume_tail_sender(
    node: GrpcNode, context: RpcContext, request: pb.VolumeTailSenderRequest
) -> Iterator[pb.VolumeTailSenderResponse]:
    """Yields the records appended after `since_ns`, each in pieces of at most 2 MiB that repeat header and version. A
    round without records yields a message without a header, so that both sides notice a dead connection.

    Ends after `idle_timeout_seconds` rounds without records, or never when that is 0; at once when the client goes.

    Raises:
        RpcFailure: there is no such volume, or it cannot be read. Wilful difference: also when the volume was
            unmounted, deleted or compacted meanwhile, because the client has not had all records; upstream goes on and
            sends nothing.
    """
    revision = volume_of(node, request.volume_id).compaction_revision
    follower = _Follower(request.volume_id, revision, request.since_ns)
    is_gone = threading.Event()
    if not context.add_callback(is_gone.set):
        return
    rounds_left = request.idle_timeout_seconds
    while True:
        has_news = yield from _round(node, context, follower)
        with context.pausing():
            if is_gone.wait(ROUND_S):
                return
        if request.idle_timeout_seconds:
            rounds_left = request.idle_timeout_seconds if has_news else rounds_left - 1
            if not rounds_left:
                return


def _round(
    node: GrpcNode, context: RpcContext, follower: _Follower
) -> Generator[pb.VolumeTailSenderResponse, None, bool]:
    """Sends the new records. Returns whether there were any."""
    volume = store_of(node).find_volume(follower.volume_id)
    if volume is None:
        raise RpcFailure(f"{_FOLLOWING}: volume {follower.volume_id} is closed")
    with errors_as_upstream(_FOLLOWING), volume.open_log() as log:
        if log.compaction_revision != follower.revision:
            # Compaction may have removed deletions that the client has not had.
            raise RpcFailure(f"{_FOLLOWING}: volume {follower.volume_id} is compacted")
        _find_place(log, follower)
        if follower.next_row == log.row_count:
            with context.pausing():
                yield pb.VolumeTailSenderResponse(is_last_chunk=True, version=log.version)
            return False
        with context.pausing():
            yield from _records(log, follower.next_row)
        _move_on(log, follower)
        return True


def _find_place(log: AppendLog, follower: _Follower) -> None:
    if follower.idx is log.idx:
        return
    with errors_as_upstream(f"{_FOLLOWING}: fail to locate by appendAtNs {follower.since_ns}"):
        first = first_row_after(log, follower.since_ns)
    follower.idx = log.idx
    follower.next_row = log.row_count if first is None else first


def _records(log: AppendLog, first_row: int) -> Iterator[pb.VolumeTailSenderResponse]:
    for piece in walk_records(log, first_row):
        yield pb.VolumeTailSenderResponse(
            needle_header=piece.header, needle_body=piece.body, is_last_chunk=piece.is_last, version=log.version
        )


def _move_on(log: AppendLog, follower: _Follower) -> None:
    """Updates both places. The time counts when the files are opened anew."""
    follower.next_row = log.row_count
    last = next(log.rows(log.row_count - 1))
    if last.offset:
        follower.since_ns = max(follower.since_ns, append_time_ns(log, last))
