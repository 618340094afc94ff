"""From an argument list to a configuration: defaults, rules between flags, precedence, and what is refused."""

import dataclasses
from pathlib import Path

import pytest

from native_handlers.http_model.read_mode import ReadMode
from supervisor.wire.server_address import ServerAddress


def test_defaults(machine):
    config = machine.load()
    assert (config.port, config.port_grpc, config.port_public) == (8080, 18080, 8080)
    assert (config.ip, config.bind_ip, config.metrics_ip) == ("192.0.2.7", "192.0.2.7", "192.0.2.7")
    assert (config.id, config.public_url) == ("192.0.2.7:8080", "192.0.2.7:8080")
    assert config.masters == (ServerAddress("localhost", 9333, 19333),)
    assert (config.pre_stop_s, config.idle_timeout_s) == (10, 30)
    assert (config.file_size_limit_bytes, config.index, config.read_mode) == (256 << 20, "memory", ReadMode.PROXY)
    assert (config.inflight_upload_timeout_s, config.inflight_download_timeout_s) == (60.0, 60.0)
    assert config.concurrent_upload_limit_bytes == config.concurrent_download_limit_bytes == 0
    assert config.maintenance_bytes_per_s == 0
    assert (config.metrics_port, config.debug) == (0, False)
    (directory,) = config.directories
    assert (directory.path, directory.max_volumes, directory.disk_type) == (machine.data, 8, "")
    assert (directory.min_free_space.percent, directory.tags) == (1.0, ())
    assert config.offset_width_bytes is None
    assert config.given_flags == (("dir", str(machine.data)),)
    assert not config.security.write_key.key
    assert config.warnings == ()


def test_the_configuration_is_frozen(machine):
    config = machine.load()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.port = 1  # type: ignore[misc]


def test_the_default_directory_is_the_temporary_one(machine):
    assert machine.load(data=False).directories[0].path == Path("/tmp")  # noqa: S108
    assert machine.load(data=False, TMPDIR=str(machine.data)).directories[0].path == machine.data


def test_the_spelling_of_upstreams_rust_suite(machine):
    security = machine.cwd / "security.toml"
    security.write_text('[jwt.signing]\nkey = "k"\n')
    config = machine.load(
        *("--port", "1234", "--port.grpc", "1235", "--port.public", "1236"),
        *("--ip", "127.0.0.1", "--ip.bind", "127.0.0.1", "--max", "16", "--master", "127.0.0.1:9333"),
        *("--securityFile", str(security), "--readMode", "redirect", "--concurrentUploadLimitMB", "7"),
        *("--concurrentDownloadLimitMB", "9", "--preStopSeconds", "0", "--inflightUploadDataTimeout", "3s"),
    )
    assert (config.port, config.port_grpc, config.port_public) == (1234, 1235, 1236)
    assert (config.id, config.public_url) == ("127.0.0.1:1234", "127.0.0.1:1236")
    assert (config.read_mode, config.pre_stop_s, config.inflight_upload_timeout_s) == (ReadMode.REDIRECT, 0, 3.0)
    assert config.concurrent_upload_limit_bytes == 7 << 20
    assert config.security.write_key.key == b"k"


@pytest.mark.parametrize(("text", "rate"), [("0", 0), ("1", 1 << 20), ("500", 500 << 20)])
def test_the_pace_of_maintenance_is_in_mebibytes(machine, text, rate):
    assert machine.load(f"-maintenanceMBps={text}").maintenance_bytes_per_s == rate


@pytest.mark.parametrize(
    "argv",
    [
        ("-v=2", "-config_dir=conf", "volume", "-port=99"),
        ("volume", "-v=2", "-config_dir=conf", "-port=99"),
        ("-port=99", "-v=2", "-config_dir=conf"),
    ],
)
def test_the_word_volume_and_the_place_of_flags(machine, argv):
    config = machine.load(*argv)
    assert (config.port, config.log.verbosity, config.config_dir) == (99, 2, machine.cwd / "conf")
    assert config.given_global_flags == (("v", "2"), ("config_dir", "conf"))


def test_the_last_value_of_a_flag_counts(machine):
    assert machine.load("-port=1", "volume", "-port=2").port == 2


