"""HTTP header lists as they were sent: order, repetition and case kept; looked up without regard to case."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Headers:
    """An immutable list of (name, value) pairs, both latin-1 text, in wire order with the sender's case.

    Latin-1 maps every byte to one character, so what was received can be sent on unchanged.
    """

    __slots__ = ("_lower", "_pairs")

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs = tuple(pairs)
        self._lower = tuple(name.lower() for name, _ in self._pairs)

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value under `name`, or `default`."""
        wanted = name.lower()
        for index, lower in enumerate(self._lower):
            if lower == wanted:
                return self._pairs[index][1]
        return default

    def get_all(self, name: str) -> list[str]:
        """Every value under `name`, in wire order; empty when there is none."""
        wanted = name.lower()
        return [pair[1] for pair, lower in zip(self._pairs, self._lower, strict=True) if lower == wanted]

    def without(self, names: Iterable[str]) -> Headers:
        """A copy that lacks every header in `names`."""
        dropped = {name.lower() for name in names}
        return Headers(pair for pair, low in zip(self._pairs, self._lower, strict=True) if low not in dropped)

    def plus(self, *pairs: tuple[str, str]) -> Headers:
        """A copy with `pairs` appended."""
        return Headers((*self._pairs, *pairs))

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._lower

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._pairs == other._pairs

    def __hash__(self) -> int:
        return hash(self._pairs)

    def __repr__(self) -> str:
        return f"Headers({list(self._pairs)!r})"
