"""The four RPCs of a vacuum, in a master's order: measure the garbage, copy, commit the copy, remove the copy.

Checks are in upstream's order: maintenance, then look-up. The gateway has checked the admin gate before.

Source: weed/server/volume_grpc_vacuum.go, weed/storage/store_vacuum.go.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from native_handlers.format.super_block import SUPER_BLOCK_BYTES
from native_handlers.grpc.checks import check_maintenance, errors_as_upstream, store_of, volume_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.throttle import WriteThrottler
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.model.compaction import CompactionOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.model.report import VolumeReport

_log = logging.getLogger(__name__)
REPORT_BYTES = 128 << 20
"""One message for so much of .dat, as upstream."""
_NOT_FOUND = "volume id %d is not found during "


def vacuum_volume_check(
    node: GrpcNode, _context: RpcContext, request: pb.VacuumVolumeCheckRequest
) -> pb.VacuumVolumeCheckResponse:
    """The deleted share of the content."""
    volume = volume_of(node, request.volume_id, f"{_NOT_FOUND}check compact")
    report = volume.report()
    if report is None:
        # The volume was closed after it was found.
        raise RpcFailure(f"{_NOT_FOUND}check compact" % request.volume_id)
    return pb.VacuumVolumeCheckResponse(garbage_ratio=garbage_ratio(report))


def garbage_ratio(report: VolumeReport) -> float:
    """Deleted bytes divided by content bytes. Where deletions are known but not their sizes, the bytes of .dat beyond
    the content count as deleted. Source: weed/storage/volume_vacuum.go, garbageLevel.
    """
    if not report.content_size_bytes:
        return 0.0
    if report.delete_count and not report.deleted_byte_count:
        return (report.size_bytes - report.content_size_bytes - SUPER_BLOCK_BYTES) / report.size_bytes
    return report.deleted_byte_count / report.content_size_bytes


def vacuum_volume_compact(
    node: GrpcNode, context: RpcContext, request: pb.VacuumVolumeCompactRequest
) -> Iterator[pb.VacuumVolumeCompactResponse]:
    """Copies the live needles beside the volume. Yields a message for each 128 MiB of .dat that have been processed.

    Ends without a copy when the client goes. A volume that is being compacted already is a success at once.
    """
    check_maintenance(node)
    is_gone = threading.Event()
    if not context.add_callback(is_gone.set):
        return
    volume = volume_of(node, request.volume_id, f"{_NOT_FOUND}compact")

    def is_wanted() -> bool:
        return not is_gone.is_set()

    pause = partial(volume.compaction.pause, is_wanted=is_wanted)
    options = CompactionOptions(
        preallocate_bytes=request.preallocate,
        pace=WriteThrottler(node.facts.compaction_bytes_per_s, pause).passed,
        is_wanted=is_wanted,
    )
    reported_bytes = 0
    with _observed(node.counts.observe_compaction), errors_as_upstream():
        for done_bytes in volume.compaction.run(options):
            if done_bytes - reported_bytes > REPORT_BYTES:
                reported_bytes = done_bytes
                yield pb.VacuumVolumeCompactResponse(processed_bytes=done_bytes, load_avg_1m=_load())
    _log.info("volume %d: a compacted copy is there", request.volume_id)


def vacuum_volume_commit(
    node: GrpcNode, _context: RpcContext, request: pb.VacuumVolumeCommitRequest
) -> pb.VacuumVolumeCommitResponse:
    """Replaces the volume's files by the copy. `is_read_only` is the state before."""
    check_maintenance(node)
    with _observed(node.counts.observe_compaction_commit):
        if node.is_stopping():
            raise RpcFailure(f"volume id {request.volume_id} skips compact because volume is stopping")
        volume = volume_of(node, request.volume_id, f"{_NOT_FOUND}commit compact")
        with errors_as_upstream():
            is_read_only, size_bytes = store_of(node).commit_compaction(volume)
    return pb.VacuumVolumeCommitResponse(is_read_only=is_read_only, volume_size=size_bytes)


def vacuum_volume_cleanup(
    node: GrpcNode, _context: RpcContext, request: pb.VacuumVolumeCleanupRequest
) -> pb.VacuumVolumeCleanupResponse:
    """Ends a compaction under way, and removes the copy. Without a copy the call succeeds."""
    check_maintenance(node)
    volume = volume_of(node, request.volume_id, f"{_NOT_FOUND}cleaning up")
    with errors_as_upstream():
        volume.compaction.cleanup()
    return pb.VacuumVolumeCleanupResponse()


@contextmanager
def _observed(observe: Callable[..., None]) -> Iterator[None]:
    started_s, is_success = monotonic(), False
    try:
        yield
        is_success = True
    finally:
        observe(monotonic() - started_s, is_success=is_success)


def _load() -> float:
    """The load average of a minute, for each processor; 0 where the system provides none."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return 0.0
