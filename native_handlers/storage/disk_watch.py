"""Watches one disk location: asks its file system for its size, times small synced writes, and says when it fails.

A disk that is out of service is left out of heartbeats and placements, and its volumes refuse reads and writes, until
it is well again. Each disk is watched by itself. Whoever runs the server calls `look` and `probe` from time to time,
each disk's from a task of its own; neither takes longer than its time limit. Source: weed/stats/disk.go,
weed/storage/disk_location.go:CheckDiskSpace.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from native_handlers.storage.disk_probe import SpaceAnswers, WriteTimes, describe
from native_handlers.storage.patience import NoAnswer, Patience

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from native_handlers.storage.disk_probe import ProbeConfig
    from native_handlers.storage.disk_space import DiskGauge
    from native_handlers.storage.files import Files

_log = logging.getLogger(__name__)
PROBE_FILE_NAME = ".disk-health-check"
PROBE_BYTES = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT)
"""A full disk still serves: it is low on space, which is another matter. Upstream counts these as failures."""


class DiskWatch:
    """What is known of one disk's health. `problem` is why it is out of service, "" when it is in service."""

    def __init__(
        self,
        files: Files,
        path: Path,
        gauge: DiskGauge,
        config: ProbeConfig,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.problem = ""
        self._files, self._path, self._gauge = files, path, gauge
        self._monotonic_s = monotonic_s
        self._answers = SpaceAnswers(config)
        self._times = WriteTimes(config)
        self._patience = Patience("disk io", config.timeout_s)
        # Held while a measurement is entered and the verdict drawn.
        self._judging = threading.Lock()
        if config.is_enabled and config.effective_window_s > config.window_s:
            counts = f"{config.min_samples} samples, one every {config.interval_s:g} s"
            wide = f"{config.effective_window_s:g} s instead of {config.window_s:g} s"
            _log.warning("disk probe: the window is %s, for it has to hold %s", wide, counts)

    def look(self) -> None:
        """Asks the file system for its size, and judges by the answer or the lack of one."""
        why = self._gauge.ask()
        with self._judging:
            if why:
                self._answers.failed(why)
            else:
                self._answers.succeeded()
            self._judge()

    def probe(self) -> None:
        """Times a write of 4 KiB that is synced, and judges by that; not while the file system gives no answer."""
        if not self.config.is_enabled or not self._gauge.is_answering:
            return
        started_at_s = self._monotonic_s()
        why = ""
        try:
            self._patience.ask(self._write)
        except NoAnswer as failure:
            why = str(failure)
        except OSError as error:
            if error.errno in _FULL:
                return
            why = error.strerror or str(error)
        now_s = self._monotonic_s()
        with self._judging:
            if why:
                self._times.failed(why, now_s)
            else:
                self._times.took(now_s - started_at_s, now_s)
            self._judge()

    def _write(self) -> None:
        fd = self._files.open(self._path / PROBE_FILE_NAME, os.O_RDWR | os.O_CREAT)
        try:
            self._files.write(fd, [bytes(PROBE_BYTES)], 0)
            self._files.sync(fd)
        finally:
            self._files.close(fd)

    def _judge(self) -> None:
        problem = describe((self._answers.problem, self._times.problem))
        was, self.problem = self.problem, problem
        if problem and not was:
            _log.error("%s is out of service: %s. Its volumes are not announced, and answer 503", self._path, problem)
        elif was and not problem:
            _log.warning("%s is well again and back in service", self._path)
