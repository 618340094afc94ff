"""Runs work to its end that a vanished client or a shutdown must not leave half done."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

CANCEL_GRACE_S = 30.0
"""Seconds that work may go on after its caller was cancelled: long enough for a write to reach its replicas, and within
the half minute of a server's drain."""


async def run_to_end(work: Callable[[], Awaitable[T]]) -> T:
    """Runs `work` and returns its result or raises its error.

    After the caller is cancelled, `work` goes on for `CANCEL_GRACE_S` and is then cancelled. While the caller is not
    cancelled there is no limit here: the deadlines inside `work` apply.

    Cancellation: takes effect when `work` is done or the grace is over, and is then raised as usual.
    """
    results: list[T] = []
    failures: list[Exception] = []
    async with trio.open_nursery() as nursery:
        with trio.CancelScope(shield=True) as scope:
            nursery.start_soon(_limit_when_cancelled, scope)
            try:
                results.append(await work())
            except Exception as failure:  # noqa: BLE001  raised again below, outside of the nursery that would wrap it
                failures.append(failure)
        nursery.cancel_scope.cancel()
    # Reached only without a cancellation from outside: `_limit_when_cancelled` lets that one out of the nursery.
    if failures:
        raise failures[0]
    return results[0]


async def _limit_when_cancelled(scope: trio.CancelScope) -> None:
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        scope.deadline = min(scope.deadline, trio.current_time() + CANCEL_GRACE_S)
        raise
