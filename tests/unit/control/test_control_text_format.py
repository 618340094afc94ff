"""The text format: what is written is read again, labels and all, and two processes' families become one."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from native_handlers.runtime.server_counts import Distribution
from supervisor.control.text_format import Family, format_value, merge_families, parse_families

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"))
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: not name.startswith("__"))
"""Prometheus keeps names of labels that begin with two underscores for itself."""
VALUES = st.floats(allow_nan=False)


@st.composite
def gauges(draw):
    family = Family(draw(NAMES), "gauge", draw(TEXT).strip())
    for labels in draw(st.lists(st.dictionaries(NAMES, TEXT, max_size=3), max_size=4)):
        family.add(labels, draw(VALUES))
    return family


@given(gauges())
@example(Family("_", "gauge", "a backslash and a letter: \\n", {"_": 0.0}))
def test_what_is_written_is_read_again(family):
    read = parse_families(family.render())
    assert read == ({family.name: family} if family.samples else {})


@given(gauges())
def test_the_library_reads_the_same(family):
    (read, *_) = [*text_string_to_metric_families(family.render()), None]
    got = [(sample.labels, sample.value) for sample in read.samples] if read else []
    mine = parse_families(family.render())
    values = list(mine[family.name].samples.values()) if mine else []
    assert [value for _, value in got] == values


def test_a_histogram_counts_upwards_and_has_its_bound_last():
    family, values = Family("h", "histogram", "Help."), Distribution((1.0, 2.5))
    for value in (0.5, 1.0, 2.0, 9.0):
        values.observe(value)
    family.add_distribution({"z": "x"}, values)
    assert family.samples == {
        'h_bucket{z="x",le="1"}': 2,
        'h_bucket{z="x",le="2.5"}': 3,
        'h_bucket{z="x",le="+Inf"}': 4,
        'h_sum{z="x"}': 12.5,
        'h_count{z="x"}': 4,
    }
    assert parse_families(family.render()) == {"h": family}


def test_a_family_without_series_is_not_shown():
    assert Family("x", "counter", "Help.").render() == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (1e20, "100000000000000000000"), (0.1, "0.1"), (math.inf, "+Inf"), (-math.inf, "-Inf")],
)
def test_numbers(value, text):
    assert format_value(value) == text


def test_counts_are_added_and_facts_are_ours():
    theirs = parse_families('# TYPE a counter\na 1\na{x="1"} 2\n# TYPE f gauge\nf 5\n# TYPE t gauge\nt 7\n')
    ours = [Family("a", "counter", "", {'a{x="1"}': 40, 'a{x="2"}': 4}), Family("f", "gauge", "", {"f": 6})]
    merged = merge_families(theirs, ours, single={"f"})
    assert merged["a"].samples == {"a": 1, 'a{x="1"}': 42, 'a{x="2"}': 4}
    assert merged["f"].samples == {"f": 6}
    assert merged["t"].samples == {"t": 7}


def test_a_fact_that_we_have_no_series_of_is_not_taken_from_them():
    theirs = parse_families('# TYPE m counter\nm{address="relay"} 3\n')
    assert merge_families(theirs, [Family("m", "counter", "")], single={"m"})["m"].render() == ""


@pytest.mark.parametrize("line", ["nonsense here now", "x{", 'x{a="b} 1', "x NaNope", "", "# EOF", "x 1 2 3"])
def test_lines_that_are_none_are_passed_over(line):
    read = parse_families(f"# TYPE a counter\na 1\n{line}\nb 2 1700000000000\n")
    assert (read["a"].samples, read["b"].samples) == ({"a": 1}, {"b": 2})
