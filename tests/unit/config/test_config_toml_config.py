"""security.toml and volume.toml: search, merging, WEED_ variables, wrong types, and the snapshots made of them."""

from pathlib import Path

import pytest

from supervisor.config.config import DiskProbeConfig
from supervisor.config.errors import BadConfigFile
from supervisor.config.security import reload_security, split_list
from supervisor.config.toml_config import ConfigSources, ConfigTree, search_path
from supervisor.net.grpc_client_names import ClientNames
from supervisor.wire.whitelist import Whitelist


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def key_of(name):
    return f'[jwt.signing]\nkey = "{name}"\n'


def test_the_search_path(tmp_path):
    sources = ConfigSources(Path("conf"), None, {"HOME": "/h"}, tmp_path)
    assert search_path(sources) == [
        tmp_path / "conf",
        tmp_path,
        Path("/h/.seaweedfs"),
        Path("/usr/local/etc/seaweedfs"),
        Path("/etc/seaweedfs"),
    ]
    assert search_path(ConfigSources(None, None, {}, tmp_path))[0] == tmp_path


def test_the_first_file_found_counts(machine):
    write(machine.home / ".seaweedfs/security.toml", key_of("home"))
    assert machine.load().security.write_key.key == b"home"
    write(machine.cwd / "security.toml", key_of("cwd"))
    assert machine.load().security.write_key.key == b"cwd"
    found = write(machine.cwd / "conf/security.toml", key_of("conf"))
    config = machine.load("-config_dir=conf")
    assert config.security.write_key.key == b"conf"
    assert config.security.loaded_from == (found,)
    other = write(machine.cwd / "mine.toml", key_of("file"))
    config = machine.load("-config_dir=conf", f"-securityFile={other}")
    assert (config.security.write_key.key, config.security_file) == (b"file", other)


def test_a_directory_of_that_name_is_passed_over(machine):
    (machine.cwd / "security.toml").mkdir()
    write(machine.home / ".seaweedfs/security.toml", key_of("home"))
    assert machine.load().security.write_key.key == b"home"


def test_a_missing_security_file_is_refused(machine):
    (problem,) = machine.problems("-securityFile=none.toml")
    assert problem == f"-securityFile=none.toml: {machine.cwd}/none.toml is not a file; expected a security.toml"


def test_both_files_make_one_tree_with_volume_toml_on_top(machine):
    write(machine.cwd / "security.toml", key_of("first") + "expires_after_seconds = 7\n[access]\nui = true\n")
    write(machine.cwd / "volume.toml", key_of("second"))
    security = machine.load().security
    assert (security.write_key.key, security.write_key.expires_after_s, security.ui_access) == (b"second", 7, True)


def test_variables_win_unless_empty(machine):
    write(machine.cwd / "security.toml", key_of("file"))
    assert machine.load(WEED_JWT_SIGNING_KEY="environment").security.write_key.key == b"environment"
    assert machine.load(WEED_JWT_SIGNING_KEY="").security.write_key.key == b"file"
    assert machine.load(WEED_JWT_SIGNING_READ_EXPIRES_AFTER_SECONDS="3").security.read_key.expires_after_s == 3


def test_a_file_that_cannot_be_parsed_warns_and_is_skipped(machine):
    broken = write(machine.cwd / "security.toml", key_of("x") + "]broken")
    config = machine.load()
    assert config.security.write_key.key == b""
    (warning,) = config.warnings
    assert warning.startswith(f"{broken} cannot be read: ")


def test_a_reload_keeps_the_old_values_by_raising(machine):
    path = write(machine.cwd / "security.toml", key_of("old"))
    config = machine.load("-whiteList=10.0.0.1")
    write(path, key_of("new") + '[guard]\nwhite_list = "10.0.0.0/8"\n')
    fresh = reload_security(config, machine.environ, machine.cwd)
    assert (fresh.write_key.key, fresh.white_list) == (b"new", ("10.0.0.1", "10.0.0.0/8"))
    write(path, "")
    assert reload_security(config, machine.environ, machine.cwd).write_key.key == b""
    write(path, "]")
    with pytest.raises(BadConfigFile, match=r"security\.toml cannot be read"):
        reload_security(config, machine.environ, machine.cwd)


