"""The child's heartbeat stream, as the relay takes it: into the model, and answered from the real master's words.

Source: weed/server/master_grpc_server.go, SendHeartbeat and checkVolumeDigest, for what a volume server expects.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import grpc

from native_handlers.pb import master_pb2
from supervisor.cluster.messages import digest_of
from supervisor.cluster.source_feed import NodeFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from supervisor.cluster.master_view import MasterSettings
    from supervisor.cluster.source_feed import SourceFeed

_log = logging.getLogger(__name__)


def is_leave(beat: master_pb2.Heartbeat) -> bool:
    """Whether `beat` is the last one of a server that leaves: empty, and without any of what a full beat carries.

    A server that genuinely has no volumes still reports its directories.
    """
    has_content = beat.HasField("volume_digest") or beat.volumes or beat.max_volume_counts or beat.location_uuids
    return beat.has_no_volumes and not has_content


def absorb(feed: SourceFeed, beat: master_pb2.Heartbeat) -> None:
    """Takes over into `feed` all that `beat` says of volumes, shards, disks and state."""
    if beat.max_volume_counts or beat.location_uuids:
        feed.set_facts(NodeFacts.of_heartbeat(beat))
    if beat.HasField("state"):
        feed.set_state(beat.state)
    if beat.deleted_volumes:
        feed.remove_volumes(beat.deleted_volumes)
    if beat.new_volumes:
        feed.add_volumes(beat.new_volumes)
    if beat.changed_volumes:
        feed.change_volumes(beat.changed_volumes)
    if beat.volumes or beat.has_no_volumes:
        feed.replace_volumes(beat.volumes)
    if beat.deleted_ec_shards:
        feed.remove_ec_shards(beat.deleted_ec_shards)
    if beat.new_ec_shards:
        feed.add_ec_shards(beat.new_ec_shards)
    if beat.ec_shards or beat.has_no_ec_shards:
        feed.replace_ec_shards(beat.ec_shards)


def needs_full_list(feed: SourceFeed, beat: master_pb2.Heartbeat) -> bool:
    """Whether what `feed` holds after `beat` differs from what its sender says it has.

    A beat that carried the full list has nothing more to give.
    """
    if not beat.HasField("volume_digest") or beat.volumes or beat.has_no_volumes:
        return False
    return digest_of(feed.hashes()) != beat.volume_digest


class ChildStream:
    """One stream of the child: a thread reads it, `responses` is what it is answered.

    At most one answer is pending: newer ones are merged into it, for each states all options.
    """

    def __init__(
        self,
        beats: Iterator[master_pb2.Heartbeat],
        settings: Callable[[], MasterSettings],
        take: Callable[[ChildStream, master_pb2.Heartbeat], bool],
    ) -> None:
        """`take` handles one beat, and returns whether the full list is needed."""
        self._beats = beats
        self._settings = settings
        self._take = take
        self._bell = threading.Condition()  # protects the fields below
        self._has_answer = True
        self._wants_full_list = False
        self._is_over = False

    def responses(self) -> Iterator[master_pb2.HeartbeatResponse]:
        """The answers, until the child ends its stream or `end` is called. The first comes at once."""
        reader = threading.Thread(target=self._read, name="child-heartbeat", daemon=True)
        reader.start()
        try:
            while (response := self._next_response()) is not None:
                yield response
        finally:
            self.end()

    def answer(self) -> None:
        """Tells the child the options as they are now."""
        with self._bell:
            self._has_answer = True
            self._bell.notify_all()

    def end(self) -> None:
        """Ends the stream from our side."""
        with self._bell:
            self._is_over = True
            self._bell.notify_all()

    def _next_response(self) -> master_pb2.HeartbeatResponse | None:
        with self._bell:
            while not (self._has_answer or self._is_over):
                self._bell.wait()
            if self._is_over:
                return None
            wants_full_list, self._wants_full_list = self._wants_full_list, False
            self._has_answer = False
        settings = self._settings()
        return master_pb2.HeartbeatResponse(
            volume_size_limit=settings.volume_size_limit_bytes,
            preallocate=settings.preallocate,
            storage_backends=settings.storage_backends,
            volume_digest_supported=True,
            resend_full_volume_list=wants_full_list,
        )

    def _read(self) -> None:
        try:
            for beat in self._beats:
                if self._take(self, beat):
                    with self._bell:
                        self._wants_full_list = self._has_answer = True
                        self._bell.notify_all()
        except grpc.RpcError as failure:
            _log.debug("the child's heartbeat stream broke: %r", failure)
        finally:
            self.end()
