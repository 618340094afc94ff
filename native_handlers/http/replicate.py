"""Writes and deletes as they are sent to the other holders of a volume. A write is one multipart POST to the same path.

The part carries the needle as stored (its compression, name, type, pairs, time), so that all copies are the same.
Source: weed/topology/store_replicate.go ReplicatedWrite, weed/operation/upload_content.go.
"""

from __future__ import annotations

import json
import re
import secrets
from contextlib import aclosing
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.content.mime_types import mime_of_extension
from native_handlers.http.holders import HOLDER_HEADER, NO, REQUIRED, SHARDS, YES, HolderOutcome, NotHolder, is_denial
from native_handlers.http.reply import close_chunks
from native_handlers.http.tokens import bearer, token_of
from native_handlers.http.upload import PAIR_PREFIX
from native_handlers.http_model.headers import HeaderMap, Headers
from native_handlers.http_model.media_type import format_media_type
from native_handlers.http_model.message import REQUEST_ID_HEADER
from native_handlers.http_model.query import encode_query
from native_handlers.http_model.target import extension
from native_handlers.http_model.volume_servers import VolumeServerFailed, VolumeServerFailureKind
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from native_handlers.format.needle import Needle
    from native_handlers.http.context import Location
    from native_handlers.http.upload import Upload
    from native_handlers.http_model.message import Request
    from native_handlers.http_model.volume_servers import VolumeServerHttp, VolumeServerResponse

_DONE = frozenset((200, 201, 204))
_DELETED = frozenset((200, 202, 204))
_ABSENT = 404
OTHER_COOKIE = "File Random Cookie does not match."
"""The error text of a holder, with status 400, where the needle has another cookie than the file id."""
_GO_ABSENT_IN_SHARDS = re.compile(
    "Deletion Failed: (already deleted|locate in local ec volume: FindNeedleFromEcx: needle not found)"
)
_GO_OTHER_COOKIE_IN_SHARDS = re.compile("Deletion Failed: unexpected cookie [0-9a-f]+")
"""Go's server answers 500 with these texts for a needle of an erasure-coded volume. Source: weed/storage/store_ec.go
(ReadEcShardNeedle), store_ec_delete.go."""


_JOINED_BYTES = 256 * 1024
"""A body up to this length is joined and sent at once. A larger body is sent in pieces of this length: a copy of the
whole would keep other requests waiting, and the receiving server has some time for each piece."""


@dataclass(frozen=True, slots=True)
class ReplicaWrite:
    """One write, ready for any number of servers. With several `pieces`, `headers` hold their total length."""

    volume_id: int
    target: str
    headers: Headers
    pieces: tuple[bytes, ...]

    async def send(self, volume_servers: VolumeServerHttp, location: Location) -> HolderOutcome:
        """Writes on one server, in one attempt. The outcome is always DONE. (A Go server without the volume answers so
        too, and has stored nothing.)

        Raises:
            NotHolder: the server does not have the volume.
            VolumeServerFailed: the server gave no answer, or refused.
        """
        request = partial(volume_servers.request, "POST", location.url, self.target, self.headers)
        if len(self.pieces) == 1:
            response = await request(self.pieces[0])
        else:
            async with aclosing(_one_by_one(self.pieces)) as body:
                response = await request(body)
        answer = await read_answer(location.url, response)
        error = _error_in(answer)
        if response.status not in _DONE or error:
            raise _refusal(location.url, self.volume_id, response, error, "an upload")
        return HolderOutcome.DONE


def make_replica_write(request: Request, volume_id: int, upload: Upload, *, is_fsync: bool) -> ReplicaWrite:
    """The write for the other holders, for `upload` of `request`, after it was written here."""
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
    head = f"--{boundary}\r\n{_part_headers(upload)}\r\n".encode("latin-1")
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
    headers.set(HOLDER_HEADER, REQUIRED)
    for name, value in _pairs_of(needle).items():
        headers.set(f"{PAIR_PREFIX}{name}", value.encode("utf-8", "replace").decode("latin-1"))
    return ReplicaWrite(volume_id, target, headers.to_headers().plus(*bearer(token_of(request))), pieces)


def is_manifest_alone(request: Request) -> bool:
    """Whether a request is for a manifest itself, and not for the file that the manifest describes."""
    return "cm" in request.parsed.raw_query and request.parsed.query.get("cm") == "false"


