"""Checksums of needle payloads: CRC-32C as stored, and the form that old servers stored.

The CRC-32C of two strings one behind the other is that of the first, moved by the length of the second, XOR that of the
second. To move a checksum is to multiply it, as a polynomial over GF(2), by a power of x.

Source: weed/storage/needle/crc.go.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import google_crc32c

from native_handlers.arrays import np
from native_handlers.format.types import UINT32_MASK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_COPIED_BYTES = 32 * 1024
"""Up to this length a copy takes no longer than an array over the view."""
_STEP_BYTES = 256 * 1024
"""Some forty microseconds of work."""
_LEGACY_ADDEND = 0xA282EAD8
_POLYNOMIAL = 0x82F63B78
_ONE = 1 << 31
"""The polynomial 1: the highest bit is that of x to the power of 0."""


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C (Castagnoli) of `data`."""
    return crc32c_extend(0, data)


def crc32c_extend(crc: int, data: bytes | memoryview) -> int:
    """The CRC-32C of the bytes whose CRC-32C is `crc`, followed by `data`. Start with 0."""
    if len(data) <= _COPIED_BYTES:
        return int(google_crc32c.extend(crc, bytes(data)))
    if isinstance(data, bytes):
        return int(google_crc32c.extend(crc, data))
    # The C routine takes no view, because the view's memory might go away. It takes an array over the view, which keeps
    # the memory. It gives the interpreter to other threads for bytes alone, so an array goes in steps.
    array = np.frombuffer(data, np.uint8)
    for start in range(0, len(array), _STEP_BYTES):
        crc = int(google_crc32c.extend(crc, array[start : start + _STEP_BYTES]))
    return crc


def crc32c_of_each(data: NDArray[np.uint8], starts: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The CRC-32C of each range of `data`: for many short ranges, for which calls take longer than the checksums."""
    extend = google_crc32c.extend
    return [extend(0, data[start:end]) for start, end in zip(starts, ends, strict=True)]


def moved(crc: int, length_bytes: int) -> int:
    """`crc` moved by `length_bytes`: this XOR the CRC-32C of as many bytes is that of both strings together."""
    return _product(_power(length_bytes), crc)


@lru_cache(maxsize=4096)
def _power(length_bytes: int) -> int:
    """x to the power of the number of bits, modulo the CRC's polynomial."""
    result, factor = _ONE, _ONE >> 8
    while length_bytes:
        if length_bytes & 1:
            result = _product(result, factor)
        factor = _product(factor, factor)
        length_bytes >>= 1
    return result


def _product(one: int, other: int) -> int:
    """The product of two polynomials, modulo the CRC's."""
    total = 0
    while one:
        if one & _ONE:
            total ^= other
        one = one << 1 & UINT32_MASK
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return total


def legacy_form(crc: int) -> int:
    """The checksum that servers before 3.09 stored for a payload whose CRC-32C is `crc`. Some RPCs still use this
    form.
    """
    return ((crc >> 15 | crc << 17) + _LEGACY_ADDEND) & UINT32_MASK


def matches(stored: int, computed: int) -> bool:
    """Whether the stored checksum, in either form, fits a payload whose CRC-32C is `computed`."""
    return stored == computed or stored == legacy_form(computed)
