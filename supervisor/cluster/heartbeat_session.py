"""One heartbeat stream to one master: one writer, and one reader that carries out the master's answers.

grpcio's synchronous streams need threads. `run` reads in the caller's thread, and grpcio takes beats from `_beats` in
its own thread, one at a time, as fast as the connection accepts them. No beat is queued: a beat is made from the model
when it is sent. So a slow or dead master costs no memory, and no delta is lost.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

import grpc

from native_handlers.pb.methods import master as master_client
from native_handlers.records import dataclass
from supervisor.cluster.heartbeat_encoder import HeartbeatEncoder
from supervisor.cluster.identity import is_same_server, parse_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.pb import master_pb2
    from supervisor.cluster.identity import NodeIdentity
    from supervisor.cluster.master_view import MasterView
    from supervisor.cluster.node_model import NodeModel
    from supervisor.wire.server_address import ServerAddress

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeartbeatTimings:
    """Upstream's intervals, in seconds. Source: weed/server/volume_grpc_client_to_master.go, weed/command/volume.go."""

    pulse_s: float = 5.0
    ec_list_pulses: int = 17
    redirect_pause_s: float = 3.0
    duplicate_pauses_s: tuple[float, ...] = (2.0, 4.0, 8.0)
    final_beat_s: float = 3.0
    """How long the delivery of the last beat may take when the node leaves."""


@dataclass(frozen=True, slots=True)
class Redirected:
    """The master named another leader."""

    leader: ServerAddress


@dataclass(frozen=True, slots=True)
class Duplicated:
    """The master refused this node, because another server has registered these directories."""

    uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """The stream failed, or the master ended it."""

    why: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """`stop` was called. The last beat was sent, or its time ran out."""


SessionEnd = Redirected | Duplicated | Broken | Stopped


class HeartbeatSession:
    """One stream. Make it, call `run` once in a thread of its own, and call `stop` from any thread."""

    def __init__(
        self,
        model: NodeModel,
        identity: NodeIdentity,
        master: ServerAddress,
        channel: grpc.Channel,
        view: MasterView,
        timings: HeartbeatTimings,
    ) -> None:
        self._model = model
        self._master = master
        self._view = view
        self._timings = timings
        self._encoder = HeartbeatEncoder(identity)
        self._bell = threading.Condition()  # protects the fields below and wakes the writer
        self._is_rung = False
        self._is_stopping = False
        self._is_over = False
        self._accepts_digest = False
        self._wants_full_list = False
        self._writer_error: Exception | None = None
        self._remove_listener = model.add_listener(self._ring)
        self._call = master_client(channel).SendHeartbeat(self._guarded_beats())

    def run(self) -> SessionEnd:
        """Exchanges beats and answers until the stream ends. Returns why it ended.

        Raises: the exception of the writer, which is a bug of this program.
        """
        try:
            return self._read()
        finally:
            self._remove_listener()
            with self._bell:
                self._is_over = True
                self._bell.notify_all()
            self._call.cancel()
            if self._view.connected == self._master:
                self._view.set_connected(None)
            if self._writer_error is not None:
                raise self._writer_error

    def stop(self) -> None:
        """Sends the last beat and ends the stream. After `final_beat_s` the stream is cut."""
        with self._bell:
            if self._is_stopping or self._is_over:
                return
            self._is_stopping = True
            self._bell.notify_all()
        timer = threading.Timer(self._timings.final_beat_s, self._call.cancel)
        timer.daemon = True
        timer.start()

    def _read(self) -> SessionEnd:
        try:
            for response in self._call:
                end = self._obey(response)
                if end is not None:
                    return end
                if self._view.connected != self._master:
                    self._view.set_connected(self._master)
                    _log.info("registered with master %s", self._master)
        except grpc.RpcError as failure:
            return self._ended(f"{failure.code().name}: {failure.details()}")
        return self._ended("the master ended the stream")

    def _ended(self, why: str) -> SessionEnd:
        with self._bell:
            return Stopped() if self._is_stopping else Broken(why)

    def _obey(self, response: master_pb2.HeartbeatResponse) -> SessionEnd | None:
        """Carries out one response, in upstream's order. Returns how the session ends, or None where it goes on."""
        if response.duplicated_uuids:
            return Duplicated(tuple(response.duplicated_uuids))
        self._view.note_response(response)
        with self._bell:
            self._accepts_digest |= response.volume_digest_supported
            self._wants_full_list |= response.resend_full_volume_list
        if not response.leader:
            return None
        leader = parse_address(response.leader)
        if leader is None:
            return Broken(f"it named a leader that is not an address: {response.leader!r}")
        return None if is_same_server(leader, self._master) else Redirected(leader)

    def _ring(self) -> None:
        with self._bell:
            self._is_rung = True
            self._bell.notify_all()

    def _guarded_beats(self) -> Iterator[master_pb2.Heartbeat]:
        """As `_beats`, but keeps an exception for `run` to raise. grpcio would only log it."""
        try:
            yield from self._beats()
        except Exception as fault:
            self._writer_error = fault
            raise

    def _beats(self) -> Iterator[master_pb2.Heartbeat]:
        yield from self._opening_beats()
        next_pulse = time.monotonic() + self._timings.pulse_s
        ec_list_s = self._timings.ec_list_pulses * self._timings.pulse_s
        next_ec_list = time.monotonic() + ec_list_s
        while self._wait_until(min(next_pulse, next_ec_list)):
            snapshot = self._model.snapshot()
            yield from self._encoder.delta_beats(snapshot)
            now = time.monotonic()
            if now >= next_pulse or self._encoder.needs_volume_beat(snapshot):
                yield self._encoder.volume_beat(snapshot)
                next_pulse = time.monotonic() + self._timings.pulse_s
            if now >= next_ec_list:
                next_ec_list = time.monotonic() + ec_list_s
                ec_list = self._encoder.ec_beat(snapshot)
                if ec_list is not None:
                    yield ec_list
        if self._is_stopping and not self._is_over:
            yield self._encoder.final_beat()

    def _opening_beats(self) -> Iterator[master_pb2.Heartbeat]:
        snapshot = self._model.snapshot()
        yield self._encoder.volume_beat(snapshot)
        ec_list = self._encoder.ec_beat(snapshot)
        if ec_list is not None:
            yield ec_list
        yield from self._encoder.delta_beats(snapshot)

    def _wait_until(self, moment: float) -> bool:
        """True when the model changed or `moment` (monotonic seconds) has come. False when the stream must end."""
        with self._bell:
            while not (self._is_rung or self._is_stopping or self._is_over):
                left = moment - time.monotonic()
                if left <= 0:
                    break
                self._bell.wait(left)
            self._is_rung = False
            self._encoder.is_digest_supported |= self._accepts_digest
            self._encoder.is_full_list_wanted |= self._wants_full_list
            self._wants_full_list = False
            return not (self._is_stopping or self._is_over)
