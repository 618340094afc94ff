"""The decoders of request bodies against simple slow decoders: in pieces, and at any length."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.jobs import finish

from native_handlers.content.quoted_printable import MAX_LINE_BYTES, QuotedPrintableDecoder
from native_handlers.http.send_content import MemoryContent
from native_handlers.http_model import query
from native_handlers.http_model.errors import BadMediaType, BadUpload
from native_handlers.http_model.media_type import MAX_PARAMETERS, parse_media_type
from native_handlers.http_model.message import StreamBody
from native_handlers.http_model.percent import unescape
from native_handlers.http_model.query import parse_form, parse_query
from native_handlers.http_model.ranges import MAX_RANGES, ByteRange, parse_ranges

HEX = b"0123456789abcdefABCDEF"


def decode(data, step=None):
    decoder, out = QuotedPrintableDecoder(), b""
    for at in range(0, len(data), step or len(data) or 1):
        out += finish(decoder.feed(data[at : at + (step or len(data))]))
    return out + decoder.finish()


def decode_byte_by_byte(data):
    """The decoded content; None where Go's decoder refuses the text."""
    out = b""
    lines = data.split(b"\n")
    for number, line in enumerate(lines):
        is_last = number == len(lines) - 1
        text = line.rstrip(b" \t\r")
        blanks = line[len(text) :]
        end = b"" if is_last else b"\r\n" if blanks.endswith(b"\r") else b"\n"
        if text.endswith(b"="):
            rest = blanks.lstrip(b" \t") + (b"" if is_last else b"\n")
            if rest not in {b"\n", b"\r\n"} and not (is_last and not rest and text != b"="):
                return None
            text, end = text[:-1], b""
        at = 0
        while at < len(text):
            byte = text[at]
            if text[at : at + 1] == b"=":
                if len(text[at + 1 : at + 3]) == 2 and all(one in HEX for one in text[at + 1 : at + 3]):
                    byte, at = int(text[at + 1 : at + 3], 16), at + 2
                elif text[at + 1 : at + 2] in {b"", b"\r"}:
                    return None
            elif not (byte in b"\t\r" or 0x20 <= byte <= 0x7E or byte >= 0x80):
                return None
            out, at = out + bytes([byte]), at + 1
        out += end
    return out


@given(
    st.lists(st.sampled_from([bytes([one]) for one in b"=== \t\r\n\n4A1zaZ\xe9\x01"]), max_size=24), st.integers(1, 9)
)
def test_quoted_printable_is_what_a_look_at_each_byte_says(letters, step):
    data = b"".join(letters)
    expected = decode_byte_by_byte(data)
    for pieces in (None, step):
        if expected is None:
            with pytest.raises(BadUpload):
                decode(data, pieces)
        else:
            assert decode(data, pieces) == expected


@pytest.mark.parametrize(
    ("line", "is_taken"),
    [
        (b"a" * (MAX_LINE_BYTES - 1) + b"\n", True),
        (b"a" * (MAX_LINE_BYTES - 2) + b"\r\n", True),
        (b"a" * MAX_LINE_BYTES + b"\n", False),
        (b"a" * MAX_LINE_BYTES, True),
        (b"a" * (MAX_LINE_BYTES + 1), False),
    ],
    ids=["lf", "crlf", "too long", "last", "last too long"],
)
@pytest.mark.parametrize("step", [None, 1000])
def test_the_longest_line_of_quoted_printable(line, is_taken, step):
    data = b"x\n" * 50_000 + line
    if is_taken:
        assert decode(data, step) == data
    else:
        with pytest.raises(BadUpload, match="buffer full"):
            decode(data, step)


@pytest.mark.parametrize(
    "line", [b"\n", b" \n", b"= \r\n", b"=41" * 1300 + b"\n", b"= " * 2000 + b"\n", b"=" * 4000 + b"a\n"]
)
def test_steps_of_decoding_do_not_grow_with_the_content(line):
    """Each step decodes one block. The number of steps is the number of blocks, and each step holds a constant
    amount.
    """
    data = line * ((1 << 20) // len(line))
    steps = sum(1 for _ in QuotedPrintableDecoder().feed(data))
    assert 20 <= steps <= 40


@given(
    st.lists(st.sampled_from([b"%", b"%", b"4", b"1", b"=", b"\n", b"+", b"\xe9", b"%41", b"%3D", b"%0a"]), max_size=20)
)
def test_percent_escapes_are_what_the_standard_library_says(pieces):
    data = b"".join(pieces)
    assert unescape(data) == unquote_to_bytes(data)


@pytest.mark.slow
def test_a_long_form_is_parsed_in_steps():
    """Slow: ten thousand fields are parsed twice."""
    raw = "&".join(f"a{number}=%41" for number in range(9_999))
    job = parse_form(raw)
    assert sum(1 for _ in job) >= 9_999 // 256
    assert parse_query(raw).get("a9998") == "A"


@given(
    st.lists(st.sampled_from(["%41", "%", "%%", "+", "a", "%4", "%zz", "=", "\xe9"]), max_size=30), st.integers(3, 9)
)
def test_a_form_parsed_in_small_steps_is_the_same(pieces, step):
    raw = "k=" + "".join(pieces)
    whole = parse_query(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(query, "STEP_CHARACTERS", step)
        assert parse_query(raw) == whole


def test_more_ranges_and_parameters_than_anyone_asks_for_are_not_looked_at():
    assert len(parse_ranges("bytes=" + ",".join(["0-0"] * MAX_RANGES), MAX_RANGES)) == MAX_RANGES
    assert parse_ranges("bytes=" + ",".join(["0-0"] * (MAX_RANGES + 1)), 1 << 20) is None
    few, many = ("a/b" + "".join(f";p{number}=v" for number in range(count)) for count in (256, 257))
    assert len(parse_media_type(few)[1]) == MAX_PARAMETERS
    with pytest.raises(BadMediaType, match="more than 256 media parameters"):
        parse_media_type(many)


@given(st.lists(st.tuples(st.integers(0, 999_999), st.integers(0, 400_000)), min_size=2, max_size=5))
def test_several_long_ranges_are_sent_in_pieces(wanted):
    data = bytes(range(250)) * 4000
    pieces = [piece for start, length in wanted for piece in (b"--x\r\n", ByteRange(start, min(length, 10**6 - start)))]

    async def send():
        opened = await MemoryContent(data).open(pieces)
        if isinstance(opened.body, StreamBody):
            return opened, b"".join([some async for some in opened.body.chunks])
        return opened, bytes(opened.body)

    opened, body = trio.run(send)
    parts = [one if isinstance(one, bytes) else data[one.start : one.start + one.length] for one in pieces]
    assert body == b"".join(parts)
    assert isinstance(opened.body, StreamBody) == (len(body) > 256 * 1024)
    assert body.startswith(opened.head)
