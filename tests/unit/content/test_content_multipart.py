"""The multipart reader: whole and in pieces, well formed and not."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.http_native import MemoryBody
from trio.testing import assert_no_checkpoints

from native_handlers.content import multipart
from native_handlers.content.multipart import MAX_HEADER_FIELDS, MAX_LINE_BYTES, MultipartReader
from native_handlers.http_model.errors import BadUpload
from native_handlers.http_model.message import BodyError
from native_handlers.runtime.content_threads import ContentThreads

LIMIT = 1000


def in_pieces(data, step):
    return MemoryBody(*[data[at : at + step] for at in range(0, len(data), step)])


async def parse(data, step=None, boundary="x", limit=LIMIT, breaks=False):
    body = MemoryBody(data, breaks=breaks) if step is None else in_pieces(data, step)
    reader = MultipartReader(body, boundary, ContentThreads())
    parts = []
    while (part := await reader.next_part()) is not None:
        parts.append((part.filename, await reader.read_content(part, limit)))
    return parts


BODY = (
    b"a preamble\r\n--x  \r\nContent-Disposition: form-data; name=a; filename=f.txt\r\nA: b\r\n c\r\n\r\n"
    b"hello\r\n--xy\r\n--\r\n--x\r\n\r\n--x\t\r\nContent-Disposition: form-data; name=z\r\n\r\n\r\n--x--\r\nepilogue"
)
PARTS = [("f.txt", b"hello\r\n--xy\r\n--"), ("", b""), ("", b"")]


@pytest.mark.parametrize("step", [None, 1, 2, 3, 7])
async def test_parts_do_not_depend_on_how_bytes_arrive(step):
    assert await parse(BODY, step) == PARTS


@pytest.mark.parametrize("step", [None, 1, 5])
async def test_bare_line_feeds(step):
    parts = await parse(BODY.replace(b"\r\n", b"\n"), step)
    assert parts == [("f.txt", b"hello\n--xy\n--"), ("", b""), ("", b"")]


async def test_the_last_line_break_may_be_missing():
    assert await parse(b"--x\r\n\r\nab\r\n--x--") == [("", b"ab")]


async def test_a_body_without_parts():
    assert await parse(b"--x--") == []


HEAD = b"--x\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\n"
ALMOST = b"zz" + b"c\r\n" * 7000 + b"\r\n--x"
"""Content whose end may be a boundary; the next such piece shows that it is none."""


@pytest.mark.parametrize("encoding", [b"", b"Content-Transfer-Encoding: quoted-printable\r\n"])
async def test_the_limit_holds_for_pieces_that_end_with_almost_a_boundary(encoding):
    limit = 500_000
    body = MemoryBody(HEAD.replace(b"\r\n\r\n", b"\r\n" + encoding + b"\r\n"), *[ALMOST] * 100, is_chunked=True)
    reader = MultipartReader(body, "x", ContentThreads())
    part = await reader.next_part()
    with pytest.raises(BadUpload, match=f"file over the limited {limit} bytes"):
        await reader.read_content(part, limit)
    # Encoded content is gathered up to 256 KiB.
    assert 100 * len(ALMOST) - body.left_bytes <= limit + 300_000


class GeneratedBody(MemoryBody):
    """A body that makes its pieces when they are received: only the reader can hold them."""

    def __init__(self, first, piece, count):
        super().__init__(first, is_chunked=True)
        self.piece, self.left = piece, count

    async def receive_some(self):
        if received := await super().receive_some():
            return received
        self.left -= 1
        return bytes(bytearray(self.piece)) if self.left >= 0 else b""


async def pass_over(reader):
    while await reader.next_part() is not None:
        pass


@pytest.mark.parametrize(
    ("first", "piece", "why"),
    [
        (HEAD, ALMOST, "NextPart: EOF"),
        (HEAD.replace(b"\r", b""), ALMOST.replace(b"\r", b""), "NextPart: EOF"),
        (b"", b"preamble " * 400 + b"\n--xz", "NextPart: EOF"),
        (b"", (b"--x" + b"z" * 1000 + b"\n") * 20 + b"--x", "NextPart: EOF"),
        (b"--x\r\n", b"A: " + b"b" * 997, "message too large"),
        (b"--x\r\nA: b", b"\r\n " + b"b" * 997, "message too large"),
    ],
    ids=["skipped", "skipped, bare line feeds", "preamble", "almost boundary lines", "a header", "a folded header"],
)
async def test_what_is_passed_over_is_not_kept(first, piece, why):
    body = GeneratedBody(first, piece, 200)
    reader = MultipartReader(body, "x", ContentThreads())
    tracemalloc.start()
    try:
        with pytest.raises(BadUpload, match=why):
            await pass_over(reader)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 600_000


async def test_unread_content_is_passed_over():
    reader = MultipartReader(
        MemoryBody(b"--x\r\n\r\n" + b"a" * 5000 + b"\r\n--x\r\n\r\nb\r\n--x--"), "x", ContentThreads()
    )
    await reader.next_part()
    part = await reader.next_part()
    assert await reader.read_content(part, 1) == b"b"


async def test_quoted_printable_is_decoded():
    head = b"--x\r\nContent-Transfer-Encoding: Quoted-Printable\r\n\r\n"
    assert await parse(head + b"a=3Db=\r\nc\r\n--x--") == [("", b"a=bc")]


@pytest.mark.parametrize(
    ("filename", "expected"),
    [(b'"a/b.txt"', "b.txt"), (b"a/b.txt", ""), (b'"C:\\\\d\\e.txt"', "C:\\d\\e.txt"), (b'""', ""), (b'"x', "")],
)
async def test_file_names_lose_their_folder(filename, expected):
    parts = await parse(b"--x\r\nContent-Disposition: form-data; filename=" + filename + b"\r\n\r\n\r\n--x--")
    assert parts[0][0] == expected


async def test_the_limit_holds_while_reading():
    body = in_pieces(b"--x\r\n\r\n" + b"a" * 100_000 + b"\r\n--x--", 1000)
    reader = MultipartReader(body, "x", ContentThreads())
    part = await reader.next_part()
    with pytest.raises(BadUpload, match="file over the limited 5000 bytes"):
        await reader.read_content(part, 5000)
    assert body.left_bytes > 90_000


@pytest.mark.parametrize("size", [999, 1000])
async def test_content_up_to_the_limit(size):
    assert await parse(b"--x\r\n\r\n" + b"a" * size + b"\r\n--x--", limit=1000) == [("", b"a" * size)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "multipart: NextPart: EOF"),
        (b"abc", "multipart: NextPart: EOF"),
        (b"--x\r\n", "EOF"),
        (b"--x\r\nA: b", "EOF"),
        (b"--x\r\nbad", 'malformed MIME header: missing colon: "bad"'),
        (b"--x\r\nbad\r\n\r\n", 'malformed MIME header: missing colon: "bad"'),
        (b"--x\r\nA(b): v\r\n\r\n", "malformed MIME header line"),
        (b"--x\r\nA: v\x01\r\n\r\n", "malformed MIME header line"),
        (b"--x\r\n folded\r\n\r\n", "malformed MIME header"),
        (b"--x\r\n: v\r\n\r\n", 'malformed MIME header line: ": v"'),
        (b"--x\r\n\r\nabc", "unexpected EOF"),
        (b"--x\r\n\r\nabc\r\n--x -\r\n--x--", "expecting a new Part"),
        (b"y" * (MAX_LINE_BYTES + 1), "buffer full"),
    ],
)
async def test_bad_bodies(data, message):
    with pytest.raises(BadUpload, match=message):
        await parse(data)


async def test_the_headers_of_a_part_are_limited(monkeypatch):
    monkeypatch.setattr(multipart, "MAX_HEADER_BYTES", 100)
    with pytest.raises(BadUpload, match="message too large"):
        await parse(b"--x\r\n" + b"A: b\r\n" * 100 + b"\r\n--x--")


@pytest.mark.parametrize(
    "data",
    [
        b"--x\r\n\r\n\r\n" * 20_000 + b"--x--",
        (b"--x\r\n" + b"a:\r\n" * 250 + b"\r\n\r\n") * 40 + b"--x--",
        (b"--x\r\nContent-Disposition: form-data" + b";a=b" * 250 + b"\r\n\r\n\r\n") * 100 + b"--x--",
        b"--x\r\na:b\r\n" + b" c\r\n" * 10_000 + b"\r\n\r\n--x--",
        b"--x\r\n\r\n" + b"\r\n--xy" * 20_000 + b"\r\n--x--",
        b"preamble\n" * 20_000 + b"--x--",
    ],
    ids=["parts", "headers", "long headers", "a folded header", "almost boundaries", "a preamble"],
)
@pytest.mark.slow
async def test_others_get_their_turn_while_a_body_is_read_that_is_all_there(data):
    """A body of small parts is long work without any wait. Slow: ten thousand parts or lines."""
    turns = 0

    async def count_turns():
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        await parse(data, limit=1 << 20)
        nursery.cancel_scope.cancel()
    assert turns >= 10_000 // 256 - 5


@pytest.mark.parametrize("count", [256, 257])
async def test_a_part_has_as_many_headers_as_a_request(count):
    data = b"--x\r\n" + b"a: b\r\n" * count + b"\r\nc\r\n--x--"
    if count == MAX_HEADER_FIELDS:
        assert await parse(data) == [("", b"c")]
        return
    with pytest.raises(BadUpload, match="message too large"):
        await parse(data)


@pytest.mark.parametrize("step", [None, 1000])
async def test_how_long_a_line_may_be_does_not_depend_on_how_it_arrives(step):
    name = b"n" * (2 * MAX_LINE_BYTES)
    parts = await parse(b"--x\r\nContent-Disposition: a; filename=" + name + b"\r\n\r\nc\r\n--x--", step)
    assert parts == [(name.decode(), b"c")]
    with pytest.raises(BadUpload, match="buffer full"):
        await parse(name + b"\r\n--x--", step)


async def test_a_small_body_is_read_without_giving_way():
    with assert_no_checkpoints():
        await parse(BODY)


async def test_a_folded_header_is_one_value():
    reader = MultipartReader(MemoryBody(b"--x\r\nA: b\r\n\tc \r\n  d\r\nB: e\r\n\r\n\r\n--x--"), "x", ContentThreads())
    part = await reader.next_part()
    assert list(part.headers) == [("A", "b c d"), ("B", "e")]


async def test_an_empty_boundary():
    with pytest.raises(BadUpload, match="boundary is empty"):
        MultipartReader(MemoryBody(b""), "", ContentThreads())


async def test_a_vanished_client_is_not_the_end_of_the_body():
    with pytest.raises(BodyError):
        await parse(b"--x\r\n\r\nabc", breaks=True)


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4), st.integers(1, 20))
def test_any_content_comes_through(contents, step):
    """The boundary is longer than any of the contents, so it cannot occur in them."""
    boundary = "b" * 61
    data = b"".join(b"--%s\r\nA: b\r\n\r\n%s\r\n" % (boundary.encode(), content) for content in contents)
    data += b"--%s--\r\n" % boundary.encode()
    parts = trio.run(parse, data, step, boundary)
    assert [content for _, content in parts] == contents


FRAGMENTS = [b"\r\n", b"\n", b"\r", b"--x", b"--", b"-", b"x", b" ", b"y", b"A: b", b"\r\n--x", b"\r\n--x--"]


async def parse_or_refuse(data, cuts):
    pieces = [data[start:end] for start, end in pairwise([0, *sorted(cuts), len(data)])]
    reader = MultipartReader(MemoryBody(*pieces), "x", ContentThreads())
    parts = []
    try:
        while (part := await reader.next_part()) is not None:
            parts.append(await reader.read_content(part, LIMIT))
    except BadUpload as refusal:
        parts.append(str(refusal))
    return parts


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=30).map(b"".join), st.data())
def test_contents_with_almost_boundaries_do_not_depend_on_how_they_arrive(content, data):
    body = b"--x\r\nA: b\r\n\r\n" + content + b"\r\n--x--"
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=12))
    assert trio.run(parse_or_refuse, body, cuts) == trio.run(parse_or_refuse, body, [])
