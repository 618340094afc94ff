"""Channels that are kept open to the few masters there are."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

    from supervisor.cluster.dial import Dial
    from supervisor.wire.server_address import ServerAddress

_MAX_CHANNELS = 8  # more than a cluster has masters; the one unused longest is closed


class ChannelCache:
    """One channel for each address asked for, made at first use. Thread-safe."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._lock = threading.Lock()  # protects _channels
        self._channels: OrderedDict[ServerAddress, grpc.Channel] = OrderedDict()

    def known(self, address: ServerAddress) -> grpc.Channel | None:
        """The channel to `address` if there is one; never blocks for long."""
        with self._lock:
            return self._channels.get(address)

    def to(self, address: ServerAddress) -> grpc.Channel:
        """The channel to `address`; making it may block. Calls that outlast seven other addresses lose it."""
        with self._lock:
            channel = self._channels.get(address)
            if channel is None:
                channel = self._channels[address] = self._dial(address)
            self._channels.move_to_end(address)
            evicted = self._channels.popitem(last=False)[1] if len(self._channels) > _MAX_CHANNELS else None
        if evicted is not None:
            evicted.close()
        return channel

    def close(self) -> None:
        """Closes every channel, and ends the calls on them."""
        with self._lock:
            channels, self._channels = list(self._channels.values()), OrderedDict()
        for channel in channels:
            channel.close()
