"""The child's private configuration: what is kept, what is cleared, and its files' life on disk."""

import dataclasses
import os
import stat
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import LIMIT_S

from supervisor.backend.child_config import (
    DERIVED_KEYS,
    ChildConfigDirectory,
    ChildFiles,
    derive_files,
    derived_values,
    relay_tls,
    remove_abandoned,
    toml_text,
)
from supervisor.config.config import TlsFiles
from supervisor.config.security import security_from_tree
from supervisor.config.toml_config import ConfigTree

FILES = ChildFiles("a = 1\n", "b = 2\n")
CERTIFICATES = """
[grpc]
ca = "pki/ca.pem"
allowed_wildcard_domain = ".example.com"
[grpc.volume]
cert = "pki/v.pem"
key = "pki/v.key"
allowed_commonnames = "a"
"""


def security_of(text, white_list=(), environ=None, cwd=Path("/etc/x")):
    return security_from_tree(ConfigTree(tomllib.loads(text), environ or {}), white_list, cwd)


def derived(text, **keywords):
    """The child's view: its two files read and merged, as weed does."""
    files = derive_files(security_of(text, **keywords))
    assert "volume" not in tomllib.loads(files.security_toml)
    return tomllib.loads(files.security_toml) | tomllib.loads(files.volume_toml)


def test_keys_are_kept_and_the_white_list_is_cleared():
    text = '[jwt.signing]\nkey = "w"\nexpires_after_seconds = 5\n[jwt.signing.read]\nkey = "r"\n'
    text += '[guard]\nwhite_list = "10.0.0.1"\n[access]\nui = true\n'
    child = derived(text, white_list=("10.0.0.2",))
    assert child["jwt"]["signing"]["key"] == "w"
    assert child["jwt"]["signing"]["expires_after_seconds"] == 5
    assert child["jwt"]["signing"]["read"] == {"key": "r", "expires_after_seconds": 60}
    assert child["guard"]["white_list"] == ""
    assert child["access"]["ui"] is True


def test_the_environment_is_folded_in():
    child = derived('[jwt.signing]\nkey = "file"\n', environ={"WEED_JWT_SIGNING_KEY": "environment"})
    assert child["jwt"]["signing"]["key"] == "environment"


def test_server_certificates_are_cleared_and_client_certificates_kept():
    child = derived(CERTIFICATES + '[https.volume]\ncert = "c"\nkey = "k"\nca = "a"\n[tls]\nmin_version = "TLS 1.2"\n')
    assert child["https"]["volume"] == {"cert": "", "key": "", "ca": ""}
    assert child["grpc"] == {
        "ca": "/etc/x/pki/ca.pem",
        "allowed_wildcard_domain": "",
        "volume": {
            "cert": "",
            "key": "",
            "allowed_commonnames": "",
            "client_cert": "/etc/x/pki/v.pem",
            "client_key": "/etc/x/pki/v.key",
        },
    }
    assert child["tls"]["min_version"] == "TLS 1.2"


def test_a_client_pair_is_preferred():
    child = derived(CERTIFICATES + 'client_cert = "c.pem"\nclient_key = "c.key"\n')
    assert child["grpc"]["volume"]["client_cert"] == "/etc/x/c.pem"


def test_the_relay_serves_what_the_child_dials():
    assert relay_tls(security_of("")) is None
    with_server = security_of(CERTIFICATES + 'client_cert = "c.pem"\nclient_key = "c.key"\n')
    assert relay_tls(with_server) == TlsFiles(
        cert=Path("/etc/x/pki/v.pem"), key=Path("/etc/x/pki/v.key"), ca=Path("/etc/x/pki/ca.pem")
    )
    client_only = security_of('[grpc]\nca = "ca"\n[grpc.volume]\nclient_cert = "c"\nclient_key = "k"\n')
    assert relay_tls(client_only) == TlsFiles(cert=Path("/etc/x/c"), key=Path("/etc/x/k"), ca=Path("/etc/x/ca"))


@pytest.mark.parametrize(
    "text",
    [
        '[grpc.volume]\ncert = "c"\nkey = "k"\n',
        '[grpc]\nca = "ca"\n[grpc.volume]\ncert = "a/c"\nkey = "b/k"\n',
        '[grpc]\nca = "ca"\n[grpc.volume]\ncert = "c"\n',
    ],
)
def test_what_weed_cannot_dial_with_is_plaintext_on_both_ends(text):
    assert relay_tls(security_of(text)) is None
    assert derived(text)["grpc"]["volume"]["client_cert"] == ""


