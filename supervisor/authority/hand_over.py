"""One hand-over, step by step. A crash of either process at any step leaves a volume that either engine can open.

If an engine fails, the volume goes back to the engine that had it. A native failure is certain. A backend that does
not answer may have the volume open, or may open it later. So from then on the backend has the authority. A later
hand-over to the native engine first asks the backend to open the volume, before it looks at the volume or closes it.
Opening an open volume changes nothing.
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

    from supervisor.authority.form import VolumeForm
    from supervisor.authority.holders import VolumeHolder

_log = logging.getLogger(__name__)


class HandOverSteps:
    """Carries hand-overs out, in the caller's thread.

    Args:
        suppress: makes a context manager. The master does not see that the volume is closed, inside the block and until
            both engines have reported the hand-over. The block yields a function. Call the function if no engine has
            the volume.
        is_backend_ready: False while the backend cannot be asked. Then no step is begun.
    """

    def __init__(
        self,
        holders: Mapping[Engine, VolumeHolder],
        suppress: Callable[[HandOver], AbstractContextManager[Callable[[], None]]],
        is_backend_ready: Callable[[], bool],
    ) -> None:
        self._holders = holders
        self._suppress = suppress
        self._is_backend_ready = is_backend_ready

    def carry_out(self, hand_over: HandOver) -> Outcome:
        """Carries the hand-over out. Returns how it ended; engine failures raise nothing."""
        if Engine.BACKEND in {hand_over.source, hand_over.target} and not self._is_backend_ready():
            return _as_before(hand_over, "the backend is not ready")
        with self._suppress(hand_over) as release:
            outcome = self._move(hand_over)
            if outcome.is_vacant:
                release()
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
                return Outcome(Engine.BACKEND, is_open=False, refusal=str(failure), form=taken)
            if source is target:
                return Outcome(source, is_open=False, refusal=str(failure), form=taken)
            return self._back_to(source, volume_id, taken, failure)
        return Outcome(target, form=taken)

    def _take(self, hand_over: HandOver) -> VolumeForm | Outcome:
        """Makes the source close the volume.

        Returns the form that was open, or the end where nothing is to be opened.
        """
        volume_id, holder = hand_over.volume_id, self._holders[hand_over.source]
        if hand_over.source is hand_over.target:
            return self._close_what_is_broken(hand_over)
        try:
            if hand_over.is_reopening and hand_over.source is Engine.BACKEND:
                self._open_for_certainty(holder, hand_over)
            found = holder.form_of(volume_id)
        except HolderFailed as failure:
            return _as_before(hand_over, str(failure))
        if found is None:
            return hand_over.form if hand_over.is_reopening else Outcome(hand_over.target, is_vacant=True)
        form = found.with_unsaved(hand_over.form)
        try:
            holder.close_volume(volume_id, form)
        except HolderFailed as failure:
            if failure.after is After.UNTOUCHED:
                return _as_before(hand_over, str(failure))
            return self._back_to(hand_over.source, volume_id, form, failure)
        return form

    def _close_what_is_broken(self, hand_over: HandOver) -> VolumeForm | Outcome:
        """Closes the volume first: the backend does not reopen a volume that it takes for open.

        Closing a closed volume is harmless.
        """
        if hand_over.target is Engine.BACKEND:
            try:
                self._holders[hand_over.target].close_volume(hand_over.volume_id, hand_over.form)
            except HolderFailed as failure:
                return _as_before(hand_over, str(failure))
        return hand_over.form

    def _open_for_certainty(self, backend: VolumeHolder, hand_over: HandOver) -> None:
        """Asks the backend to open the volume, so that its state is known. A failure to open is an answer too.

        Raises:
            HolderFailed: the backend gives no answer.
        """
        try:
            backend.open_volume(hand_over.volume_id, hand_over.form)
        except HolderFailed as failure:
            if failure.after is not After.FAILED:
                raise

    def _back_to(self, source: Engine, volume_id: int, form: VolumeForm, failure: HolderFailed) -> Outcome:
        try:
            self._holders[source].open_volume(volume_id, form)
        except HolderFailed as second:
            return Outcome(source, is_open=False, refusal=f"{failure}; and {second}", form=form)
        return Outcome(source, refusal=str(failure), form=form)


def _as_before(hand_over: HandOver, why: str) -> Outcome:
    return Outcome(hand_over.source, is_open=not hand_over.is_reopening, refusal=why, form=hand_over.form)
