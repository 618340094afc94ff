"""What was out of the ordinary about the volumes of one location, kept for whoever asks and said once in the log."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from native_handlers.storage.report import Finding

_log = logging.getLogger(__name__)


class Findings:
    """Each finding once, in the order in which they were made. Safe from any thread."""

    def __init__(self) -> None:
        self._found: dict[Finding, None] = {}
        # Protects _found.
        self._lock = threading.Lock()

    def add(self, findings: Iterable[Finding]) -> None:
        """Logs each, and keeps it until `forget`."""
        for finding in findings:
            _log.warning("%s", finding)
            with self._lock:
                self._found[finding] = None

    def forget(self, base: Path) -> None:
        """What was found of the files at `base` no longer holds: they are opened anew, or are gone."""
        with self._lock:
            self._found = {finding: None for finding in self._found if finding.base != base}

    def replace(self, base: Path, findings: Iterable[Finding]) -> None:
        """What holds now of the files at `base`, in place of what did."""
        self.forget(base)
        self.add(findings)

    def all(self) -> list[Finding]:
        with self._lock:
            return list(self._found)
