"""The volumes of one RPC: taken, given up for a while, given up for good."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.context import RpcFailure
from supervisor.authority.errors import AccessRefused, ServedElsewhere
from supervisor.authority.outside import holding
from supervisor.routing.registry import AccessKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from supervisor.authority.authority import Authority
    from supervisor.authority.ledger import BackendEffect, Ticket
    from supervisor.routing.decision import Engine

TAKE_BACK_LIMIT_S = 30.0
"""How long a paused stream waits for its volume when it goes on."""
LOOK_S = 0.1
"""How often a stream asks again for a volume that the backend keeps."""
TURN_LIMIT_S = 600.0
"""How long a call about several volumes waits for one of them. Such a call may take hours, and would begin anew."""
TURN_ATTEMPT_S = 5.0
"""How long such a call stands in line for a volume, and how long it then waits before it asks again. While it stands in
line, new forwarded requests for the volume wait."""


class VolumeAccess:
    """Access of one call to its volumes, for the thread of that call. The call must end with `give_up`.

    `code` says how the call ended: CANCELLED until its runner sets another code. `left_after` gets the code and returns
    what the call leaves behind. `is_wanted` returns whether the client still waits for the answer. `cancel` ends the
    call early; None for a call that cannot be ended.
    """

    def __init__(
        self,
        authority: Authority,
        volume_ids: set[int],
        engine: Engine,
        kind: AccessKind,
        *,
        is_long: bool,
        cancel: Callable[[], object] | None = None,
    ) -> None:
        self._authority = authority
        self.volume_ids = volume_ids
        self._engine = engine
        self._kind = kind
        self._is_long, self._cancel = is_long, cancel
        self._tickets: list[Ticket] = []
        self.code = grpc.StatusCode.CANCELLED
        self.left_after: Callable[[grpc.StatusCode], BackendEffect | None] = lambda _code: None
        self.is_wanted: Callable[[], bool] = lambda: True

    @property
    def is_of_one(self) -> bool:
        return len(self.volume_ids) == 1

    def take(self, timeout_s: float) -> None:
        """Takes all volumes. Raises AccessRefused or ServedElsewhere, and then has none of the volumes."""
        self._tickets = self._authority.enter_all(
            self.volume_ids, self._engine, self._kind, timeout_s, is_long=self._is_long, cancel=self._cancel
        )

    def give_up(self) -> None:
        """Gives all volumes up. A second call does nothing."""
        tickets, self._tickets = self._tickets, []
        left = self.left_after(self.code) if tickets else None
        for ticket in tickets:
            self._authority.leave(ticket, left)

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Inside the block the volumes may change hands. Then the call has them again. Does nothing if it has none.

        Raises:
            RpcFailure: UNAVAILABLE, the volumes cannot be taken back. The call has none of them.
        """
        if not self._tickets:
            yield
            return
        self.give_up()
        yield
        deadline_s = monotonic() + TAKE_BACK_LIMIT_S
        while not self._is_taken_back(deadline_s):
            threading.Event().wait(LOOK_S)

    @contextmanager
    def taking(self, volume_id: int, /, *, changes: bool = False) -> Iterator[None]:
        """Inside the block the call has one of its volumes, with `changes` also for writing.

        Raises:
            RpcFailure: UNAVAILABLE, the volume cannot be had.
        """
        kind = AccessKind.VOLUME_WRITE if changes else AccessKind.VOLUME_READ
        one = VolumeAccess(self._authority, {volume_id}, self._engine, kind, is_long=self._is_long)
        one.is_wanted = self.is_wanted
        one.take_patiently()
        try:
            with holding(one.pausing):
                yield
        finally:
            one.give_up()

    def take_patiently(self) -> None:
        """As `take`, and asks again and again while the volumes cannot be had.

        Raises:
            RpcFailure: UNAVAILABLE, after `TURN_LIMIT_S`, or when the client is gone.
        """
        deadline_s = monotonic() + TURN_LIMIT_S
        while True:
            try:
                self.take(TURN_ATTEMPT_S)
            except (AccessRefused, ServedElsewhere) as failure:
                if monotonic() > deadline_s or not self.is_wanted():
                    raise RpcFailure(str(failure), grpc.StatusCode.UNAVAILABLE) from failure
            else:
                return
            threading.Event().wait(TURN_ATTEMPT_S)

    def _is_taken_back(self, deadline_s: float) -> bool:
        try:
            self.take(max(0.0, deadline_s - monotonic()))
        except AccessRefused as refusal:
            raise RpcFailure(str(refusal), grpc.StatusCode.UNAVAILABLE) from refusal
        except ServedElsewhere as elsewhere:
            if monotonic() > deadline_s or not self.is_wanted():
                raise RpcFailure(str(elsewhere), grpc.StatusCode.UNAVAILABLE) from elsewhere
            return False
        return True
