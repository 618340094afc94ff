"""The documents of a payload that arrives in pieces. Memory is one document's and one piece's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.query.lexing import (
    AFTER_NUMBER,
    AFTER_WORD,
    OPENING,
    QUOTE,
    QUOTE_OR_ESCAPE,
    VALUE_START,
    find,
    is_word,
    next_bracket_or_quote,
    usual_end,
)

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

MAX_DOCUMENT_BYTES = 64 << 20
_CONTAINERS = frozenset(b"{[")
_N = ord("n")


class DocumentTooLong(ValueError):
    """A document is longer than the memory bound. `start_bytes` is its beginning in the payload."""

    def __init__(self, start_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"the JSON document at byte {start_bytes} is longer than {limit_bytes} bytes")
        self.start_bytes, self.limit_bytes = start_bytes, limit_bytes


class Documents:
    """Splits a payload into its JSON values, which may stand on one line or on several.

    Call `feed` with the pieces in order, then `finish`. Bytes that begin no value are skipped. An object, list, number
    or word without an end is still a document; a string without an end is none. Source: gjson's ForEachLine, which
    upstream's Query splits by: its "lines" are values.

    Args:
        max_bytes: the greatest length of one document.
    """

    def __init__(self, max_bytes: int = MAX_DOCUMENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._text = bytearray()
        self._passed_bytes = 0
        """Bytes of the payload before those in `_text`."""
        self._start: int | None = None
        """The beginning of the open document in `_text`."""
        self._at = self._depth = 0
        self._in_string = False
        self._until: re.Pattern[bytes] | None = None
        """Matches the end of the number or word that is the open document."""

    def feed(self, piece: bytes | memoryview) -> Iterator[bytes]:
        """Yields the documents that end in `piece`, or with the byte before it.

        Raises:
            DocumentTooLong: the object cannot be used afterwards.
        """
        self._text += piece
        while self._step():
            if self._start is not None and not (self._depth or self._in_string or self._until):
                document = self._open_document(self._start)
                self._start = None
                yield document
        self._forget_passed()
        if self._start is not None and len(self._text) > self._max_bytes:
            raise DocumentTooLong(self._passed_bytes, self._max_bytes)

    def finish(self) -> Iterator[bytes]:
        """Yields the last document where it has no end of its own."""
        if self._start is not None and (self._depth or not self._in_string):
            self._at = len(self._text)
            yield self._open_document(self._start)
        self._text.clear()
        self._start = None

    def _open_document(self, start: int) -> bytes:
        return bytes(memoryview(self._text)[start : self._at])

    def _forget_passed(self) -> None:
        passed = self._at if self._start is None else self._start
        del self._text[:passed]
        self._passed_bytes += passed
        self._at -= passed
        self._start = None if self._start is None else 0

    def _step(self) -> bool:
        """Moves past the next byte that matters. Returns False where more bytes must arrive first."""
        if self._in_string:
            return self._step_in_string()
        if self._until is not None:
            return self._step_in_scalar(self._until)
        if self._start is not None:
            return self._step_in_container()
        return self._step_between()

    def _go_to(self, pattern: re.Pattern[bytes]) -> bool:
        return self._is_at(find(pattern, self._text, self._at))

    def _is_at(self, found: int) -> bool:
        self._at = len(self._text) if found < 0 else found
        return found >= 0

    def _step_in_string(self) -> bool:
        if not self._go_to(QUOTE_OR_ESCAPE):
            return False
        if self._text[self._at] == QUOTE:
            self._in_string = False
            self._at += 1
            return True
        if self._at + 1 == len(self._text):
            # The escaped byte is in the next piece.
            return False
        self._at += 2
        return True

    def _step_in_scalar(self, until: re.Pattern[bytes]) -> bool:
        if not self._go_to(until):
            return False
        self._until = None
        return True

    def _step_in_container(self) -> bool:
        if not self._is_at(next_bracket_or_quote(self._text, self._at)):
            return False
        byte = self._text[self._at]
        self._at += 1
        if byte == QUOTE:
            self._in_string = True
        else:
            self._depth += 1 if byte in OPENING else -1
        return True

    def _step_between(self) -> bool:
        if not self._go_to(VALUE_START):
            return False
        byte = self._text[self._at]
        if byte == _N and self._at + 1 == len(self._text):
            # The next byte tells whether a number begins here.
            return False
        self._start = self._at
        if byte in _CONTAINERS:
            if (end := usual_end(self._text, self._at)) >= 0:
                self._at = end
                return True
            self._depth = 1
        elif byte == QUOTE:
            self._in_string = True
        else:
            self._until = AFTER_WORD if is_word(self._text, self._at) else AFTER_NUMBER
        self._at += 1
        return True
