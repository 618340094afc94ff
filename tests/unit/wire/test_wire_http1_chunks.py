"""The decoder of chunked bodies: content, trailers and errors are the same however a body is cut, and h11's."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING
from unittest.mock import patch

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.http1_chunks import MAX_CHUNKS_AT_ONCE, ChunkDecoder, encode_chunk
from supervisor.wire.http1_head import HeadLimits

if TYPE_CHECKING:
    from collections.abc import Iterable

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


def decode(received: Iterable[bytes]) -> tuple[bytes, bytes, ChunkDecoder]:
    """The content of a body that is received piece by piece, the rest after the body, and the decoder."""
    decoder, content, held = ChunkDecoder(LIMITS), b"", b""
    for data in received:
        held += data
        while (fed := decoder.feed(held))[0]:
            content, held = content + fed[0], fed[1]
        held = fed[1]
    return content, held, decoder


def cut(raw: bytes, step: int) -> list[bytes]:
    return [raw[at : at + step] for at in range(0, len(raw), step)]


def outcome(received: Iterable[bytes]) -> tuple[object, ...]:
    """The visible result of a body, whatever is wrong with it."""
    try:
        content, held, decoder = decode(received)
    except RemoteProtocolError as error:
        return error.status, error.why
    return content, held, decoder.is_done, decoder.trailers


def parsed_by_h11(raw: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    """Content and trailers of a complete body, as h11 reads it."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
    parser.next_event()
    content = b""
    while isinstance(event := parser.next_event(), h11.Data):
        content += event.data
    assert isinstance(event, h11.EndOfMessage)
    return content, [(name.decode(), value.decode()) for name, value in event.headers.raw_items()]


@pytest.mark.parametrize("raw", GOOD)
@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_good_chunks_are_decoded_as_by_h11(raw, step):
    content, rest, decoder = decode(cut(raw, step))
    assert (content, decoder.trailers) == parsed_by_h11(raw)
    assert (rest, decoder.is_done) == (b"", True)


@pytest.mark.parametrize("raw", GOOD)
def test_what_follows_the_body_is_given_back(raw):
    content, rest, decoder = decode([raw + b"GET / HTTP/1.1\r\n"])
    assert (content, rest, decoder.is_done) == (parsed_by_h11(raw)[0], b"GET / HTTP/1.1\r\n", True)


@pytest.mark.parametrize("raw", GOOD)
def test_a_body_that_is_cut_short_is_not_done(raw):
    for end in range(len(raw)):
        assert not decode([raw[:end]])[2].is_done


@pytest.mark.parametrize(("raw", "why"), BAD)
@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize("before", [b"", b"1\r\na\r\n" * 3], ids=["first", "after good ones"])
def test_bad_chunks_are_refused(raw, why, step, before):
    with pytest.raises(RemoteProtocolError, match=why):
        decode(cut(before + raw, step))


# ---- any body, cut anywhere

