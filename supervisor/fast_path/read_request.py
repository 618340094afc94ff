"""Recognises a read of a plain file id: GET or HEAD, whole or one range, with conditions or without.

One pattern matches the request line. The fields of most reads are the same bytes again, so each usual block of fields
is parsed once and its meaning is remembered. A read with a field that is not known here is declined: `parse` gives
None, and the request goes the ordinary way.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.http_model.target import SIMPLE_PATH
from supervisor.fast_path.head_fields import TOKEN_FIELDS, FieldParser

if TYPE_CHECKING:
    from supervisor.fast_path.head_fields import HeadFields

_JWT = rb"jwt=[0-9A-Za-z_\-.]++"
_QUERY = rb"\?(?:readDeleted=true(?:&%b)?|%b(?:&readDeleted=true)?)" % (_JWT, _JWT)
"""Filers ask for deleted needles too. That changes nothing here: a deleted needle is left to the ordinary way."""
_LINE = re.compile(rb"(GET|HEAD) %b(%b)? HTTP/1\.1\r\n" % (SIMPLE_PATH.encode(), _QUERY))
_FIELDS = frozenset({"host", "accept-encoding", "range", "if-none-match", "if-modified-since"}) | TOKEN_FIELDS
_MAX_BLOCK_BYTES = 2048
_MAX_BLOCKS = 256
_METHODS = {b"GET": "GET", b"HEAD": "HEAD"}
_new_tuple = tuple.__new__


class ReadFields(NamedTuple):
    """The fields that choose what a read answers; None where the field is absent."""

    range: str | None = None
    if_none_match: str | None = None
    if_modified_since: str | None = None


PLAIN = ReadFields()
"""The whole needle, without conditions: always this object."""


class Read(NamedTuple):
    """A request to read a needle."""

    method: str
    volume_id: int
    needle_id: int
    cookie: int
    fields: ReadFields
    takes_gzip: bool
    token: str = ""


class ReadMatcher:
    """Recognises reads. Its memory is bounded; all connections of a listener may share it."""

    __slots__ = ("_blocks", "_parser")

    def __init__(self) -> None:
        self._blocks: dict[bytes, tuple[ReadFields, bool]] = {}
        self._parser = FieldParser()

    @property
    def known_heads(self) -> int:
        """How many different blocks of fields are remembered; at most 256."""
        return len(self._blocks)

    def parse(self, data: bytes) -> Read | None:
        """The read, if `data` is exactly one simple request; else None."""
        match = _LINE.match(data)
        if match is None:
            return None
        block = data[match.end() :]
        known, token = self._blocks.get(block), ""
        if known is None:
            head = self._parse(block)
            if head is None:
                return None
            known, token = self._learn(head, block), head.token("")
        method, volume_id, needle_id, cookie, query = match.groups()
        if query is not None:
            token = query.partition(b"jwt=")[2].partition(b"&")[0].decode() or token
        # `Read(...)` takes twice the time, because it goes through a function in Python.
        parts = _METHODS[method], int(volume_id), int(needle_id, 16), int(cookie, 16), *known, token
        return _new_tuple(Read, parts)

    def _parse(self, block: bytes) -> HeadFields | None:
        if len(block) > _MAX_BLOCK_BYTES or not block.endswith(b"\r\n\r\n"):
            return None
        head = self._parser.parse(block[:-2], _FIELDS)
        return None if head is None or head.stored else head

    def _learn(self, head: HeadFields, block: bytes) -> tuple[ReadFields, bool]:
        """The fields that choose the answer, and whether the client takes gzip."""
        fields = ReadFields(*map(head.values.get, ("range", "if-none-match", "if-modified-since")))
        if fields == PLAIN:
            fields = PLAIN
        known = fields, "gzip" in head.values.get("accept-encoding", "")
        if head.is_usual:
            if len(self._blocks) >= _MAX_BLOCKS:
                self._blocks.clear()
            self._blocks[block] = known
        return known
