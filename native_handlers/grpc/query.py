"""Query: selects rows from needles that are JSON documents. Source: weed/server/volume_grpc_query.go.

As upstream, the payload is read as it is stored, so a compressed payload gives no meaningful rows; CSV gives nothing; a
volume that is here only in shards is not found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.checks import errors_as_upstream, store_of
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.needles import parse_any_volume
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.query.documents import Documents, DocumentTooLong
from native_handlers.query.rows import Filter, Selection
from native_handlers.query.strings import PatternTooCostly
from native_handlers.runtime.give_way import give_way

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.grpc.context import RpcContext
    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.volume.record_reader import NeedleRead

_PIECE_BYTES = 64 * 1024
"""Bytes of a payload that are parsed at a time: a millisecond, or a few where there are many small documents."""
MAX_SELECTIONS, MAX_SELECTION_BYTES = 1024, 64 << 10
"""Of all selections of a request and its filter together: anybody may send one, and each path or pattern is parsed."""
STRIPE_BYTES = 2 << 20
"""The greatest length of the rows in one message. It keeps as far below the 4 MiB that clients accept by default as
upstream's pieces of shards do."""


def query(node: GrpcNode, context: RpcContext, request: pb.QueryRequest) -> Iterator[pb.QueriedStripe]:
    """Yields the rows of each needle, in the requested order. Each needle gives a stripe, an empty one where no row
    passes.

    Rows of more than 2 MiB come in several stripes, where upstream sends one that its clients may refuse; joined they
    are the same. A stripe ends with a row, unless one row is longer. A wrong cookie ends the stream without an error.
    Any other needle that cannot be read ends it with an error, after the rows of the needles before. Without a filter,
    where upstream's Go server crashes, all rows pass, as in its Rust server. Without an input format nothing is
    selected.

    Memory is that of one document, at most 64 MiB (RESOURCE_EXHAUSTED beyond), and of one stripe. More selections than
    the bounds of this module are INVALID_ARGUMENT.
    """
    _check_size(request)
    wants = request.filter if request.HasField("filter") else None
    passing = None if wants is None else Filter(wants.field, wants.operand, wants.value)
    selection = Selection(request.selections)
    for file_id in request.from_file_ids:
        with node.counts.counting_read_failure():
            read = _read(node, file_id)
        if read is None:
            return
        try:
            if request.input_serialization.HasField("json_input"):
                documents = _documents(context, read)
                passed = (one for one in documents if passing is None or passing.passes(one))
                yield from _stripes(_watched(context, one, selection.row(one)) for one in passed)
        except (DocumentTooLong, PatternTooCostly) as error:
            raise RpcFailure(f"query {file_id}: {error}", grpc.StatusCode.RESOURCE_EXHAUSTED) from error
        finally:
            read.release()


def _check_size(request: pb.QueryRequest) -> None:
    count, size_bytes = len(request.selections), sum(map(len, request.selections))
    size_bytes += len(request.filter.field) + len(request.filter.value)
    if count > MAX_SELECTIONS or size_bytes > MAX_SELECTION_BYTES:
        bounds = f"at most {MAX_SELECTIONS} of {MAX_SELECTION_BYTES}"
        text = f"query: {count} selections and a filter of {size_bytes} characters in all, {bounds} are taken"
        raise RpcFailure(text, grpc.StatusCode.INVALID_ARGUMENT)


def _watched(context: RpcContext, document: bytes, row: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces of a row. Ends with the client: in a large document each field takes milliseconds to find."""
    is_large = len(document) > _PIECE_BYTES
    for piece in row:
        if is_large:
            if not context.is_active():
                raise RpcFailure("the client has gone", grpc.StatusCode.CANCELLED)
            give_way()
        yield piece


def _read(node: GrpcNode, file_id: str) -> NeedleRead | None:
    """Reads the needle and checks its payload. Returns None where the file id has another cookie. The caller releases
    the result.
    """
    with errors_as_upstream():
        volume_id, needle_id, cookie = parse_any_volume(file_id)
        read = store_of(node).get_volume(volume_id).read(needle_id, data=False)
        try:
            read.check_payload()
            # Upstream does not read the record of an empty needle, so any cookie fits it.
            fits = not read.needle.size or read.needle.cookie == cookie
        except BaseException:
            read.release()
            raise
    if fits:
        return read
    read.release()
    return None


def _documents(context: RpcContext, read: NeedleRead) -> Iterator[bytes]:
    documents = Documents()
    for piece in _pieces(read):
        if not context.is_active():
            return
        yield from documents.feed(piece)
        give_way()
    yield from documents.finish()


def _pieces(read: NeedleRead) -> Iterator[bytes | memoryview]:
    if read.payload is None:
        data = memoryview(read.needle.data)
        for start in range(0, len(data), _PIECE_BYTES):
            yield data[start : start + _PIECE_BYTES]
        return
    start = 0
    while start < read.payload.length_bytes:
        with errors_as_upstream():
            piece = read.payload.read(start, _PIECE_BYTES)
        if not piece:
            raise RpcFailure(f"needle {read.needle.needle_id:x}: its file was cut short while it was read")
        yield piece
        start += len(piece)


def _stripes(rows: Iterator[Iterator[bytes]]) -> Iterator[pb.QueriedStripe]:
    """Yields the rows in as few stripes as possible; one empty stripe where there is no row."""
    stripe, sent = bytearray(), False
    for row in rows:
        whole = len(stripe)
        for piece in row:
            stripe += piece
            if len(stripe) > STRIPE_BYTES and whole:
                yield pb.QueriedStripe(records=bytes(stripe[:whole]))
                del stripe[:whole]
                whole, sent = 0, True
            while len(stripe) > STRIPE_BYTES:
                yield pb.QueriedStripe(records=bytes(stripe[:STRIPE_BYTES]))
                del stripe[:STRIPE_BYTES]
                sent = True
    if stripe or not sent:
        yield pb.QueriedStripe(records=bytes(stripe))
