"""The limits of this program's gRPC servers on their connections. They are upstream's limits."""

from __future__ import annotations

from supervisor.net.grpc_options import KEEPALIVE_OPTIONS, MESSAGE_OPTIONS, METADATA_OPTIONS, STREAM_WINDOW, Options

MAX_STREAMS_PER_CONNECTION = 1000
MIN_CLIENT_PING_MS = 20_000
HANDSHAKE_TIMEOUT_MS = 20_000
MAX_CALLS_UNDECIDED = 100_000
"""How many calls may wait for a thread. By default grpcio cancels calls at random from 1000 on. Two connections full of
silent calls reach 1000, and calls of other clients would be cancelled too."""

SERVER_OPTIONS: Options = (
    *MESSAGE_OPTIONS,
    *METADATA_OPTIONS,
    ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
    *KEEPALIVE_OPTIONS,
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_CLIENT_PING_MS),
    # The server closes a connection whose client has sent no HTTP/2 preface after this time.
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
    ("grpc.server.max_pending_requests", MAX_CALLS_UNDECIDED),
    ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_CALLS_UNDECIDED),
    *STREAM_WINDOW,
    # Otherwise another process of the same user could bind the same port and receive some of the connections.
    ("grpc.so_reuseport", 0),
)
"""Source: weed/pb/grpc_client_server.go, NewGrpcServer."""
