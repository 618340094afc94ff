"""The gate before h11: passes well-formed chunks byte for byte, however they are cut, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.http1_chunks import ChunkGate, encode_chunk
from supervisor.wire.http1_head import HeadLimits

LIMITS = HeadLimits(max_bytes=100, max_fields=4)

GOOD = [
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5;a=b;c\r\nhello\r\n00\r\n\r\n",
    b"A\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n",
    b"1\r\n\n\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n",
]
BAD = [
    (b"5\nhello\r\n0\r\n\r\n", "chunk size"),
    (b"\r\n", "chunk size"),
    (b"-5\r\n", "chunk size"),
    (b"+5\r\n", "chunk size"),
    (b"0x5\r\n", "chunk size"),
    (b" 5\r\n", "chunk size"),
    (b"5 \r\n", "chunk size"),
    (b"5 ;a\r\n", "chunk size"),
    (b"g\r\n", "chunk size"),
    (b"1234567890abcdef\r\n", "chunk size"),
    (b"5;a\rb\r\nhello\r\n", "chunk size"),
    (b"5;a\x00\r\nhello\r\n", "chunk size"),
    (b"5;" + b"a" * 300, "longer than 256"),
    (b"5\r\nhelloX", "longer than its size"),
    (b"5\r\nhello\n0\r\n\r\n", "longer than its size"),
    (b"0\r\nA : b\r\n\r\n", "space between"),
    (b"0\r\nA: b\r\n c\r\n\r\n", "folded"),
    (b"0\r\nA: b\nC: d\r\n\r\n", "LF without CR"),
    (b"0\r\nContent-Length: 3\r\n\r\n", "in the trailers"),
    (b"0\r\nA: " + b"b" * 100, "longer than 100"),
    (b"0\r\n" + b"A:\r\n" * 5 + b"\r\n", "more than 4"),
]


def feed(raw: bytes, step: int) -> tuple[bytes, bytes, ChunkGate]:
    gate, passed, rest = ChunkGate(LIMITS), b"", b""
    for at in range(0, len(raw), step):
        some, rest = gate.feed(raw[at : at + step])
        passed += some
    return passed, rest, gate


@pytest.mark.parametrize("raw", GOOD)
@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_good_chunks_pass_unchanged(raw, step):
    passed, rest, gate = feed(raw, step)
    assert (passed, rest, gate.is_done) == (raw, b"", True)


@pytest.mark.parametrize("raw", GOOD)
def test_what_follows_the_body_is_given_back(raw):
    passed, rest, gate = feed(raw + b"GET / HTTP/1.1\r\n", 1000)
    assert (passed, rest, gate.is_done) == (raw, b"GET / HTTP/1.1\r\n", True)


@pytest.mark.parametrize("raw", GOOD)
def test_a_body_that_is_cut_short_is_not_done(raw):
    for cut in range(len(raw)):
        assert not feed(raw[:cut], 1000)[2].is_done


@pytest.mark.parametrize(("raw", "why"), BAD)
@pytest.mark.parametrize("step", [1, 1000])
def test_bad_chunks_are_refused(raw, why, step):
    with pytest.raises(RemoteProtocolError, match=why):
        feed(raw, step)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.integers(1, 9))
def test_what_is_encoded_passes(pieces, step):
    raw = b"".join(map(encode_chunk, pieces)) + b"0\r\n\r\n"
    passed, _, gate = feed(raw, step)
    assert passed == raw
    assert gate.is_done


def test_no_data_makes_no_chunk_for_that_would_end_the_body():
    assert encode_chunk(b"") == b""
