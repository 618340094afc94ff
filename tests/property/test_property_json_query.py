"""Paths of Query against plain access, and documents that arrive in pieces of any size."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from native_handlers.query.documents import Documents
from native_handlers.query.paths import JsonPath
from native_handlers.query.rows import Filter, Selection
from native_handlers.query.strings import Pattern

# A name contains no syntax of a path, except syntax that a backslash escapes. A path of empty names means lines.
KEYS = st.text(st.characters(exclude_characters="@![{#", codec="utf-8"), min_size=1, max_size=3)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))
CONTAINERS = st.lists(VALUES, max_size=4) | st.dictionaries(KEYS, VALUES, max_size=4)


def places(value, path=()):
    """Each path of names and indexes, and the value there."""
    if path:
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def path_text(path):
    return ".".join(str(part) if isinstance(part, int) else re.sub(r"([.|*?\\])", r"\\\1", part) for part in path)


@given(CONTAINERS, st.booleans(), st.sampled_from([None, 1]))
def test_plain_access(value, is_ascii, indent):
    document = json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode()
    for path, wanted in places(value):
        found = JsonPath(path_text(path).encode()).find(document)
        assert found is not None
        assert json.loads(found) == wanted
        if isinstance(wanted, list):
            assert JsonPath(path_text((*path, "#")).encode()).find(document) == str(len(wanted)).encode()


@given(CONTAINERS, KEYS)
def test_a_field_of_each_item(value, key):
    document = json.dumps([value]).encode()
    wanted = [value[key]] if isinstance(value, dict) and key in value else None
    if isinstance(value, dict):
        found = JsonPath(f"#.{path_text([key])}".encode()).find(document)
        assert json.loads(found) == (wanted or [])


@given(st.lists(VALUES), st.sampled_from([" ", "\n", "\r\n"]), st.integers(1, 40))
def test_documents_in_pieces(values, between, step):
    payload = between.join(json.dumps(value) for value in values).encode()
    documents, found = Documents(), []
    for start in range(0, len(payload), step):
        found += documents.feed(payload[start : start + step])
    found += documents.finish()
    assert [json.loads(one) for one in found] == values


@given(st.binary() | st.text(alphabet='{}[]"\\:,01ntfa#\n ').map(str.encode), st.text(alphabet="a#.*?\\0|"), st.text())
def test_no_bytes_and_no_path_are_too_odd(payload, path, value):
    documents = Documents()
    for document in [*documents.feed(payload), *documents.finish()]:
        for operand in ("", "=", "%"):
            Filter(path, operand, value).passes(document)
        b"".join(Selection([path]).row(document))


@given(st.text("ab*?é", max_size=8), st.text("abé", max_size=10))
def test_patterns(pattern, text):
    meant = "".join({"*": ".*", "?": "."}.get(one, re.escape(one)) for one in pattern)
    assert Pattern(pattern.encode()).matches(text.encode()) is (re.fullmatch(meant, text, re.DOTALL) is not None)
