import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.backend.log_lines import ChildLine, LevelParser, LineSplitter


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("I0823 10:11:12.123456 volume.go:123 started", ChildLine(logging.INFO, "volume.go:123 started")),
        ("W0823 10:11:12.123456 volume.go:123 odd", ChildLine(logging.WARNING, "volume.go:123 odd")),
        ("E0823 10:11:12.123456 volume.go:123 bad", ChildLine(logging.ERROR, "volume.go:123 bad")),
        ("F0823 10:11:12.123456 volume.go:123 dead", ChildLine(logging.CRITICAL, "volume.go:123 dead")),
        ("I0823 10:11:12.123456  4711 volume.go:1] x", ChildLine(logging.INFO, "volume.go:1] x")),
        ("Warning: not a header", ChildLine(logging.INFO, "Warning: not a header")),
        ("panic: runtime error", ChildLine(logging.ERROR, "panic: runtime error")),
        ("", ChildLine(logging.INFO, "")),
    ],
)
def test_levels(line, expected):
    assert LevelParser().parse(line) == expected


def test_a_stack_keeps_the_level_of_its_panic_until_the_next_header():
    parser = LevelParser()
    lines = ["panic: oh", "goroutine 1 [running]:", "I0823 10:11:12.123456 a.go:1 on", "more"]
    assert [parser.parse(line).level for line in lines] == [40, 40, 20, 20]


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=20), max_size=8),
    st.integers(1, 7),
)
def test_lines_do_not_depend_on_how_the_pipe_cuts_them(lines, step):
    data = "".join(line + "\n" for line in lines).encode()
    splitter = LineSplitter()
    seen = [line for at in range(0, len(data), step) for line in splitter.feed(data[at : at + step])]
    assert [*seen, *splitter.flush()] == lines


def test_an_unfinished_line_comes_with_the_flush():
    splitter = LineSplitter()
    assert list(splitter.feed(b"one\ntw")) == ["one"]
    assert list(splitter.flush()) == ["tw"]
    assert list(splitter.flush()) == []


def test_a_long_line_is_cut_and_says_by_how_much():
    splitter = LineSplitter(max_line_bytes=10)
    assert list(splitter.feed(b"x" * 25)) == []
    assert list(splitter.feed(b"yyy\nnext\n")) == ["xxxxxxxxxx ... (18 more bytes)", "next"]


def test_bytes_that_are_no_text_survive_as_escapes():
    assert list(LineSplitter().feed(b"a\xff\r\n")) == ["a\\xff"]