def test_token_life_times_have_defaults(machine):
    security = machine.load().security
    assert (security.write_key.expires_after_s, security.read_key.expires_after_s) == (10, 60)


def test_keys_have_no_case_and_paths_are_taken_from_here(machine):
    write(
        machine.cwd / "security.toml",
        """
        [GRPC]
        ca = "ca.pem"
        allowed_wildcard_domain = ".example.com"
        [grpc.volume]
        cert = "pki/v.pem"
        key = "pki/v.key"
        client_cert = "/c/c.pem"
        client_key = "/c/c.key"
        allowed_commonNames = "a,b"
        [https.volume]
        cert = "h.pem"
        key = "h.key"
        ca = "h.ca"
        [https.client]
        enabled = true
        ca = "x.ca"
        insecure_skip_verify = "1"
        [tls]
        min_version = "TLS 1.2"
        """,
    )
    security = machine.load().security
    grpc = security.grpc
    assert (grpc.cert, grpc.key, grpc.ca) == tuple(machine.cwd / n for n in ("pki/v.pem", "pki/v.key", "ca.pem"))
    assert (grpc.client_cert, grpc.client_key) == (Path("/c/c.pem"), Path("/c/c.key"))
    assert (grpc.allowed_common_names, grpc.allowed_wildcard_domain) == (("a", "b"), ".example.com")
    assert grpc.is_configured
    assert security.https.ca == machine.cwd / "h.ca"
    assert security.https_client.enabled
    assert security.https_client.insecure_skip_verify
    assert (security.https_client.cert, security.https_client.ca) == (None, machine.cwd / "x.ca")
    assert (security.tls_min_version, security.tls_max_version) == ("TLS 1.2", "")


def test_the_secrets_are_not_shown(machine):
    write(machine.cwd / "security.toml", key_of("hunter2"))
    assert "hunter2" not in repr(machine.load())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[grpc.volume]\ncert="a/c"\nkey="a/k"', "grpc.ca is not"),
        ('[grpc]\nca="a"\n[grpc.volume]\ncert="a/c"\nkey="b/k"', "different directories"),
        ('[grpc.volume]\nclient_cert="c"', "only together"),
        ('[guard]\nwhite_list=["10.0.0.1"]', "guard.white_list"),
        ('[access]\nui="maybe"', "access.ui"),
        ('[jwt.signing]\nexpires_after_seconds="soon"', "expires_after_seconds"),
    ],
)
def test_what_weed_would_silently_make_of_it_is_a_warning(machine, text, words):
    write(machine.cwd / "security.toml", text)
    (warning,) = machine.load().warnings
    assert words in warning


def test_the_white_list_is_the_flag_and_the_file(machine):
    write(machine.cwd / "security.toml", '[guard]\nwhite_list = "10.0.0.2,10.0.0.3"\n')
    config = machine.load("-whiteList=10.0.0.1")
    assert config.white_list_flag == ("10.0.0.1",)
    assert config.security.white_list == ("10.0.0.1", "10.0.0.2", "10.0.0.3")


@pytest.mark.parametrize("text", [",", " ", ",,", " , "])
def test_a_list_of_empty_entries_is_a_list(machine, text):
    """As in upstream, such a list lets no client in. Without its entries it would be no list, and let every client
    in.
    """
    write(
        machine.cwd / "security.toml",
        f'[guard]\nwhite_list = "{text}"\n[grpc.volume]\nallowed_commonNames = "{text}"\n',
    )
    security = machine.load().security
    assert not Whitelist.parse(security.white_list).allows("10.0.0.1")
    assert not ClientNames(security.grpc.allowed_common_names).allows("somebody")
    assert "are taken as they are" in security.warnings[-1]
    security = machine.load(f"-whiteList={text}").security
    assert not Whitelist.parse(security.white_list).allows("10.0.0.1")


