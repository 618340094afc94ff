"""The names of the routes that have a native handler.

Apart from the rest of the package because it loads every handler: only the start of a server and the command line
need that, and matching and tables take the names as an argument.
"""

from __future__ import annotations

from native_handlers.grpc.handlers import GRPC_HANDLERS
from native_handlers.http.handlers import HTTP_HANDLERS


def native_names() -> frozenset[str]:
    """Every route that this process can answer itself."""
    rpcs = (f"grpc.{name.removeprefix('grpc.')}" for name in GRPC_HANDLERS)
    return frozenset((*HTTP_HANDLERS, *rpcs))
