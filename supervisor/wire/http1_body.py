"""The writer of message bodies, for each kind of framing."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from supervisor.wire.errors import LocalProtocolError
from supervisor.wire.http1_chunks import encode_chunk

if TYPE_CHECKING:
    from native_handlers.http_model.headers import Headers


class Framing(Enum):
    """How the other end learns where a sent body ends."""

    NONE = "no body"
    LENGTH = "by its length"
    CHUNKED = "by its last chunk"
    CLOSE = "by the end of the connection"


class BodyWriter:
    """Encodes one body, and checks the body against what the head has promised.

    Attributes:
        framing: how the end of the body is marked.
        is_over: whether the end has been encoded.
    """

    __slots__ = ("_left", "framing", "is_over")

    def __init__(self, framing: Framing, length_bytes: int = 0, *, is_over: bool = False) -> None:
        """`is_over`: the whole body is sent together with its head."""
        self.framing = framing
        self._left = length_bytes
        self.is_over = is_over

    def data(self, data: bytes) -> bytes:
        """The bytes to send for `data`; the same object where nothing is added."""
        if self.framing is Framing.CHUNKED:
            return encode_chunk(data)
        self.passed(len(data))
        return data

    def passed(self, count: int) -> None:
        """Notes `count` bytes that are sent without passing through `data`.

        Raises:
            LocalProtocolError: more bytes than the head promised, or the framing is chunked. Nothing was noted.
        """
        if self.framing is Framing.CLOSE:
            return
        if self.framing is Framing.CHUNKED or count > self._left:
            raise LocalProtocolError(f"{count} bytes do not fit a body framed {self.framing.value}, {self._left} left")
        self._left -= count

    def end(self, trailers: Headers) -> bytes:
        """The bytes that end the body.

        Raises:
            LocalProtocolError: fewer bytes were sent than the head promised.
        """
        if self._left or self.is_over:
            raise LocalProtocolError(f"the body ends with {self._left} bytes of its promised length missing")
        self.is_over = True
        if self.framing is not Framing.CHUNKED:
            return b""
        block = "".join([f"{name}: {value}\r\n" for name, value in trailers])
        return b"0\r\n" + block.encode("latin-1") + b"\r\n"
