"""GET and HEAD of an object. Source: weed/server/volume_server_handlers_read.go GetOrHeadHandler."""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.format.errors import BadFileId
from native_handlers.format.fid import parse_needle_id_cookie, parse_volume_id
from native_handlers.format.needle import etag
from native_handlers.http.chunk_manifest import check_depth, depth_of, load_manifest
from native_handlers.http.chunk_read import ChunkedContent, ChunkUnreadable
from native_handlers.http.conditional import format_http_date, is_not_modified_since, is_same_etag
from native_handlers.http.content import FileContent, MemoryContent, labels_of, send_content
from native_handlers.http.disk_threads import PayloadSource
from native_handlers.http.errors import BadManifest
from native_handlers.http.failures import STORE_FAILURES, read_failure_status
from native_handlers.http.gzip_data import BadGzip, TooMuchData, decompress, is_gzip
from native_handlers.http.header_map import HeaderMap
from native_handlers.http.images_edit import wanted_edit
from native_handlers.http.message import FileBody, FileSlice, Response, StreamBody
from native_handlers.http.paths import ObjectPath, extension, parse_object_path, wire_path
from native_handlers.http.query import Query, parse_query
from native_handlers.http.ranges import ByteRange
from native_handlers.http.read_elsewhere import internal_error, not_found, read_elsewhere
from native_handlers.http.reply import close_chunks, empty_reply, text_error
from native_handlers.storage.errors import NotFound
from native_handlers.storage.files import NotCached
from native_handlers.storage.needle_read import NeedleRead

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from native_handlers.format.needle import Needle
    from native_handlers.http.chunk_manifest import ChunkManifest
    from native_handlers.http.content import Content
    from native_handlers.http.context import HttpContext
    from native_handlers.http.images_edit import ImageEdit
    from native_handlers.http.message import Request
    from native_handlers.storage.needle_read import PayloadSlice
    from native_handlers.storage.volume import Volume

log = logging.getLogger(__name__)

_INLINE_BYTES = 1 << 12
"""What is decompressed without a thread: even a bomb of this size costs only some milliseconds."""
MAX_CHUNKED_IMAGE_BYTES = 64 << 20
"""Of a file in chunks that is collected in memory to be edited as an image; a larger one is sent as it is."""


async def handle_read(context: HttpContext, request: Request) -> Response:
    """The object, some of it, or a status without a body."""
    path = parse_object_path(wire_path(request))
    try:
        volume_id = parse_volume_id(path.volume_id)
        needle_id, cookie = parse_needle_id_cookie(path.file_id)
    except BadFileId:
        return empty_reply(400)
    query = parse_query(request.raw_query)
    store, ec = context.store, context.ec_volumes
    volume = store.find_volume(volume_id) if store is not None else None
    try:
        if store is not None and volume is not None:
            is_reading_deleted = query.is_true("readDeleted")
            read = await _read(
                context,
                volume,
                partial(store.read_needle, volume_id, needle_id, cookie=cookie, read_deleted=is_reading_deleted),
            )
        elif ec is not None and ec.has_volume(volume_id):
            read = NeedleRead(await ec.read_needle(volume_id, needle_id, cookie))
        else:
            return await read_elsewhere(context, request, path, volume_id, query)
    except STORE_FAILURES as failure:
        return _failed(context, failure)
    try:
        response = await _respond(context, request, query, path, volume, read)
    except BaseException as failure:
        read.release()
        if not isinstance(failure, STORE_FAILURES):
            raise
        log.error("not sent: %s", failure)
        return _failed(context, failure)
    if isinstance(response.body, FileBody):
        response.close = read.release
    else:
        read.release()
    return response


async def _read(context: HttpContext, volume: Volume, read_needle: Callable[..., NeedleRead]) -> NeedleRead:
    """At once where memory holds the needle, else in a thread."""
    try:
        return read_needle(cached_only=True)
    except NotCached:
        return await context.disk_threads.run(volume, read_needle)


