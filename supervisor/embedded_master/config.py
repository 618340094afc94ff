"""The settings of an embedded master, and its errors."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from native_handlers.format.replica_placement import NO_REPLICATION, ReplicaPlacement
from native_handlers.records import dataclass
from supervisor.cluster.dial import Dial, dial_insecure
from supervisor.cluster.errors import EmbeddedMasterError
from supervisor.config.config import JwtKey

if TYPE_CHECKING:
    from pathlib import Path

NO_KEY = JwtKey(b"", 0)
DEFAULT_VOLUME_SIZE_LIMIT_BYTES = 30 << 30  # weed master -volumeSizeLimitMB


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedMasterConfig:
    """The settings. The system chooses a port where 0 is given. `ip` is for clients; `bind_ip` is listened on.

    Args:
        directory: keeps the sequence of file ids. It is created if missing; one master at a time uses it.
        volumes_per_growth: how many volumes are made when none is writable, as far as there are free slots.
        write_key, read_key: sign the tokens of assigns and look-ups; an empty key means no token.
        dial: makes channels to volume servers.
        max_connections: of clients at one time over HTTP, and a third as many over gRPC; beyond it see `net.seats`.
    """

    directory: Path
    ip: str = "127.0.0.1"
    bind_ip: str = "127.0.0.1"
    port: int = 9333
    grpc_port: int = 19333
    volume_size_limit_bytes: int = DEFAULT_VOLUME_SIZE_LIMIT_BYTES
    default_replication: ReplicaPlacement = NO_REPLICATION
    volumes_per_growth: int = 3
    write_key: JwtKey = field(default=NO_KEY)
    read_key: JwtKey = field(default=NO_KEY)
    dial: Dial = dial_insecure
    max_connections: int = 1024


class MasterDirectoryInUse(EmbeddedMasterError):
    """Another embedded master uses the directory. Nothing was changed."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"another embedded master is using {directory}; stop it, or choose another directory")
        self.directory = directory


class BadMasterState(EmbeddedMasterError):
    """The state file cannot be parsed. It stays as it is: without it, file ids could be assigned twice."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path} is not the state of an embedded master ({why}); restore it, or move it away once the volumes' "
            "servers are registered again: their highest file keys are then taken from heartbeats"
        )
        self.path = path


class AssignRefused(Exception):
    """No file id can be assigned now. The text has the reason, in upstream's words."""
