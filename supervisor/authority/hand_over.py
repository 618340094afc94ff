"""One hand-over, step by step. At each step a crash of either process leaves a volume that either engine can open.

Where an engine fails, the volume goes back to who had it. A native failure is certain; where the backend gives no
answer it may have the volume open, or open it any moment, so from then on the backend has authority, and is asked to
open it before anything else is done, closing it included: opening what is open changes nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from supervisor.authority.errors import After, HolderFailed
from supervisor.authority.ledger import HandOver, Mark, Outcome
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
            return _as_before(hand_over, "the backend is not ready")
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
        taken = self._take(hand_over)
        if isinstance(taken, Outcome):
            return taken
        volume_id, source, target = hand_over.volume_id, hand_over.source, hand_over.target
        try:
            self._holders[target].open_volume(volume_id, taken)
        except HolderFailed as failure:
            if failure.after is After.UNKNOWN:
                return Outcome(Engine.BACKEND, is_open=False, refusal=str(failure), mark=taken)
            if source is target:
                return Outcome(source, is_open=False, refusal=str(failure), mark=taken)
            return self._back_to(source, volume_id, taken, failure)
        return Outcome(target, mark=taken)

    def _take(self, hand_over: HandOver) -> Mark | Outcome:
        """Has the source close the volume; gives its mark, or how the hand-over ended where nothing is to be opened."""
        volume_id, holder = hand_over.volume_id, self._holders[hand_over.source]
        if hand_over.source is hand_over.target:
            return self._close_what_is_broken(hand_over)
        try:
            if hand_over.is_reopening and hand_over.source is Engine.BACKEND:
                self._settle(holder, hand_over)
            found = holder.mark_of(volume_id)
        except HolderFailed as failure:
            return _as_before(hand_over, str(failure))
        if found is None:
            return hand_over.mark if hand_over.is_reopening else Outcome(hand_over.target, is_vacant=True)
        mark = hand_over.mark if found is Mark.WRITABLE else found
        try:
            holder.close_volume(volume_id)
        except HolderFailed as failure:
            if failure.after is After.UNTOUCHED:
                return _as_before(hand_over, str(failure))
            return self._back_to(hand_over.source, volume_id, mark, failure)
        return mark

    def _close_what_is_broken(self, hand_over: HandOver) -> Mark | Outcome:
        """The backend opens nothing anew that it holds to be open; closing what is not open changes nothing."""
        if hand_over.target is Engine.BACKEND:
            try:
                self._holders[hand_over.target].close_volume(hand_over.volume_id)
            except HolderFailed as failure:
                return _as_before(hand_over, str(failure))
        return hand_over.mark

    def _settle(self, backend: VolumeHolder, hand_over: HandOver) -> None:
        """Raises HolderFailed where the backend still gives no answer; that it cannot open the volume is one."""
        try:
            backend.open_volume(hand_over.volume_id, hand_over.mark)
        except HolderFailed as failure:
            if failure.after is not After.FAILED:
                raise

    def _back_to(self, source: Engine, volume_id: int, mark: Mark, failure: HolderFailed) -> Outcome:
        try:
            self._holders[source].open_volume(volume_id, mark)
        except HolderFailed as second:
            return Outcome(source, is_open=False, refusal=f"{failure}; and {second}", mark=mark)
        return Outcome(source, refusal=str(failure), mark=mark)


def _as_before(hand_over: HandOver, why: str) -> Outcome:
    return Outcome(hand_over.source, is_open=not hand_over.is_reopening, refusal=why, mark=hand_over.mark)