def _failed(context: HttpContext, failure: Exception) -> Response:
    if isinstance(failure, NotFound):
        context.metrics.count_read_invalid_needle()
    status = read_failure_status(failure)
    if status == 503:
        return text_error(status, str(failure))
    return not_found(context) if status == 404 else internal_error(context)


async def _respond(
    context: HttpContext, request: Request, query: Query, path: ObjectPath, volume: Volume | None, read: NeedleRead
) -> Response:
    needle, headers = read.needle, HeaderMap()
    if needle.last_modified_s:
        headers.set("Last-Modified", format_http_date(needle.last_modified_s))
        if is_not_modified_since(request.headers.get("If-Modified-Since"), needle.last_modified_s):
            return Response(304, headers.to_headers())
    if is_same_etag(request.headers.get("If-None-Match"), etag(needle)):
        return Response(304, headers.to_headers())
    headers.set("Etag", f'"{etag(needle)}"')
    _set_pairs(headers, needle)
    if needle.is_chunk_manifest and query.get("cm") != "false":
        manifest = await _manifest_of(needle)
        if manifest is not None:
            return await _send_chunks(context, request, query, path, headers, manifest)
    labels = labels_of(path.filename, needle.name, needle.mime)
    ext = path.ext or extension(labels.filename)
    edit = _edit_of(request, query, path, ext, read)
    if edit is not None:
        clear = await _clear_data(context, request, headers, needle, is_edited=wanted_edit(ext, query) is not None)
        edited = await _edited(context, read, clear, edit)
        return await send_content(request, query, headers, MemoryContent(edited), labels)
    if read.payload is None:
        content = MemoryContent(await _clear_data(context, request, headers, needle))
        return await send_content(request, query, headers, content, labels)
    assert volume is not None, "only a volume leaves payloads on disk"
    send = partial(send_content, request, query, headers, labels=labels)
    if request.method == "HEAD" or request.headers.get("Range"):
        return await send(_on_disk(context, volume, read.payload))
    return await _send_whole(context, volume, read, send)


async def _send_whole(
    context: HttpContext, volume: Volume, read: NeedleRead, send: Callable[[Content], Awaitable[Response]]
) -> Response:
    """The answer with a payload that was left on disk, its checksum compared: from memory where there is room, else
    straight from its file.

    Raises:
        Exception: one of STORE_FAILURES; the payload is damaged or cannot be read.
    """
    assert read.payload is not None
    buffer = context.payload_buffers.lend(read.payload.length_bytes)
    try:
        check = read.check_payload if buffer is None else partial(read.load_payload, buffer.view)
        await context.disk_threads.run(volume, check)
        content = _on_disk(context, volume, read.payload) if buffer is None else MemoryContent(buffer.view)
        response = await send(content)
    except BaseException:
        if buffer is not None:
            buffer.release()
        raise
    if buffer is not None:
        response.close = buffer.release
    return response


def _on_disk(context: HttpContext, volume: Volume, payload: PayloadSlice) -> FileContent:
    return FileContent(FileSlice(PayloadSource(payload, volume, context.disk_threads), 0, payload.length_bytes))


def _set_pairs(headers: HeaderMap, needle: Needle) -> None:
    """The headers that were stored with the file. Pairs that are not JSON are as good as none."""
    if not needle.has_pairs:
        return
    try:
        pairs = json.loads(needle.pairs)
    except (ValueError, RecursionError):
        return
    if isinstance(pairs, dict):
        for name, value in pairs.items():
            if isinstance(value, str):
                headers.set(name, value.encode("utf-8", "replace").decode("latin-1"))


def _edit_of(request: Request, query: Query, path: ObjectPath, ext: str, read: NeedleRead) -> ImageEdit | None:
    """What to do to the content as an image. A large one is only looked at as such if the URL names its extension."""
    if request.method == "HEAD" or (read.payload is not None and not path.ext):
        return None
    return wanted_edit(ext.lower(), query)


