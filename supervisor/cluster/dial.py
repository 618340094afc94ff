"""How channels to masters are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc

from supervisor.cli.config import TlsFiles
from supervisor.net.channel import open_channel

if TYPE_CHECKING:
    from supervisor.wire.server_address import ServerAddress

Dial = Callable[["ServerAddress"], grpc.Channel]
"""Makes a new channel to a server's gRPC endpoint; the caller closes it. May block for some seconds.

With mTLS it carries the credentials. It must set keep-alive, so that a hung peer is noticed: see
supervisor/net/channel.py, whose `open_channel` is the one that the product uses.
"""


def dial_insecure(address: ServerAddress) -> grpc.Channel:
    """A plain-text channel to `address`."""
    return open_channel(address, TlsFiles())
