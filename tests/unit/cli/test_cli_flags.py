"""The table of flags, compared with what the Go program says of its own."""

import re
import subprocess

import pytest

from supervisor.cli.backend_flags import parse_help
from supervisor.cli.durations import parse_duration_ns
from supervisor.cli.flags import MASTER_FLAGS, QUICKSTART_FLAGS, VOLUME_FLAGS, Kind, Owner, weed_variable
from supervisor.cli.go_values import parse_bool, parse_int
from supervisor.cli.usage import volume_usage

RUST_ONLY = {"securityFile"}
DETECTED = {"ip", "dir"}
"""Their defaults depend on the machine."""


def shown_defaults(help_text):
    """name -> the default that Go's usage text shows; "" where it shows none (the zero value)."""
    rows = re.findall(r"^  -(\S+)(?: \S+)?\n((?:    \t.*\n)+)", help_text, re.MULTILINE)
    return {name: (re.findall(r'\(default "?([^")]*)"?\)$', text.strip()) or [""])[-1] for name, text in rows}


@pytest.fixture(scope="module")
def read_default():
    def read(row, text):
        if row.kind is Kind.BOOL:
            return parse_bool(text or "false")
        if row.kind is Kind.INT:
            return parse_int(text or "0")
        return parse_duration_ns(text or "0") if row.kind is Kind.DURATION else text

    return read


def test_every_flag_of_weed_volume_is_here(weed_program, read_default):
    done = subprocess.run([weed_program, "help", "volume"], capture_output=True, text=True, timeout=20, check=True)
    ours = {row.name: row for row in VOLUME_FLAGS.values() if row.owner is Owner.VOLUME and row.name != "options"}
    theirs = parse_help(done.stdout + done.stderr)
    assert set(theirs) == set(ours)
    assert {name for name, is_boolean in theirs.items() if is_boolean} == {
        name for name, row in ours.items() if row.kind is Kind.BOOL
    }
    for name, text in shown_defaults(done.stdout + done.stderr).items():
        if name not in DETECTED:
            assert read_default(ours[name], ours[name].default) == read_default(ours[name], text), name


def test_every_flag_of_weed_itself_is_here(weed_program, read_default):
    done = subprocess.run([weed_program], capture_output=True, text=True, timeout=20, check=False)
    ours = {row.name: row for row in VOLUME_FLAGS.values() if row.owner is Owner.WEED}
    theirs = parse_help(done.stdout + done.stderr)
    assert set(theirs) - {"options"} == set(ours)
    for name, text in shown_defaults(done.stdout + done.stderr).items():
        if text and name in ours:
            assert read_default(ours[name], ours[name].default) == read_default(ours[name], text), name


def test_the_detected_address_is_the_one_that_weed_detects(weed_program):
    from supervisor.cli.host_address import detect_host_address  # noqa: PLC0415

    done = subprocess.run([weed_program, "help", "volume"], capture_output=True, text=True, timeout=20, check=True)
    assert shown_defaults(done.stdout + done.stderr)["ip"] == detect_host_address()


@pytest.mark.parametrize("table", [VOLUME_FLAGS, QUICKSTART_FLAGS, MASTER_FLAGS])
def test_defaults_can_be_read_and_are_within_their_limits(table):
    for row in table.values():
        if row.kind is Kind.BOOL:
            parse_bool(row.default)
        elif row.kind is Kind.DURATION:
            parse_duration_ns(row.default)
        elif row.kind is Kind.INT:
            default = parse_int(row.default)
            assert row.minimum is None or default >= row.minimum, row.name
            assert row.maximum is None or default <= row.maximum, row.name
        assert row.meaning
        assert not row.meaning.endswith("."), row.name


def test_only_upstreams_flags_have_weed_variables():
    for row in VOLUME_FLAGS.values():
        has_weed_variable = any(variable.startswith("WEED_") for variable in row.environment)
        assert has_weed_variable == row.is_upstream, row.name
    assert weed_variable("ip.bind") == "WEED_IP_BIND"
    assert {row.name for row in VOLUME_FLAGS.values() if row.owner is Owner.RUST} == RUST_ONLY


def test_usage_names_every_flag_once():
    usage = volume_usage(VOLUME_FLAGS)
    for row in VOLUME_FLAGS.values():
        assert len(re.findall(rf"^  -{re.escape(row.name)}( |$)", usage, re.MULTILINE)) == 1, row.name
    assert "VOLUME_SERVER_PY_MODE" in usage
    assert max(map(len, usage.splitlines())) <= 110
