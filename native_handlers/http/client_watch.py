"""Cancels slow work when its client has gone: for reads that may take long before their answer begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from native_handlers.http_model.message import RequestBody

T = TypeVar("T")

CLIENT_GONE = 499
"""The status in the log for a client that did not wait for the answer."""
WATCH_AFTER_S = 0.25
"""The client is watched after so many seconds: shorter work costs nothing more."""


class ClientGone(Exception):
    """The client closed its connection, or its sending side, before its answer began."""


async def unless_gone(body: RequestBody, work: Callable[[], Awaitable[T]]) -> T:
    """Runs `work` and returns its result or raises its error. Cancels `work` when the client of `body` goes.

    A client that closes its sending side counts as gone, as in the throttle. A client that still has to send the body
    is not watched.

    Args:
        work: its result holds no open scope or nursery.

    Raises:
        ClientGone: the client went before the work was done.
    """
    if not body.is_over:
        return await work()
    outcome: list[T] = []
    failure: Exception | None = None

    async def watch() -> None:
        await trio.sleep(WATCH_AFTER_S)
        await body.wait_gone()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            outcome.append(await work())
        except Exception as error:
            # The nursery would wrap the error in a group.
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not outcome:
        raise ClientGone
    return outcome[0]
