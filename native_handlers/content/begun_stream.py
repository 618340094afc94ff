"""A stream whose first piece has been read ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class BegunStream:
    """The whole stream: the piece that was read ahead, then `rest`. No piece is kept after it was given out.

    This is a class and no async generator: an async generator that is closed before its first piece was asked for does
    not run its clean-up. `rest` would then stay open where a client goes before the answer begins.
    """

    __slots__ = ("_first", "_rest")

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None]) -> None:
        self._first = first
        self._rest = rest

    def __aiter__(self) -> BegunStream:
        return self

    async def __anext__(self) -> bytes:
        first, self._first = self._first, b""
        return first or await anext(self._rest)

    async def aclose(self) -> None:
        """Closes the stream without reading the rest."""
        await self._rest.aclose()


async def begin(stream: AsyncGenerator[bytes, None]) -> tuple[bytes, BegunStream]:
    """Reads the first piece of `stream` and returns it (b"" for an empty stream) with the whole stream. Closes `stream`
    on failure.

    Raises:
        Exception: the error of the stream.
    """
    try:
        first = await anext(stream, b"")
    except BaseException:
        await stream.aclose()
        raise
    return first, BegunStream(first, stream)