def test_command_line_before_environment_before_options_file(machine):
    (machine.cwd / "o").write_text("port=3\nrack=file\ndataCenter=file\n")
    config = machine.load("-options=o", "-port=1", WEED_PORT="2", WEED_RACK="environment")
    assert (config.port, config.rack, config.data_center) == (1, "environment", "file")
    assert ("rack", "environment") in config.given_flags
    assert not any(name == "options" for name, _ in config.given_flags)


def test_an_options_file_before_the_word_volume_is_for_weed_only(machine):
    (machine.cwd / "o").write_text("port=3\nv=1\n")
    before = machine.load("-options=o", "volume")
    after = machine.load("volume", "-options=o")
    assert (before.port, before.log.verbosity) == (8080, 1)
    assert (after.port, after.log.verbosity) == (3, 1)


def test_an_options_file_that_is_not_there(machine):
    assert machine.problems("-options=o") == [
        f"-options={machine.cwd}/o: the file cannot be read: No such file or directory"
    ]


def test_what_an_options_file_has_too_much_is_a_warning(machine):
    (machine.cwd / "o").write_text("prot=3\n")
    assert machine.load("-options=o").warnings == (
        f"{machine.cwd}/o:1: -prot is no flag of this command; did you mean -port?",
    )


def test_an_empty_variable_is_true_for_a_boolean(machine):
    assert machine.load(WEED_DEBUG="").debug is True
    assert machine.load(WEED_DEBUG="false").debug is False


@pytest.mark.parametrize("name", ["index.leveldbTimeout", "hasSlowRead", "readBufferSizeMB", "pprof", "debug.port"])
def test_a_bad_value_of_a_flag_for_the_backend_alone_is_refused(machine, name):
    (problem,) = machine.problems(f"-{name}=many")
    assert problem.startswith(f"-{name}=many")


def test_a_bad_variable_is_named(machine):
    (problem,) = machine.problems(WEED_PORT="tcp://10.0.0.1:8080")
    assert problem.startswith("WEED_PORT=tcp://10.0.0.1:8080 in the environment: ")


def test_all_problems_at_once(machine):
    problems = machine.problems(
        *("-prot=1", "-port=x", "-readMode=far", "-inflightUploadDataTimeout=60", "-max=1,2", "-offset.bytes=6"),
        *("-pprof=yes", "-master=nowhere", "-log_max_files=many", "-ip=http://h"),
    )
    assert problems == [
        "-prot is no flag of this command; did you mean -port?",
        "-ip=http://h: 'http://h' is no address; expected an IP address or a host name, without scheme and port",
        "-port=x: 'x' cannot be used; expected a whole number from 1 to 65535",
        "-max=1,2: 2 values, but -dir names 1; give one value, or one per directory",
        "-offset.bytes=6: '6' cannot be used; expected 0, 4 or 5",
        "-master=nowhere: 'nowhere' is not a server address (there is no host or no port); expected host:port or"
        " host:port.grpcPort",
        "-readMode=far: 'far' cannot be used; expected local, proxy or redirect",
        "-inflightUploadDataTimeout=60: '60' cannot be used; expected a duration such as 90s, 1m30s or 250ms",
        "-pprof=yes: 'yes' cannot be used; expected true or false (also 1, t, T, True, TRUE, 0, f, F, False, FALSE)",
        "-log_max_files=many: 'many' cannot be used; expected a whole number, 0 or more",
    ]


@pytest.mark.parametrize("flags", [["-readMode="], ["-readMode", ""], ["-options=o"]], ids=" ".join)
def test_an_empty_text_is_no_choice_unless_it_is_the_default(machine, flags):
    (machine.cwd / "o").write_text("readMode=\n")
    (problem,) = machine.problems(*flags)
    assert problem.endswith(": '' cannot be used; expected local, proxy or redirect")


@pytest.mark.parametrize("flag", ["-port=0", "-port=65536", "-port.grpc=-1", "-preStopSeconds=-1", "-v=-1"])
def test_numbers_out_of_range(machine, flag):
    (problem,) = machine.problems(flag)
    assert problem.startswith(f"{flag}: ")


def test_negative_durations(machine):
    (problem,) = machine.problems("-inflightDownloadDataTimeout=-1s")
    assert "not negative" in problem


def test_words_that_are_no_flags(machine):
    assert machine.problems("-pprof", "true", data=False, mode=None)[0] == (
        "'true' is no flag; a value of a boolean is written with an equals sign: -pprof=true"
    )
    assert "would ignore it" in machine.problems("volume", "server", data=False, mode=None)[0]


