"""Upstream's limits of gRPC, which its clients and servers share: ours have the same on every connection.

Source: weed/pb/grpc_client_server.go.
"""

from __future__ import annotations

MAX_MESSAGE_BYTES = 1 << 30
MAX_METADATA_BYTES = 8 << 20
KEEPALIVE_TIME_MS = 60_000
KEEPALIVE_TIMEOUT_MS = 20_000

Options = tuple[tuple[str, int], ...]

MESSAGE_OPTIONS: Options = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
METADATA_OPTIONS: Options = (
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
)
KEEPALIVE_OPTIONS: Options = (
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    # What grpcio waits for a ping's answer in fact, whatever the one above says; its default is a minute.
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
)
OWN_CONNECTION_OPTIONS: Options = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
"""For a channel: straight to its peer, on a connection that no other channel shares."""
