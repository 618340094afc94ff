"""Sends the same request to both servers and reports differences. The differences that are ignored are named here, with
the reason.
"""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from contextlib import suppress
from dataclasses import dataclass

from harness.http1 import Connection, Disconnected, request_bytes

NOT_COMPARED = {
    "date": "the moment",
    "x-amz-request-id": "made for each answer",
    "connection": "Go closes after a target that it cannot parse, we go on",
    "transfer-encoding": "Go leaves Content-Length out of some answers whose length it does not know, and we know it",
}
ONLY_IF_BOTH = {"content-length": "as transfer-encoding"}
"""Compared if both servers send it."""
DEPEND_ON_DEFLATE = {"etag", "content-length", "content-range"}
"""Not compared if a server compressed an upload: its deflate makes other bytes, and the tag is their checksum."""

_NEEDLE_IDS = itertools.count(0x100, 0x10)
_NOBODY_HAS_IT = re.compile(rb"volume (id )?\d+ not found")
_BOUNDARY = re.compile(rb"[0-9a-f]{60}")


@dataclass(frozen=True)
class Answer:
    """One answer without the ignored parts. None if the server closed the connection instead."""

    status: int
    headers: dict[str, str]
    body: bytes


class Pair:
    """Both servers during one example. The needle ids belong to this example alone."""

    def __init__(self, go, ours):
        self._servers = (go, ours)
        first = next(_NEEDLE_IDS)
        self._ids = [f"{first + slot:x}" for slot in range(3)]
        self._etags = ["0", "0"]
        self._is_compressed = False

    def ask(self, ask):
        """The request as received, Go's answer and the native one."""
        self._is_compressed = self._is_compressed or ask.is_compressible
        target = ask.target
        for slot, needle_id in enumerate(self._ids):
            target = target.replace(f"{{{slot}}}", needle_id)
        raw, replies = b"", []
        for number, server in enumerate(self._servers):
            headers = [(name, value.replace("{etag}", self._etags[number])) for name, value in ask.headers]
            raw = request_bytes(ask.method, target, headers, ask.body)
            reply = self._fetch(server, ask, raw)
            if reply is not None and reply.get("Etag"):
                self._etags[number] = reply.get("Etag").strip('"')
            replies.append(self._comparable(reply))
        return raw, *replies

    def _fetch(self, server, ask, raw):
        with Connection(server.public if ask.is_public else server.admin) as connection:
            try:
                # A server may answer and close before it has read the body.
                with suppress(ConnectionResetError, BrokenPipeError):
                    connection.send(raw)
                return connection.read_reply(ask.method)
            except (Disconnected, ConnectionResetError):
                return None

    def _comparable(self, reply):
        if reply is None:
            return None
        headers = {
            name.lower(): _BOUNDARY.sub(b"B", value.encode("latin-1")).decode("latin-1")
            for name, value in reply.headers
            if name.lower() not in NOT_COMPARED
        }
        body = _BOUNDARY.sub(b"B", reply.body)
        if self._is_compressed:
            headers = {name: value for name, value in headers.items() if name not in DEPEND_ON_DEFLATE}
            body = _without_deflate(reply, body)
        if "%" in headers.get("location", ""):
            # Go escapes percent signs once more in its redirects to a clean path.
            headers = {name: value for name, value in headers.items() if name not in {"location", "content-length"}}
            body = b""
        return Answer(reply.status, headers, body)


def difference(theirs, ours):
    """The difference as text; "" for equal answers."""
    if theirs is not None and ours is not None and theirs.status == 201 and _NOBODY_HAS_IT.search(ours.body):
        # Go acknowledges an upload for a volume that no server has, and stores nothing.
        return "" if ours.status == 500 else f"status: {ours.status}"
    if theirs is None:
        # Go's handler crashed, or its server refuses the request by closing. The native server answers with a 4xx.
        return "" if ours is not None and 400 <= ours.status < 500 else f"Go closes, we answer {ours}"
    if ours is None:
        return f"we close, Go answers {theirs}"
    if theirs.status != ours.status:
        return f"status: Go {theirs.status} {theirs.body[:200]!r}, we {ours.status} {ours.body[:200]!r}"
    for name in sorted({*theirs.headers, *ours.headers}):
        here, there = ours.headers.get(name), theirs.headers.get(name)
        if here != there and not (name in ONLY_IF_BOTH and None in {here, there}):
            return f"{name}: Go {there!r}, we {here!r}"
    if theirs.body != ours.body:
        return f"body: Go {theirs.body[:300]!r}, we {ours.body[:300]!r}"
    return ""


def _without_deflate(reply, body):
    """The body without the parts that another deflate changes: tags, sizes, compressed bytes."""
    body = re.sub(rb'"eTag":\s*"[0-9a-f]{8}"', b'"eTag":""', body)
    body = re.sub(rb'\{\s*"size":\s*[1-9]\d*\s*\}', b'{"size":1}', body)
    if reply.get("Content-Encoding") != "gzip":
        return body
    try:
        return gzip.decompress(body)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return b"part of compressed data"
