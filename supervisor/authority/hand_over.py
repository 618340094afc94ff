"""One hand-over, step by step. At each step a crash of either process leaves a volume that either engine can open.

Where an engine fails, the volume goes back to who had it. A native failure is certain; where the backend gives no
answer it may have the volume open, so from then on the backend has authority, and is asked to open it before anything
else is done: opening what is open changes nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from supervisor.authority.errors import After, HolderFailed
from supervisor.authority.ledger import HandOver, Outcome
from supervisor.routing.decision import Engine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from supervisor.authority.holders import VolumeHolder

_log = logging.getLogger(__name__)


class HandOverSteps:
    """Carries hand-overs out, in the caller's thread.

    Args:
        hold: keeps the master from hearing of the volume's being closed, while inside and as long as needed.
        is_backend_ready: False while the backend cannot be asked; then nothing is begun.
    """

    def __init__(
        self,
        holders: Mapping[Engine, VolumeHolder],
        hold: Callable[[HandOver], AbstractContextManager[None]],
        is_backend_ready: Callable[[], bool],
    ) -> None:
        self._holders = holders
        self._hold = hold
        self._is_backend_ready = is_backend_ready

    def carry_out(self, hand_over: HandOver) -> Outcome:
        """Does it, and says how it ended."""
        if Engine.BACKEND in {hand_over.source, hand_over.target} and not self._is_backend_ready():
            return Outcome(hand_over.source, is_open=not hand_over.is_reopening, refusal="the backend is not ready")
        with self._hold(hand_over):
            outcome = self._move(hand_over)
        if outcome.refusal:
            _log.warning(
                "volume %d stays with the %s engine: %s", hand_over.volume_id, outcome.owner.value, outcome.refusal
            )
        else:
            _log.debug("volume %d: %s -> %s", hand_over.volume_id, hand_over.source.value, hand_over.target.value)
        return outcome

    def _move(self, hand_over: HandOver) -> Outcome:
        volume_id, source, target = hand_over.volume_id, hand_over.source, hand_over.target
        was_open = hand_over.is_reopening
        if source is not target:
            try:
                was_open = self._holders[source].close_volume(volume_id) or was_open
            except HolderFailed as failure:
                if failure.after is After.UNTOUCHED:
                    return Outcome(source, is_open=not hand_over.is_reopening, refusal=str(failure))
                return self._back_to(source, volume_id, failure)
        if not was_open:
            return Outcome(target, is_vacant=True)
        try:
            self._holders[target].open_volume(volume_id)
        except HolderFailed as failure:
            if failure.after is After.UNKNOWN:
                return Outcome(Engine.BACKEND, is_open=False, refusal=str(failure))
            if source is target:
                return Outcome(source, is_open=False, refusal=str(failure))
            return self._back_to(source, volume_id, failure)
        return Outcome(target)

    def _back_to(self, source: Engine, volume_id: int, failure: HolderFailed) -> Outcome:
        try:
            self._holders[source].open_volume(volume_id)
        except HolderFailed as second:
            return Outcome(source, is_open=False, refusal=f"{failure}; and {second}")
        return Outcome(source, refusal=str(failure))
