"""gRPC channels that are kept open, to masters and to servers that hold shards."""

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

_MAX_CHANNELS = 8  # more than a cluster has masters; beyond it the channel that was unused longest is closed


class ChannelCache:
    """Keeps one channel for each address, which is made at first use. Thread-safe."""

    def __init__(self, dial: Dial, max_channels: int = _MAX_CHANNELS) -> None:
        self._dial, self._max_channels = dial, max_channels
        self._lock = threading.Lock()  # protects _channels
        self._channels: OrderedDict[ServerAddress, grpc.Channel] = OrderedDict()

    def known(self, address: ServerAddress) -> grpc.Channel | None:
        """The channel to `address`, or None where there is none. Does not block on the network."""
        with self._lock:
            channel = self._channels.get(address)
            if channel is not None:
                self._channels.move_to_end(address)
            return channel

    def to(self, address: ServerAddress) -> grpc.Channel:
        """The channel to `address`. Making one may block.

        A channel is closed when too many other addresses are used.
        """
        known = self.known(address)
        if known is not None:
            return known
        # Dialled without the lock: with TLS a server that does not answer takes seconds, and other callers must not
        # wait.
        made = self._dial(address)
        with self._lock:
            channel = self._channels.setdefault(address, made)
            unused = [made] if channel is not made else []
            self._channels.move_to_end(address)
            if len(self._channels) > self._max_channels:
                unused.append(self._channels.popitem(last=False)[1])
        for one in unused:
            one.close()
        return channel

    def forget(self, address: ServerAddress, channel: grpc.Channel) -> None:
        """Drops the channel to `address`, if it is still `channel`. The next call makes a new one. Running calls go on.

        Call this when a call on the channel has ended with UNAVAILABLE. With TLS a channel expects the name that the
        server's certificate had when the channel was made, and shows this server's own certificate of that time. A
        channel that was made while the server was away has no name and never connects.
        """
        with self._lock:
            if self._channels.get(address) is channel:
                del self._channels[address]

    @contextmanager
    def calling(self, address: ServerAddress) -> Iterator[grpc.Channel]:
        """As `to`. Calls `forget` when a call in the block ends with UNAVAILABLE."""
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