@dataclass(slots=True)
class ReplicaDelete:
    """One delete, for any number of servers. `sizes` gets the deleted size from each server that had the needle."""

    volume_id: int
    target: str
    headers: Headers
    sizes: list[int] = field(default_factory=list)

    async def send(self, volume_servers: VolumeServerHttp, location: Location) -> HolderOutcome:
        """Deletes on one server. DONE where the server deleted or has no such needle, DOUBTFUL where it may have no
        such volume.

        Raises:
            NotHolder: the server does not have the volume.
            VolumeServerFailed: the server gave no answer, or refused.
        """
        response = await volume_servers.request("DELETE", location.url, self.target, self.headers, b"")
        answer = await read_answer(location.url, response)
        if response.status in _DELETED:
            self.sizes.append(_size_in(answer))
            return HolderOutcome.DONE_IN_SHARDS if response.headers.get(HOLDER_HEADER) == SHARDS else HolderOutcome.DONE
        if response.status == _ABSENT and response.headers.get(HOLDER_HEADER) != NO:
            return HolderOutcome.DONE if response.headers.get(HOLDER_HEADER) == YES else HolderOutcome.DOUBTFUL
        error = _error_in(answer)
        if _GO_ABSENT_IN_SHARDS.fullmatch(error):
            return HolderOutcome.DONE
        if _GO_OTHER_COOKIE_IN_SHARDS.fullmatch(error):
            raise VolumeServerFailed(location.url, VolumeServerFailureKind.SERVER_ERROR, OTHER_COOKIE, status=400)
        raise _refusal(location.url, self.volume_id, response, error, "a delete")


def make_replica_delete(request: Request, volume_id: int) -> ReplicaDelete:
    """The delete for the other holders, for the delete `request`."""
    fields = [(REQUEST_ID_HEADER, request.request_id), (HOLDER_HEADER, REQUIRED), *bearer(token_of(request))]
    target = f"{request.raw_path}?type=replicate" + ("&cm=false" if is_manifest_alone(request) else "")
    return ReplicaDelete(volume_id, target, Headers(fields))


def _refusal(server: str, volume_id: int, response: VolumeServerResponse, error: str, what: str) -> VolumeServerFailed:
    if is_denial(volume_id, response.headers, error):
        return NotHolder(server, volume_id, status=response.status)
    reason = error or f"it answers {response.status} to {what}"
    return VolumeServerFailed(server, VolumeServerFailureKind.SERVER_ERROR, reason, status=response.status)


async def _one_by_one(pieces: tuple[bytes, ...]) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        for at in range(0, len(piece), _JOINED_BYTES):
            yield piece[at : at + _JOINED_BYTES]


def _part_headers(upload: Upload) -> str:
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


def _size_in(answer: bytes) -> int:
    """The size in a JSON answer to a delete, 0 when there is none."""
    size = _fields_in(answer).get("size")
    return size if isinstance(size, int) else 0


def _error_in(answer: bytes) -> str:
    """The error in a JSON answer, "" when there is none."""
    error = _fields_in(answer).get("error")
    return error if isinstance(error, str) else ""


def _fields_in(answer: bytes) -> dict[str, object]:
    try:
        fields = json.loads(answer)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


# ---- Answers of other servers to a write or a delete.

MAX_ANSWER_BYTES = 1 << 16
"""The longest answer to a write or a delete. Usual answers are one line of JSON."""


ANSWER_TIMEOUT_S = 30.0
"""Seconds for the whole body of such an answer, after its head: a server that sends byte by byte counts as one that
hangs."""


async def read_answer(server: str, response: VolumeServerResponse) -> bytes:
    """The whole body of another server's answer.

    Raises:
        VolumeServerFailed: the body breaks off, takes too long, or is too long.
    """
    try:
        with trio.fail_after(ANSWER_TIMEOUT_S):
            return await _read_short(server, response)
    except trio.TooSlowError as error:
        reason = f"its answer takes longer than {ANSWER_TIMEOUT_S:g} s"
        raise VolumeServerFailed(server, VolumeServerFailureKind.TIMEOUT, reason) from error
    finally:
        await close_chunks(response.chunks)


async def _read_short(server: str, response: VolumeServerResponse) -> bytes:
    pieces, size = [], 0
    async for piece in response.chunks:
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            reason = f"the answer is longer than {MAX_ANSWER_BYTES} bytes"
            raise VolumeServerFailed(server, VolumeServerFailureKind.SERVER_ERROR, reason)
        pieces.append(piece)
    return b"".join(pieces)
