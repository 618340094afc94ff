"""Errors of moving a volume from one engine to the other."""

from __future__ import annotations

from enum import Enum


class After(Enum):
    """The state of an engine after it failed to close or open a volume."""

    UNTOUCHED = "it did nothing"
    FAILED = "it tried, and the volume may be closed"
    UNKNOWN = "it gave no answer: it may have done it, or be about to"


class HolderFailed(Exception):
    """An engine did not close or open a volume. `details` is the backend's own text, where there is one."""

    def __init__(self, volume_id: int, doing: str, why: str, after: After = After.FAILED, *, details: str = "") -> None:
        super().__init__(f"{doing} volume {volume_id}: {why}")
        self.volume_id = volume_id
        self.after = after
        self.details = details


class AccessRefused(Exception):
    """An operation does not get its volume. The volume stays with the engine that has it. The client may try again."""

    def __init__(self, volume_id: int, why: str) -> None:
        super().__init__(f"volume {volume_id} cannot be handed over to serve this request: {why}")
        self.volume_id = volume_id
        self.why = why


class ServedElsewhere(Exception):
    """The backend has the volume and keeps it for now. The backend must execute the operation."""

    def __init__(self, volume_id: int) -> None:
        super().__init__(f"volume {volume_id} stays with the backend for now")
        self.volume_id = volume_id
