"""The child's command line and environment."""

import dataclasses
import subprocess
import sys

import pytest
from support.waiting import LIMIT_S

from supervisor.backend.child_config import DERIVED_KEYS
from supervisor.backend.child_flags import BIND_NAME, child_command, child_environment
from supervisor.backend.ports import BackendPorts
from supervisor.cli.load import Surroundings, load_config
from supervisor.config.config import Mode, NativeBackend
from supervisor.config.flags import VOLUME_FLAGS, Kind, Owner, weed_variable
from supervisor.config.go_flags import scan
from supervisor.wire.server_address import ServerAddress

PORTS = BackendPorts(http=1001, grpc=1002, public=1003, metrics=1004)
RELAY = ServerAddress("127.0.0.1", 1005, 1006)


@pytest.fixture
def command(tmp_path):
    """The child's flags for an operator's flags: (program part, {name: text})."""
    (tmp_path / "data").mkdir()
    program = tmp_path / "weed"
    program.touch(mode=0o755)

    def make(*argv, backend=str(program), environ=None):
        flags = ["-mode=proxy", f"-backend={backend}", f"-dir={tmp_path}/data", *argv]
        asked = Surroundings(detect_address=lambda: "192.0.2.7", ask_backend_flags=lambda _: {"newFlag": False})
        config = load_config(flags, environ or {}, tmp_path, asked)
        words = child_command(config, PORTS, RELAY, tmp_path / "conf")
        at = words.index("volume")
        named = dict(word[1:].split("=", 1) for word in words[at + 1 :])
        assert len(named) == len(words) - at - 1, "a flag was given twice"
        return words[:at], named

    return make


def test_what_the_child_gets_of_its_own(command, tmp_path):
    program, flags = command()
    assert program == [f"{tmp_path}/weed", f"-config_dir={tmp_path}/conf", "-logtostderr=true"]
    assert flags == {
        "id": "192.0.2.7:8080",
        "ip": "127.0.0.1",
        "ip.bind": "localhost",
        "port": "1001",
        "port.grpc": "1002",
        "port.public": "1001",
        "publicUrl": "127.0.0.1:1001",
        "master": "127.0.0.1:1005.1006",
        "preStopSeconds": "0",
        "idleTimeout": "90",
        "dir": f"{tmp_path}/data",
        "metricsPort": "1004",
        "metricsIp": "localhost",
    }


def test_what_is_passed_on(command):
    argv = ("-max=7", "-disk=ssd", "-tags=a:b", "-minFreeSpace=5", "-readMode=local", "-concurrentUploadLimitMB=9")
    argv += ("-hasSlowRead=false", "-dataCenter=dc", "-rack=r", "-index=leveldb", "-pprof", "-newFlag=1")
    _, flags = command(*argv)
    for flag in argv:
        name, _, text = flag[1:].partition("=")
        assert flags[name] == (text or "true")


def test_which_remote_endpoints_are_trusted_is_for_the_child_to_heed(command):
    """FetchAndWriteNeedle, the only RPC that uses the flag, is forwarded to the child."""
    name = "volume.allowUntrustedRemoteEndpoints"
    for argv, expected in (((), None), ((f"-{name}",), "true"), ((f"-{name}=false",), "false")):
        _, flags = command(*argv)
        assert flags.get(name) == expected


def test_what_is_ours_is_not_passed_on(command):
    own = ("-ip=10.0.0.1", "-ip.bind=0.0.0.0", "-port=81", "-port.grpc=82", "-publicUrl=cdn", "-id=me", "-master=m:1")
    own += ("-mserver=n:2", "-preStopSeconds=30", "-idleTimeout=300", "-whiteList=10.0.0.9", "-debug", "-debug.port=83")
    _, plain = command()
    _, flags = command(*own)
    assert flags == plain | {"idleTimeout": "360", "id": "me"}


def test_every_flag_is_either_replaced_or_passed_on(command):
    """A flag that an upgrade adds to the table is passed on; the tests above name those that are not."""
    _, plain = command()
    for row in VOLUME_FLAGS.values():
        if row.owner is not Owner.VOLUME or row.name in {"dir", "options", "dir.idx", "metricsPort"}:
            continue
        text = {"ip": "10.0.0.1", "master": "m:1", "mserver": "m:1"}.get(
            row.name, row.choices[0] if row.choices else "1"
        )
        text = "1s" if row.kind is Kind.DURATION else text
        _, flags = command(f"-{row.name}={text}")
        assert set(flags) - set(plain) <= {row.name}


