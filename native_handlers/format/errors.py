"""Errors of bytes or text that do not follow the formats here.

Only codecs raise them. Other modules decide how a server acts on an error.
"""

from __future__ import annotations

import json


class FormatError(ValueError):
    """Bytes or text that do not follow their format. Base of all errors of this package."""


class Truncated(FormatError):
    """There are fewer bytes than the format needs. Not for bytes that are present but wrong."""

    def __init__(self, what: str, needed_bytes: int, got_bytes: int) -> None:
        super().__init__(f"{what} needs {needed_bytes} bytes, there are {got_bytes}")
        self.what = what
        self.needed_bytes = needed_bytes
        self.got_bytes = got_bytes


class Corrupt(FormatError):
    """All bytes are there, but they contradict one another. Not for a failed read."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why


class SizeMismatch(Corrupt):
    """The record has another size than the index entry announced."""

    def __init__(self, needle_id: int, expected: int, got: int) -> None:
        super().__init__("size mismatch", f"needle {needle_id:x} has size {got} on disk, the index says {expected}")
        self.needle_id = needle_id
        self.expected = expected
        self.got = got


class ChecksumMismatch(Corrupt):
    """The payload fits the stored checksum neither in the current form nor in the legacy form.

    The text is upstream's, because clients see it. Source: weed/storage/needle/needle_read_tail.go.
    """

    def __init__(self, needle_id: int, expected: int, got: int) -> None:
        what = f"invalid CRC for needle {needle_id:x} (got {got:08x}, want {expected:08x})"
        super().__init__(f"{what}, data on disk corrupted", "needle data corrupted")
        self.needle_id = needle_id
        self.expected = expected
        self.got = got


class UnsupportedVersion(FormatError):
    """A volume version other than 1, 2 and 3."""

    def __init__(self, version: int) -> None:
        super().__init__(f"volume version {version} is not supported; 1, 2 and 3 are")
        self.version = version


class UnsupportedOffsetWidth(FormatError):
    """An index offset width other than 4 and 5 bytes."""

    def __init__(self, width_bytes: int) -> None:
        super().__init__(f"index offsets of {width_bytes} bytes are not supported; 4 and 5 are")
        self.width_bytes = width_bytes


class NeedleTooWide(FormatError):
    """A needle whose metadata does not fit the record's length field."""

    def __init__(self, field: str, length: int, limit: int) -> None:
        super().__init__(f"needle {field} is {length} bytes, a record holds at most {limit}")
        self.field = field
        self.length = length
        self.limit = limit


class BadFileId(FormatError):
    """Text that is no file id. The message is upstream's, because clients match it."""

    def __init__(self, text: str, message: str) -> None:
        super().__init__(message)
        self.text = text


class BadTtl(FormatError):
    """Text that is no time to live."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        # Made where it is shown: a form field may have 10 MB.
        return f"{self.text!r} is not a TTL; expected a count and one of m h d w M y, as in 3d"


class BadReplicaPlacement(FormatError):
    """Text that is no replica placement. The message is upstream's."""

    def __init__(self, text: str, message: str) -> None:
        super().__init__(message)
        self.text = text


class BadVolumeName(FormatError):
    """A file base name that is not ``<volume id>`` or ``<collection>_<volume id>``."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} is no volume file name; expected <id> or <collection>_<id>")
        self.name = name


class BadCollection(FormatError):
    """A collection's name that cannot begin a file name: a path made with it would leave the directory or name no
    file.
    """

    def __init__(self, collection: str) -> None:
        super().__init__(f"invalid collection {json.dumps(collection, ensure_ascii=False)}")
        self.collection = collection


class BadVolumeInfo(FormatError):
    """The text of a .vif file that is in neither the current nor the old form."""
