"""The version that a backend reports, and the offset width that follows from it."""

import json
from pathlib import Path

import pytest

from supervisor.backend.version import (
    BackendOffsetWidthMismatch,
    BackendVersion,
    BackendVersionUnknown,
    OffsetWidth,
    OffsetWidthUnknown,
    ask_version,
    parse_version,
    resolve_offset_width,
)

SMALL = BackendVersion("4.44", "30GB", "", "linux/amd64")
LARGE = BackendVersion("4.44", "8000GB", "abc", "linux/amd64")
PROGRAM = Path("/opt/weed")


def program(tmp_path, body):
    path = tmp_path / "weed"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def vif(directory, name, **values):
    """With the volume that it belongs to."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(json.dumps(values))
    path.with_suffix(".dat").touch()
    return path


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("version 30GB 4.44  linux amd64\n\nFor enterprise users\n", SMALL),
        ("I0101 warning\nversion 8000GB 4.44 abc linux amd64\n", LARGE),
    ],
)
def test_versions(output, version):
    assert parse_version(output) == version


@pytest.mark.parametrize("output", ["", "weed 4.44", "version 30GB 4.44", "versions 30GB 4.44 abc linux amd64"])
def test_what_is_no_version(output):
    assert parse_version(output) is None


def test_widths_follow_from_the_size_limit():
    assert (SMALL.offset_width_bytes, LARGE.offset_width_bytes) == (4, 5)
    assert BackendVersion("5.00", "1EB", "", "x/y").offset_width_bytes is None
    assert (str(SMALL), str(LARGE)) == ("30GB 4.44", "8000GB 4.44 abc")


def test_a_program_is_asked(tmp_path):
    weed = program(tmp_path, 'test "$1" = version && echo "version 30GB 4.44 $COMMIT linux amd64"')
    assert ask_version(weed, {"COMMIT": "abc"}) == BackendVersion("4.44", "30GB", "abc", "linux/amd64")


@pytest.mark.parametrize(("body", "why"), [("echo hello", "begins with 'hello'"), ("exit 3", "begins with ''")])
def test_a_program_that_is_no_weed(tmp_path, body, why):
    with pytest.raises(BackendVersionUnknown, match=why):
        ask_version(program(tmp_path, body), {})


def test_a_program_that_cannot_run(tmp_path):
    with pytest.raises(BackendVersionUnknown, match="No such file"):
        ask_version(tmp_path / "none", {})


def test_the_flag_comes_first_then_the_backend_then_a_vif_then_4(tmp_path):
    vif(tmp_path / "d", "1.vif", bytesOffset=5)
    (tmp_path / "empty").mkdir()
    assert resolve_offset_width(5, PROGRAM, LARGE, [tmp_path / "d"]).source == "-offset.bytes"
    assert resolve_offset_width(None, PROGRAM, LARGE, [tmp_path / "d"]) == OffsetWidth(
        5, "the backend /opt/weed (8000GB 4.44 abc)"
    )
    assert resolve_offset_width(None, None, None, [tmp_path / "empty", tmp_path / "d"]) == OffsetWidth(
        5, str(tmp_path / "d/1.vif")
    )
    assert resolve_offset_width(None, None, None, [tmp_path / "empty"]) == OffsetWidth(4, "the default")


def test_every_pair_must_agree(tmp_path):
    path = vif(tmp_path / "d", "c_1.vif", BytesOffset=5)
    with pytest.raises(
        BackendOffsetWidthMismatch, match=r"-offset\.bytes says 5 bytes, but the backend /opt/weed .* says 4"
    ):
        resolve_offset_width(5, PROGRAM, SMALL, [])
    with pytest.raises(BackendOffsetWidthMismatch) as caught:
        resolve_offset_width(None, PROGRAM, SMALL, [path.parent])
    assert str(path) in str(caught.value)
    assert (caught.value.first.width_bytes, caught.value.second.width_bytes) == (4, 5)
    vif(tmp_path / "e", "2.vif", bytesOffset=4)
    with pytest.raises(BackendOffsetWidthMismatch):
        resolve_offset_width(None, None, None, [tmp_path / "d", tmp_path / "e"])


def test_a_size_limit_that_tells_no_width_needs_the_flag():
    strange = BackendVersion("9.00", "1EB", "", "linux/amd64")
    with pytest.raises(OffsetWidthUnknown, match=r"1EB 9\.00\) has a size limit that tells none; give -offset\.bytes"):
        resolve_offset_width(None, PROGRAM, strange, [])
    assert resolve_offset_width(5, PROGRAM, strange, []).width_bytes == 5


def test_vifs_that_do_not_tell_are_passed_over(tmp_path):
    directory = tmp_path / "d"
    vif(directory, "1.vif", version=3)
    vif(directory, "2.vif", bytesOffset=7)
    (directory / "3.vif").touch()
    (directory / "4.vif").write_text("[1]")
    (directory / "5.vif").mkdir()
    vif(directory, "6.txt", bytesOffset=5)
    for backend_effects in ("0_7.vif", "7.vif"):
        vif(directory, backend_effects, bytesOffset=5).with_suffix(".dat").unlink()
    assert resolve_offset_width(None, None, None, [directory]).source == "the default"
    found = vif(directory, "9.vif", bytesOffset=5)
    assert resolve_offset_width(None, None, None, [directory]) == OffsetWidth(5, str(found))
