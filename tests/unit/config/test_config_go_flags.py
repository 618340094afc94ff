"""The syntax of command lines and options files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.flags import VOLUME_FLAGS, Kind
from supervisor.config.go_flags import Unknown, nearest, scan, unknown_flag_message
from supervisor.config.values import parse_options_file


def values(*tokens):
    result = scan(tokens, VOLUME_FLAGS)
    assert not result.problems
    assert not result.unknown
    return [(value.name, value.text) for value in result.given], result.words


@pytest.mark.parametrize("tokens", [("-port=1",), ("--port=1",), ("-port", "1"), ("--port", "1")])
def test_dashes_equals_and_spaces_mean_the_same(tokens):
    assert values(*tokens) == ([("port", "1")], [])


def test_a_boolean_takes_no_separate_value():
    assert values("-pprof", "true") == ([("pprof", "true")], ["true"])
    assert values("-pprof=F", "--debug") == ([("pprof", "F"), ("debug", "true")], [])


def test_a_value_may_look_like_a_flag_or_hold_equals_signs():
    assert values("-dir", "-port=1") == ([("dir", "-port=1")], [])
    assert values("-tags=a=b") == ([("tags", "a=b")], [])
    assert values("-rack=") == ([("rack", "")], [])


def test_flags_end_at_the_first_word_and_at_two_dashes():
    assert values("-port=1", "volume", "-port=2") == ([("port", "1")], ["volume", "-port=2"])
    assert values("-port=1", "--", "-port=2") == ([("port", "1")], ["-port=2"])
    assert values("-port=1", "-") == ([("port", "1")], ["-"])


@pytest.mark.parametrize("token", ["---port=1", "-=1", "--=1"])
def test_what_is_no_flag_syntax(token):
    assert scan([token], VOLUME_FLAGS).problems == [f"{token!r} is no flag; expected -name=value"]


def test_a_missing_value_is_named():
    assert scan(["-port"], VOLUME_FLAGS).problems == ["-port needs a value: -port=8080"]


def test_unknown_flags_are_kept_with_their_values():
    result = scan(["-prot=1", "-new", "x", "-other", "-port=2"], VOLUME_FLAGS)
    assert result.unknown == [Unknown("prot", "1"), Unknown("new", None), Unknown("other", None)]
    assert [value.name for value in result.given] == ["port"]


@pytest.mark.parametrize("token", ["-h", "--help", "-help", "--h"])
def test_help(token):
    assert scan([token], VOLUME_FLAGS).wants_help


@given(st.lists(st.text(max_size=8), max_size=6))
def test_any_tokens_can_be_scanned(tokens):
    result = scan(tokens, VOLUME_FLAGS)
    assert len(result.given) + len(result.unknown) + len(result.problems) + len(result.words) <= len(tokens)


@given(st.dictionaries(st.sampled_from(sorted(VOLUME_FLAGS)), st.text(max_size=12), max_size=8))
def test_what_is_written_with_equals_signs_is_read_back(wanted):
    result = scan([f"-{name}={text}" for name, text in wanted.items()], VOLUME_FLAGS)
    assert {value.name: value.text for value in result.given} == wanted


@pytest.mark.parametrize(
    ("name", "meant"),
    [("prot", "port"), ("PORT", "port"), ("ipbind", "ip.bind"), ("readmode", "readMode"), ("masters", "master")],
)
def test_the_nearest_flag_is_suggested(name, meant):
    assert nearest(name, VOLUME_FLAGS) == meant
    assert f"did you mean -{meant}?" in unknown_flag_message(name, VOLUME_FLAGS)


def test_nothing_is_suggested_for_what_is_like_no_flag():
    assert nearest("zzzzzzzz", VOLUME_FLAGS) is None
    assert "-h lists them all" in unknown_flag_message("zzzzzzzz", VOLUME_FLAGS)


def test_options_file_forms():
    text = "# comment\n\n port= 81 \nip:127.0.0.1\n-rack r1\npprof\nmaster=a:1,b:2\nport=99\n// also a comment\n"
    parsed = parse_options_file(text, "o", VOLUME_FLAGS)
    assert {value.name: value.text for value in parsed.given} == {
        "port": "81",
        "ip": "127.0.0.1",
        "rack": "r1",
        "pprof": "true",
        "master": "a:1,b:2",
    }
    assert parsed.warnings == ()
    assert parsed.given[0].origin == "o:3: port=81"


def test_a_blank_before_the_equals_sign_separates_as_it_does_for_weed():
    parsed = parse_options_file("rack = r1", "o", VOLUME_FLAGS)
    assert [(value.name, value.text) for value in parsed.given] == [("rack", "= r1")]


def test_options_that_mean_nothing_are_said():
    parsed = parse_options_file("--port=1\nprot=2\n", "o", VOLUME_FLAGS)
    assert parsed.given == ()
    first, second = parsed.warnings
    assert first.startswith("o:1: ")
    assert "comment" in first
    assert second == "o:2: -prot is no flag of this command; did you mean -port?"


@given(st.text(max_size=200))
def test_any_text_is_an_options_file(text):
    parsed = parse_options_file(text, "o", VOLUME_FLAGS)
    assert all(value.name in VOLUME_FLAGS for value in parsed.given)
    assert all(value.text for value in parsed.given if VOLUME_FLAGS[value.name].kind is Kind.BOOL)
