"""The subcommand `check`, on an empty directory and on one with a damaged volume."""

import pytest

from supervisor.cli.check_command import run_check
from supervisor.cli.errors import UsageError
from supervisor.cli.main import main


def test_an_empty_directory_is_healthy(tmp_path, capsys):
    assert run_check([str(tmp_path)], tmp_path) == 0
    assert capsys.readouterr().out == "no volumes\n"


def test_a_damaged_volume_is_told_and_left_alone(tmp_path, capsys):
    (tmp_path / "3.dat").write_bytes(b"\x09 not a super block")
    assert run_check(["-offset.bytes=4", ".", "-dir.idx", "."], tmp_path) == 1
    assert f"{tmp_path}/3: 1 problems" in capsys.readouterr().out
    assert (tmp_path / "3.dat").read_bytes() == b"\x09 not a super block"
    assert [path.name for path in tmp_path.iterdir()] == ["3.dat"]


def test_every_directory_is_examined(tmp_path, capsys):
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/1.dat").write_bytes(b"x")
    assert run_check(["bad", "good"], tmp_path) == 1
    assert "no volumes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ([], "check needs a directory"),
        (["none"], "none is not a directory"),
        (["-offset.bytes=6", "."], "expected 0, 4 or 5"),
        ([".", "-dir.idxx=a"], "did you mean -dir.idx?"),
        ([".", "-dir.idx"], "-dir.idx needs a value"),
    ],
)
def test_what_cannot_be_used(argv, problem, tmp_path):
    with pytest.raises(UsageError) as caught:
        run_check(argv, tmp_path)
    assert any(problem in text for text in caught.value.problems)


@pytest.mark.parametrize("argv", [["check", "-h"], ["help", "check"]])
def test_help(argv, capsys):
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("Usage: weed-volume-py check [flags] DIR...")
