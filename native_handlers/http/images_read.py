"""Reads of edited images. The file is loaded or decompressed when its turn comes, and edited in a thread.

Source: weed/server/volume_server_handlers_read.go conditionallyCropImages, conditionallyResizeImages.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from native_handlers.content.gzip_data import BadGzip, TooMuchData, is_gzip, measure
from native_handlers.http.reply import close_chunks
from native_handlers.http_model.message import StreamBody
from native_handlers.http_model.ranges import ByteRange
from native_handlers.storage.system.buffer_pool import fresh_memory

if TYPE_CHECKING:
    from native_handlers.content.images_edit import ImageEdit
    from native_handlers.http.chunk_read import ChunkedContent
    from native_handlers.http.context import HttpContext
    from native_handlers.storage.volume.record_reader import NeedleRead
    from native_handlers.storage.volume.volume import Volume

MAX_COLLECTED_BYTES = 64 << 20
"""Bytes of a file in chunks, or of compressed content, that are collected in memory for an edit. A larger file is sent
unchanged."""


async def edited_needle(
    context: HttpContext, volume: Volume | None, read: NeedleRead, edit: ImageEdit, *, is_unpacked: bool
) -> bytes | memoryview | None:
    """The content after `edit`, decompressed first where `is_unpacked`. None where the content is too large or the edit
    changes nothing: then the caller sends the content as usual, without holding it in memory.

    Raises:
        Exception: one of STORE_FAILURES; the content cannot be read whole and sound.
    """
    async with context.image_threads.turn():
        data = await _loaded(context, volume, read, is_unpacked=is_unpacked)
        return None if data is None else await context.image_threads.run(partial(_edited_image, data, edit))


async def edited_chunks(context: HttpContext, content: ChunkedContent, edit: ImageEdit) -> bytes | memoryview | None:
    """All of `content` after `edit`; None as from `edited_needle`. Raises as `content.open`."""
    if content.size_bytes > MAX_COLLECTED_BYTES:
        return None
    async with context.image_threads.turn():
        opened = await content.open([ByteRange(0, content.size_bytes)])
        assert isinstance(opened.body, StreamBody)
        try:
            data = b"".join([some async for some in opened.body.chunks])
        finally:
            await close_chunks(opened.body.chunks)
        return await context.image_threads.run(partial(_edited_image, data, edit))


async def _loaded(
    context: HttpContext, volume: Volume | None, read: NeedleRead, *, is_unpacked: bool
) -> bytes | memoryview | None:
    data = read.needle.data
    if read.payload is not None:
        assert volume is not None, "only a volume leaves payloads on disk"
        if is_unpacked and read.payload.length_bytes > MAX_COLLECTED_BYTES:
            return None
        data = await context.disk_threads.run(volume, partial(_payload_of, read))
    if not is_unpacked or not is_gzip(data):
        return data
    limit_bytes = context.settings.file_size_limit_bytes
    try:
        facts = await context.content_threads.run(measure(data, limit_bytes, keep_bytes=MAX_COLLECTED_BYTES))
    except TooMuchData:
        return None
    except BadGzip:
        return data
    return facts.data


def _payload_of(read: NeedleRead) -> memoryview:
    assert read.payload is not None
    data = fresh_memory(read.payload.length_bytes)
    read.load_payload(data)
    return data


def _edited_image(data: bytes | memoryview, edit: ImageEdit) -> bytes | memoryview | None:
    from native_handlers.content.images import edit_image  # noqa: PLC0415  Pillow, which few servers ever need

    edited = edit_image(data, edit)
    return None if edited is data else edited
