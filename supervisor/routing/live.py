"""The table in force. It is replaced as a whole when its file changes, or on SIGHUP.

A refused file changes nothing: the old table stays, and the reasons are logged once for each change of the file. Two
changes need a restart and are refused too: a table that gives volumes to an engine that has none, and a table that
takes all volumes from an engine. Where both engines have volumes, volumes are handed over as requests come, so any
route may be flipped.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import trio

from native_handlers.records import dataclass
from supervisor.config.config import Mode
from supervisor.routing.errors import Problem, TableError
from supervisor.routing.registry import ROUTES, Protocol
from supervisor.routing.states import State
from supervisor.routing.table import Table, default_table_path, load_table, table_forwarding_all, table_native

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

POLL_INTERVAL_S = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Stamp:
    """The facts that distinguish one version of a file from another."""

    inode: int
    size_bytes: int
    modified_ns: int


class LiveTable:
    """Holds the current table. Any thread may call any method.

    A LiveTable without a file never changes.

    Attributes:
        table: the table in force now. It is replaced as a whole.
    """

    def __init__(
        self,
        table: Table,
        *,
        file: Path | None = None,
        native_names: Collection[str] = (),
        has_backend: bool = True,
        has_workers: bool = False,
    ) -> None:
        self.table = table
        self._has_workers = has_workers
        self._file = file
        self._native_names = frozenset(native_names)
        self._has_backend = has_backend
        # Protects _stamp, and allows one reload at a time. Readers of `table` need no lock: one assignment replaces it.
        self._lock = threading.Lock()
        self._stamp = self._read_stamp()

    @classmethod
    def open(
        cls,
        file: Path | None,
        *,
        native_names: Collection[str],
        has_backend: bool = True,
        has_workers: bool = False,
    ) -> LiveTable:
        """The table in `file`, or the shipped table, ready to follow changes of the file.

        Raises:
            TableError: as `load_table`; with `has_workers` also where only some HTTP routes are native.
        """
        path = file if file is not None else default_table_path()
        table = load_table(path, native_names=native_names, has_backend=has_backend)
        if has_workers:
            refuse_divided_http(table)
        return cls(table, file=path, native_names=native_names, has_backend=has_backend, has_workers=has_workers)

    def current(self) -> Table:
        """The table in force now."""
        return self.table

    def reload(self) -> None:
        """Reads the file now, changed or not. A bad table raises nothing: the log says why it was refused."""
        with self._lock:
            self._stamp = self._read_stamp()
            self._load()

    def reload_if_changed(self) -> bool:
        """Reads the file if its inode, size or time differs from the last look. Returns whether the file was read."""
        with self._lock:
            stamp = self._read_stamp()
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            self._load()
            return True

    @property
    def is_followed(self) -> bool:
        """Whether there is a file to follow."""
        return self._file is not None

    def _load(self) -> None:
        if self._file is None:
            return
        try:
            table = load_table(self._file, native_names=self._native_names, has_backend=self._has_backend)
            self._refuse_moving_volumes(table)
            if self._has_workers:
                refuse_divided_http(table)
        except TableError as error:
            for problem in error.problems:
                _log.error("routing table refused, the old one stays: %s", problem)
            return
        changes = _changes(self.table, table)
        self.table = table
        for warning in table.warnings:
            _log.warning("routing table %s: %s", self._file, warning)
        _log.info("routing table %s loaded: %s", self._file, ", ".join(changes) or "nothing changed")

    def _refuse_moving_volumes(self, table: Table) -> None:
        if _engines_with_volumes(table) == _engines_with_volumes(self.table):
            return
        now, then = _engines_with_volumes(self.table), _engines_with_volumes(table)
        text = f"the volumes would be served by {then}, and now they are by {now}"
        raise TableError([Problem(self._file, None, text, "restart to put it in force")])

    def _read_stamp(self) -> _Stamp | None:
        """The file's stamp. None while the file cannot be seen, which counts as a change."""
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError:
            return None
        return _Stamp(status.st_ino, status.st_size, status.st_mtime_ns)


def refuse_divided_http(table: Table) -> None:
    """Refuses a table with which HTTP workers would serve the volumes of two engines.

    Allowed are tables that forward all HTTP, and tables that forward nothing. A table that forwards all HTTP gives no
    volume to this process: /status is native where both engines have volumes.

    Raises:
        TableError: an HTTP route is native, and another route is forwarded.
    """
    if not table.forwards_anything:
        return
    native = [route for route in ROUTES if route.protocol is Protocol.HTTP and table.state_of(route) is State.NATIVE]
    if native:
        text = f"-workers needs every HTTP route forwarded, or nothing at all; {native[0].name} is native"
        raise TableError([Problem(table.source, None, text, "forward it, or leave -workers out")])


def open_live_table(
    mode: Mode, routes_file: Path | None, *, native_names: Collection[str], has_workers: bool = False
) -> LiveTable:
    """The table for `mode`. Only mixed mode reads a file; in proxy and native mode the mode itself gives the table.

    Raises:
        TableError: as `load_table`.
        ValueError: for exec mode, in which this process answers nothing.
    """
    match mode:
        case Mode.PROXY:
            return LiveTable(table_forwarding_all())
        case Mode.NATIVE:
            return LiveTable(table_native(native_names))
        case Mode.MIXED:
            return LiveTable.open(routes_file, native_names=native_names, has_workers=has_workers)
        case Mode.EXEC:
            raise ValueError("exec mode routes nothing")


async def serve_table_reload(live: LiveTable, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Puts each new version of the table's file in force, within about a second. Runs until cancelled.

    The file is polled, not watched. Polling also works for files on network mounts, and for files that are replaced by
    a rename or a changed symbolic link.
    """
    task_status.started()
    if not live.is_followed:
        await trio.sleep_forever()
    while True:
        await trio.sleep(POLL_INTERVAL_S)
        await trio.to_thread.run_sync(live.reload_if_changed)


def _engines_with_volumes(table: Table) -> str:
    if table.shares_volumes:
        return "both engines"
    return "this process" if table.is_data_native else "the backend"


def _changes(old: Table, new: Table) -> list[str]:
    return [
        f"{name} {old.states[name].value} -> {state.value}"
        for name, state in new.states.items()
        if old.states[name] is not state
    ]
