"""Channels that are kept open to the few masters there are."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

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
            channel = self._channels.get(address)
            if channel is not None:
                self._channels.move_to_end(address)
            return channel

    def to(self, address: ServerAddress) -> grpc.Channel:
        """The channel to `address`; making it may block. Calls that outlast seven other addresses lose it."""
        known = self.known(address)
        if known is not None:
            return known
        # Not under the lock: with TLS a server that does not answer takes seconds, and others ask for other channels.
        made = self._dial(address)
        with self._lock:
            channel = self._channels.setdefault(address, made)
            unused = [made] if channel is not made else []
            self._channels.move_to_end(address)
            if len(self._channels) > _MAX_CHANNELS:
                unused.append(self._channels.popitem(last=False)[1])
        for one in unused:
            one.close()
        return channel

    def forget(self, address: ServerAddress, channel: grpc.Channel) -> None:
        """Has the next call to `address` make its channel anew, where `channel` is still the one that is kept.

        For channels on which a call ended with UNAVAILABLE. With TLS a channel is for the name that the server's
        certificate had when the channel was made, and for our own certificate of that time; one that was made while
        the server was away has no name and never connects. Calls under way on it go on.
        """
        with self._lock:
            if self._channels.get(address) is channel:
                del self._channels[address]

    @contextmanager
    def calling(self, address: ServerAddress) -> Iterator[grpc.Channel]:
        """`to`, and `forget` when what is called within ends with UNAVAILABLE."""
        channel = self.to(address)
        try:
            yield channel
        except grpc.RpcError as failure:
            if failure.code() is grpc.StatusCode.UNAVAILABLE:
                self.forget(address, channel)
            raise

    def close(self) -> None:
        """Closes every channel, and ends the calls on them."""
        with self._lock:
            channels, self._channels = list(self._channels.values()), OrderedDict()
        for channel in channels:
            channel.close()
