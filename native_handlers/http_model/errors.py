"""Errors of requests, as the HTTP handlers tell them apart. Handlers choose the status codes."""

from __future__ import annotations

from native_handlers.format.go_quote import quote_wire


class BadNumber(ValueError):
    """A text is no number of the wanted kind. The message is the one that upstream's clients know."""

    def __init__(self, function: str, text: str, reason: str) -> None:
        super().__init__(function, text, reason)
        self.function = function
        self.text = text
        self.reason = reason

    def __str__(self) -> str:
        # Made where it is shown: the text may be a form field of 10 MB, and most callers look at the reason alone.
        return f"strconv.{self.function}: parsing {quote(self.text)}: {self.reason}"


class BadMediaType(ValueError):
    """A Content-Type or Content-Disposition value cannot be parsed."""


class BadUpload(ValueError):
    """The body or the headers of an upload cannot be accepted. The client has to change them."""


class BadManifest(ValueError):
    """A chunk manifest cannot be read, or describes no sound file."""


class NotCovered(Exception):
    """The token of a request does not cover a chunk that a manifest names. The chunks of the manifest are unchanged."""

    def __init__(self, fid: str) -> None:
        super().__init__(f"chunk delete {fid}: wrong jwt")
        self.fid = fid


class BadRange(ValueError):
    """A Range header is malformed or begins after the end."""


class ReplicationFailed(Exception):
    """A holder of the volume did not do a write or a delete. Other holders may have done it."""


class NoHolderLeft(ReplicationFailed):
    """The master names no other server for a volume, and none has done a write or a delete. The volume may have come to
    this server meanwhile.
    """

    def __init__(self, volume_id: int) -> None:
        super().__init__(f"volume {volume_id} not found")
        self.volume_id = volume_id


class NotHere(Exception):
    """A request needs a holder of its volume, and this server does not hold the volume."""


def quote(text: str) -> str:
    """Wire text in double quotes, with unprintable characters escaped, as Go's strconv.Quote shows it."""
    return quote_wire(text).encode("latin-1").decode()
