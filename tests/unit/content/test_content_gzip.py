"""Compression: which contents are compressed, round trips, and decompression bombs."""

from __future__ import annotations

import gzip
import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.jobs import finish

from native_handlers.content.gzip_data import (
    BadGzip,
    ClearFacts,
    TooMuchData,
    compress_if_smaller,
    is_gzip,
    is_worth_compressing,
    measure,
)


def unpacked(data, limit_bytes):
    return finish(measure(data, limit_bytes, keep_bytes=limit_bytes)).data


@given(st.binary(max_size=3000), st.binary(max_size=50))
def test_round_trip_of_several_members(first, second):
    packed = gzip.compress(first) + gzip.compress(second)
    assert is_gzip(packed)
    assert unpacked(packed, 10_000) == first + second
    digest = hashlib.md5(usedforsecurity=False)
    facts = finish(measure(memoryview(packed), 10_000, keep_bytes=1000, digest=digest))
    kept = first + second if len(first + second) <= 1000 else None
    assert facts == ClearFacts(len(first + second), kept)
    assert digest.digest() == hashlib.md5(first + second, usedforsecurity=False).digest()


def test_content_longer_than_every_buffer():
    data = bytes(range(256)) * 20_000 + b"\0" * 5_000_000
    assert unpacked(gzip.compress(data), len(data)) == data


def test_bombs_stop_at_the_limit():
    bomb = gzip.compress(b"\0" * 20_000_000)
    with pytest.raises(TooMuchData, match="more than 1000 bytes come out of"):
        unpacked(bomb, 1000)
    steps = measure(bomb, 100_000)
    assert next(steps) is None
    with pytest.raises(TooMuchData):
        next(steps)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1f\x8b",
        b"plain text",
        gzip.compress(b"abc")[:-1],
        gzip.compress(b"abc") + b"zz",
        gzip.compress(b"a" * 99)[:14],
    ],
    # The head of gzip has the time: without names each process that collects in another second has other tests.
    ids=["empty", "the magic alone", "no gzip", "cut by a byte", "more behind it", "cut in the middle"],
)
def test_damaged_data(data):
    with pytest.raises(BadGzip):
        unpacked(data, 1000)
    with pytest.raises(BadGzip):
        finish(measure(data, 1000))


def test_only_a_real_gain_counts():
    assert gzip.decompress(finish(compress_if_smaller(b"a" * 200_000))) == b"a" * 200_000
    assert finish(compress_if_smaller(b"ab")) is None
    assert finish(compress_if_smaller(os.urandom(200_000))) is None


@pytest.mark.parametrize(
    ("name", "mime", "expected"),
    [
        ("a.txt", "text/plain", True),
        ("a.json", "application/json", False),
        (".json", "", True),
        ("a.svg", "image/svg+xml", False),
        (".svg", "image/svg+xml", True),
        ("a", "application/xml", True),
        ("a", "application/javascript", True),
        ("a", "application/zstd", False),
        (".zip", "application/xml", False),
        ("a.wav", "audio/wav", True),
        ("a.mp3", "audio/mpeg", False),
        ("a", "", False),
    ],
)
def test_what_is_worth_compressing(name, mime, expected):
    assert is_worth_compressing(name, mime) is expected
