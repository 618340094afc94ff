"""HTTP/1 connections without I/O, for both roles.

An object that has raised is poisoned: it raises again for whatever is asked of it. Each role is in a module of its own;
what they have in common, and where h11 comes in, is in `http1_receiver`.
"""

from supervisor.wire.http1_client import ClientConnection
from supervisor.wire.http1_receiver import WireLimits
from supervisor.wire.http1_server import ServerConnection

__all__ = ["ClientConnection", "ServerConnection", "WireLimits"]