def test_addresses_that_depend_on_others(machine):
    config = machine.load("-ip=node1", "-port=81", "-port.public=82", "-ip.bind=0.0.0.0")
    assert (config.bind_ip, config.metrics_ip) == ("0.0.0.0", "0.0.0.0")  # noqa: S104
    assert (config.port_grpc, config.public_url, config.id) == (10081, "node1:82", "node1:81")
    config = machine.load("-ip=::1", "-id= me ", "-publicUrl=cdn.example.com", "-metricsIp=127.0.0.1", "-port.grpc=7")
    assert (config.id, config.public_url, config.metrics_ip) == ("me", "cdn.example.com", "127.0.0.1")
    assert (config.port_grpc, machine.load("-ip=::1").id) == (7, "[::1]:8080")


def test_a_default_grpc_port_that_does_not_exist(machine):
    assert machine.problems("-port=60000") == [
        "-port=60000: the default gRPC port, 60000 + 10000, is above 65535; set -port.grpc as well"
    ]
    assert machine.load("-port=60000", "-port.grpc=60001").port_grpc == 60001


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("-port.grpc=8080",), "-port already"),
        (("-port.public=81", "-port.grpc=81"), "-port.public already"),
        (("-metricsPort=18080",), "-port.grpc already"),
    ],
)
def test_two_listeners_on_one_port(machine, flags, named):
    (problem,) = machine.problems(*flags)
    assert named in problem


def test_the_metrics_port_may_repeat_a_number_on_another_address(machine):
    assert machine.load("-metricsPort=8080", "-metricsIp=127.0.0.1").metrics_port == 8080


def test_masters(machine):
    config = machine.load("-master=a:1,b:2.3,,a:1")
    assert config.masters == (ServerAddress("a", 1, 10001), ServerAddress("b", 2, 3))
    assert machine.load("-master=a:1", "-mserver=b:2").masters == (ServerAddress("b", 2, 10002),)
    (problem,) = machine.problems("-master=")
    assert problem.startswith("-master=: there is no master")


def test_an_unknown_index_is_memory_with_a_warning(machine):
    config = machine.load("-index=fast")
    assert config.index == "memory"
    assert "-index=fast" in config.warnings[0]


def test_profiles_are_precluded_by_pprof(machine):
    assert machine.load("-cpuprofile=p").cpu_profile == machine.cwd / "p"
    assert machine.load("-cpuprofile=p", "-pprof").cpu_profile is None


def test_json_logging_has_two_names(machine):
    assert machine.load("-log.json").log.json_lines
    assert machine.load("-log_json").log.json_lines
    assert not machine.load().log.json_lines


def test_booleans_are_given_on_in_one_spelling(machine):
    config = machine.load("-pprof=T", "-hasSlowRead=0")
    assert config.given_flags[:2] == (("pprof", "true"), ("hasSlowRead", "false"))


