"""Texts of values: numbers, truth values, durations, sizes, reserves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.durations import parse_duration_ns, parse_duration_s
from supervisor.config.errors import BadValue
from supervisor.config.go_values import parse_bool, parse_decimal, parse_int
from supervisor.config.sizes import parse_min_free_space, parse_size_bytes


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_every_spelling_of_true(text):
    assert parse_bool(text) is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_every_spelling_of_false(text):
    assert parse_bool(text) is False


@pytest.mark.parametrize("text", ["", "yes", "tRUE", "on", "2", " true"])
def test_no_other_truth_value(text):
    with pytest.raises(BadValue, match="expected true or false"):
        parse_bool(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("8080", 8080),
        ("-1", -1),
        ("+7", 7),
        ("0x1F", 31),
        ("0b101", 5),
        ("0o17", 15),
        ("017", 15),
        ("1_000", 1000),
        ("9223372036854775807", (1 << 63) - 1),
    ],
)
def test_integers_as_go_reads_them(text, value):
    assert parse_int(text) == value


@pytest.mark.parametrize(
    "text", ["", "x", "1.5", "08", "1__0", "_1", "1_", "0x", " 1", "1 ", "9223372036854775808", "\u0661"]
)
def test_what_is_no_integer(text):
    with pytest.raises(BadValue):
        parse_int(text)


@pytest.mark.parametrize("text", ["0x10", "1_0", "", "8 ", "9223372036854775808"])
def test_decimal_integers_are_narrower(text):
    with pytest.raises(BadValue):
        parse_decimal(text)
    assert parse_decimal("007") == 7


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("60s", 60_000_000_000),
        ("1m30s", 90_000_000_000),
        ("1.5h", 5_400_000_000_000),
        ("250ms", 250_000_000),
        ("1us", 1_000),
        ("1\u00b5s", 1_000),
        ("1\u03bcs", 1_000),
        ("7ns", 7),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("-2s", -2_000_000_000),
        ("+2s", 2_000_000_000),
        ("1.9999999999s", 1_999_999_999),
        ("1h0m0.000000001s", 3_600_000_000_001),
    ],
)
def test_durations_as_go_reads_them(text, nanoseconds):
    assert parse_duration_ns(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "-", "1", "60", "1 s", "s", ".s", "1d", "1s ", "1s2", "--1s", "1e3s", "300000h" * 20]
)
def test_what_is_no_duration(text):
    with pytest.raises(BadValue, match="such as 90s"):
        parse_duration_ns(text)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_duration_terms_add_up(hours, minutes, seconds, milliseconds):
    text = f"{hours}h{minutes}m{seconds}s{milliseconds}ms"
    assert parse_duration_s(text) == pytest.approx(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("42", 42),
        ("42MB", 42_000_000),
        ("42 mib", 44_040_192),
        ("10GiB", 10 << 30),
        ("1.5k", 1500),
        ("1,024b", 1024),
        ("2Ti", 2 << 40),
    ],
)
def test_sizes(text, size):
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "10XB", "1.2.3MB", "-1MB", "16EiB", "1e3MB"])
def test_what_is_no_size(text):
    with pytest.raises(BadValue):
        parse_size_bytes(text)


@pytest.mark.parametrize(("text", "percent"), [("1", 1.0), (" 7.5 ", 7.5), ("0", 0.0), ("100", 100.0), ("1e1", 10.0)])
def test_a_plain_number_is_a_percentage(text, percent):
    reserve = parse_min_free_space(text)
    assert (reserve.percent, reserve.size_bytes) == (percent, None)


@pytest.mark.parametrize(("text", "size"), [("10GiB", 10 << 30), ("101b", 101)])
def test_anything_with_a_unit_is_a_size(text, size):
    reserve = parse_min_free_space(text)
    assert (reserve.percent, reserve.size_bytes, reserve.text) == (None, size, text)


@pytest.mark.parametrize("text", ["101", "-1", "100b", "", "ten", "nan", "inf"])
def test_what_is_no_reserve(text):
    with pytest.raises(BadValue, match="10GiB"):
        parse_min_free_space(text)
