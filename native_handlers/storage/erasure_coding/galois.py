"""The field GF(2^8) with the polynomial 0x11d, and the matrices of Reed-Solomon codes over it.

The matrix of a ratio is the one that github.com/klauspost/reedsolomon makes by default, which upstream uses: a
Vandermonde matrix times the inverse of its top square, so that data shards are the data itself.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

POLYNOMIAL = 0x11D
Matrix = tuple[bytes, ...]
"""Rows of field elements."""


def _make_tables() -> tuple[bytes, bytes]:
    powers, logs = bytearray(510), bytearray(256)
    value = 1
    for exponent in range(255):
        powers[exponent] = powers[exponent + 255] = value
        logs[value] = exponent
        value <<= 1
        if value & 0x100:
            value ^= POLYNOMIAL
    return bytes(powers), bytes(logs)


_POWERS, _LOGS = _make_tables()


def multiply(one: int, other: int) -> int:
    """The product of two field elements."""
    return _POWERS[_LOGS[one] + _LOGS[other]] if one and other else 0


def inverse(element: int) -> int:
    """The multiplicative inverse of `element`, which must not be 0."""
    return _POWERS[255 - _LOGS[element]]


def power(base: int, exponent: int) -> int:
    """`base` to the `exponent`; 1 for exponent 0, whatever the base."""
    if not exponent:
        return 1
    return _POWERS[_LOGS[base] * exponent % 255] if base else 0


@lru_cache(maxsize=256)
def products(factor: int) -> bytes:
    """`factor` times each of the 256 elements."""
    return bytes(multiply(factor, element) for element in range(256))


def multiply_matrices(left: Sequence[Sequence[int]], right: Sequence[Sequence[int]]) -> Matrix:
    """The product of two matrices that fit each other."""
    columns = list(zip(*right, strict=True))
    return tuple(bytes(_dot(row, column) for column in columns) for row in left)


def _dot(row: Sequence[int], column: Sequence[int]) -> int:
    total = 0
    for one, other in zip(row, column, strict=True):
        total ^= multiply(one, other)
    return total


def invert(matrix: Sequence[Sequence[int]]) -> Matrix:
    """The inverse of a square matrix.

    Raises:
        ValueError: there is none. Every square of rows of a ratio's matrix has one.
    """
    size = len(matrix)
    work = [
        bytearray(row) + bytearray(int(column == index) for column in range(size)) for index, row in enumerate(matrix)
    ]
    for column in range(size):
        pivot = next((row for row in range(column, size) if work[row][column]), None)
        if pivot is None:
            raise ValueError("the matrix is singular")
        work[column], work[pivot] = work[pivot], work[column]
        scale = products(inverse(work[column][column]))
        work[column] = bytearray(scale[value] for value in work[column])
        for row in range(size):
            factor = work[row][column]
            if row != column and factor:
                times = products(factor)
                work[row] = bytearray(
                    value ^ times[other] for value, other in zip(work[row], work[column], strict=True)
                )
    return tuple(bytes(row[size:]) for row in work)


@lru_cache(maxsize=64)
def coding_matrix(data_shards: int, total_shards: int) -> Matrix:
    """For each shard the factors of the data shards. The shard is the sum of the data shards times their factors."""
    vandermonde = [[power(row, column) for column in range(data_shards)] for row in range(total_shards)]
    return multiply_matrices(vandermonde, invert(vandermonde[:data_shards]))


@lru_cache(maxsize=256)
def recovery_matrix(data_shards: int, total_shards: int, present: tuple[int, ...], wanted: tuple[int, ...]) -> Matrix:
    """For each of the `wanted` shards the factors of the `present` shards, of which there are `data_shards`."""
    matrix = coding_matrix(data_shards, total_shards)
    to_data = invert([matrix[shard_id] for shard_id in present])
    return multiply_matrices([matrix[shard_id] for shard_id in wanted], to_data)
