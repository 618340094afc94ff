"""The table of flags: every default can be read, every flag is explained."""

import re

import pytest

from supervisor.cli.usage import volume_usage
from supervisor.config.durations import parse_duration_ns
from supervisor.config.flags import MASTER_FLAGS, QUICKSTART_FLAGS, VOLUME_FLAGS, Kind, Owner, weed_variable
from supervisor.config.go_values import parse_bool, parse_int

RUST_ONLY = {"securityFile"}


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
