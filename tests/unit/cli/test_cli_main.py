"""The program as a whole: subcommands, help, exec mode, exit statuses, what gets imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import LIMIT_S

from supervisor.cli.engine_choice import table_forwards_anything
from supervisor.cli.exec_mode import check_offset_width, go_command
from supervisor.cli.load_small import load_master, load_quickstart
from supervisor.cli.main import main, split_command
from supervisor.cli.version_command import run_version
from supervisor.config.errors import UsageError
from supervisor.wire.server_address import ServerAddress

ROOT = Path(__file__).parents[3]


def run_program(machine, *argv, **environ):
    """The program in a process of its own, as an operator starts it."""
    return subprocess.run(
        [sys.executable, "-m", "supervisor.cli.main", *argv],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        cwd=machine.cwd,
        env=machine.environ | {"PYTHONPATH": str(ROOT)} | environ,
    )


@pytest.mark.parametrize(
    ("tokens", "command", "rest"),
    [
        ([], "volume", []),
        (["-port=1"], "volume", ["-port=1"]),
        (["-v=1", "volume", "-port=1"], "volume", ["-v=1", "volume", "-port=1"]),
        (["quickstart", "-port=1"], "quickstart", ["-port=1"]),
        (["-v", "1", "quickstart", "-port=1"], "quickstart", ["-v", "1", "-port=1"]),
        (["--version"], "version", []),
        (["routes", "show"], "routes", ["show"]),
        (["-pprof", "true"], "volume", ["-pprof", "true"]),
    ],
)
def test_the_subcommand(tokens, command, rest):
    assert split_command(tokens) == (command, rest)


def test_an_unknown_command():
    with pytest.raises(UsageError, match=r"'quikstart' is no command; did you mean quickstart\?"):
        split_command(["quikstart"])
    with pytest.raises(UsageError, match="expected one of volume, quickstart"):
        split_command(["xyzzy"])


@pytest.mark.parametrize("argv", [["-h"], ["volume", "-help"], ["help"], ["-v=1", "volume", "--help"], ["help", "x"]])
def test_help_of_the_program(argv, capsys):
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Usage: weed-volume-py [COMMAND] [flags]")
    assert "-preStopSeconds int" in printed


@pytest.mark.parametrize(
    ("argv", "flag"),
    [
        (["quickstart", "-h"], "-master.port int"),
        (["help", "quickstart"], "-master.port int"),
        (["master", "-h"], "-mdir text"),
    ],
)
def test_help_of_smaller_commands(argv, flag, capsys):
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"Usage: weed-volume-py {'master' if 'master' in argv else 'quickstart'} [flags]")
    assert flag in printed


def test_what_cannot_be_used_ends_with_2_and_names_every_problem(machine):
    done = run_program(machine, "-port=x", "-prot=1", "-mode=native", f"-dir={machine.data}")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "weed-volume-py: -prot is no flag of this command; did you mean -port?",
        "weed-volume-py: -port=x: 'x' cannot be used; expected a whole number from 1 to 65535",
        "weed-volume-py: nothing was started; weed-volume-py -h explains every flag",
    ]
    assert list(machine.data.iterdir()) == []


class TestExec:
    @pytest.fixture
    def exec_config(self, machine):
        machine.environ["WEED_BINARY"] = str(machine.program())
        return lambda *argv, **environ: machine.load(*argv, mode="exec", **environ)

    def test_flags_in_gos_spelling(self, machine, exec_config):
        config = exec_config("--port", "99", "-pprof", "--readMode", "local", "-v=1", WEED_RACK="r1")
        assert go_command(config) == [
            str(machine.program()),
            "-v=1",
            "volume",
            "-port=99",
            "-pprof=true",
            "-readMode=local",
            f"-dir={machine.data}",
            "-rack=r1",
        ]

    def test_a_security_file_becomes_its_directory(self, machine, exec_config):
        (machine.cwd / "conf").mkdir()
        (machine.cwd / "conf/security.toml").touch()
        command = go_command(exec_config("--securityFile", "conf/security.toml", "-config_dir=conf"))
        assert command[1:3] == [f"-config_dir={machine.cwd}/conf", "volume"]
        with pytest.raises(UsageError, match="one directory only"):
            go_command(exec_config("--securityFile", "conf/security.toml", "-config_dir=other"))

    def test_a_security_file_of_another_name_is_explained(self, machine, exec_config):
        (machine.cwd / "mine.toml").touch()
        with pytest.raises(UsageError, match=r"rename the file to security\.toml"):
            go_command(exec_config("--securityFile", "mine.toml"))

    def test_the_process_becomes_the_program(self, machine):
        program = machine.program(body='echo "$$" "$@"')
        argv = [sys.executable, "-m", "supervisor.cli.main", "-mode=exec", f"-dir={machine.data}"]
        environ = machine.environ | {"WEED_BINARY": str(program), "PYTHONPATH": str(ROOT)}
        started = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environ)
        assert started.communicate(timeout=LIMIT_S)[0] == f"{started.pid} volume -dir={machine.data}\n"
        assert started.returncode == 0

    @pytest.mark.slow
    def test_a_program_that_cannot_be_executed(self, machine):
        """Slow: starts a program."""
        program = machine.program()
        program.write_bytes(b"\x7fELF not really")
        done = run_program(machine, "-mode=exec", f"-dir={machine.data}", WEED_BINARY=str(program))
        assert done.returncode == 1
        assert done.stderr == f"weed-volume-py: {program} cannot be executed: Exec format error\n"

    def test_an_offset_width_that_the_program_has_not(self, machine, exec_config):
        machine.program(body="echo 'version 30GB 4.44 abc linux amd64'")
        check_offset_width(exec_config(), machine.environ)
        check_offset_width(exec_config("-offset.bytes=4"), machine.environ)
        with pytest.raises(UsageError, match=r"-offset\.bytes says 5 bytes, but the backend"):
            check_offset_width(exec_config("-offset.bytes=5"), machine.environ)

    @pytest.mark.slow
    def test_nothing_slow_is_imported(self, machine):
        """Slow: starts a program."""
        program = machine.program()
        code = (
            "import json, os, sys\n"
            "os.execve = lambda *a: (print(json.dumps(sorted(sys.modules))), sys.exit(0))\n"
            "from supervisor.cli.main import main\n"
            f"main(['-mode=exec', '-dir={machine.data}'])\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=True,
            env=machine.environ | {"PYTHONPATH": str(ROOT), "WEED_BINARY": str(program)},
        )
        loaded = set(json.loads(done.stdout))
        assert "supervisor.cli.exec_mode" in loaded
        assert not loaded & {"trio", "grpc", "yaml", "google.protobuf", "ssl", "supervisor.app"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "kind"),
    [(["-mode=native"], "native"), (["-mode=proxy", "-backend=native"], "forwarding")],
)
def test_workers_start_before_the_servers_own_modules_are_loaded(machine, flags, kind):
    """They load theirs meanwhile. Those that nobody takes are ended. Slow: starts the program."""
    code = (
        "import sys\n"
        "from supervisor.cli.main import main\n"
        "from supervisor.workers import spawn\n"
        "class Played(spawn.EarlyWorkers):\n"
        "    def spawn(self, count, kind):\n"
        "        print(count, kind, sorted({'trio', 'grpc', 'supervisor.app'} & set(sys.modules)))\n"
        "        import supervisor.app\n"
        "        supervisor.app.run = lambda config, early: print(early is self) or 3\n"
        "    def end(self):\n"
        "        print('ended')\n"
        "spawn.EarlyWorkers = Played\n"
        f"sys.exit(main([*{flags!r}, '-workers=2', '-dir={machine.data}']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env=machine.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (done.stdout.splitlines(), done.returncode) == ([f"2 {kind} []", "True", "ended"], 3), done.stderr


@pytest.mark.slow
def test_the_table_decides_the_default_mode(machine):
    """Through the real routing package: the shipped table forwards nothing, and with one that forwards a backend is
    asked for.

    Slow: starts the program.
    """
    assert not table_forwards_anything(None)
    (machine.cwd / "r.yaml").write_text("phase: 1\n")
    done = run_program(machine, f"-dir={machine.data}", "-routes=r.yaml", PATH="/nonexistent")
    assert done.returncode == 2
    assert "-mode=mixed needs a backend and none was found" in done.stderr


@pytest.mark.slow
def test_a_bad_table_is_a_usage_error(machine):
    """Slow: starts the program."""
    (machine.cwd / "r.yaml").write_text("phase: many\n")
    done = run_program(machine, f"-dir={machine.data}", "-routes=r.yaml")
    assert done.returncode == 2
    assert f"{machine.cwd}/r.yaml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_reader_that_has_gone_is_no_traceback(machine):
    """Slow: starts the program."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.cli.main", "-h"],
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=LIMIT_S,
            check=False,
            cwd=machine.cwd,
            env=machine.environ | {"PYTHONPATH": str(ROOT)},
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.slow
def test_a_current_directory_that_has_gone(machine):
    """Slow: starts the program."""
    code = "import os, shutil; os.mkdir('x'); os.chdir('x'); os.rmdir('../x'); from supervisor.cli.main import main; \
raise SystemExit(main(['-mode=native']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        cwd=machine.cwd,
        env=machine.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert "the current directory cannot be used" in done.stderr


