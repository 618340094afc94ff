"""GET and HEAD of an object. Source: weed/server/volume_server_handlers_read.go GetOrHeadHandler."""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import TYPE_CHECKING

from native_handlers.content.gzip_data import BadGzip, TooMuchData
from native_handlers.content.images_edit import wanted_edit
from native_handlers.format.needle import FLAG_IS_CHUNK_MANIFEST, FLAG_IS_COMPRESSED, etag
from native_handlers.http.chunk_manifest import Visit, check_depth, depth_of
from native_handlers.http.chunk_read import ChunkedContent, ChunkUnreadable, PayloadContent
from native_handlers.http.clear_content import begins_as_gzip
from native_handlers.http.client_watch import CLIENT_GONE, ClientGone, unless_gone
from native_handlers.http.disk_threads import PayloadSource
from native_handlers.http.failures import STORE_FAILURES, read_failure_status
from native_handlers.http.holders import HOLDER_HEADER, YES, requires_holder
from native_handlers.http.images_read import edited_chunks, edited_needle
from native_handlers.http.read_elsewhere import internal_error, not_found, read_elsewhere
from native_handlers.http.reply import empty_reply, text_error, with_fields
from native_handlers.http.send_content import FileContent, MemoryContent, labels_of, send_content
from native_handlers.http.tokens import token_of
from native_handlers.http_model.conditional import format_http_date, is_not_modified_since, is_same_etag
from native_handlers.http_model.errors import BadManifest
from native_handlers.http_model.headers import HeaderMap, canonical_name
from native_handlers.http_model.message import FileBody, FileSlice, Response, StreamBody
from native_handlers.http_model.query import NO_QUERY, Query
from native_handlers.http_model.target import ObjectPath, extension
from native_handlers.storage.model.errors import CookieMismatch, Deleted, NotFound, VolumeClosed, VolumeNotFound
from native_handlers.storage.system.files import NotCached
from native_handlers.storage.volume.record_reader import NeedleRead

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from native_handlers.content.images_edit import ImageEdit
    from native_handlers.format.needle import Needle
    from native_handlers.http.chunk_manifest import ChunkManifest
    from native_handlers.http.context import HttpContext
    from native_handlers.http.send_content import Content
    from native_handlers.http_model.message import Request
    from native_handlers.runtime.content_threads import Job
    from native_handlers.storage.store import Store
    from native_handlers.storage.volume.record_reader import PayloadSlice
    from native_handlers.storage.volume.volume import Volume

log = logging.getLogger(__name__)

