"""How a channel to a master is made: keep-alive so that a hung peer is noticed, and upstream's message limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from supervisor.wire.server_address import ServerAddress

Dial = Callable[["ServerAddress"], grpc.Channel]
"""Makes a new channel to a server's gRPC endpoint; the caller closes it. With mTLS it carries the credentials."""

MAX_MESSAGE_BYTES = 1 << 30  # weed/pb/grpc_client_server.go, Max_Message_Size

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Upstream pings after 60 s and hangs up 20 s later; its servers refuse pings closer than 20 s. Half of that still
    # leaves room, and notices a hung master before it would have dropped us.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # Each heartbeat channel is made anew, so only the cached ones reconnect; not after minutes.
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Two channels with equal arguments would share one connection, and a hung one would outlive its replacement.
    ("grpc.use_local_subchannel_pool", 1),
    # Masters are dialled directly, whatever proxy the environment has for web traffic.
    ("grpc.enable_http_proxy", 0),
)

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Go clients ping every 60 s; grpc's default would answer that with "too many pings".
    ("grpc.http2.min_ping_interval_without_data_ms", 15_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
)


def dial_insecure(address: ServerAddress) -> grpc.Channel:
    """A plain-text channel to `address`."""
    return grpc.insecure_channel(address.grpc, options=CHANNEL_OPTIONS)