class TestDirectories:
    def make(self, machine, *names):
        for name in names:
            (machine.cwd / name).mkdir()
        return f"-dir={','.join(names)}"

    def test_one_value_is_copied(self, machine):
        config = machine.load(
            self.make(machine, "a", "b"),
            "-max=5",
            "-disk=SSD",
            "-minFreeSpace=10GiB",
            "-tags=Fast: x :fast",
            data=False,
        )
        assert [d.path for d in config.directories] == [machine.cwd / "a", machine.cwd / "b"]
        for directory in config.directories:
            assert (directory.max_volumes, directory.disk_type, directory.tags) == (5, "ssd", ("fast", "x"))
            assert directory.min_free_space.size_bytes == 10 << 30

    def test_one_value_per_directory(self, machine):
        config = machine.load(
            self.make(machine, "a", "b"), "-max=5,0", "-disk=hdd,nvme", "-minFreeSpace=2,3MB", "-tags=x,y:z", data=False
        )
        first, second = config.directories
        assert (first.max_volumes, first.disk_type, first.tags, first.min_free_space.percent) == (5, "", ("x",), 2.0)
        assert (second.max_volumes, second.disk_type, second.tags) == (0, "nvme", ("y", "z"))
        assert second.min_free_space.size_bytes == 3_000_000

    @pytest.mark.parametrize("flag", ["-max=1,2", "-disk=a,b", "-minFreeSpace=1,2", "-minFreeSpacePercent=1,2"])
    def test_another_count_is_refused(self, machine, flag):
        directories = self.make(machine, "a", "b", "c")
        assert machine.problems(directories, flag, data=False) == [
            f"{flag}: 2 values, but -dir names 3; give one value, or one per directory"
        ]

    @pytest.mark.parametrize("form", ["{0},", ",{0}", "{0},,{1}", ",", "", "{0},{1},"])
    def test_an_empty_entry_is_no_directory(self, machine, form):
        """The directory is not the current one, where volumes would be made that no later start finds."""
        self.make(machine, "a", "b")
        text = form.format("a", "b")
        (problem,) = machine.problems(f"-dir={text}", data=False)
        assert problem.startswith(f"-dir={text}: {text!r} has an empty entry")

    @pytest.mark.parametrize("flag", ["-max=8,", "-max=,", "-max=", "-minFreeSpace=1,", "-minFreeSpace=,",
                                      "-minFreeSpacePercent=1,", "-minFreeSpacePercent="])  # fmt: skip
    def test_an_empty_entry_is_no_number(self, machine, flag):
        (problem,) = machine.problems(self.make(machine, "a", "b"), flag, data=False)
        assert problem.startswith(f"{flag}: ''")

    def test_an_empty_entry_is_the_kind_of_disk_that_is_usual_and_no_tag(self, machine):
        flags = (self.make(machine, "a", "b"), "-disk=ssd,", "-tags=,x")
        first, second = machine.load(*flags, data=False).directories
        assert (first.disk_type, first.tags, second.disk_type, second.tags) == ("ssd", (), "", ("x",))
        (problem,) = machine.problems("-disk=ssd,")
        assert problem == "-disk=ssd,: 2 values, but -dir names 1; give one value, or one per directory"

    def test_missing_tags_are_none(self, machine):
        config = machine.load(self.make(machine, "a", "b", "c"), "-tags=x,y", data=False)
        assert [d.tags for d in config.directories] == [("x",), ("y",), ()]

    def test_min_free_space_wins_over_its_older_name(self, machine):
        assert machine.load("-minFreeSpacePercent=5").directories[0].min_free_space.percent == 5.0
        assert machine.load("-minFreeSpacePercent=5", "-minFreeSpace=7").directories[0].min_free_space.percent == 7.0

    @pytest.mark.parametrize(
        "flag", ["-max=x", "-max=-1", "-max=1, 2", "-max=", "-minFreeSpace=500", "-minFreeSpace=1ZB"]
    )
    def test_bad_values_are_named(self, machine, flag):
        (problem,) = machine.problems(flag)
        assert problem.startswith(f"{flag}: ")

    def test_directories_are_not_created(self, machine):
        (problem,) = machine.problems("-dir=gone", data=False)
        assert problem.startswith(f"-dir=gone: {machine.cwd}/gone does not exist")
        assert not (machine.cwd / "gone").exists()

    def test_a_file_is_no_directory(self, machine):
        (machine.cwd / "file").touch()
        assert machine.problems("-dir=file", data=False) == [f"-dir=file: {machine.cwd}/file is not a directory"]

    def test_the_write_bit_of_the_owner_counts(self, machine):
        machine.data.chmod(0o555)
        try:
            assert machine.problems() == [f"-dir={machine.data}: {machine.data} is not writable"]
        finally:
            machine.data.chmod(0o755)

    def test_the_same_directory_twice(self, machine):
        (machine.cwd / "link").symlink_to(machine.data)
        (problem,) = machine.problems(f"-dir={machine.data},link", data=False)
        assert "is the same directory as" in problem

    def test_index_directory(self, machine):
        (machine.cwd / "idx").mkdir()
        assert machine.load("-dir.idx=idx").idx_directory == machine.cwd / "idx"
        (problem,) = machine.problems("-dir.idx=none")
        assert problem.startswith("-dir.idx=none: ")


def test_workers_are_for_modes_in_which_this_program_serves(machine):
    backend = f"-backend={machine.program()}"
    assert machine.load().workers == 0
    assert machine.load("-workers=2", "-backend=native", mode="proxy").workers == 2
    assert machine.load("-workers=2", "-backend=native", mode="mixed").workers == 2
    assert machine.load("-workers=2").workers == 2
    (problem,) = machine.problems("-workers=2", backend, mode="exec")
    assert "in exec mode the Go program serves" in problem
    assert machine.problems("-workers=-1", mode="native")
    assert machine.problems("-workers=65", "-backend=native", mode="proxy")