extensions = st.sampled_from([b"", b"", b";a=b", b";", b";" + b"x" * 20])
chunks = st.builds(
    lambda content, extension, zeros: b"%b%x%b\r\n%b\r\n" % (zeros, len(content), extension, content),
    st.binary(min_size=1, max_size=3) | st.binary(min_size=1, max_size=40) | st.just(b"\r\n0\r\n\r\n"),
    extensions,
    st.sampled_from([b"", b"00"]),
)
ends = st.sampled_from([b"0\r\n\r\n", b"0;a\r\nX-Sum: 1\r\nY:  2 \r\n\r\n"])
bodies = st.builds(lambda parts, end: b"".join(parts) + end, st.lists(chunks, max_size=12), ends)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A body with a few bytes changed, removed or inserted. Most such bodies are refused."""
    data = bytearray(draw(bodies))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(
            st.sampled_from([b"", b"\r", b"\n", b"0", b"f", b";", b"\r\n", b" "])
        )
    return bytes(data)


def cuts(raw: bytes) -> st.SearchStrategy[list[bytes]]:
    places = st.lists(st.integers(0, len(raw)), max_size=8).map(sorted)
    return places.map(lambda at: [raw[start:end] for start, end in pairwise([0, *at, len(raw)])])


@given(bodies, st.data())
def test_content_and_trailers_are_those_of_h11_wherever_it_is_cut(raw, data):
    content, rest, decoder = decode(data.draw(cuts(raw)))
    assert (content, decoder.trailers) == parsed_by_h11(raw)
    assert (rest, decoder.is_done) == (b"", True)


@given(bodies | mutated(), st.data())
def test_where_it_is_cut_changes_nothing(raw, data):
    assert outcome(data.draw(cuts(raw))) == outcome(cut(raw, 1))


@given(mutated())
def test_runs_are_held_to_the_rules_of_single_chunks(raw):
    """Bytes that are refused one by one, where no run is ever complete, are refused in a run too."""
    with patch.object(ChunkDecoder, "_pass_whole_chunks", lambda _self, _data, at, _pieces: at):
        expected = outcome([raw])
    assert outcome([raw]) == expected


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.integers(1, 9))
def test_what_is_encoded_is_decoded(pieces, step):
    raw = b"".join(map(encode_chunk, pieces)) + b"0\r\n\r\n"
    content, _, decoder = decode(cut(raw, step))
    assert content == b"".join(pieces)
    assert decoder.is_done


def test_no_data_makes_no_chunk_for_that_would_end_the_body():
    assert encode_chunk(b"") == b""


# ---- many chunks


@pytest.mark.parametrize("chunk", [b"1\r\na\r\n", b"1;x\r\na\r\n", b"20\r\n" + b"a" * 32 + b"\r\n"])
def test_one_call_decodes_many_chunks_and_not_too_many(chunk):
    """The limit of events in one receive, and so of the time before other tasks get their turn."""
    decoder, size = ChunkDecoder(LIMITS), chunk.count(b"a")
    content, rest = decoder.feed(chunk * 10_000)
    assert len(content) == MAX_CHUNKS_AT_ONCE * size
    assert rest == chunk * (10_000 - MAX_CHUNKS_AT_ONCE)
    calls = 1
    while content:
        content, rest = decoder.feed(rest)
        calls += 1
    assert calls <= 10_000 // MAX_CHUNKS_AT_ONCE + 2


def test_the_inside_of_a_large_chunk_is_not_copied():
    decoder = ChunkDecoder(LIMITS)
    assert decoder.feed(b"100000\r\n") == (b"", b"")
    data = bytes(65536)
    assert decoder.feed(data)[0] is data


LONG_EXTENSION = b"1;" + b"x" * 250 + b"\r\na\r\n"
FRAMING_IN_EXCESS = 254 - 16 - 2
"""The framing of such a chunk beyond its free bytes: its size line and the end of the chunk."""


@pytest.mark.parametrize("step", [1, 100_000])
def test_framing_in_excess_is_refused(step):
    """As in Go: 16 bytes a chunk and two a byte of content are free, and 16 KiB more."""
    most = 16 * 1024 // FRAMING_IN_EXCESS
    end = b"0\r\n\r\n"
    assert decode(cut(LONG_EXTENSION * most + end, step))[2].is_done
    with pytest.raises(RemoteProtocolError, match="too much framing") as caught:
        decode(cut(LONG_EXTENSION * (most + 1) + end, step))
    assert caught.value.status == 400


def test_content_makes_up_for_framing():
    raw = (LONG_EXTENSION * 60 + b"2000\r\n" + bytes(0x2000) + b"\r\n") * 5 + b"0\r\n\r\n"
    assert decode([raw])[2].is_done


def test_a_client_may_send_single_bytes():
    assert decode([b"1\r\na\r\n" * 50_000 + b"0\r\n\r\n"])[0] == b"a" * 50_000
