"""Documents, paths, filters and rows of the Query RPC. The expected values are those of upstream's library."""

from __future__ import annotations

import codecs
from types import SimpleNamespace

import pytest

from native_handlers.query import strings
from native_handlers.query.documents import Documents, DocumentTooLong
from native_handlers.query.paths import MAX_MAPS, JsonPath
from native_handlers.query.rows import Filter, Selection, go_float
from native_handlers.query.strings import Pattern, PatternTooCostly, string_bytes

PEOPLE = rb"""{
  "name": {"first": "Tom", "last": "Anderson"}, "age":37, "children": ["Sara","Alex","Jack"],
  "fav.movie": "Deer Hunter", "none": null, "@timestamp": 5, "k*": "star", "": {"": 1},
  "friends": [
    {"first": "Dale", "age": 44, "nets": ["ig", "fb"]},
    {"first": "Roger", "age": 68, "nets": ["fb"]},
    "a string", {"age": 1.50e1}]
}"""


def documents_of(payload, step=1 << 20, **limits):
    documents = Documents(**limits)
    found = [one for start in range(0, len(payload), step) for one in documents.feed(payload[start : start + step])]
    return found + list(documents.finish())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("age", b"37"),
        ("name", b'{"first": "Tom", "last": "Anderson"}'),
        ("name.last", b'"Anderson"'),
        ("children", b'["Sara","Alex","Jack"]'),
        ("children.1", b'"Alex"'),
        ("children.01", b'"Alex"'),
        ("children.#", b"3"),
        ("children.3", None),
        ("children.-1", None),
        ("children.x", None),
        ("children.0.x", None),
        ("friends.#.age", b"[44,68,1.50e1]"),
        ("friends.#.nets.#", b"[2,1]"),
        ("friends.#.nets.0", b'["ig","fb"]'),
        ("friends.#.nobody", b"[]"),
        ("friends.1.first", b'"Roger"'),
        (r"fav\.movie", b'"Deer Hunter"'),
        ("fav.movie", None),
        ("child*.2", b'"Jack"'),
        ("c?ildren.0", b'"Sara"'),
        ("*.last", b'"Anderson"'),
        (r"k\*", b'"star"'),
        ("@timestamp", b"5"),
        ("none", b"null"),
        ("none.x", None),
        ("", b'{"": 1}'),
        (".", b"1"),
        ("#", None),
    ],
)
def test_paths(path, value):
    assert JsonPath(path.encode()).find(PEOPLE) == value


@pytest.mark.parametrize(
    "path",
    [
        "name|first", "children|0", 'friends.#(first=="Dale").age', "friends.#[age>1]#", "children.@reverse",
        "@keys", "!true", '!"x"', "[age,name]", "{age,name}", "name.[first,last]", "..0", "friends.#.@this",
    ],
)  # fmt: skip
def test_what_is_not_understood_finds_nothing(path):
    assert JsonPath(path.encode()).find(PEOPLE) is None


def test_the_whole_document():
    assert JsonPath(b"@this").find(PEOPLE) == PEOPLE
    assert JsonPath(b"@this").find(b"null") == b"null"


def test_the_first_of_two_fields_counts_in_which_the_rest_is():
    assert JsonPath(b"a.b").find(b'{"a":1,"a":{"c":2},"a":{"b":3},"a":{"b":4}}') == b"3"


def test_escapes_in_keys():
    assert JsonPath("é.x y".encode()).find(rb'{"\u00e9":{"x\u0020y":"\\"}}') == rb'"\\"'


@pytest.mark.slow
def test_depth_costs_no_stack():
    """Slow: the documents have five thousand levels."""
    deep = 5_000
    text = b'{"a":' * deep + b"7" + b"}" * deep
    assert JsonPath(b".".join([b"a"] * deep)).find(text) == b"7"
    assert JsonPath(b"b").find(text) is None
    assert documents_of(text * 2, step=65536) == [text, text]
    lists = b"[" * 5_000 + b"]" * 5_000
    assert JsonPath(b"0.0.#").find(lists) == b"1"
    assert JsonPath(b".".join([b"#"] * (MAX_MAPS + 1))).find(lists) is None
    assert JsonPath(b".".join([b"#"] * MAX_MAPS)).find(lists) == b"[" * (MAX_MAPS - 1) + b"1" + b"]" * (MAX_MAPS - 1)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_documents_are_values_not_lines(step):
    payload = rb'{"a":"}\"{"} [1,' + b'\n2]{"b":\n{}}\r\n12 null true' + rb'"a\\"nan,nul{"c":1'
    wanted = [
        rb'{"a":"}\"{"}',
        b"[1,\n2]",
        b'{"b":\n{}}',
        b"12",
        b"null",
        b"true",
        rb'"a\\"',
        b"nan",
        b"nul",
        b'{"c":1',
    ]
    assert documents_of(payload, step) == wanted


@pytest.mark.parametrize("step", [1, 1000])
def test_what_is_no_document(step):
    assert documents_of(b"", step) == []
    assert documents_of(b" \xff\x00:,)}]xyz", step) == []
    assert documents_of(rb'{} "no end\"', step) == [b"{}"]


def test_a_document_too_long_to_hold():
    with pytest.raises(DocumentTooLong, match="document at byte 3 is longer than 100 bytes"):
        documents_of(b"{} [" + b"1," * 100, 10, max_bytes=100)
    assert documents_of(b"{}" * 100 + b"[" + b" " * 1000, 10, max_bytes=2000)[100] == b"[" + b" " * 1000


