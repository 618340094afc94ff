"""Sets events of the event loop from other threads."""

from __future__ import annotations

from contextlib import suppress

import trio


def set_soon(token: trio.lowlevel.TrioToken, event: trio.Event) -> None:
    """Has the event loop of `token` set `event`. Any thread may call this. Does nothing after the event loop has ended,
    when no task waits.
    """
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(event.set)