def test_a_separate_public_port_gives_the_child_one_too(command):
    _, flags = command("-port.public=99")
    assert (flags["port.public"], flags["publicUrl"]) == ("1003", "127.0.0.1:1003")


def test_metrics_and_the_index_directory(command, tmp_path):
    (tmp_path / "idx").mkdir()
    _, flags = command("-metricsPort=99", "-metricsIp=0.0.0.0", "-dir.idx=idx", "-cpuprofile=p")
    assert (flags["metricsPort"], flags["metricsIp"]) == ("1004", BIND_NAME)
    assert (flags["dir.idx"], flags["cpuprofile"]) == (f"{tmp_path}/idx", f"{tmp_path}/p")


def test_logging(command, tmp_path):
    program, _ = command("-v=3", "-vmodule=x=2", "-log_json", "-logtostderr=false", "-stderrthreshold=FATAL")
    assert program[2:] == ["-logtostderr=true", "-v=3", "-vmodule=x=2"]
    program, _ = command("-logdir=logs", "-log_max_files=2")
    assert program[2:] == [f"-logdir={tmp_path}/logs", "-alsologtostderr=true", "-log_max_files=2"]


def test_an_options_file_is_unfolded(command, tmp_path):
    (tmp_path / "o").write_text("rack=r9\nport=77\n")
    _, flags = command("-options=o")
    assert (flags["rack"], flags["port"]) == ("r9", "1001")
    assert "options" not in flags


def test_our_own_program_as_the_child(command):
    program, flags = command("-offset.bytes=5", backend="native")
    assert program[:6] == [sys.executable, "-P", "-m", "supervisor.cli.main", "-mode=native", "-offset.bytes=5"]
    assert flags["master"] == "127.0.0.1:1005.1006"
    words = [*program[4:], "volume", *(f"-{name}={text}" for name, text in flags.items())]
    assert not scan(words, VOLUME_FLAGS).unknown


def test_our_own_program_accepts_what_it_is_given(command, tmp_path):
    """The child's command line, loaded again, is a native server on loopback with the relay as its master."""
    program, flags = command("-port.public=99", "-max=3", backend="native")
    words = [*program[4:], "volume", *(f"-{name}={text}" for name, text in flags.items())]
    config = load_config(words, {}, tmp_path)
    assert (config.mode, config.port, config.port_grpc, config.port_public) == (Mode.NATIVE, 1001, 1002, 1003)
    assert (config.masters, config.bind_ip, config.pre_stop_s) == ((RELAY,), "localhost", 0)
    assert config.config_dir == tmp_path / "conf"


def test_the_environment_cannot_override_what_was_derived(tmp_path):
    hostile = {variable: "1" for row in VOLUME_FLAGS.values() for variable in row.environment}
    hostile |= {weed_variable(key): "1" for key in DERIVED_KEYS}
    hostile |= {"NOTIFY_SOCKET": "/run/x", "LISTEN_FDS": "1", "WEED_BINARY": "/weed"}
    kept = {"PATH": "/bin", "TMPDIR": "/t", "WEED_TLS_CERT_REFRESH_INTERVAL": "1m", "WEED_VOLUME_DISK_IO_PROBE": "true"}
    assert child_environment(hostile | kept, tmp_path / "weed") == kept


@pytest.mark.slow
def test_our_own_program_is_found_wherever_it_runs(tmp_path):
    """Slow: starts the program."""
    (tmp_path / "supervisor").mkdir()
    (tmp_path / "supervisor/__init__.py").write_text("raise SystemExit('the wrong package')")
    environ = child_environment({"PATH": "/bin", "PYTHONPATH": "/else"}, NativeBackend.NATIVE)
    assert environ["PYTHONPATH"].endswith(":/else")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "supervisor.cli.main", "-h"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert done.stdout.startswith("Usage: weed-volume-py")


def test_no_backend_is_our_own_bug(command, tmp_path):
    config = load_config(["-mode=native", f"-dir={tmp_path}/data"], {}, tmp_path)
    with pytest.raises(AssertionError):
        child_command(dataclasses.replace(config, backend=None), PORTS, RELAY, tmp_path)
