"""A small single-node master for quickstart and tests. Production uses `weed master`. See docs/cluster.md."""

from supervisor.embedded_master.config import (
    AssignRefused,
    BadMasterState,
    EmbeddedMasterConfig,
    MasterDirectoryInUse,
)
from supervisor.embedded_master.serve import EmbeddedMasterAddresses, serve_embedded_master

__all__ = [
    "AssignRefused",
    "BadMasterState",
    "EmbeddedMasterAddresses",
    "EmbeddedMasterConfig",
    "MasterDirectoryInUse",
    "serve_embedded_master",
]
