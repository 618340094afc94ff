"""Hides from the master the closing of a volume that is part of a hand-over.

Each engine reports its closing or opening a moment later, on its own way. So the removal is suppressed until both have
reported the hand-over, or for SUPPRESS_S. The removal of a volume that was deleted meanwhile is not suppressed any
longer: a master that takes this server for a holder makes every write of the other holders fail.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import trio

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from supervisor.authority.ledger import HandOver
    from supervisor.cluster.node_model import NodeModel
    from supervisor.cluster.node_source import NodeSource
    from supervisor.routing.decision import Engine

SUPPRESS_S = 10.0
"""Two heartbeats: each engine has reported its changes by then."""
LOOK_S = 0.05


@dataclass(eq=False, slots=True)
class _Suppression:
    hand_over: HandOver
    stack: ExitStack
    until_s: float
    had_volume: bool
    had_shards: int
    """The volume and shards that the source had reported when the hand-over began."""
    is_seen: bool = False
    """Whether the target has reported all of it."""


class RemovalSuppressor:
    """Suppresses removals in `model`. Call the object for each hand-over, from any thread, while `serve` runs.

    Args:
        sources: the source of the model for each engine.
    """

    def __init__(self, model: NodeModel, sources: Mapping[Engine, NodeSource]) -> None:
        self._model = model
        self._sources = sources
        self._suppressions: list[_Suppression] = []
        self._token: trio.lowlevel.TrioToken | None = None
        self._has_work = trio.Event()

    @property
    def still_suppressed(self) -> frozenset[int]:
        """The volumes whose removal is still suppressed although the target engine has reported them."""
        return frozenset(one.hand_over.volume_id for one in self._suppressions if one.is_seen)

    @contextmanager
    def __call__(self, hand_over: HandOver) -> Iterator[Callable[[], None]]:
        """Suppresses the removal during the block and after it.

        The block calls the result if no engine has the volume.
        """
        vacant: list[HandOver] = []
        source = self._sources[hand_over.source]
        had_volume, had_shards = source.has_volume(hand_over.volume_id), source.shard_bits(hand_over.volume_id)
        with ExitStack() as stack:
            stack.enter_context(self._model.suppress_removals([hand_over.volume_id]))
            yield lambda: vacant.append(hand_over)
            token = self._token
            if token is None:
                return
            if vacant:
                token.run_sync_soon(self._release, hand_over.volume_id)
            else:
                token.run_sync_soon(self._keep, hand_over, stack.pop_all(), had_volume, had_shards)

    def forget(self, volume_id: int) -> None:
        """Ends the suppression for a volume that an operation took away. Any thread may call this."""
        token = self._token
        if token is not None:
            token.run_sync_soon(self._release, volume_id)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Releases suppressed removals after both engines have reported. Runs until cancelled, then releases all."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            task_status.started()
            while True:
                await self._has_work.wait()
                await trio.sleep(LOOK_S)
                self._look()
        finally:
            self._token = None
            for suppression in self._suppressions:
                suppression.stack.close()

    def _keep(self, hand_over: HandOver, stack: ExitStack, had_volume: bool, had_shards: int) -> None:  # noqa: FBT001
        self._suppressions.append(
            _Suppression(hand_over, stack, trio.current_time() + SUPPRESS_S, had_volume, had_shards)
        )
        self._has_work.set()

    def _release(self, volume_id: int) -> None:
        """Ends every suppression of the volume, because the volume is gone."""
        for suppression in self._suppressions:
            if suppression.hand_over.volume_id == volume_id:
                suppression.until_s = 0
        self._has_work.set()

    def _look(self) -> None:
        now_s = trio.current_time()
        over = [one for one in self._suppressions if one.until_s <= now_s or self._both_have_reported(one)]
        self._suppressions = [one for one in self._suppressions if one not in over]
        for suppression in over:
            suppression.stack.close()
        if not self._suppressions:
            self._has_work = trio.Event()

    def _both_have_reported(self, suppression: _Suppression) -> bool:
        hand_over = suppression.hand_over
        source, target = self._sources[hand_over.source], self._sources[hand_over.target]
        volume_id = hand_over.volume_id
        has_volume, shards = target.has_volume(volume_id), target.shard_bits(volume_id)
        is_all_there = has_volume >= suppression.had_volume and not suppression.had_shards & ~shards
        suppression.is_seen = suppression.is_seen or (is_all_there and bool(has_volume or shards))
        # The target has the volume, or had it and has closed it since. A later closing is not part of this hand-over.
        has_gone = not (source.has_volume(volume_id) or source.shard_bits(volume_id))
        return source is not target and suppression.is_seen and has_gone
