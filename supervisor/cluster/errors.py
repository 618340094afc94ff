"""The errors of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.wire.server_address import ServerAddress


class DuplicateDirectories(Exception):
    """The master insists that another volume server serves one of this server's directories. No more retries follow."""

    def __init__(self, master: ServerAddress, uuids: Sequence[str], attempts: int) -> None:
        super().__init__(
            f"master {master} says, {attempts} times in a row, that another volume server serves the directories "
            f"whose vol_dir.uuid is {', '.join(uuids)}; stop that server, or give this one its own directories"
        )
        self.master = master
        self.uuids = tuple(uuids)


class MasterUnavailable(Exception):
    """A call to a master got no answer. It is unknown what the master did."""

    def __init__(self, master: ServerAddress, what: str, why: str) -> None:
        super().__init__(f"master {master} did not answer {what}: {why}")
        self.master = master


class EmbeddedMasterError(Exception):
    """Base class: the embedded master cannot start. The message says what the operator can do."""
