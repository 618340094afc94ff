"""The command line and the configuration files, compared with the Go program's own output."""

import os
import re
import subprocess

import pytest
from support.waiting import LIMIT_S

from supervisor.backend.version import ask_version
from supervisor.cli.backend_flags import parse_help
from supervisor.config.durations import parse_duration_ns
from supervisor.config.flags import VOLUME_FLAGS, Kind, Owner
from supervisor.config.go_values import parse_bool, parse_int
from supervisor.config.host_address import detect_host_address
from supervisor.config.toml_config import ConfigSources, load_config_tree

DETECTED = {"ip", "dir"}
"""Flags whose defaults depend on the machine."""


def shown_defaults(help_text):
    """name -> the default in Go's usage text; "" without one (the zero value)."""
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
    done = subprocess.run([weed_program, "help", "volume"], capture_output=True, text=True, timeout=LIMIT_S, check=True)
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
    done = subprocess.run([weed_program], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    ours = {row.name: row for row in VOLUME_FLAGS.values() if row.owner is Owner.WEED}
    theirs = parse_help(done.stdout + done.stderr)
    assert set(theirs) - {"options"} == set(ours)
    for name, text in shown_defaults(done.stdout + done.stderr).items():
        if text and name in ours:
            assert read_default(ours[name], ours[name].default) == read_default(ours[name], text), name


def test_the_detected_address_is_the_one_that_weed_detects(weed_program):
    done = subprocess.run([weed_program, "help", "volume"], capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert shown_defaults(done.stdout + done.stderr)["ip"] == detect_host_address()


def test_upstreams_own_example_files_can_be_read(weed_program, tmp_path):
    for name in ("security", "volume"):
        done = subprocess.run(
            [weed_program, "scaffold", f"-config={name}"],
            capture_output=True,
            timeout=LIMIT_S,
            check=True,
            cwd=tmp_path,
        )
        (tmp_path / f"{name}.toml").write_bytes(done.stdout)
    tree = load_config_tree(ConfigSources(tmp_path, None, dict(os.environ), tmp_path), strict=True)
    assert tree.loaded_from == (tmp_path / "security.toml", tmp_path / "volume.toml")
    assert tree.integer("volume.disk.io.min.samples", 0) == 10


def test_the_version_of_the_program_tells_its_offset_width(weed_program):
    version = ask_version(weed_program, os.environ)
    assert version.offset_width_bytes in (4, 5)
    assert float(version.number) >= 4
