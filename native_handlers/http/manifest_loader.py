"""Parses the manifests of needles and keeps them for the next request, while there is room.

Clients often ask for one range of a large file after the other, and each request needs the manifest.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.content.kept_results import KeptResults, record_key
from native_handlers.http.chunk_manifest import MAX_MANIFEST_BYTES, ChunkManifest, length_of, load_manifest
from native_handlers.http_model.errors import BadManifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from native_handlers.format.needle import Needle
    from native_handlers.runtime.content_threads import ContentThreads

KEPT_BYTES = 32 << 20
"""Memory for all kept manifests together, roughly: the longest possible one, or thousands of usual ones."""
_NO_MANIFEST_BYTES = 512
_INLINE_BYTES = 8 << 10
"""Manifests up to this length are parsed each time: even an unusual one takes a few milliseconds."""
AT_ONCE = ((64 << 10, 64), (1 << 20, 8), (MAX_MANIFEST_BYTES, 2))
"""(length in bytes, how many manifests up to that length are parsed at the same time). Each takes up to ten times its
length during parsing: 40 MiB for the first row, 80 and 320 for the others. A short manifest never waits for a long one.
"""


class ManifestLoader:
    """Parses manifests and keeps them. For the tasks of one event loop."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept: KeptResults[ChunkManifest | BadManifest] = KeptResults(kept_bytes, _memory_of)
        self._room = [(length, trio.Semaphore(count)) for length, count in AT_ONCE]

    async def load(self, threads: ContentThreads, volume_id: int, needle: Needle) -> ChunkManifest:
        """The manifest in the content of `needle`, which was read from the volume.

        Raises:
            BadManifest: the content is no manifest, see `load_manifest`.
        Cancellation: as of a job of `threads`, or at once while the manifest waits for its turn.
        """
        if not needle.is_compressed and len(needle.data) <= _INLINE_BYTES:
            return await threads.run(load_manifest(needle))
        found = await self._kept.get(record_key(volume_id, needle), partial(self._read, threads, needle))
        if isinstance(found, BadManifest):
            raise BadManifest(*found.args)
        return found

    async def _read(self, threads: ContentThreads, needle: Needle) -> ChunkManifest | BadManifest:
        length = await threads.run(length_of(needle))
        if length > MAX_MANIFEST_BYTES:
            return BadManifest(f"it is longer than the {MAX_MANIFEST_BYTES} bytes of the longest one")
        async with self._turn(length):
            try:
                return await threads.run(load_manifest(needle))
            except BadManifest as failure:
                return BadManifest(*failure.args)

    @asynccontextmanager
    async def _turn(self, length: int) -> AsyncIterator[None]:
        """Reserves memory for a manifest of this length inside the block."""
        async with next(room for most_bytes, room in self._room if length <= most_bytes):
            yield


def _memory_of(found: ChunkManifest | BadManifest) -> int:
    return found.memory_bytes if isinstance(found, ChunkManifest) else _NO_MANIFEST_BYTES
