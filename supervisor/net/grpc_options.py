"""Upstream's gRPC limits, which are the same for clients and servers.

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
    # grpcio takes the time that it waits for the answer to a ping from here, not from keepalive_timeout_ms.
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
)
OWN_CONNECTION_OPTIONS: Options = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
"""A channel connects directly to its server, on a connection that no other channel shares."""

NO_RETRIES: Options = (("grpc.enable_retries", 0),)
"""A call is not repeated by grpcio, which does so where the server has not begun it. With this repetition a call that
begins as its server goes away may wait for ever, beyond its deadline: its status comes, and the end of its receive does
not (grpcio 1.71 to 1.85, several of a hundred such calls).
"""

STREAM_WINDOW: Options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 4 << 20))
"""How much the other end may send of a stream before this end asks for more. By default grpcio widens the window with
the throughput: it held 60 MiB of a volume that was copied over loopback. 4 MiB were as fast.
"""