class TestQuickstart:
    def load(self, machine, *argv, **environ):
        return load_quickstart(argv, machine.environ | environ, machine.cwd)

    def test_defaults(self, machine):
        quickstart = self.load(machine)
        config, master = quickstart.config, quickstart.master
        assert config.directories[0].path == machine.cwd / "data"
        assert (machine.cwd / "data").is_dir()
        assert (config.ip, config.bind_ip, config.port, config.mode.value) == ("127.0.0.1", "127.0.0.1", 8080, "native")
        assert config.masters == (ServerAddress("127.0.0.1", 9333, 19333),)
        assert (master.ip, master.port, master.port_grpc, master.directory) == ("127.0.0.1", 9333, 19333, None)
        assert (master.volume_size_limit_mb, master.default_replication) == (1024, "000")

    def test_flags(self, machine):
        quickstart = self.load(machine, "-dir=a/b,c", "-master.port=70", "-port=71", "-master.port.grpc=72", "-max=3")
        assert quickstart.config.masters == (ServerAddress("127.0.0.1", 70, 72),)
        assert [d.path for d in quickstart.config.directories] == [machine.cwd / "a/b", machine.cwd / "c"]
        assert (quickstart.master.port, quickstart.master.port_grpc) == (70, 72)

    def test_it_is_its_own_master_whatever_the_environment_says(self, machine):
        assert self.load(machine, WEED_MASTER="m:1").config.masters[0].port == 9333
        with pytest.raises(UsageError, match="quickstart starts a master of its own"):
            self.load(machine, "-master=m:1")

    def test_it_cannot_become_another_program(self, machine):
        with pytest.raises(UsageError, match="cannot become another program"):
            self.load(machine, "-mode=exec", f"-backend={machine.program()}")

    def test_a_bad_replication_is_refused_before_anything_is_made(self, machine):
        with pytest.raises(UsageError, match="three digits"):
            self.load(machine, "-master.defaultReplication=two")

    def test_a_directory_that_cannot_be_made(self, machine):
        (machine.cwd / "data").touch()
        with pytest.raises(UsageError, match="cannot be created"):
            self.load(machine)


