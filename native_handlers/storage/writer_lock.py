"""The one lock of a volume, which writers hold from the look at the old needle to the published index entry."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from native_handlers.format.errors import FormatError
from native_handlers.storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable


class WriterLock:
    """A volume's one lock: between threads, and between processes once `join` and `part` have somebody to call.

    `join` is called with the lock between threads held; when it raises, that is given back. `part` is told whether the
    block ended in good order or with an error of the store's, which leaves files and index agreeing.
    """

    __slots__ = ("_entered", "_lock", "join", "part")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.join: Callable[[], None] | None = None
        self.part: Callable[[bool], None] | None = None
        self._entered: Callable[[bool], None] | None = None

    def __enter__(self) -> None:
        self._lock.acquire()
        if self.join is not None:
            try:
                self.join()
            except BaseException:
                self._lock.release()
                raise
            self._entered = self.part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        part, self._entered = self._entered, None
        try:
            if part is not None:
                part(kind is None or issubclass(kind, StorageError | FormatError))
        finally:
            self._lock.release()
