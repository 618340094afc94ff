"""Makes the parts that serve HTTP in the server's process or in a worker. They need neither gRPC nor the node."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.net.http_client import HttpPool, PoolLimits
from supervisor.net.http_connect import TcpConnector
from supervisor.net.http_server import answer_that_all_is_taken
from supervisor.net.http_volume_servers import VOLUME_SERVER_TIMEOUT_S, VolumeServerClient
from supervisor.net.tls import client_context
from supervisor.routing.match import match_http
from supervisor.routing.registry import ROUTES

if TYPE_CHECKING:
    import ssl

    from native_handlers.http_model.message import Request, Response
    from supervisor.config.config import HttpsClientConfig
    from supervisor.net.http_server import Handle
    from supervisor.routing.registry import Route

HEALTH_REQUESTS = tuple(
    f"{method} {path} ".encode()
    for method in ("GET", "HEAD")
    for route in ROUTES
    if route.is_health
    for path in route.paths
)
"""How the requests begin that go first on idle connections."""


def route_of(request: Request) -> Route:
    return match_http(request.listener, request.method, request.parsed.raw_path)


async def turn_away(handle: Handle, request: Request) -> Response:
    """Answers a client without a seat: health checks as always, every other request with 503."""
    if not route_of(request).is_health:
        return await answer_that_all_is_taken(request)
    return replace(await handle(request), close_connection=True)


def volume_server_client(https: HttpsClientConfig, *, source_host: str, links: int) -> VolumeServerClient:
    """The client for other volume servers, over TLS where https.client.enabled is set.

    Args:
        source_host: the address to connect from.
        links: the most connections.

    Raises:
        BadCertificate: the configured files cannot be used.
    """
    tls = https_client_context(https)
    connect = TcpConnector(tls=tls, source_host=source_host, idle_timeout_s=VOLUME_SERVER_TIMEOUT_S)
    return VolumeServerClient(HttpPool(PoolLimits(max_connections=links), connect=connect))


def https_client_context(https: HttpsClientConfig) -> ssl.SSLContext | None:
    """The TLS context for other volume servers; None for plain HTTP.

    Raises:
        BadCertificate: the configured files cannot be used.
    """
    if not https.enabled:
        return None
    return client_context(https.cert, https.key, https.ca, verifies=not https.insecure_skip_verify)