def test_master_options(machine):
    master = load_master(["-port=71", "-mdir=m", "-v=1"], {}, machine.cwd)
    assert (master.ip, master.bind_ip, master.port, master.port_grpc) == ("127.0.0.1", "127.0.0.1", 71, 10071)
    assert (master.directory, master.log.verbosity) == (machine.cwd / "m", 1)
    with pytest.raises(UsageError) as caught:
        load_master(["-prot=1", "-port=x", "-defaultReplication=3"], {}, machine.cwd)
    assert len(caught.value.problems) == 3


class TestVersion:
    def test_with_a_backend(self, machine, capsys):
        program = machine.program(body="echo 'version 30GB 4.44 abc linux amd64'")
        assert run_version([], machine.environ | {"WEED_BINARY": str(program)}, machine.cwd) == 0
        ours, backend = capsys.readouterr().out.splitlines()
        assert ours.startswith("weed-volume-py ")
        assert backend == f"backend: {program} 30GB 4.44 abc"

    def test_without_one(self, machine, capsys):
        assert run_version([], machine.environ, machine.cwd) == 0
        assert capsys.readouterr().out.splitlines()[1] == "backend: none was found"
        assert run_version(["-backend=native"], machine.environ, machine.cwd) == 0
        assert capsys.readouterr().out.splitlines()[1] == "backend: this program"

    def test_with_one_that_does_not_answer(self, machine, capsys):
        assert run_version([f"-backend={machine.program()}"], machine.environ, machine.cwd) == 1
        assert "did not say its version" in capsys.readouterr().err
        with pytest.raises(UsageError, match="does not exist"):
            run_version(["-backend=/nowhere"], machine.environ, machine.cwd)