@pytest.mark.parametrize(
    ("document", "operand", "value", "passes"),
    [
        ('"b"', "=", "b", True), ('"b"', "!=", "b", False), ('"b"', "<", "c", True), ('"b"', "<=", "a", False),
        ('"b"', ">", "B", True), ('"b"', ">=", "b", True), ('"abc"', "%", "a*", True), ('"abc"', "!%", "a*", False),
        ('"abc"', "%", "?b?", True), (r'"\u00e9"', "=", "é", True), ('"10"', ">", "9", False), ('"b"', "~", "b", False),
        ("12", "=", "12.0", True), ("12", "!=", "12", False), ("12", "<", "1e2", True), ("12", "<=", "12", True),
        ("12", ">", "9", True), ("12", ">=", "13", False), ("12", "%", "1*", False), ("0", "=", "no number", True),
        ("1e999", "=", "inf", True), ("-1", "<", "x", True), ("16", "=", "0x1p4", True), ("NaN", "!=", "nan", True),
        ("true", "=", "true", True), ("true", "!=", "false", True), ("true", ">", "false", True),
        ("true", ">=", "x", True), ("true", "<", "x", False), ("false", "=", "false", True),
        ("false", "<", "true", True), ("false", "<=", "x", True), ("false", ">", "true", False),
        ("null", "", "", True), ("null", "=", "null", False), ("null", "!=", "x", False), ("{}", "", "", True),
        ("{}", "=", "{}", False), ("[1]", "!=", "x", False),
    ],
)  # fmt: skip
def test_operands(document, operand, value, passes):
    assert Filter("a", operand, value).passes(b'{"a":%b}' % document.encode()) is passes


def test_a_field_that_is_not_there_passes_nothing():
    for operand in ("", "=", "!=", "!%", "<"):
        assert not Filter("b", operand, "x").passes(b'{"a":1}')


def test_rows():
    assert b"".join(Selection(["age", "none", "nobody", "children.#"]).row(PEOPLE)) == (
        b"{age:37,none:,nobody:,children.#:3}"
    )
    assert b"".join(Selection([]).row(PEOPLE)) == b"{}"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (rb"\"\\\/\b\f\n\r\t", b'"\\/\b\f\n\r\t'),
        (rb"\ud83d\ude00", "😀".encode()),
        (rb"\ud83d", "\ufffd".encode()),
        (rb"\ud83d\u0041", "\ufffd".encode()),
        (rb"\ude00x", "\ufffdx".encode()),
        (rb"\u00zzx", b"\0x"),
        (rb"a\u00", b"a"),
        (rb"a\qb", b"a"),
        (b"a\nb", b"a\nb"),
        (b"\\ta\nb", b"\ta"),
        (b"\xff\\t", b"\xff\t"),
        (b"a\\", b"a"),
    ],
)
def test_strings(raw, said):
    assert string_bytes(raw) == said


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"1_0", 10), (b"1__0", 0), (b"_1", 0), (b"0x_1p3", 8), (b"0x1_p3", 0), (b"0x1", 0), (b".5", 0.5), (b"5.", 5),
        (b".", 0), (b"", 0), (b"-inf", float("-inf")), (b"-0x1p99999", float("-inf")), (b" 1", 0), (b"1" * 10**7, 0),
    ],
)  # fmt: skip
def test_numbers(text, number):
    assert go_float(text) == number


@pytest.mark.parametrize(
    ("pattern", "text", "is_match"),
    [
        ("*", "", True), ("", "", True), ("", "a", False), ("a", "ab", False), ("a*b*c", "aXbYbc", True),
        ("a*a", "a", False), ("*ab*", "xaab", True), (r"\*", "*", True), (r"\*", "a", False), ("a\\", "a", False),
        ("?", "é", True), ("??", "é", False), ("**?**", "", False), ("*?b*", "b", False), ("*?b*", "abb", True),
        ("*a?", "aab", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("piece_bytes", [1, 2, 256 * 1024])
def test_patterns(monkeypatch, pattern, text, is_match, piece_bytes):
    """A text is decoded and searched in pieces."""
    monkeypatch.setattr(strings, "PIECE_BYTES", piece_bytes)
    assert Pattern(pattern.encode()).matches(text.encode()) is is_match


def test_no_call_of_the_interpreter_takes_a_whole_long_text(monkeypatch):
    """Bytes that are no UTF-8 are decoded one by one, and a call keeps all other threads waiting."""
    make, decoded = codecs.getincrementaldecoder, []

    def recording(name):
        def decode(data, final=False):
            decoded.append(len(data))
            return decoder.decode(data, final)

        decoder = make(name)("surrogateescape")
        return lambda _: SimpleNamespace(decode=decode)

    monkeypatch.setattr(codecs, "getincrementaldecoder", recording)
    assert not Pattern(b"*b*").matches(b"\xff" * (8 * strings.PIECE_BYTES))
    assert (max(decoded), sum(decoded)) == (strings.PIECE_BYTES, 8 * strings.PIECE_BYTES)


def test_a_costly_pattern_is_refused(monkeypatch):
    monkeypatch.setattr(strings, "MAX_TRIES", 1000)
    with pytest.raises(PatternTooCostly):
        Pattern(b"*a?b*").matches(b"a" * 2000)
    assert Pattern(b"*ab*").matches(b"a" * 2000 + b"b")


@pytest.mark.parametrize("step", [1000, 1 << 20])
@pytest.mark.slow
def test_hostile_documents_take_linear_time(step):
    """Each would take hours otherwise. Slow: what is not linear is seen in long documents only."""
    size = 300_000
    for text in (b"[" * size, b'{"a":' + b"1" * size, b'["' * size, b'{"' + b"\\" * size, b'{"a":' * size):
        (document,) = documents_of(text, step)
        assert document == text
        assert JsonPath(b"*a?.#.b").find(document) is None
    assert documents_of(b'"' + b"\\" * size + b"x", step) == []
