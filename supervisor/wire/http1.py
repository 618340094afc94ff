"""HTTP/1 connections without I/O, for both roles.

An object that has raised RemoteProtocolError is unusable: `next_event` raises the same error again. `http1_client` and
`http1_server` have one role each. `http1_receiver` has what both share, and where h11 is used.
"""

from supervisor.wire.http1_client import ClientConnection
from supervisor.wire.http1_receiver import WireLimits
from supervisor.wire.http1_server import ServerConnection

__all__ = ["ClientConnection", "ServerConnection", "WireLimits"]