def test_the_tiers_of_volume_toml(machine):
    assert machine.load().tiers == ()
    write(
        machine.cwd / "volume.toml",
        """
        [storage.backend]
        [storage.backend.s3.default]
        enabled = false
        bucket = "not-this-one"
        [storage.backend.s3.Cold]
        enabled = true
        aws_secret_access_key = "hunter2"
        bucket = "volumes"
        force_path_style = false
        """,
    )
    config = machine.load()
    (tier,) = config.tiers
    assert (tier.kind, tier.id) == ("s3", "cold")
    assert dict(tier.properties) == {
        "aws_secret_access_key": "hunter2",
        "bucket": "volumes",
        "force_path_style": "false",
    }
    assert "hunter2" not in repr(config.tiers)


@pytest.mark.parametrize("text", ["storage = 1", '[storage]\nbackend = "s3"', '[storage.backend]\ns3 = ["a"]'])
def test_tiers_that_are_no_tables_are_none(machine, text):
    write(machine.cwd / "volume.toml", text)
    assert machine.load().tiers == ()


def test_the_disk_probe_of_upstreams_example(machine):
    assert machine.load().disk_probe == DiskProbeConfig(False, 60.0, 0.5, 2.0, 60.0, 10, 20.0, 10.0, 5, 0.5)
    write(
        machine.cwd / "volume.toml",
        """
        [volume.disk.io]
        probe = true
        timeout = "3s"
        interval = "5s"
        window = "2m"
        min.samples = 11
        max.stat.failures = 6
        recovery.coef = 0.25
        [volume.disk.io.slow]
        percent = 21
        [volume.disk.io.error]
        percent = 12.5
        [volume.disk.io.slow.latency]
        hdd = "1s"
        ssd = "2s"
        nvme = 40000000
        """,
    )
    assert machine.load().disk_probe == DiskProbeConfig(True, 5.0, 1.0, 3.0, 120.0, 11, 21.0, 12.5, 6, 0.25)
    assert machine.load("-disk=ssd").disk_probe.slow_s == 2.0
    assert machine.load("-disk=nvme").disk_probe.slow_s == 0.04
    assert machine.load("-disk=tape").disk_probe.slow_s == 1.0
    assert machine.load(WEED_VOLUME_DISK_IO_PROBE="false").disk_probe.enabled is False


def test_the_disk_probe_is_off_with_two_directories(machine):
    write(machine.cwd / "volume.toml", "[volume.disk.io]\nprobe = true\n")
    (machine.cwd / "a").mkdir()
    config = machine.load(f"-dir=a,{machine.data}", data=False)
    assert config.disk_probe.enabled is False
    assert "disk probe" in config.warnings[0]


def test_values_of_the_tree():
    data = {"a": {"int": 3, "text": "7", "float": 1.5, "yes": True, "list": [1], "bad": "x", "n": "500"}}
    tree = ConfigTree(data, {"WEED_B_C_D": "from here"})
    assert (tree.text("A.Int"), tree.text("a.yes"), tree.text("a.float"), tree.text("b.c.d")) == (
        *("3", "true", "1.5"),
        "from here",
    )
    assert (tree.integer("a.text", 0), tree.integer("a.float", 0), tree.integer("a.none", 9)) == (7, 1, 9)
    assert (tree.number("a.text", 0), tree.number("a.none", 2.5)) == (7.0, 2.5)
    assert (tree.duration_s("a.n", 0), tree.duration_s("a.int", 0), tree.duration_s("a.none", 4)) == (5e-7, 3e-9, 4)
    assert (tree.boolean("a.int"), tree.boolean("a.none"), tree.is_set("a.none"), tree.is_set("a")) == (
        *(True, False),
        *(False, True),
    )
    assert tree.warnings == []
    assert (tree.text("a.list"), tree.boolean("a.bad"), tree.integer("a.bad", 1)) == ("", False, 0)
    assert (tree.number("a.bad", 1), tree.duration_s("a.bad", 1)) == (0.0, 0.0)
    assert len(tree.warnings) == 5


def test_lists_are_split_at_commas():
    assert split_list(" a, b ,,c") == (" a", " b ", "", "c")
    assert split_list("") == ()


def test_an_unreadable_file_is_reported(machine):
    path = write(machine.cwd / "security.toml", "")
    path.write_bytes(b"\xff\xfe")
    (warning,) = machine.load().warnings
    assert warning.startswith(f"{path} cannot be read")
