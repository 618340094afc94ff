"""The versions that answers carry: upstream's, which clients look at, and this project's own."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

UPSTREAM_COMPATIBLE_VERSION = "4.44"
"""The upstream release that this server behaves as. Source: weed/util/version/constants.go."""

_SIZE_LIMITS = {4: "30GB", 5: "8000GB"}
"""Offset width in bytes -> the volume size limit as upstream spells it. Source: weed/util/constants_4bytes.go."""


def size_limit_text(offset_width_bytes: int) -> str:
    return _SIZE_LIMITS[offset_width_bytes]


def own_version() -> str:
    """This project's version; "0+unknown" in a tree that was never installed."""
    try:
        return version("weed-volume-py")
    except PackageNotFoundError:
        return "0+unknown"
