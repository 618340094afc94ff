"""Reads a stream of another server's answers, and ends the call when that server sends nothing for too long.

Keep-alive notices a server that is gone. A server that takes the call and sends nothing would otherwise hold the
waiting thread, and the place of the call, for as long as the caller's client waits.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc

from native_handlers.grpc.context import RpcFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

SILENCE_LIMIT_S = 300.0
"""Upstream waits for ever. A source sends each 2 s, with or without records; only its disk can make it pause."""


class AnswerStream(Protocol[T_co]):
    """grpcio's object for a call with a stream of answers."""

    def __iter__(self) -> Iterator[T_co]: ...

    def cancel(self) -> object: ...


def heard(stream: AnswerStream[T], limit_s: float = SILENCE_LIMIT_S) -> Iterator[T]:
    """Yields the messages of `stream`. Only the time in which the caller waits for a message counts towards `limit_s`.

    Raises:
        RpcFailure: DEADLINE_EXCEEDED: no message came for `limit_s`; the call is cancelled.
        grpc.RpcError: the call's own error.
    """
    watch = _Watch(stream.cancel, limit_s)
    messages = iter(stream)
    try:
        while True:
            watch.begin()
            try:
                message = next(messages)
            except StopIteration:
                return
            finally:
                watch.end()
            yield message
    except grpc.RpcError as error:
        if not watch.is_cancelled:
            raise
        text = f"the source sent nothing for {limit_s:g} s"
        raise RpcFailure(text, grpc.StatusCode.DEADLINE_EXCEEDED) from error
    finally:
        watch.close()


class _Watch:
    """A thread that calls `cancel` when a wait lasts longer than `limit_s`."""

    def __init__(self, cancel: Callable[[], object], limit_s: float) -> None:
        self._cancel = cancel
        self._limit_s = limit_s
        self._began_s: float | None = None
        self._closed = threading.Event()
        self.is_cancelled = False
        threading.Thread(target=self._run, name="heard", daemon=True).start()

    def begin(self) -> None:
        self._began_s = time.monotonic()

    def end(self) -> None:
        self._began_s = None

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._limit_s / 10):
            began_s = self._began_s
            if began_s is not None and time.monotonic() - began_s >= self._limit_s:
                self.is_cancelled = True
                self._cancel()
                return
