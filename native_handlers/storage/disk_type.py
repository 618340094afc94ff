"""Names of disk types."""

from __future__ import annotations


def normal_disk_type(text: str) -> str:
    """The wire form of a disk type: lower case, "" for hdd. Source: weed/storage/types/volume_disk_type.go."""
    lowered = text.lower()
    return "" if lowered == "hdd" else lowered
