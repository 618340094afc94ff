"""Facts of the machine: home directories, and the address under which it can be reached."""

import os
import pwd
from pathlib import Path

import pytest

from supervisor.config.home_paths import absolute, absolute_or_none, expand_home
from supervisor.config.host_address import detect_host_address, first_ipv6

ME = pwd.getpwuid(os.getuid())


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("~", ME.pw_dir),
        ("~/data", f"{ME.pw_dir.rstrip('/')}/data"),
        (f"~{ME.pw_name}", ME.pw_dir),
        (f"~{ME.pw_name}/x/y", f"{ME.pw_dir.rstrip('/')}/x/y"),
        ("~no such user/x", "~no such user/x"),
        ("/a/~/b", "/a/~/b"),
        ("", ""),
    ],
)
def test_home_directories(text, expanded):
    assert expand_home(text) == expanded


def test_a_user_without_an_entry_has_the_home_of_the_environment(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    monkeypatch.setenv("HOME", "/srv")
    assert expand_home("~/x") == "/srv/x"


def test_paths_are_taken_from_the_directory_given(tmp_path):
    assert absolute("x", tmp_path) == tmp_path / "x"
    assert absolute("/x", tmp_path) == Path("/x")
    assert absolute("~/x", tmp_path) == Path(ME.pw_dir) / "x"
    assert absolute_or_none("", tmp_path) is None


def test_the_address_found_is_not_loopback():
    assert not detect_host_address().startswith("127.")


IF_INET6 = """\
00000000000000000000000000000001 01 80 10 80       lo
fe800000000000000042acfffe110002 02 40 20 80     eth0
20010db8000000000000000000000007 02 40 00 80     eth0
20010db8000000000000000000000009 03 40 00 80     eth1
"""


def test_ipv6_addresses_of_the_kernels_table():
    assert first_ipv6(IF_INET6, ["lo", "eth0", "eth1"]) == "2001:db8::7"
    assert first_ipv6(IF_INET6, ["eth1", "eth0"]) == "2001:db8::9"
    assert first_ipv6(IF_INET6, ["lo"]) is None
    assert first_ipv6("", ["eth0"]) is None
