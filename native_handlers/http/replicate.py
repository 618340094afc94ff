"""A write as it is sent to the other holders of its volume: one multipart POST to the same path.

The part carries the needle as stored (its compression, name, type, pairs, time), so that all copies are the same.
Source: weed/topology/store_replicate.go ReplicatedWrite, weed/operation/upload_content.go.
"""

from __future__ import annotations

import json
import secrets
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from native_handlers.http.context import PeerFailed, PeerFailureKind
from native_handlers.http.header_map import HeaderMap
from native_handlers.http.headers import Headers
from native_handlers.http.media_type import format_media_type
from native_handlers.http.mime_types import mime_of_extension
from native_handlers.http.paths import extension
from native_handlers.http.peers import read_answer
from native_handlers.http.query import encode_query
from native_handlers.http.request_id import REQUEST_ID_HEADER
from native_handlers.http.tokens import bearer, token_of
from native_handlers.http.upload import PAIR_PREFIX

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from native_handlers.format.needle import Needle
    from native_handlers.http.context import Location, PeerHttp
    from native_handlers.http.message import Request
    from native_handlers.http.upload import Upload

_DONE = frozenset((200, 201, 204))
_GONE = frozenset((200, 202, 204, 404))


_JOINED_BYTES = 256 * 1024
"""A body up to here goes out as one; a larger one in pieces of that, for a copy of all would keep other requests
waiting, and a peer has some time for each piece."""


@dataclass(frozen=True, slots=True)
class ReplicaWrite:
    """One write, ready to be sent to any number of peers. `headers` say the length of `pieces` if there are several."""

    target: str
    headers: Headers
    pieces: tuple[bytes, ...]

    async def send(self, peers: PeerHttp, location: Location) -> None:
        """Writes on one peer, in one attempt.

        Raises:
            PeerFailed: it did not answer, or not that it has written.
        """
        request = partial(peers.request, "POST", location.url, self.target, self.headers)
        if len(self.pieces) == 1:
            response = await request(self.pieces[0])
        else:
            async with aclosing(_one_by_one(self.pieces)) as body:
                response = await request(body)
        answer = await read_answer(location.url, response)
        if response.status not in _DONE or _error_in(answer):
            reason = _error_in(answer) or f"it answers {response.status} to an upload"
            raise PeerFailed(location.url, PeerFailureKind.SERVER_ERROR, reason)


def make_replica_write(request: Request, upload: Upload, *, is_fsync: bool) -> ReplicaWrite:
    """What the peers get for `upload` of `request`, after it was written here."""
    needle = upload.needle
    fields = {"type": "replicate", "ttl": str(needle.ttl or "")}
    if is_fsync:
        fields["fsync"] = "true"
    if needle.last_modified_s:
        fields["ts"] = str(needle.last_modified_s)
    if needle.is_chunk_manifest:
        fields["cm"] = "true"
    target = f"{request.raw_path}?{encode_query(fields)}"
    boundary = secrets.token_hex(30)
    head = f"--{boundary}\r\n{_part_headers(request, upload)}\r\n".encode("latin-1")
    data = needle.data if isinstance(needle.data, bytes) else bytes(needle.data)
    pieces: tuple[bytes, ...] = (head, data, f"\r\n--{boundary}--\r\n".encode())
    size = sum(map(len, pieces))
    headers = HeaderMap()
    if size <= _JOINED_BYTES:
        pieces = (b"".join(pieces),)
    else:
        headers.set("Content-Length", str(size))
    headers.set("Content-Type", f"multipart/form-data; boundary={boundary}")
    headers.set(REQUEST_ID_HEADER, request.request_id)
    for name, value in _pairs_of(needle).items():
        headers.set(f"{PAIR_PREFIX}{name}", value.encode("utf-8", "replace").decode("latin-1"))
    return ReplicaWrite(target, headers.to_headers().plus(*bearer(token_of(request))), pieces)


async def delete_replica(peers: PeerHttp, location: Location, request: Request) -> None:
    """Deletes on one peer; that it has no such needle is as good.

    Raises:
        PeerFailed: it did not answer, or it refuses.
    """
    headers = Headers([(REQUEST_ID_HEADER, request.request_id), *bearer(token_of(request))])
    target = f"{request.raw_path}?type=replicate"
    response = await peers.request("DELETE", location.url, target, headers, b"")
    answer = await read_answer(location.url, response)
    if response.status not in _GONE:
        reason = _error_in(answer) or f"it answers {response.status} to a delete"
        raise PeerFailed(location.url, PeerFailureKind.SERVER_ERROR, reason)


async def _one_by_one(pieces: tuple[bytes, ...]) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        for at in range(0, len(piece), _JOINED_BYTES):
            yield piece[at : at + _JOINED_BYTES]


def _part_headers(request: Request, upload: Upload) -> str:
    needle = upload.needle
    filename = needle.name.decode("latin-1")
    mime = needle.mime.decode("latin-1") or mime_of_extension(extension(filename).lower())
    fields = {"Content-Disposition": format_media_type("form-data", {"name": "file", "filename": filename})}
    if needle.is_compressed:
        fields["Content-Encoding"] = "gzip"
    if upload.content_md5:
        fields["Content-Md5"] = upload.content_md5
    if mime:
        fields["Content-Type"] = mime
    lines = (f"{name}: {value}\r\n" for name, value in fields.items() if "\r" not in value and "\n" not in value)
    return "".join(lines)


def _pairs_of(needle: Needle) -> dict[str, str]:
    if not needle.has_pairs:
        return {}
    pairs: dict[str, str] = json.loads(needle.pairs)
    return pairs


def _error_in(answer: bytes) -> str:
    """The error that a JSON answer names, "" when it names none."""
    try:
        fields = json.loads(answer)
    except (ValueError, RecursionError):
        return ""
    error = fields.get("error") if isinstance(fields, dict) else None
    return error if isinstance(error, str) else ""