def _edited_image(data: bytes | memoryview, edit: ImageEdit) -> bytes | memoryview:
    from native_handlers.http.images import edit_image  # noqa: PLC0415  Pillow, which few servers ever need

    return edit_image(data, edit)


async def _edited(
    context: HttpContext, read: NeedleRead, clear: bytes | memoryview, edit: ImageEdit
) -> bytes | memoryview:
    """The content after `edit`. Raises one of STORE_FAILURES where it cannot be read whole and sound."""

    def work() -> bytes | memoryview:
        if read.payload is None:
            return _edited_image(clear, edit)
        data = memoryview(bytearray(read.payload.length_bytes))
        read.load_payload(data)
        return _edited_image(data, edit)

    return await trio.to_thread.run_sync(work, limiter=context.image_threads)


async def _clear_data(
    context: HttpContext, request: Request, headers: HeaderMap, needle: Needle, *, is_edited: bool = False
) -> bytes | memoryview:
    """The needle's data as this client can take it: as stored with Content-Encoding gzip, or decompressed.

    What cannot be decompressed is sent as it is. What would exceed the file size limit when decompressed is sent
    compressed and labelled so, whatever the client accepts: a small file must not cost any amount of memory. What is to
    be edited as an image is decompressed for everyone.
    """
    if not needle.is_compressed or not is_gzip(needle.data):
        return needle.data
    limit_bytes = context.settings.file_size_limit_bytes
    if not is_edited and "gzip" in (request.headers.get("Accept-Encoding") or ""):
        headers.set("Content-Encoding", "gzip")
        return needle.data
    try:
        if len(needle.data) <= _INLINE_BYTES:
            return decompress(needle.data, limit_bytes)
        return await trio.to_thread.run_sync(decompress, needle.data, limit_bytes)
    except TooMuchData:
        headers.set("Content-Encoding", "gzip")
        return needle.data
    except BadGzip:
        return needle.data


async def _manifest_of(needle: Needle) -> ChunkManifest | None:
    """The manifest, or None when the content is none; it is then sent like any other."""
    try:
        return await trio.to_thread.run_sync(load_manifest, needle)
    except BadManifest:
        return None


async def _send_chunks(
    context: HttpContext,
    request: Request,
    query: Query,
    path: ObjectPath,
    headers: HeaderMap,
    manifest: ChunkManifest,
) -> Response:
    headers.set("X-File-Store", "chunked")
    name, mime = manifest.name.encode("utf-8", "replace"), manifest.mime.encode("utf-8", "replace")
    labels = labels_of(path.filename, name, mime)
    edit = wanted_edit((path.ext or extension(labels.filename)).lower(), query)
    content = ChunkedContent(context, manifest, depth_of(request.headers))
    try:
        check_depth(content.depth)
        manifest.check_readable()
        if edit is not None and content.size_bytes <= MAX_CHUNKED_IMAGE_BYTES:
            edited = MemoryContent(await _edit_chunks(context, content, edit))
            return await send_content(request, query, headers, edited, labels)
        return await send_content(request, query, headers, content, labels)
    except (BadManifest, ChunkUnreadable) as failure:
        headers.drop("Content-Length")
        return text_error(500, str(failure), headers.to_headers())


async def _edit_chunks(context: HttpContext, content: ChunkedContent, edit: ImageEdit) -> bytes | memoryview:
    """All of `content` after `edit`. Waits before it collects, so that few are in memory. Raises ChunkUnreadable."""
    async with context.image_threads:
        opened = await content.open([ByteRange(0, content.size_bytes)])
        assert isinstance(opened.body, StreamBody)
        try:
            data = b"".join([some async for some in opened.body.chunks])
        finally:
            await close_chunks(opened.body.chunks)
        return await trio.to_thread.run_sync(_edited_image, data, edit)
