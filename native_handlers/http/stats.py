"""/stats/*: upstream has removed these pages, so the paths are read as objects whose volume id is no number.

Source: weed/server/volume_server.go, where the three handlers are commented out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.http.reply import empty_reply

if TYPE_CHECKING:
    from native_handlers.http.context import HttpContext
    from native_handlers.http_model.message import Request, Response


async def handle_stats(context: HttpContext, request: Request) -> Response:
    """400, as for a read of such an object. The router sends no other method here."""
    return empty_reply(400)
