"""The volumes of one RPC: taken, given up for a while, given up for good."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.context import RpcFailure
from supervisor.authority.errors import AccessRefused, ServedElsewhere

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from supervisor.authority.authority import Authority
    from supervisor.authority.ledger import Left, Ticket
    from supervisor.routing.decision import Engine
    from supervisor.routing.registry import AccessKind

TAKE_BACK_LIMIT_S = 30.0
"""How long a stream that paused waits for its volume."""


class VolumeAccess:
    """For the thread of one call. Whoever makes one calls `give_up` in the end.

    `code` is how the call ended: CANCELLED until its runner has said anything else. `left_after` is asked, with the
    code, what the call leaves behind.
    """

    def __init__(
        self, authority: Authority, volume_ids: set[int], engine: Engine, kind: AccessKind, *, is_long: bool
    ) -> None:
        self._authority = authority
        self._volume_ids = volume_ids
        self._engine = engine
        self._kind = kind
        self._is_long = is_long
        self._tickets: list[Ticket] = []
        self.code = grpc.StatusCode.CANCELLED
        self.left_after: Callable[[grpc.StatusCode], Left | None] = lambda _code: None

    @property
    def is_of_one(self) -> bool:
        return len(self._volume_ids) == 1

    def take(self, timeout_s: float) -> None:
        """Raises AccessRefused or ServedElsewhere: none of the volumes is had."""
        self._tickets = self._authority.enter_all(
            self._volume_ids, self._engine, self._kind, timeout_s, is_long=self._is_long
        )

    def give_up(self) -> None:
        """Repeating it does nothing."""
        tickets, self._tickets = self._tickets, []
        left = self.left_after(self.code) if tickets else None
        for ticket in tickets:
            self._authority.leave(ticket, left)

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Inside, the volumes may change hands; afterwards they are had again.

        Raises:
            RpcFailure: UNAVAILABLE, they are not to be had again.
        """
        self.give_up()
        yield
        try:
            self.take(TAKE_BACK_LIMIT_S)
        except (AccessRefused, ServedElsewhere) as refusal:
            raise RpcFailure(str(refusal), grpc.StatusCode.UNAVAILABLE) from refusal
