"""What a flag is: the row type of the tables in flag_table.py.

The syntax that flags are written in is in go_flags.py, the rules between them in load.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How the text of a value is read. The value is the word that usage shows for it."""

    BOOL = ""
    INT = "int"
    TEXT = "text"
    DURATION = "duration"


class Owner(Enum):
    """Whose flag it is, which decides whether a Go backend may be given it."""

    VOLUME = "weed volume"
    WEED = "weed"
    RUST = "the Rust volume server"
    OURS = "weed-volume-py"


class Group(Enum):
    """The headings of the usage text, in their order."""

    MODE = "Engine: who answers"
    ADDRESS = "Addresses"
    CLUSTER = "Cluster"
    STORAGE = "Directories and volumes"
    REQUESTS = "Requests"
    MAINTENANCE = "Background work"
    SECURITY = "Security and configuration files"
    METRICS = "Metrics and debugging"
    LOG = "Logging"
    MASTER = "Embedded master"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. `default` is text in the flag's own syntax; `environment` are variables read when it is not given."""

    name: str
    kind: Kind
    default: str
    meaning: str
    group: Group = Group.MODE
    owner: Owner = Owner.VOLUME
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    environment: tuple[str, ...] = ()

    @property
    def is_upstream(self) -> bool:
        """True for the flags that a Go backend understands."""
        return self.owner in {Owner.VOLUME, Owner.WEED}


def weed_variable(key: str) -> str:
    """The environment variable that upstream reads for a flag or a configuration key.

    Source: weed/util/fla9/fla9.go ParseEnv, weed/util/config.go.
    """
    return "WEED_" + key.upper().replace("-", "_").replace(".", "_")
