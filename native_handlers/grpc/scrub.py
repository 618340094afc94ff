"""ScrubVolume: verifies volumes, and on request marks broken ones read-only.

Source: weed/server/volume_grpc_scrub.go.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from time import time
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.checks import errors_as_upstream, once, store_of, volume_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.copy_client import CallEnd
from native_handlers.grpc.throttle import WriteThrottler
from native_handlers.grpc.volumes import volume_mark_readonly
from native_handlers.pb import volume_server_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.volume.append_log import AppendLog
    from native_handlers.storage.volume.scrub import ScrubResult
    from native_handlers.storage.volume.volume import Volume


_MODES = {pb.VolumeScrubMode.INDEX, pb.VolumeScrubMode.FULL, pb.VolumeScrubMode.LOCAL}


def scrub_volume(node: GrpcNode, context: RpcContext, request: pb.ScrubVolumeRequest) -> pb.ScrubVolumeResponse:
    """Verifies the volumes in the request, or all: the index alone (INDEX), or every record too (FULL, LOCAL).

    Paced by -maintenanceMBps, and ended when the client goes. A volume that cannot be verified counts as broken. Of all
    volumes, those whose disk is out of service are not verified, and `details` has a line for each. A volume may change
    hands while its records are read: the log of its appends stays open (`RpcContext.taking`).
    """
    end = CallEnd(context)
    end.check()
    throttle = WriteThrottler(node.facts.maintenance_bytes_per_s, end.pause)

    def passed(count_bytes: int) -> None:
        end.check()
        throttle.passed(count_bytes)

    response = pb.ScrubVolumeResponse()
    for volume_id in once(request.volume_ids or list(_all_volumes(node, context))):
        end.check()
        with ExitStack() as stack:
            with context.taking(volume_id):
                if not request.volume_ids and store_of(node).find_volume(volume_id) is None:
                    # It was closed or deleted since the scrub began.
                    continue
                volume = volume_of(node, volume_id, "volume id %d not found")
                try:
                    log = stack.enter_context(_opened(volume, request.mode))
                except RpcFailure as failure:
                    if request.volume_ids or failure.code is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    response.details.append(not_verified(f"volume {volume_id}", failure))
                    continue
            result = _scrub(log, volume_id, request.mode, passed)
        response.total_volumes += 1
        response.total_files += result.row_count
        if result.problems:
            response.broken_volume_ids.append(volume_id)
            response.details.extend(result.problems)
    failures = _mark_broken(node, context, response) if request.mark_broken_volumes_readonly else []
    if request.mode in _MODES:
        node.counts.observe_scrub(pb.VolumeScrubMode.Name(request.mode), len(response.broken_volume_ids), time())
    if failures:
        raise RpcFailure("\n".join(failures))
    return response


def not_verified(name: str, failure: RpcFailure) -> str:
    """The line about a volume that a scrub of all volumes leaves out."""
    return f"{name} is not verified: {failure.message}"


def _all_volumes(node: GrpcNode, context: RpcContext) -> Collection[int]:
    if context.volume_ids is not None:
        return context.volume_ids
    return [volume.id for volume in store_of(node).volumes()]


@contextmanager
def _opened(volume: Volume, mode: int) -> Iterator[AppendLog]:
    """The log of the volume's appends, for a block that verifies it."""
    if mode not in _MODES:
        raise RpcFailure(f"unsupported volume scrub mode {mode}")
    with errors_as_upstream(), volume.open_log() as log:
        yield log


def _scrub(log: AppendLog, volume_id: int, mode: int, passed: Callable[[int], None]) -> ScrubResult:
    from native_handlers.storage.volume import scrub  # noqa: PLC0415  (numpy, which a front-end does without)

    if mode == pb.VolumeScrubMode.INDEX:
        return scrub.scrub_index(log, passed)
    return scrub.scrub_data(log, volume_id, passed)


def _mark_broken(node: GrpcNode, context: RpcContext, response: pb.ScrubVolumeResponse) -> list[str]:
    failures = []
    for volume_id in response.broken_volume_ids:
        try:
            with context.taking(volume_id, changes=True):
                volume_mark_readonly(node, context, pb.VolumeMarkReadonlyRequest(volume_id=volume_id, persist=True))
        except RpcFailure as failure:
            failures.append(failure.message)
            response.details.append(failure.message)
        else:
            response.details.append(f"volume {volume_id} is now read-only")
    return failures
