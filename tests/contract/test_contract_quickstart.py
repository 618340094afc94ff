"""The promises of the README: one command, three lines that work as printed, a clean end, and durable data."""

import shutil
import signal
import socket
import subprocess
import sys

import pytest
from harness.processes import ServerProcess
from support.ports import free_port, free_port_pair
from support.waiting import LIMIT_S, wait_until


def start(directory, *flags):
    """A running or ended quickstart, and the lines that it printed for the user to try."""
    master, master_grpc = free_port_pair()
    ports = (f"-port={free_port()}", f"-port.grpc={free_port()}")
    masters = (f"-master.port={master}", f"-master.port.grpc={master_grpc}")
    log = directory / f"log.{len(list(directory.glob('log.*')))}"
    command = [sys.executable, "-m", "supervisor.cli.main", "quickstart", *ports, *masters, *flags]
    process = ServerProcess(command, log, directory)
    wait_until(lambda: "Ctrl-C stops it." in log.read_text() or process.exit_code is not None, "the welcome")
    lines = [line.strip() for line in log.read_text().splitlines() if line.startswith(("  fid=", "  curl"))]
    return process, lines


def stop(process):
    process.send_signal(signal.SIGINT)
    wait_until(lambda: process.exit_code is not None, "the end")
    assert process.exit_code == 0


@pytest.mark.skipif(not shutil.which("curl") or not shutil.which("bash"), reason="needs bash and curl")
def test_the_three_lines_work_as_printed_and_the_data_stays(tmp_path):
    process, lines = start(tmp_path)
    try:
        assert [line.split()[0].partition("=")[0] for line in lines] == ["fid", "curl", "curl"]
        done = subprocess.run(
            ["bash", "-ec", "\n".join(lines)], capture_output=True, text=True, timeout=LIMIT_S, check=True
        )
        fid, uploaded, read_back = (done.stdout.partition("\n")[0], *done.stdout.partition("\n")[2].split("}", 1))
        assert fid.count(",") == 1
        assert '"name":"hello.txt"' in uploaded
        assert read_back == "Hello from weed-volume-py"
    finally:
        stop(process)
    assert sorted(path.name for path in (tmp_path / "data").glob("*.dat"))

    process, lines = start(tmp_path)
    try:
        again = lines[2].replace("$fid", fid)
        done = subprocess.run(["bash", "-ec", again], capture_output=True, text=True, timeout=LIMIT_S, check=True)
        assert done.stdout == "Hello from weed-volume-py"
    finally:
        stop(process)


def test_a_second_one_in_the_same_place_says_why_it_cannot_start(tmp_path):
    process, _ = start(tmp_path)
    try:
        second, _ = start(tmp_path)
        assert second.exit_code == 1
        said = second.log_path.read_text()
        assert "another embedded master is using" in said
        assert "Traceback" not in said
    finally:
        stop(process)


def test_a_port_of_its_master_that_is_taken_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flag in ("-master.port", "-master.port.grpc"):
            process, _ = start(tmp_path, f"{flag}={port}")
            assert process.exit_code == 1
            said = process.log_path.read_text()
            assert f"cannot listen on 127.0.0.1:{port}" in said
            assert "Traceback" not in said