_NO_SUCH_NEEDLE = (NotFound, Deleted, CookieMismatch)
_SHORT_BYTES = 4096
"""Packed data of at most this size holds at most 4 MiB: some milliseconds of work, so the client is not watched."""
_LOOKS = 4
"""How often a read looks a volume up that disappears during the read: as a volume, as shards, and again."""
_SHORT_PAIRS_BYTES = 2048
"""Stored pairs up to this length are read on the event loop: 300 fields at most, half a millisecond of work. Uploads
store 256 fields at most, but `WriteNeedleBlob` stores any pairs."""
_STEP_FIELDS = 128
_FRAMING = frozenset({"Connection", "Content-Length", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade"})


async def handle_read(context: HttpContext, request: Request) -> Response:
    """The object, a part of it, or a status without a body."""
    target, query = request.parsed, request.parsed.query if request.parsed.raw_query else NO_QUERY
    path, volume_id = target.object, target.volume_id
    if volume_id is None or target.needle is None:
        return empty_reply(400)
    store = context.store
    if store is not None and volume_id in store.settling.volume_ids:
        await context.settled.wait(store.settling, volume_id)
    try:
        found = await _read_here(context, volume_id, target.needle, query)
    except STORE_FAILURES as failure:
        response = _failed(context, failure)
        if isinstance(failure, _NO_SUCH_NEEDLE) and requires_holder(request.headers):
            return with_fields(response, (HOLDER_HEADER, YES))
        return response
    if found is None:
        return await read_elsewhere(context, request, path, volume_id, query)
    volume, read = found
    try:
        response = await _respond(context, request, query, path, volume, read)
    except BaseException as failure:
        read.release()
        if isinstance(failure, ClientGone):
            return empty_reply(CLIENT_GONE)
        if not isinstance(failure, STORE_FAILURES):
            raise
        log.error("not sent: %s", failure)
        return _failed(context, failure)
    return _released_with(response, read)


def _takes_gzip(request: Request) -> bool:
    """Whether the client takes compressed content; as upstream, wherever the word stands in the field."""
    return "gzip" in (request.headers.get("Accept-Encoding") or "")


def _released_with(response: Response, read: NeedleRead) -> Response:
    """`response`. `read` is released now, or with the response where that sends from the file."""
    if read.payload is not None and isinstance(response.body, (FileBody, StreamBody)):
        response.close = read.release
    else:
        read.release()
    return response


_NAMES_AS_STORED = frozenset({"readDeleted", "jwt"})
"""The names in a query that change nothing about how a needle is sent."""


async def try_read_as_stored(context: HttpContext, request: Request) -> Response | None:
    """The answer that `handle_read` gives for a needle that is sent as it is stored, out of `context.open_volumes`.

    None leaves the request to the process that has the store: all failures, absent needles, manifests, edited images,
    and compressed data for a client that does not take it. Then nothing is held.
    """
    target, volumes = request.parsed, context.open_volumes
    query, volume_id = target.query if target.raw_query else NO_QUERY, target.volume_id
    if (
        volumes is None
        or volume_id is None
        or target.needle is None
        or not {name for name, _ in query.pairs} <= _NAMES_AS_STORED
    ):
        return None
    volume = volumes.find_volume(volume_id)
    if volume is None or volume_id in volumes.settling.volume_ids:
        return None
    try:
        read = await _read_from(context, volume, target.needle, query)
    except STORE_FAILURES:
        return None
    try:
        needle = read.needle
        takes_stored = not needle.is_compressed or _takes_gzip(request)
        if not takes_stored or needle.is_chunk_manifest:
            read.release()
            return None
        response = await _respond(context, request, query, target.object, volume, read)
    except BaseException as failure:
        read.release()
        if isinstance(failure, ClientGone):
            return empty_reply(CLIENT_GONE)
        if not isinstance(failure, STORE_FAILURES):
            raise
        return None
    return _released_with(response, read)


async def _read_here(
    context: HttpContext, volume_id: int, needle: tuple[int, int], query: Query
) -> tuple[Volume | None, NeedleRead] | None:
    """The needle and its volume, or the needle alone from the volume's shards; None when this server has neither form.

    Encoding and decoding change a volume from one form to the other, and both forms exist for a while. When one form
    disappears during a read, as at the end of a move, the read looks the other form up.

    Raises:
        Exception: one of STORE_FAILURES.
    """
    store, ec = context.store, context.ec_volumes
    for _ in range(_LOOKS):
        volume = store.find_volume(volume_id) if store is not None else None
        if volume is not None and volume.is_closed:
            volume = None
        coded = ec.find(volume_id) if ec is not None and volume is None else None
        try:
            if store is not None and volume is not None:
                return await _read_held(context, store, volume, needle, query)
            if ec is not None and coded is not None:
                return None, NeedleRead(await ec.read_needle(coded, *needle))
        except (VolumeNotFound, VolumeClosed):
            continue
        except STORE_FAILURES:
            # Shards that were closed during the read are elsewhere, or the volume was decoded elsewhere.
            are_gone = volume is None and ec is not None and ec.find(volume_id) is None
            if not are_gone and (volume is not None or store is None or store.find_volume(volume_id) is None):
                raise
        # A volume that was decoded between the two look-ups above was found by neither.
        if store is None or store.find_volume(volume_id) is None:
            return None
    return None


async def _read_held(
    context: HttpContext, store: Store, volume: Volume, needle: tuple[int, int], query: Query
) -> tuple[Volume, NeedleRead]:
    """Reads a needle (id and cookie) and returns it with its volume.

    Raises:
        VolumeNotFound, VolumeClosed: the volume went meanwhile.
        Exception: one of STORE_FAILURES.
    """
    while True:
        try:
            read = await _read_from(context, volume, needle, query)
        except NotFound:
            # A closed volume has no needles, and another volume may have taken its place.
            present = store.get_volume(volume.id)
            if present is volume:
                if volume.is_closed:
                    # It is being deleted, and is forgotten next.
                    raise VolumeClosed(volume.id) from None
                raise
            volume = present
        else:
            return volume, read


async def _read_from(context: HttpContext, volume: Volume, needle: tuple[int, int], query: Query) -> NeedleRead:
    """Reads a needle (id and cookie): on the event loop where memory holds the needle, else in a thread.

    Raises:
        Exception: one of STORE_FAILURES.
    """
    needle_id, cookie = needle
    deleted_too, wants_data = False, True
    if query.pairs:
        deleted_too, wants_data = query.is_true("readDeleted"), query.get("cm") != "false"
    try:
        return volume.read(needle_id, cookie=cookie, read_deleted=deleted_too, data=wants_data, cached_only=True)
    except NotCached:
        work = partial(volume.read, needle_id, cookie=cookie, read_deleted=deleted_too, data=wants_data)
        return await context.disk_threads.run(volume, work)


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
    if read.payload is not None and needle.is_compressed:
        # The checksum is compared before any header is set, as for a needle that is read whole.
        assert volume is not None, "only a volume leaves payloads on disk"
        needle.checksum = await context.disk_threads.run(volume, read.check_payload)
    if _is_known(headers, request, needle):
        return Response(304, headers)
    if needle.pairs and needle.has_pairs:
        is_long = len(needle.pairs) > _SHORT_PAIRS_BYTES
        headers.fields.update(await context.content_threads.run(_stored_fields(needle.pairs), is_long=is_long))
    flags = needle.flags
    if flags & FLAG_IS_CHUNK_MANIFEST and query.get("cm") != "false":
        manifest = await _manifest_of(context, request, needle)
        if manifest is not None:
            return await _send_chunks(context, request, query, path, headers, manifest)
        read.leave_on_disk()
    labels = labels_of(path.filename, needle.name, needle.mime)
    send = partial(send_content, request, query, headers, labels=labels)
    if not query.pairs and not flags & FLAG_IS_COMPRESSED and read.payload is None:
        # Nothing in the request changes the content.
        return await send(MemoryContent(needle.data))
    ext = path.ext or extension(labels.filename)
    edit = _edit_of(request, query, path, ext, read)
    is_edited = edit is not None and wanted_edit(ext, query) is not None
    takes_gzip = not is_edited and _takes_gzip(request)
    if edit is not None:
        is_unpacked = needle.is_compressed and not takes_gzip
        make = partial(edited_needle, context, volume, read, edit, is_unpacked=is_unpacked)
        edited = await unless_gone(request.body, make)
        if edited is not None:
            return await send(MemoryContent(edited))
    if needle.is_compressed:
        load = partial(_packed_content, context, request, headers, volume, read, takes_gzip=takes_gzip)
        return await _send_packed(request, needle, send, load)
    if read.payload is None:
        return await send(MemoryContent(needle.data))
    assert volume is not None, "only a volume leaves payloads on disk"
    if request.method == "HEAD" or request.headers.get("Range"):
        return await send(_on_disk(context, volume, read.payload))
    return await _send_whole(context, volume, read, send)


def _is_known(headers: HeaderMap, request: Request, needle: Needle) -> bool:
    """Whether the client has the needle already. Sets the headers Last-Modified and Etag, from which clients tell
    versions apart.
    """
    fields, asked = headers.fields, request.headers
    if needle.last_modified_s:
        fields["Last-Modified"] = format_http_date(needle.last_modified_s)
        if "if-modified-since" in asked.lower_names and is_not_modified_since(
            asked.get("If-Modified-Since"), needle.last_modified_s
        ):
            return True
    if "if-none-match" in asked.lower_names and is_same_etag(asked.get("If-None-Match"), etag(needle)):
        return True
    fields["Etag"] = f'"{needle.checksum:08x}"'
    return False


async def _send_whole(
    context: HttpContext, volume: Volume, read: NeedleRead, send: Callable[[Content], Awaitable[Response]]
) -> Response:
    """The answer with a payload on disk, after its checksum was compared: from memory where there is room, else
    directly from its file. What a tier sends and memory has no room for is compared while it is sent.

    Raises:
        Exception: one of STORE_FAILURES; the payload is damaged or cannot be read.
    """
    assert read.payload is not None
    buffer = context.payload_buffers.acquire(read.payload.length_bytes)
    if buffer is None and volume.is_tiered:
        return await send(PayloadContent(context, volume, read, read.payload))
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


def _stored_fields(pairs: bytes) -> Job[dict[str, str]]:
    """The headers that were stored with the file, sorted by name. Pairs that are not JSON are ignored.

    Fields that frame the answer, or concern the connection, are left out, because the server sets them. Upstream sends
    them, and breaks the connection off where one contradicts the body.
    """
    if len(pairs) > _SHORT_PAIRS_BYTES:
        yield
    try:
        found = json.loads(pairs)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    stored = HeaderMap()
    for number, (name, value) in enumerate(found.items(), 1):
        if isinstance(value, str) and canonical_name(name) not in _FRAMING:
            stored.set(name, value.encode("utf-8", "replace").decode("latin-1"))
        if number % _STEP_FIELDS == 0:
            yield
    return dict(sorted(stored))


def _edit_of(request: Request, query: Query, path: ObjectPath, ext: str, read: NeedleRead) -> ImageEdit | None:
    """The image edit that the request asks for. A large file is treated as an image only if the URL names its extension
    or the file is compressed.
    """
    is_streamed = read.payload is not None and not read.needle.is_compressed
    if request.method == "HEAD" or (is_streamed and not path.ext):
        return None
    return wanted_edit(ext.lower(), query)


def _may_take_long(needle: Needle) -> bool:
    return needle.data_size > _SHORT_BYTES and (needle.is_compressed or needle.is_chunk_manifest)


async def _send_packed(
    request: Request,
    needle: Needle,
    send: Callable[[Content], Awaitable[Response]],
    load: Callable[[], Awaitable[Content]],
) -> Response:
    """The answer with the content of `load`. The work is cancelled when the client goes, where it may take long."""

    async def answer() -> Response:
        return await send(await load())

    return await (unless_gone(request.body, answer) if _may_take_long(needle) else answer())


async def _packed_content(
    context: HttpContext,
    request: Request,
    headers: HeaderMap,
    volume: Volume | None,
    read: NeedleRead,
    *,
    takes_gzip: bool,
) -> Content:
    """The compressed data in a form that this client accepts: as stored with Content-Encoding gzip, or decompressed.

    Data that cannot be decompressed is sent as stored. Content that would exceed the file size limit is sent compressed
    and labelled so, regardless of what the client accepts: a small file must not cost unlimited time.
    """
    stored = _stored_content(context, volume, read)
    packed = stored.whole if isinstance(stored, FileContent) else stored.data
    if not await begins_as_gzip(packed):
        return stored
    if not takes_gzip:
        try:
            clear = await context.clear_contents.open(
                context.content_threads,
                request.parsed.volume_id or 0,
                read.needle,
                context.settings.file_size_limit_bytes,
                packed,
            )
        except TooMuchData:
            pass
        except BadGzip:
            return stored
        else:
            return clear if clear.kept is None else MemoryContent(clear.kept)
    headers.set("Content-Encoding", "gzip")
    return stored


def _stored_content(context: HttpContext, volume: Volume | None, read: NeedleRead) -> FileContent | MemoryContent:
    if read.payload is None:
        return MemoryContent(read.needle.data)
    assert volume is not None, "only a volume leaves payloads on disk"
    return _on_disk(context, volume, read.payload)


async def _manifest_of(context: HttpContext, request: Request, needle: Needle) -> ChunkManifest | None:
    """The manifest, or None when the content is no manifest; it is then sent as a plain file."""
    try:
        load = partial(context.manifests.load, context.content_threads, request.parsed.volume_id or 0, needle)
        return await (unless_gone(request.body, load) if _may_take_long(needle) else load())
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
    visit = Visit(depth_of(request.headers), token_of(request), context.token_scope.readable(request))
    content = ChunkedContent(context, manifest, visit)
    try:
        check_depth(visit.depth)
        edited = None if edit is None else await edited_chunks(context, content, edit)
        if edited is not None:
            return await send_content(request, query, headers, MemoryContent(edited), labels)
        return await send_content(request, query, headers, content, labels)
    except (BadManifest, ChunkUnreadable) as failure:
        return text_error(500, str(failure), headers)
