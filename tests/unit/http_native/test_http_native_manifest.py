"""The meaning of a manifest's text, how long parsing keeps other threads waiting, and that one parse serves all
readers.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import threading
from array import array
from functools import cache

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from support.jobs import finish

from native_handlers.content import json_pieces
from native_handlers.content.json_pieces import MAX_DEPTH, BadJson, JsonReader, JsonSteps
from native_handlers.format.needle import Needle
from native_handlers.http import chunk_manifest, manifest_loader
from native_handlers.http.chunk_manifest import (
    MAX_CHUNKS,
    MAX_MANIFEST_BYTES,
    MAX_MEMORY_BYTES,
    MAX_PARTS,
    ChunkManifest,
    load_manifest,
)
from native_handlers.http.manifest_loader import ManifestLoader
from native_handlers.http_model.errors import BadManifest
from native_handlers.runtime.content_threads import ContentThreads

FID = "4,0a12345678"
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def skipped(text):
    """Whether the parser accepts `text` as JSON."""
    reader = JsonReader(text)
    try:
        reader.skip()
        reader.end()
    except BadJson:
        return False
    return True


@given(value=VALUES, is_ascii=st.booleans(), indent=st.sampled_from([None, 1]))
def test_json_is_json(value, is_ascii, indent):
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
    assert skipped(text)
    assert not skipped(f"{text} x")


@given(text=st.text('{}[]":,\\u0aeEtrfalsn+-.1 \n\x01', max_size=30))
def test_what_is_json_for_python_is_json_here_and_nothing_else_is(text):
    def refuse(word):
        raise ValueError(word)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        assert not skipped(text)
    else:
        assert skipped(text)


@given(value=st.text(), is_ascii=st.booleans())
def test_strings_are_read_as_they_were_meant(value, is_ascii):
    value = value.encode("utf-8", "replace").decode()
    assert JsonReader(json.dumps(value, ensure_ascii=is_ascii)).string() == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\ud800"', "\ufffd"),
        (r'"\ud800\u0041"', "\ufffdA"),
        (r'"\udc00x"', "\ufffdx"),
        (r'"\ud83d\ude00"', "\U0001f600"),
    ],
)
def test_half_a_pair_is_the_unknown_character(text, value):
    assert JsonReader(text).string() == value


@pytest.mark.parametrize("char", ["x", " ", "1", "\\n"])
def test_long_runs_are_read_in_pieces(char):
    long = char * 100_000
    assert skipped(f'{{"a":"{long}"}}')
    assert skipped(f"[1{'0' * 100_000}]")
    assert skipped(f"[1]{' ' * 100_000}")
    assert not skipped(f'{{"a":"{long}')


@pytest.mark.slow
def test_the_depth_is_that_of_go():
    """Slow: manifests of the greatest depth."""
    assert skipped("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert not skipped("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


# ---- manifests


def load(text):
    return finish(load_manifest(Needle(data=text if isinstance(text, bytes) else text.encode())))


def facts(text):
    manifest = load(text)
    return (
        manifest.name,
        manifest.mime,
        manifest.size_bytes,
        [(chunk.fid, chunk.offset_bytes, chunk.size_bytes) for chunk in manifest.chunks()],
    )


NOTHING = ("", "", 0, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("null", NOTHING),
        (" {} ", NOTHING),
        ('{"name":null,"mime":null,"size":null,"chunks":null}', NOTHING),
        ('{"name":"a","name":null,"size":1,"size":-2}', ("a", "", -2, [])),
        ('{"NAME":"a","\u017fIZE":3,"chun\u212as":[{"FID":"x","oFFset":1}]}', ("a", "", 3, [("x", 1, 0)])),
        ('{"\ufb01d":"x","nam\u00e9":1,"s\u0131ze":"x"}', NOTHING),
        ('{"chunks":[{"fid":"b","offset":5},null,{"fid":"a"}]}', ("", "", 0, [("a", 0, 0), ("b", 5, 0)])),
        ('{"chunks":[{"fid":"a","size":5},{"fid":"b"}],"chunks":[{"offset":1}]}', ("", "", 0, [("a", 1, 5)])),
        ('{"chunks":[{"fid":"a","size":5}],"chunks":[],"chunks":[{}]}', ("", "", 0, [("", 0, 0)])),
        ('{"chunks":[{"fid":"a"}],"chunks":null}', NOTHING),
        ('{"chunks":[{"fid":"a","fid":null,"x":[{"fid":"b"}],"size":-0}]}', ("", "", 0, [("a", 0, 0)])),
        ('{"chunks":[{"fid":"a","offset":-3,"size":-4}]}', ("", "", 0, [("a", -3, -4)])),
        ('{"size":9223372036854775807,"x":1e999}', ("", "", 2**63 - 1, [])),
        ('{"size":-9223372036854775808}', ("", "", -(2**63), [])),
        (b'{"name":"\xff"}', ("\ufffd", "", 0, [])),
        ('{"chunks":[{"fid":"a"}],"x":' + "[" * 9_990 + "]" * 9_990 + "}", ("", "", 0, [("a", 0, 0)])),
    ],
)  # fmt: skip
def test_a_manifest_is_what_go_reads(text, expected):
    """The same cases against a running `weed`: test_http_native_manifests_go.py."""
    assert facts(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "[]", '"x"', "5", "true", "no", "nul", '{"name":5}', '{"size":"5"}', '{"size":1.5}', '{"size":1e2}',
        '{"size":9223372036854775808}', '{"size":-9223372036854775809}', '{"size":NaN}', '{"size":03}', '{"size":3,}',
        '{"chunks":{}}', '{"chunks":[1]}', '{"chunks":[[]]}', '{"chunks":[{"fid":1}]}', '{"chunks":[{"size":"1"}]}',
        "{} x", "\ufeff{}", '{"name":"\x01"}', '{"name":"a', '{"x":' + "[" * 10_000 + "]" * 10_000 + "}",
        '{"size":1' + "0" * 5_000 + "}",
    ],
)  # fmt: skip
def test_what_go_does_not_read_is_no_manifest(text):
    with pytest.raises(BadManifest):
        load(text)


@given(chunks=st.lists(st.tuples(st.text(max_size=8), st.integers(-(2**63), 2**63 - 1), st.integers(-9, 99))))
def test_chunks_are_sorted_and_none_is_lost(chunks):
    entries = [{"fid": fid, "offset": offset, "size": size} for fid, offset, size in chunks]
    found = facts(json.dumps({"chunks": entries}))[3]
    assert found == sorted(chunks, key=lambda chunk: chunk[1])


def test_many_unsorted_chunks_are_sorted_in_pieces():
    offsets = [index * 7919 % 10_007 for index in range(10_007)]
    entries = ",".join(f'{{"fid":"{offset}","offset":{offset},"size":1}}' for offset in offsets)
    manifest = load(f'{{"chunks":[{entries}]}}')
    assert [chunk.fid for chunk in manifest.chunks()] == [str(offset) for offset in range(10_007)]
    assert manifest.content_bytes == len(manifest) == 10_007
    assert next(manifest.chunks_from(5_000)).offset_bytes == 5_000
    assert list(manifest.chunks_from(10_007)) == []


KEYS = {"fid": st.text(max_size=8), "offset": st.integers(-(2**63), 2**63 - 1), "size": st.integers(-9, 99)}
OTHERS = st.dictionaries(
    st.sampled_from(["x", "name", "Size", "", "a\u0301"]), st.none() | st.booleans() | st.text(max_size=4), max_size=2
)
ENTRY = st.tuples(st.fixed_dictionaries({}, optional=KEYS), OTHERS, st.permutations(range(5)))


def shuffled(entry):
    """The members in any order. A member "Size" that is present becomes null, which changes nothing."""
    known, others, order = entry
    members = list((others | dict.fromkeys(others.keys() & {"Size"}) | known).items())
    return dict(members[index] for index in order if index < len(members))


@given(
    entries=st.lists(ENTRY, max_size=6),
    indent=st.sampled_from([None, 0, 1, 40]),
    separators=st.sampled_from([(",", ":"), (", ", ": "), (" ,\r", "\t: ")]),
)
def test_a_chunk_is_the_same_in_any_order_and_with_any_spaces(entries, indent, separators):
    chunks = [shuffled(entry) for entry in entries]
    text = json.dumps({"chunks": chunks}, indent=indent, separators=separators, ensure_ascii=False)
    expected = [(one.get("fid", ""), one.get("offset", 0), one.get("size", 0)) for one in chunks]
    assert facts(text)[3] == sorted(expected, key=lambda chunk: chunk[1])


@pytest.mark.parametrize(
    "member", ['"fid":1', '"fid":true', '"offset":"1"', '"size":false', '"size":1.0', '"offset":1e1', '"size":01']
)
def test_a_plain_chunk_of_wrong_types_is_none(member):
    with pytest.raises(BadManifest):
        load(f'{{"chunks":[{{"x":1,{member}}}]}}')


SPANS = st.lists(st.tuples(st.integers(-20, 60), st.integers(-5, 20)), max_size=8)


@given(spans=SPANS, start=st.integers(-3, 80))
def test_a_byte_is_in_the_first_chunk_that_reaches_it(spans, start):
    entries = [{"fid": str(number), "offset": at, "size": size} for number, (at, size) in enumerate(spans)]
    manifest = load(json.dumps({"chunks": entries}))
    chunks = list(manifest.chunks())
    holds = [chunk.offset_bytes <= start < chunk.end_bytes for chunk in chunks]
    expected = chunks[holds.index(True) :] if any(holds) else []
    assert list(manifest.chunks_from(start)) == expected
    assert manifest.content_bytes == sum(size for _, size in spans)


@pytest.mark.parametrize(
    ("sizes", "total"), [([2**63 - 1], 2**63 - 1), ([2**63 - 1] * 2, -2), ([-(2**63)] * 2, 0), ([-5, 3], -2)]
)
def test_a_length_has_64_bits(sizes, total):
    manifest = load(json.dumps({"chunks": [{"size": size} for size in sizes]}))
    assert manifest.content_bytes == total


@pytest.mark.slow
def test_what_is_too_long_is_no_manifest_compressed_or_not():
    """Slow: text of more than a manifest may have."""
    text = b'{"name":"' + b"a" * MAX_MANIFEST_BYTES + b'"}'
    packed = Needle(data=gzip.compress(text))
    packed.is_compressed = True
    for needle in (Needle(data=text), packed):
        with pytest.raises(BadManifest):
            finish(load_manifest(needle))


def packed_needle(text, needle_id=1):
    """A needle as a client uploads it with `Content-Encoding: gzip`: a few kilobytes for many megabytes."""
    needle = needle_of(gzip.compress(text, 9), needle_id)
    needle.is_compressed = True
    return needle


SCALE = 100
FEW_CHUNKS, FEW_PARTS = MAX_CHUNKS // SCALE, MAX_PARTS // SCALE


@pytest.fixture
def small_bounds(monkeypatch):
    """A hundredth of each bound: they are as far from each other as they are in use, and are reached at once."""
    for name in ("MAX_CHUNKS", "MAX_PARTS", "MAX_MEMORY_BYTES"):
        monkeypatch.setattr(chunk_manifest, name, getattr(chunk_manifest, name) // SCALE)


@pytest.mark.usefixtures("small_bounds")
@pytest.mark.slow
def test_a_manifest_has_as_many_chunks_as_there_is_room_for():
    """Slow: manifests of the greatest length."""
    odd = b'{"size":1,"offset":0,"FID":"a"}'
    for entry in (b"{}", odd):
        text = b'{"chunks":[' + (entry + b",") * (FEW_CHUNKS - 1) + entry + b"]}"
        assert len(text) < MAX_MANIFEST_BYTES // SCALE
        assert len(load(text)) == FEW_CHUNKS
    for entry in (b"{}", b"null", b'{"fid":"","offset":0,"size":0}'):
        with pytest.raises(BadManifest, match=f"more than {FEW_CHUNKS} chunks"):
            load(b'{"chunks":[' + (entry + b",") * FEW_CHUNKS + entry + b"]}")


@pytest.mark.usefixtures("small_bounds")
@pytest.mark.parametrize(
    "text",
    [
        b'{"x":[' + b"0," * FEW_PARTS + b"0]}",
        b'{"x":[' + b"[]," * FEW_PARTS + b"0]}",
        b'{"x":{' + b'"":0,' * FEW_PARTS + b'"":0}}',
        b'{"name":"' + rb"\n" * (FEW_PARTS + 1) + b'"}',
    ],
    ids=["numbers", "lists", "keys", "escapes"],
)
def test_what_takes_long_is_bounded(text):
    assert len(text) < MAX_MANIFEST_BYTES // SCALE
    with pytest.raises(BadManifest, match="values and escapes"):
        load(text)


def test_every_manifest_can_be_kept():
    assert MAX_MEMORY_BYTES <= manifest_loader.KEPT_BYTES
    with pytest.raises(BadManifest, match="memory"):
        load(b'{"name":"\xf0\x9f\x98\x80' + b"a" * (MAX_MANIFEST_BYTES // 2) + b'"}')


# ---- others meanwhile


LONG = 8 << 20
COUNT = 150_000


@cache
def many(step, count=COUNT):
    chunks = (b'{"fid":"3,%x12345678","offset":%d,"size":9}' % (index, index * step) for index in range(count))
    return b'{"chunks":[%s]}' % b",".join(chunks)


ODD = {
    "usual": lambda: many(9),
    "backwards": lambda: many(-9),
    "spaces": lambda: b" " * LONG + b"{}",
    "one string": lambda: b'{"x":"' + b"a" * LONG + b'"}',
    "escapes": lambda: b'{"name":"' + rb"\u0041" * (LONG // 12) + b'"}',
    "digits": lambda: b'{"x":1' + b"0" * LONG + b"}",
    "lists": lambda: b'{"x":[' + b"[]," * (LONG // 24) + b"0]}",
    "null chunks": lambda: b'{"chunks":[' + b"null," * (LONG // 60) + b"null]}",
}
"""Made when a test asks for one, not where tests are only listed."""


@pytest.fixture
def text(request):
    return ODD[request.param]()


class Spied:
    """A pattern that records the longest piece that it matched."""

    longest = 0

    def __init__(self, pattern):
        self._pattern = pattern

    def match(self, text, at):
        found = self._pattern.match(text, at)
        Spied.longest = max(Spied.longest, found.end() - found.start() if found else 0)
        return found


@pytest.mark.parametrize("text", ODD, indirect=True)
@pytest.mark.slow
def test_no_call_takes_in_a_long_piece(text, monkeypatch):
    """Slow: reads manifests of the greatest length there is."""
    monkeypatch.setattr(Spied, "longest", 0)
    for name in ("_SPACE", "_PLAIN", "_DIGITS", "_ESCAPE"):
        monkeypatch.setattr(json_pieces, name, Spied(getattr(json_pieces, name)))
    load(text)
    assert 0 < Spied.longest <= 1 << 14


@pytest.mark.parametrize("text", ODD, indirect=True)
@pytest.mark.slow
def test_a_manifest_is_read_in_short_steps(text):
    """Counts characters for each step: no step covers more than one call into C and some hundred values. Slow: reads
    manifests of the greatest length.
    """
    steps, reader = 0, JsonSteps(text.decode())
    for _ in reader.skip():
        steps += 1
    assert steps >= len(text) >> 15
    assert sum(1 for _ in load_manifest(Needle(data=text))) >= len(text) >> 15


LASTING = ("usual", "backwards", "escapes", "lists", "null chunks")
"""Manifests whose parse takes so long that another thread certainly gets turns."""


@pytest.mark.parametrize("text", LASTING, indirect=True)
@pytest.mark.slow
async def test_others_go_on_while_a_long_manifest_is_read(text):
    """Counts the turns of another thread meanwhile instead of time: during one long call that thread gets one or two.
    Slow: reads long manifests.
    """
    turns, is_over = array("q", [0]), threading.Event()

    def count():
        while not is_over.is_set():
            turns[0] += 1
            os.sched_yield()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    counter = threading.Thread(target=count)
    counter.start()
    try:
        await trio.to_thread.run_sync(load, text)
    finally:
        is_over.set()
        counter.join()
        sys.setswitchinterval(interval)
    assert turns[0] > 10


# ---- read once


@pytest.fixture
def parses(monkeypatch):
    seen = []

    def counted(needle):
        seen.append(needle.needle_id)
        return load_manifest(needle)

    monkeypatch.setattr(manifest_loader, "load_manifest", counted)
    return seen


def needle_of(text, needle_id=1, append_at_ns=1):
    return Needle(needle_id=needle_id, cookie=5, data=text, checksum=len(text), append_at_ns=append_at_ns)


def long_text(chunks=1_000):
    return b'{"chunks":[%s]}' % b",".join(b'{"fid":"%s","offset":0,"size":1}' % FID.encode() for _ in range(chunks))


async def test_a_long_manifest_is_read_once(parses):
    loader = ManifestLoader()
    for _ in range(3):
        assert len(await loader.load(ContentThreads(), 3, needle_of(long_text()))) == 1_000
    assert parses == [1]
    await loader.load(ContentThreads(), 4, needle_of(long_text()))
    await loader.load(ContentThreads(), 3, needle_of(long_text(), append_at_ns=2))
    assert parses == [1, 1, 1]


async def test_requests_at_the_same_time_read_it_once(parses):
    loader = ManifestLoader()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(loader.load, ContentThreads(), 3, needle_of(long_text()))
    assert parses == [1]


async def test_that_it_is_no_manifest_is_kept_too(parses):
    loader = ManifestLoader()
    for _ in range(3):
        with pytest.raises(BadManifest):
            await loader.load(ContentThreads(), 3, needle_of(b"[" * 20_000))
    assert parses == [1]


async def test_what_is_kept_is_bounded_and_the_oldest_goes_first(parses):
    one = (await ManifestLoader().load(ContentThreads(), 3, needle_of(long_text()))).memory_bytes
    loader = ManifestLoader(kept_bytes=one * 2)
    parses.clear()
    for needle_id in (1, 2, 1, 3, 1, 2):
        await loader.load(ContentThreads(), 3, needle_of(long_text(), needle_id))
    assert parses == [1, 2, 3, 2]
    large = needle_of(long_text(5_000), 9)
    for _ in range(2):
        await loader.load(ContentThreads(), 3, large)
    assert parses[-2:] == [9, 9]


async def test_a_short_one_is_read_at_once_and_not_kept(parses, monkeypatch):
    async def no_thread(*_arguments, **_options):
        raise AssertionError

    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
    loader = ManifestLoader()
    for _ in range(2):
        assert isinstance(await loader.load(ContentThreads(), 3, needle_of(b"{}")), ChunkManifest)
    assert parses == [1, 1]


# ---- the worst that there is


WORST = b'{"chunks":[' + b"{}," * 5_000_000 + b"{}]}"


@pytest.mark.slow
async def test_the_worst_manifest_is_read_once(parses):
    """Slow: reads manifests of the greatest length there is."""
    loader, needle = ManifestLoader(), packed_needle(WORST)
    for _ in range(3):
        with pytest.raises(BadManifest):
            await loader.load(ContentThreads(), 3, needle)
    assert parses == [1]


@pytest.mark.slow
async def test_a_small_manifest_is_read_beside_the_worst():
    """Slow: reads manifests of the greatest length there is."""
    loader, threads, done = ManifestLoader(), ContentThreads(threads=2), []

    async def load_long(needle_id):
        await loader.load(threads, 3, packed_needle(many(-9), needle_id))
        done.append(needle_id)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for needle_id in range(1, 9):
                nursery.start_soon(load_long, needle_id)
            await trio.testing.wait_all_tasks_blocked()
            assert len(await loader.load(threads, 3, packed_needle(long_text(), 10))) == 1_000
            assert len(done) <= 2
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_load_that_nobody_wants_ends_within_a_turn(monkeypatch):
    """The thread and its memory are free again, and other readers can load the same manifest. Slow: reads manifests of
    the greatest length.
    """
    steps, has_begun = [], trio.Event()
    token = trio.lowlevel.current_trio_token()

    def counted(needle):
        token.run_sync_soon(has_begun.set)
        for _ in load_manifest(needle):
            steps.append(needle)
            yield

    monkeypatch.setattr(manifest_loader, "load_manifest", counted)
    loader, threads, needle = ManifestLoader(), ContentThreads(threads=1), packed_needle(many(-9))
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(loader.load, threads, 3, needle)
        await has_begun.wait()
        nursery.cancel_scope.cancel()
    begun = len(steps)
    assert begun < sum(1 for _ in load_manifest(needle)) / 2
    monkeypatch.undo()
    assert len(await loader.load(threads, 3, needle)) == COUNT
    assert len(steps) == begun