def test_the_disk_probe_and_unknown_keys_are_passed_on():
    child = derived('[volume.disk.io]\nprobe = true\n[future]\nkey = [1, "x", {a = 2026-01-02}]\n')
    assert child["volume"]["disk"]["io"]["probe"] is True
    assert child["future"]["key"] == [1, "x", {"a": date(2026, 1, 2)}]


def test_both_files_always_exist():
    files = derive_files(security_of(""))
    assert tomllib.loads(files.volume_toml) == {}
    assert "white_list" in files.security_toml


def test_a_value_where_a_section_belongs_is_replaced():
    assert derived('guard = "x"\n')["guard"] == {"white_list": ""}


def test_the_derived_keys_are_those_whose_variables_are_removed():
    assert tuple(derived_values(security_of(""))) == DERIVED_KEYS
    assert tuple(derived_values(security_of(CERTIFICATES))) == DERIVED_KEYS


scalars = st.one_of(
    st.text(max_size=8),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.dates(),
    st.times(),
)
trees = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        scalars | st.lists(scalars, max_size=3),
        lambda node: st.dictionaries(st.text(max_size=5), node, min_size=1, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)


@given(trees)
def test_toml_text_is_read_back(tree):
    assert tomllib.loads(toml_text(tree)) == tree


def test_what_toml_does_not_have():
    with pytest.raises(TypeError, match="TOML has no NoneType"):
        toml_text({"a": None})


class TestDirectory:
    def test_only_we_can_read_it(self, tmp_path):
        old_mask = os.umask(0)
        try:
            with ChildConfigDirectory(FILES, tmp_path) as directory:
                assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
                assert sorted(path.name for path in directory.path.iterdir()) == ["security.toml", "volume.toml"]
                for path in directory.path.iterdir():
                    assert stat.S_IMODE(path.stat().st_mode) == 0o600
        finally:
            os.umask(old_mask)
        assert list(tmp_path.iterdir()) == []

    def test_files_are_replaced_whole(self, tmp_path):
        with ChildConfigDirectory(FILES, tmp_path) as directory, open(directory.path / "security.toml") as old:
            directory.write(dataclasses.replace(FILES, security_toml="a = 9\n"))
            assert old.read() == "a = 1\n"
            assert (directory.path / "security.toml").read_text() == "a = 9\n"
            assert len(list(directory.path.iterdir())) == 2

    def test_a_write_that_was_cut_off_is_repeated(self, tmp_path):
        with ChildConfigDirectory(FILES, tmp_path) as directory:
            (directory.path / "security.tmp").write_text("half")
            directory.write(FILES)
            assert not (directory.path / "security.tmp").exists()

    def test_closing_twice_is_harmless(self, tmp_path):
        directory = ChildConfigDirectory(FILES, tmp_path)
        directory.close()
        directory.close()
        assert list(tmp_path.iterdir()) == []

    def test_what_cannot_be_written_leaves_nothing(self, tmp_path):
        with pytest.raises(UnicodeEncodeError):
            ChildConfigDirectory(ChildFiles("\udc80", ""), tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_what_a_killed_supervisor_left_is_removed_and_a_living_ones_kept(self, tmp_path):
        """Slow: starts a process."""
        code = (
            "import os, sys; from pathlib import Path\n"
            "from supervisor.backend.child_config import ChildConfigDirectory, ChildFiles\n"
            "directory = ChildConfigDirectory(ChildFiles('', ''), Path(sys.argv[1]))\n"
            "print(directory.path, flush=True); os.kill(os.getpid(), 9)\n"
        )
        environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], env=environ, capture_output=True, timeout=LIMIT_S, check=False
        )
        left = Path(done.stdout.decode().strip())
        assert left.is_dir()
        with ChildConfigDirectory(FILES, tmp_path) as living:
            assert not left.exists()
            assert remove_abandoned(tmp_path) == []
            assert living.path.is_dir()

    def test_links_are_not_followed(self, tmp_path):
        target = tmp_path / "target"
        target.mkdir()
        (tmp_path / "weed-volume-py-child-x").symlink_to(target)
        assert remove_abandoned(tmp_path) == []
        assert target.is_dir()
