"""Keeps the master from hearing of the closing that is part of a hand-over.

Both engines report what they close and open a moment later, on their own ways. So the model's hold lasts until both
have said what the hand-over did, or for SETTLE_S.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from supervisor.authority.ledger import HandOver
    from supervisor.cluster.node_model import NodeModel
    from supervisor.cluster.source_feed import SourceFeed
    from supervisor.routing.decision import Engine

SETTLE_S = 10.0
"""Two heartbeats: whatever an engine has to say, it has said by then."""
LOOK_S = 0.05


@dataclass(eq=False, slots=True)
class _Held:
    hand_over: HandOver
    stack: ExitStack
    until_s: float


class ReportHold:
    """Holds volumes in `model`; call it for each hand-over, from any thread, while `serve` runs.

    Args:
        feeds: the model's feed of each engine.
    """

    def __init__(self, model: NodeModel, feeds: Mapping[Engine, SourceFeed]) -> None:
        self._model = model
        self._feeds = feeds
        self._held: list[_Held] = []
        self._token: trio.lowlevel.TrioToken | None = None
        self._has_work = trio.Event()

    @contextmanager
    def __call__(self, hand_over: HandOver) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self._model.hold([hand_over.volume_id]))
            yield
            token = self._token
            if token is not None:
                token.run_sync_soon(self._keep, hand_over, stack.pop_all())

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ends holds when they have served; runs until cancelled, and ends all of them then."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            task_status.started()
            while True:
                await self._has_work.wait()
                await trio.sleep(LOOK_S)
                self._look()
        finally:
            self._token = None
            for held in self._held:
                held.stack.close()

    def _keep(self, hand_over: HandOver, stack: ExitStack) -> None:
        self._held.append(_Held(hand_over, stack, trio.current_time() + SETTLE_S))
        self._has_work.set()

    def _look(self) -> None:
        now_s = trio.current_time()
        over = [held for held in self._held if held.until_s <= now_s or self._has_settled(held.hand_over)]
        self._held = [held for held in self._held if held not in over]
        for held in over:
            held.stack.close()
        if not self._held:
            self._has_work = trio.Event()

    def _has_settled(self, hand_over: HandOver) -> bool:
        source, target = self._feeds[hand_over.source], self._feeds[hand_over.target]
        return (
            source is not target
            and target.has_volume(hand_over.volume_id)
            and not source.has_volume(hand_over.volume_id)
        )
