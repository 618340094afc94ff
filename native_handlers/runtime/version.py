"""The versions that answers carry: upstream's, which clients look at, and this project's own."""

from __future__ import annotations

OWN_VERSION = "0.1.0"
"""The version of this project and of its package. Asking the installed package for it would take milliseconds."""

UPSTREAM_COMPATIBLE_VERSION = "4.44"
"""The upstream release that this server behaves as. Source: weed/util/version/constants.go."""

_SIZE_LIMITS = {4: "30GB", 5: "8000GB"}
"""Offset width in bytes -> the volume size limit as upstream spells it. Source: weed/util/constants_4bytes.go."""


def size_limit_text(offset_width_bytes: int) -> str:
    return _SIZE_LIMITS[offset_width_bytes]
