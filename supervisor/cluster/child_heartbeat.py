"""The child's heartbeat stream as the relay serves it: beats go into the model, the real master's options come back.

Source of what a volume server expects: weed/server/master_grpc_server.go (SendHeartbeat, checkVolumeDigest).
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import grpc

from native_handlers.pb import master_pb2
from supervisor.cluster.messages import digest_of
from supervisor.cluster.node_source import NodeProperties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from supervisor.cluster.master_view import MasterSettings
    from supervisor.cluster.node_source import NodeSource

_log = logging.getLogger(__name__)


def is_leave(beat: master_pb2.Heartbeat) -> bool:
    """Whether `beat` is the last beat of a server that leaves: it is empty, and has nothing that a full beat has.

    A server that really has no volumes still reports its directories.
    """
    has_content = beat.HasField("volume_digest") or beat.volumes or beat.max_volume_counts or beat.location_uuids
    return beat.has_no_volumes and not has_content


def absorb(source: NodeSource, beat: master_pb2.Heartbeat) -> None:
    """Takes into `source` what `beat` says about volumes, shards, disks and state."""
    if beat.max_volume_counts or beat.location_uuids:
        source.set_facts(NodeProperties.of_heartbeat(beat))
    if beat.HasField("state"):
        source.set_state(beat.state)
    if beat.deleted_volumes:
        source.remove_volumes(beat.deleted_volumes)
    if beat.new_volumes:
        source.add_volumes(beat.new_volumes)
    if beat.changed_volumes:
        source.change_volumes(beat.changed_volumes)
    if beat.volumes or beat.has_no_volumes:
        source.replace_volumes(beat.volumes)
    if beat.deleted_ec_shards:
        source.remove_ec_shards(beat.deleted_ec_shards)
    if beat.new_ec_shards:
        source.add_ec_shards(beat.new_ec_shards)
    if beat.ec_shards or beat.has_no_ec_shards:
        source.replace_ec_shards(beat.ec_shards)


def needs_full_list(source: NodeSource, beat: master_pb2.Heartbeat) -> bool:
    """Whether the volumes in `source` after `beat` differ from the sender's digest.

    False for a beat with the full list: its sender has nothing more to send.
    """
    if not beat.HasField("volume_digest") or beat.volumes or beat.has_no_volumes:
        return False
    return digest_of(source.hashes()) != beat.volume_digest


class ChildStream:
    """One stream of the child. A thread reads the beats; `responses` gives the answers.

    At most one answer is pending. Newer answers are merged into it, because each answer states all options.
    """

    def __init__(
        self,
        beats: Iterator[master_pb2.Heartbeat],
        settings: Callable[[], MasterSettings],
        take: Callable[[ChildStream, master_pb2.Heartbeat], bool],
    ) -> None:
        """`take` handles one beat. It returns whether the full list is needed."""
        self._beats = beats
        self._settings = settings
        self._take = take
        self._bell = threading.Condition()  # protects the fields below
        self._has_answer = True
        self._wants_full_list = False
        self._is_over = False

    def responses(self) -> Iterator[master_pb2.HeartbeatResponse]:
        """The answers, until the child ends its stream or `end` is called. The first answer comes at once."""
        reader = threading.Thread(target=self._read, name="child-heartbeat", daemon=True)
        reader.start()
        try:
            while (response := self._next_response()) is not None:
                yield response
        finally:
            self.end()

    def answer(self) -> None:
        """Sends the child the options as they are now."""
        with self._bell:
            self._has_answer = True
            self._bell.notify_all()

    def end(self) -> None:
        """Ends the stream from this side."""
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
