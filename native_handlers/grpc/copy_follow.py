"""Fetches the writes to a volume during its copy, after the cluster knows of the copy.

The files of a copy are those of one moment, and writers do not know of the copy yet. The master then names this server
as a holder, and writers have a moment to learn of the new holder. After that, the records that the source appended
until then are applied here. From then on writers send every write here as well. Upstream's copies lack the writes of
the meantime.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.checks import errors_as_upstream, store_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.status_text import go_error_text
from native_handlers.grpc.tail_receiver import apply_needle, received_needles
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.grpc.copy_client import CopySource
    from native_handlers.grpc.node import GrpcNode

log = logging.getLogger(__name__)

KNOWN_WITHIN_S = 5.0
"""How long the master may take to name this server. Where the master cannot be asked, the copy still counts."""
LAST_WRITES_S = 0.5
"""How long writers may take to learn of the copy, and to end the writes that they had begun before."""
LONGEST_LOOK_S = 60.0
"""How long the source may take for one record."""
_CALL_S = 10.0
IDLE_ROUNDS = 5
LOOK_S = 0.3
_POLL_S = (0.01, 0.25)
_NOT_FETCHED = "what was written to volume %d while it was copied is not fetched: the source has no %s"


def fetch_later_writes(node: GrpcNode, source: CopySource, volume_id: int, since_ns: int, revision: int) -> int:
    """Applies the records that the source has appended after `since_ns`, by the source's clock, up to a moment at which
    every writer knows of the copy here. Returns the number of records. A source that takes no writes is
    given no `LAST_WRITES_S`.

    `revision` is the compaction revision of the copied files. A vacuum orders the records by id, so that a source finds
    later records no more by their time, and removes the deletions.

    Raises:
        RpcFailure: the source cannot be followed, or was compacted since its files were copied. The volume stays
            mounted, with all records that came before.
    """
    await_master(node, source, volume_id)
    if not _is_read_only(source, volume_id):
        source.end.pause(LAST_WRITES_S)
    until_ns = _clock_of(source)
    if until_ns is None:
        log.warning(_NOT_FETCHED, volume_id, "Ping")
        return 0
    count, look_s = 0, LOOK_S
    while True:
        passed = _Pass(since_ns)
        try:
            _fetch(node, source, volume_id, passed, until_ns, look_s)
        except grpc.RpcError as error:
            source.end.check()
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                log.warning(_NOT_FETCHED, volume_id, "VolumeTailSender")
                return count
            is_slow = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if not is_slow or look_s > LONGEST_LOOK_S:
                raise _lacking(volume_id, go_error_text(error), error.code()) from error
        count += passed.count
        if passed.is_complete:
            _check_not_compacted(source, volume_id, revision)
            return count
        if not passed.count:
            look_s *= 2
        since_ns = passed.since_ns


def _lacking(volume_id: int, why: str, code: grpc.StatusCode) -> RpcFailure:
    text = f"volume {volume_id} is copied and mounted, but lacks what was written to its source meanwhile"
    return RpcFailure(f"{text}: {why}", code)


def _check_not_compacted(source: CopySource, volume_id: int, revision: int) -> None:
    """Raises RpcFailure where the source was compacted by now, or does not say. A revision never comes back."""
    wanted = pb.ReadVolumeFileStatusRequest(volume_id=volume_id)
    try:
        now = source.client.ReadVolumeFileStatus(wanted, timeout=_CALL_S).compaction_revision
    except grpc.RpcError as error:
        source.end.check()
        raise _lacking(volume_id, go_error_text(error), error.code()) from error
    if now != revision:
        raise _lacking(volume_id, "the source was compacted; copy it again", grpc.StatusCode.UNKNOWN)


@dataclass(slots=True)
class _Pass:
    """The progress of one look at the source."""

    since_ns: int
    count: int = 0
    is_complete: bool = False


def _fetch(node: GrpcNode, source: CopySource, volume_id: int, passed: _Pass, until_ns: int, look_s: float) -> None:
    """Applies the records that arrive within `look_s`. A source that has sent records tells only two seconds later that
    there are no more; a source that has none tells so at once. So a look is short, and another one follows.
    """
    wanted = pb.VolumeTailSenderRequest(volume_id=volume_id, since_ns=passed.since_ns, idle_timeout_seconds=IDLE_ROUNDS)
    messages = source.client.VolumeTailSender(wanted, timeout=look_s)
    source.end.guard(messages.cancel)
    store = store_of(node)
    try:
        holding = partial(node.fetched_memory.holding, check=source.end.check)
        with errors_as_upstream(), closing(received_needles(_until_idle(messages), holding)) as received:
            for needle in received:
                if needle.append_at_ns > until_ns:
                    break
                apply_needle(store, volume_id, needle)
                passed.count += 1
                passed.since_ns = max(passed.since_ns, needle.append_at_ns)
                del needle  # The next one may have its memory.
        passed.is_complete = True
    finally:
        messages.cancel()


def await_master(node: GrpcNode, source: CopySource, volume_id: int) -> None:
    """Returns when the master names this server among the holders of the volume, or after `KNOWN_WITHIN_S`."""
    own = f"{node.facts.ip}:{node.facts.port}"
    give_up_s, pause_s = time.monotonic() + KNOWN_WITHIN_S, _POLL_S[0]
    while time.monotonic() < give_up_s:
        try:
            if node.masters.holds(volume_id, node.facts.ip, node.facts.port, _CALL_S):
                return
        except RpcFailure as failure:
            log.warning("the master does not say whether %s holds volume %d: %s", own, volume_id, failure)
            return
        source.end.pause(pause_s)
        pause_s = min(pause_s * 2, _POLL_S[1])
    log.warning("the master does not name %s as a holder of volume %d yet", own, volume_id)


def _until_idle(messages: Iterator[pb.VolumeTailSenderResponse]) -> Iterator[pb.VolumeTailSenderResponse]:
    """Yields messages up to the first one that says that there are no more records for now."""
    for message in messages:
        if not message.needle_header:
            return
        yield message


def _is_read_only(source: CopySource, volume_id: int) -> bool:
    try:
        status = source.client.VolumeStatus(pb.VolumeStatusRequest(volume_id=volume_id), timeout=_CALL_S)
    except grpc.RpcError as error:
        source.end.check()
        log.info("the source does not say whether it takes writes to volume %d: %s", volume_id, go_error_text(error))
        return False
    return bool(status.is_read_only)


def _clock_of(source: CopySource) -> int | None:
    """The source's time in ns, which is the clock of its records; None where the source does not know Ping."""
    try:
        return int(source.client.Ping(pb.PingRequest(), timeout=_CALL_S).start_time_ns) or None
    except grpc.RpcError as error:
        source.end.check()
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return None
        raise RpcFailure(f"the source does not tell its time: {go_error_text(error)}", error.code()) from error
