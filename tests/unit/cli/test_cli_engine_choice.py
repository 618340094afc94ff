"""Which mode and which backend, and flags that only the backend knows."""

import pytest

from supervisor.config.config import Mode, NativeBackend


class TestEngine:
    def test_native_needs_no_backend(self, machine):
        config = machine.load(WEED_BINARY="/nowhere/weed")
        assert (config.mode, config.backend) == (Mode.NATIVE, None)

    def test_the_default_follows_the_table(self, machine):
        assert machine.load(mode=None).mode is Mode.NATIVE
        machine.forwards = True
        program = machine.program()
        config = machine.load(mode=None, WEED_BINARY=str(program))
        assert (config.mode, config.backend) == (Mode.MIXED, program)

    def test_modes_by_variable(self, machine):
        program = str(machine.program())
        assert machine.load(mode=None, VOLUME_SERVER_PY_MODE="proxy", WEED_BINARY=program).mode is Mode.PROXY
        assert machine.load(mode=None, VOLUME_SERVER_RUST_MODE="exec", WEED_BINARY=program).mode is Mode.EXEC
        config = machine.load(mode=None, VOLUME_SERVER_PY_MODE="native", VOLUME_SERVER_RUST_MODE="proxy")
        assert config.mode is Mode.NATIVE
        assert machine.load(mode=None, VOLUME_SERVER_PY_MODE="").mode is Mode.NATIVE
        assert machine.load(VOLUME_SERVER_PY_MODE="proxy").mode is Mode.NATIVE

    def test_a_bad_mode_is_named(self, machine):
        assert machine.problems(mode="direct") == [
            "-mode=direct: 'direct' cannot be used; expected exec, proxy, mixed or native"
        ]
        (problem,) = machine.problems(mode=None, VOLUME_SERVER_PY_MODE="x")
        assert problem.startswith("VOLUME_SERVER_PY_MODE=x in the environment: ")

    def test_a_missing_backend_is_one_sentence_that_says_where(self, machine):
        (problem,) = machine.problems(mode="proxy", PATH="bin1:bin2")
        assert problem == (
            "-mode=proxy needs a backend and none was found; looked at WEED_BINARY (not set);"
            " 'weed' in PATH (bin1:bin2). Give -backend=/path/to/weed, or -backend=native to put this program behind"
            " itself, or -mode=native to run without a backend"
        )
        (problem,) = machine.problems(mode="proxy", WEED_BINARY="/nowhere/weed")
        assert "looked at WEED_BINARY=/nowhere/weed (does not exist)." in problem

    def test_a_table_that_forwards_nothing_needs_no_backend(self, machine):
        config = machine.load(mode="mixed", PATH="bin1")
        assert (config.mode, config.backend) == (Mode.MIXED, None)
        machine.forwards = True
        (problem,) = machine.problems(mode="mixed", PATH="bin1")
        assert problem.startswith("-mode=mixed needs a backend and none was found")

    def test_the_order_of_places(self, machine):
        first, second, third = machine.program("first"), machine.program("second"), machine.program()
        path = str(third.parent)
        assert machine.load(f"-backend={first}", mode="proxy", WEED_BINARY=str(second)).backend == first
        assert machine.load(mode="proxy", WEED_BINARY=str(second), PATH=path).backend == second
        assert machine.load(mode="proxy", PATH=path).backend == third
        assert machine.load("-backend=first", mode="proxy", PATH=path).backend == first
        assert machine.load("-backend=native", mode="proxy", PATH=path).backend is NativeBackend.NATIVE

    def test_a_backend_that_cannot_run(self, machine):
        (problem,) = machine.problems("-backend=/nowhere", mode="proxy", WEED_BINARY=str(machine.program()))
        assert problem == (
            "-backend=/nowhere: /nowhere does not exist; expected the path of a `weed` program, or native"
        )
        plain = machine.cwd / "plain"
        plain.touch()
        (problem,) = machine.problems("-backend=./plain", mode="mixed")
        assert "is not executable" in problem

    def test_our_own_script_is_no_backend(self, machine):
        program = machine.program(body="exec python3 -m supervisor.cli.main")
        (problem,) = machine.problems(mode="proxy", PATH=str(program.parent))
        assert f"{program} (is this program itself)" in problem

    def test_exec_needs_a_program(self, machine):
        (problem,) = machine.problems("-backend=native", mode="exec")
        assert problem.startswith("-backend=native: -mode=exec becomes the Go program")

    def test_the_routing_table_must_be_a_file(self, machine):
        table = machine.cwd / "r.yaml"
        (problem,) = machine.problems("-routes=r.yaml", mode=None)
        assert problem.startswith(f"-routes=r.yaml: {table} is not a file")
        table.touch()
        assert machine.load(mode=None, VOLUME_SERVER_PY_ROUTES="r.yaml").routes_file == table

    def test_offset_width(self, machine):
        assert machine.load("-offset.bytes=5").offset_width_bytes == 5
        assert machine.load("-offset.bytes=0").offset_width_bytes is None


class TestFutureFlags:
    @pytest.fixture
    def proxied(self, machine):
        machine.backend_flags = {"newFlag": False, "newSwitch": True}
        machine.environ["WEED_BINARY"] = str(machine.program())
        return machine

    @pytest.mark.parametrize("mode", ["proxy", "exec"])
    def test_what_the_backend_knows_is_passed_on_with_a_warning(self, proxied, mode):
        config = proxied.load("-newFlag=7", "-newSwitch", mode=mode)
        assert config.given_flags[-2:] == (("newFlag", "7"), ("newSwitch", "true"))
        assert len(config.warnings) == 2
        assert "-newFlag is unknown here and passed on" in config.warnings[0]
        assert len(proxied.asked) == 1

    def test_what_the_backend_does_not_know_either(self, proxied):
        (problem,) = proxied.problems("-prot=1", mode="proxy")
        assert problem.startswith("-prot is no flag of this command; did you mean -port? (")
        assert problem.endswith("does not know it either)")

    def test_a_value_needs_its_equals_sign(self, proxied):
        (problem,) = proxied.problems("-newFlag", mode="proxy")
        assert problem.endswith("write its value as -newFlag=VALUE")

    @pytest.mark.parametrize("argv", [("-newFlag=7", "-backend=native"), ("-newFlag=7",)])
    def test_nobody_is_asked_where_a_native_handler_may_answer(self, proxied, argv):
        mode = "proxy" if len(argv) == 2 else "mixed"
        (problem,) = proxied.problems(*argv, mode=mode)
        assert problem.startswith("-newFlag is no flag")
        assert proxied.asked == []

    def test_the_help_text_of_a_program_is_asked(self, machine):
        body = "printf '  -newFlag int\\n    \\ttext\\n  -newSwitch\\n    \\ttext\\n' >&2"
        machine.environ["WEED_BINARY"] = str(machine.program(body=body))
        config = machine.load("-newFlag=7", "-newSwitch", mode="proxy")
        assert config.given_flags[-2:] == (("newFlag", "7"), ("newSwitch", "true"))

    def test_a_program_without_help_text(self, machine):
        machine.environ["WEED_BINARY"] = str(machine.program())
        first, second = machine.problems("-newFlag=7", mode="proxy")
        assert first.startswith("-newFlag is no flag")
        assert second.endswith("gave no usable answer: its output lists no flags")
