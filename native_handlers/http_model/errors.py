"""What can be wrong with a request, as the HTTP handlers tell it apart. No status codes here: handlers choose them."""

from __future__ import annotations

from native_handlers.format.go_quote import quote_wire


class BadNumber(ValueError):
    """A text is no number of the kind that is wanted; the message is the one that upstream's clients know."""

    def __init__(self, function: str, text: str, reason: str) -> None:
        super().__init__(f"strconv.{function}: parsing {quote(text)}: {reason}")
        self.text = text
        self.reason = reason


class BadMediaType(ValueError):
    """A Content-Type or Content-Disposition value cannot be parsed."""


class BadUpload(ValueError):
    """The body of an upload, or what its headers say of it, cannot be accepted. The client has to change it."""


class BadManifest(ValueError):
    """A chunk manifest cannot be read, or describes no sound file."""


class BadRange(ValueError):
    """A Range header is malformed or begins after the end."""


class ReplicationFailed(Exception):
    """A write or delete was not done by every holder of the volume that has to. It may be done by some of them."""


def quote(text: str) -> str:
    """Wire text in double quotes, with what cannot be printed escaped, as Go's strconv.Quote shows it."""
    return quote_wire(text).encode("latin-1").decode()
