"""How channels to servers of the cluster are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc

from supervisor.config.config import TlsFiles
from supervisor.net.channel import open_channel

if TYPE_CHECKING:
    from supervisor.wire.server_address import ServerAddress

Dial = Callable[["ServerAddress"], grpc.Channel]
"""Makes a new channel to a server's gRPC endpoint; the caller closes it. May block for some seconds.

With mTLS the channel carries the credentials. The channel must set keep-alive, so that a hung server is noticed.
`open_channel` of supervisor/net/channel.py is the one in use.
"""


def dial_insecure(address: ServerAddress) -> grpc.Channel:
    """A plaintext channel to `address`."""
    return open_channel(address, TlsFiles())
