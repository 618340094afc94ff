"""The messages between the parent and a worker, as bytes: a length in four bytes, then JSON. Pure.

A message is a call (`{"call": NUMBER, "kind": KIND, "body": {...}}`), or the answer to a call
(`{"answer": NUMBER, "body": {...}}`, `{"answer": NUMBER, "refusal": TEXT}`). docs/workers.md lists the kinds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOCOL_VERSION = 2
"""Both ends must have the same: a worker that was started from changed files refuses its settings."""

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""The longest message. The counts of a worker take some kilobytes; a white list may have many entries."""
_LENGTH_BYTES = 4

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
JsonObject = Mapping[str, JsonValue]


class BadControlMessage(Exception):
    """The other end has sent something that is no message, or a message lacks a field. The channel is unusable."""


@dataclass(frozen=True, slots=True)
class ControlCall:
    """Asks the other end to do something. The answer has the same `number`."""

    number: int
    kind: str
    body: Fields


@dataclass(frozen=True, slots=True)
class ControlAnswer:
    """The answer to a call. `refusal` is "" where the call was carried out."""

    number: int
    body: Fields
    refusal: str = ""


class Fields:
    """The fields of a JSON object, by type.

    Each method raises BadControlMessage where the field is absent or has another type.
    """

    def __init__(self, data: JsonObject) -> None:
        self._data = data

    def text(self, name: str) -> str:
        value = self._data.get(name)
        if not isinstance(value, str):
            raise BadControlMessage(f"{name!r} is no text")
        return value

    def text_or_none(self, name: str) -> str | None:
        return None if self.is_none(name) else self.text(name)

    def integer(self, name: str) -> int:
        value = self._data.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadControlMessage(f"{name!r} is no integer")
        return value

    def number(self, name: str) -> float:
        value = self._data.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise BadControlMessage(f"{name!r} is no number")
        return value

    def boolean(self, name: str) -> bool:
        value = self._data.get(name)
        if not isinstance(value, bool):
            raise BadControlMessage(f"{name!r} is neither true nor false")
        return value

    def object(self, name: str) -> Fields:
        value = self._data.get(name)
        if not isinstance(value, Mapping):
            raise BadControlMessage(f"{name!r} is no object")
        return Fields(value)

    def items(self, name: str) -> list[JsonValue]:
        value = self._data.get(name)
        if not isinstance(value, list):
            raise BadControlMessage(f"{name!r} is no list")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        items = self.items(name)
        texts = tuple(item for item in items if isinstance(item, str))
        if len(texts) != len(items):
            raise BadControlMessage(f"{name!r} has an entry that is no text")
        return texts

    def integers(self, name: str) -> tuple[int, ...]:
        items = self.items(name)
        numbers = tuple(item for item in items if isinstance(item, int) and not isinstance(item, bool))
        if len(numbers) != len(items):
            raise BadControlMessage(f"{name!r} has an entry that is no integer")
        return numbers

    def objects(self, name: str) -> list[Fields]:
        items = self.items(name)
        found = [Fields(item) for item in items if isinstance(item, Mapping)]
        if len(found) != len(items):
            raise BadControlMessage(f"{name!r} has an entry that is no object")
        return found

    def names(self) -> list[str]:
        """The names of all fields."""
        return list(self._data)

    def is_none(self, name: str) -> bool:
        """Whether the field is there and is null."""
        return name in self._data and self._data[name] is None


NOTHING = Fields({})


def encode_call(number: int, kind: str, body: JsonObject) -> bytes:
    """The bytes of a call. Raises ValueError for a body that is too long."""
    return _frame({"call": number, "kind": kind, "body": body})


def encode_answer(number: int, body: JsonObject) -> bytes:
    """The bytes of the answer to a call that was carried out. Raises ValueError for a body that is too long."""
    return _frame({"answer": number, "body": body})


def encode_refusal(number: int, text: str) -> bytes:
    """The bytes of the answer to a call that was not carried out."""
    return _frame({"answer": number, "refusal": text})


def _frame(message: JsonObject) -> bytes:
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {len(data)} bytes; {MAX_MESSAGE_BYTES} are the most")
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


class MessageReader:
    """Makes messages out of the bytes that arrive."""

    def __init__(self) -> None:
        self._pending = bytearray()

    @property
    def has_part(self) -> bool:
        """Whether a message has arrived in part."""
        return bool(self._pending)

    def feed(self, data: bytes) -> Iterator[ControlCall | ControlAnswer]:
        """Yields each message that `data` completes.

        Raises:
            BadControlMessage: the bytes are no message.
        """
        self._pending += data
        while len(self._pending) >= _LENGTH_BYTES:
            length = int.from_bytes(self._pending[:_LENGTH_BYTES], "big")
            if length > MAX_MESSAGE_BYTES:
                raise BadControlMessage(f"a message of {length} bytes; {MAX_MESSAGE_BYTES} are the most")
            end = _LENGTH_BYTES + length
            if len(self._pending) < end:
                return
            content = bytes(self._pending[_LENGTH_BYTES:end])
            del self._pending[:end]
            yield _decode(content)


def _decode(content: bytes) -> ControlCall | ControlAnswer:
    try:
        data = json.loads(content)
    except ValueError as error:
        raise BadControlMessage(f"no JSON: {error}") from error
    if not isinstance(data, dict):
        raise BadControlMessage("no object")
    fields = Fields(data)
    if "call" in data:
        return ControlCall(fields.integer("call"), fields.text("kind"), fields.object("body"))
    number = fields.integer("answer")
    if "refusal" in data:
        return ControlAnswer(number, NOTHING, fields.text("refusal") or "refused")
    return ControlAnswer(number, fields.object("body"))
