"""The leader's announcements of volumes that have come to a server or gone from one.

This server learns of a volume's move within milliseconds, and not when the volume's cache entry ends. Source:
weed/server/master_grpc_server.go (KeepConnected), weed/wdclient/masterclient.go. Upstream's volume servers do not
listen; upstream's filers do.
"""

from __future__ import annotations

import logging
import random
import threading
from typing import TYPE_CHECKING

import grpc

from native_handlers.pb import master_pb2
from native_handlers.pb.methods import master as master_client
from supervisor.cluster.identity import is_same_server, parse_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from supervisor.cluster.channels import ChannelCache
    from supervisor.cluster.location_cache import LocationCache
    from supervisor.cluster.master_view import MasterView
    from supervisor.wire.server_address import ServerAddress

_log = logging.getLogger(__name__)
CLIENT_TYPE = "volumeServer"
PAUSE_S = 1.0
"""The pause before an ended stream is opened again, plus up to as much again: servers do not return at one moment."""
_UNSUPPORTED_PAUSE_S = 60.0
"""The same pause for a master that has no such stream."""


class LocationFeed:
    """Passes every announcement to a cache, from a thread of its own that lives from the first `start` to `stop`.

    Attributes:
        on_server: called with the address (host:port) of each volume server that the leader names. At first the leader
            names all of them.
    """

    def __init__(self, view: MasterView, channels: ChannelCache, cache: LocationCache) -> None:
        self.on_server: Callable[[str], None] = lambda _address: None
        self._view = view
        self._channels = channels
        self._cache = cache
        self._is_stopping = threading.Event()
        self._lock = threading.Lock()  # protects _thread and _call
        self._thread: threading.Thread | None = None
        self._call: grpc.Call | None = None

    def start(self) -> None:
        """Begins to listen, and returns at once. A second call does nothing."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None and not self._is_stopping.is_set():
                self._thread = threading.Thread(target=self._serve, name="location-feed", daemon=True)
                self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the thread runs."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def stop(self) -> None:
        """Ends the stream, without waiting for the thread: a dial that hangs may hold the thread for some seconds."""
        self._is_stopping.set()
        with self._lock:
            call = self._call
        if call is not None:
            call.cancel()

    def _serve(self) -> None:
        named: ServerAddress | None = None
        while not self._is_stopping.is_set():
            # A leader that a follower names is tried once and is not noted for others: it may be unreachable from here.
            leader, named = named or self._view.leader, None
            pause_s = PAUSE_S
            try:
                named = self._listen(leader)
            except grpc.RpcError as failure:
                code = failure.code() if isinstance(failure, grpc.Call) else None
                _log.debug("%s does not tell where volumes are: %s", leader, code)
                if code is grpc.StatusCode.UNIMPLEMENTED:
                    pause_s = _UNSUPPORTED_PAUSE_S
            except (OSError, ValueError) as error:
                # grpcio raises ValueError for a channel that was closed meanwhile.
                _log.debug("%s does not tell where volumes are: no channel: %s", leader, error)
            finally:
                self._cache.set_told(is_told=False)
            self._is_stopping.wait(pause_s * random.uniform(1, 2))  # noqa: S311  no secret

    def _listen(self, leader: ServerAddress) -> ServerAddress | None:
        """Listens until the stream ends. Returns another leader, if the stream has named one."""
        has_ended = threading.Event()
        with self._channels.calling(leader) as channel:
            messages = master_client(channel).KeepConnected(_introduction(has_ended))
            with self._lock:
                self._call = messages
            if self._is_stopping.is_set():
                messages.cancel()
            try:
                return self._take_all(leader, messages)
            finally:
                has_ended.set()
                messages.cancel()
                with self._lock:
                    self._call = None

    def _take_all(
        self, leader: ServerAddress, messages: Iterator[master_pb2.KeepConnectedResponse]
    ) -> ServerAddress | None:
        other: ServerAddress | None = None
        for message in messages:
            moved = message.volume_location
            ids = {*moved.new_vids, *moved.deleted_vids, *moved.new_ec_vids, *moved.deleted_ec_vids}
            named = parse_address(moved.leader) if moved.leader else None
            other = named if named is not None and not is_same_server(named, leader) else None
            if other is not None and not ids:
                continue  # a follower sends only this; later messages would be the leader's, passed on
            if not self._cache.is_told:
                # The leader adds a client to its list before it sends the first message, so nothing is missed from
                # here.
                self._cache.set_told(is_told=True)
            if ids:
                self._cache.forget(ids)
            if moved.url and (moved.new_vids or moved.new_ec_vids):
                self.on_server(moved.url)
        return other


def _introduction(has_ended: threading.Event) -> Iterator[master_pb2.KeepConnectedRequest]:
    """Sends one message and keeps the stream open: a master takes the end of the requests for the end of the client."""
    yield master_pb2.KeepConnectedRequest(client_type=CLIENT_TYPE)
    has_ended.wait()
