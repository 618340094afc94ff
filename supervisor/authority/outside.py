"""Gives up the volumes of an operation while the operation waits for another server.

Servers that hold shards of one volume read them from each other. If each server kept its volume meanwhile, and the
other server's call needed the other engine, both would wait for each other. So the wait for another server happens
inside `outside`: the volumes may change hands until the answer arrives. Shards do not change, and are looked up anew.

A context variable has the volumes of an operation. Threads that work for a task share the context of the task.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Pausing = Callable[[], AbstractContextManager[None]]

_held: ContextVar[tuple[Pausing, ...]] = ContextVar("held", default=())


@contextmanager
def holding(pausing: Pausing) -> Iterator[None]:
    """Inside the block the operation has volumes. `outside` calls `pausing`, which gives the volumes up inside its own
    block, and does nothing after the operation has given them up for good.
    """
    before = _held.get()
    _held.set((*before, pausing))
    try:
        yield
    finally:
        # Not `reset`: the thread that ends a stream may differ from the thread that began it.
        _held.set(before)


@contextmanager
def outside() -> Iterator[None]:
    """Inside the block the operation waits for another server.

    Raises: the errors of `pausing`, where the volumes cannot be taken back.
    """
    with ExitStack() as stack:
        for pausing in _held.get():
            stack.enter_context(pausing())
        yield
