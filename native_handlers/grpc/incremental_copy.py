"""VolumeIncrementalCopy: the bytes that were appended to a volume after a given time.

Source: weed/server/volume_grpc_copy_incremental.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.grpc.checks import errors_as_upstream, volume_of
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.volume.append_log import first_row_after
from native_handlers.storage.volume.file_reader import piece_lengths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.volume.append_log import AppendLog


def volume_incremental_copy(
    node: GrpcNode, _context: RpcContext, request: pb.VolumeIncrementalCopyRequest
) -> Iterator[pb.VolumeIncrementalCopyResponse]:
    """Yields .dat from the first record appended after `since_ns` to the end of the file at the time of the call, in
    pieces of up to 2 MiB that may end within a record. Yields nothing when nothing was appended.

    Wilful difference: upstream's last piece goes on with bytes that were appended while it sent, if they fit, and so
    may end within a record.

    Raises:
        RpcFailure: there is no such volume, or it cannot be read.
    """
    volume = volume_of(node, request.volume_id)
    with errors_as_upstream(), volume.open_log() as log:
        start = _start_bytes(log, request.since_ns)
        if start is None:
            return
        position, lengths = start, piece_lengths()
        while position < log.dat_end_bytes:
            piece = log.read_dat(min(next(lengths), log.dat_end_bytes - position), position)
            yield pb.VolumeIncrementalCopyResponse(file_content=piece)
            position += len(piece)


def _start_bytes(log: AppendLog, since_ns: int) -> int | None:
    with errors_as_upstream(f"fail to locate by appendAtNs {since_ns}"):
        first = first_row_after(log, since_ns)
        return None if first is None else log.place_of(next(log.rows(first)))
