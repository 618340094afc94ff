"""The read mode of a server, which its configuration sets and its HTTP handlers follow."""

from __future__ import annotations

from enum import Enum


class ReadMode(Enum):
    """The treatment of a read whose volume is not on this server. Source: weed/command/volume.go, -readMode."""

    LOCAL = "local"
    PROXY = "proxy"
    REDIRECT = "redirect"
