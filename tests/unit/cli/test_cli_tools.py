"""The command line tools for directories of volumes."""

import io
import json
import os
import subprocess
import sys
import tarfile
from datetime import datetime
from pathlib import Path

import pytest
from support.stores import open_at, place

from native_handlers.format.errors import ChecksumMismatch
from native_handlers.format.idx import iter_entries
from native_handlers.format.needle import Needle
from native_handlers.format.vif import RemoteFile, VolumeInfo, encode_volume_info
from supervisor.cli.main import main
from supervisor.cli.tools import run_tool
from supervisor.config.errors import UsageError


def test_an_empty_directory_is_healthy(tmp_path, capsys):
    assert run_tool("check", [str(tmp_path)], tmp_path) == 0
    assert capsys.readouterr().out == "no volumes\n"


def test_a_damaged_volume_is_told_and_left_alone(tmp_path, capsys):
    (tmp_path / "3.dat").write_bytes(b"\x09 not a super block")
    assert run_tool("check", ["-offset.bytes=4", ".", "-dir.idx", "."], tmp_path) == 1
    assert f"{tmp_path}/3: 1 problems" in capsys.readouterr().out
    assert (tmp_path / "3.dat").read_bytes() == b"\x09 not a super block"
    assert [path.name for path in tmp_path.iterdir()] == ["3.dat"]


def test_every_directory_is_examined(tmp_path, capsys):
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/1.dat").write_bytes(b"x")
    assert run_tool("check", ["bad", "good"], tmp_path) == 1
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
        run_tool("check", argv, tmp_path)
    assert any(problem in text for text in caught.value.problems)


@pytest.mark.parametrize("argv", [["check", "-h"], ["help", "check"]])
def test_help(argv, capsys):
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("Usage: weed-volume-py check [flags] DIR...")


COOKIE = 0x1234


def make_volume(directory, vid=3, collection="", count=6, **config):
    """A volume with a deletion and an overwritten needle. Returns the content of its files."""
    directory.mkdir(exist_ok=True)
    store = open_at(directory, **config)
    store.allocate_volume(vid, collection=collection)
    volume = store.get_volume(vid)
    data = {}
    for number in range(1, count + 1):
        for payload in (b"old %d" % number, b"%d " % number * 1000):
            needle = Needle(needle_id=number, cookie=COOKIE, data=payload, name=b"n%d.txt" % number, mime=b"text/x")
            needle.has_name = needle.has_mime = needle.has_last_modified = True
            needle.last_modified_s = 1_700_000_000 + number
            volume.write(needle)
            data[number] = payload
    volume.delete(count, COOKIE)
    del data[count]
    store.close()
    return data


def make_shards(directory, vid=3):
    store = open_at(directory)
    store.ec_work.generate(store.get_volume(vid), "")
    store.close()


def read_all(directory, data, vid=3):
    store = open_at(directory)
    try:
        return {number: bytes(store.get_volume(vid).read(number, cookie=COOKIE).needle.data) for number in data}
    finally:
        store.close()


def run_json(capsys, command, *argv, status=0):
    assert main([command, "-json", *map(str, argv)]) == status
    return json.loads(capsys.readouterr().out)


class TestCheck:
    def test_says_it_as_json(self, tmp_path, capsys):
        make_volume(tmp_path / "a")
        found = run_json(capsys, "check", tmp_path / "a")
        assert found["is_well"]
        ((volume,),) = (one["volumes"] for one in found["directories"])
        assert (volume["record_count"], volume["is_healthy"], volume["problems"]) == (13, True, [])

    def test_one_volume_of_many(self, tmp_path, capsys):
        make_volume(tmp_path / "a")
        make_volume(tmp_path / "a", vid=4, collection="c")
        for flags, names in (((), ["3", "c_4"]), (("-volumeId=3",), ["3"]), (("-collection=c",), ["c_4"])):
            found = run_json(capsys, "check", *flags, tmp_path / "a")
            assert [Path(one["base"]).name for one in found["directories"][0]["volumes"]] == names


class TestFix:
    def test_an_index_that_is_right_stays(self, tmp_path, capsys):
        make_volume(tmp_path / "a")
        before = (tmp_path / "a/3.idx").read_bytes()
        found = run_json(capsys, "fix", tmp_path / "a")
        assert found["directories"][0]["volumes"][0]["is_changed"] is False
        assert (tmp_path / "a/3.idx").read_bytes() == before

    def test_a_lost_index_is_made(self, tmp_path, capsys):
        data = make_volume(tmp_path / "a")
        before = (tmp_path / "a/3.idx").read_bytes()
        (tmp_path / "a/3.idx").unlink()
        assert main(["fix", "-indexIsLost", str(tmp_path / "a")]) == 0
        assert "its index is made anew (13 records)" in capsys.readouterr().out
        assert (tmp_path / "a/3.idx").read_bytes() == before
        assert read_all(tmp_path / "a", data) == data

    def test_a_wrong_index_is_kept_under_another_name(self, tmp_path, capsys):
        data = make_volume(tmp_path / "a")
        good = (tmp_path / "a/3.idx").read_bytes()
        wrong = good[:16] + good[32:48] + good[16:32] + bytes(16)
        (tmp_path / "a/3.idx").write_bytes(wrong)
        (volume,) = run_json(capsys, "fix", tmp_path / "a")["directories"][0]["volumes"]
        assert (tmp_path / "a" / volume["kept_as"]).read_bytes() == wrong
        assert (tmp_path / "a/3.idx").read_bytes() == good
        assert read_all(tmp_path / "a", data) == data

    def test_what_follows_damage_is_found_by_the_old_index(self, tmp_path, capsys):
        """The damaged record of needle 2 has a later one, that of needle 3 has not: its old content stays hidden."""
        data = make_volume(tmp_path / "a")
        good = (tmp_path / "a/3.idx").read_bytes()
        rows = list(iter_entries(good, 4))
        with (tmp_path / "a/3.dat").open("r+b") as dat:
            for row in (rows[2], rows[5]):
                dat.seek(row.offset * 8 + 20)
                dat.write(b"????")
        (volume,) = run_json(capsys, "fix", tmp_path / "a", status=1)["directories"][0]["volumes"]
        assert volume["record_count"] == 11
        assert volume["is_changed"] is False
        assert "bytes hold no sound record" in volume["problems"][0]
        (told,) = (problem for problem in volume["problems"] if problem.startswith(".idx"))
        assert told.startswith(f".idx: needle 3 stays at {rows[5].offset * 8}, where .dat has no sound record")
        assert (tmp_path / "a/3.idx").read_bytes() == good
        del data[3]
        assert read_all(tmp_path / "a", data) == data
        with pytest.raises(ChecksumMismatch):
            read_all(tmp_path / "a", [3])

    def test_an_empty_file_stays_one(self, tmp_path):
        """The record looks like a deletion; the old index shows that it is an empty file."""
        make_volume(tmp_path / "a")
        store = open_at(tmp_path / "a")
        store.get_volume(3).write(Needle(needle_id=99, cookie=COOKIE, data=b""))
        store.close()
        before = (tmp_path / "a/3.idx").read_bytes()
        assert main(["fix", str(tmp_path / "a")]) == 0
        assert (tmp_path / "a/3.idx").read_bytes() == before

    def test_without_the_directory_of_the_indexes_nothing_is_done(self, tmp_path, capsys):
        """A new index would take the empty file for a deletion, and be found before the real one."""
        directory, index = tmp_path / "a", tmp_path / "idx"
        store = open_at(place(directory, index))
        for vid in (3, 4):
            store.allocate_volume(vid)
            store.get_volume(vid).write(Needle(needle_id=99, cookie=COOKIE, data=b""))
        store.close()
        for command, problem in (("fix", "problems"), ("compact", "problem")):
            volumes = run_json(capsys, command, directory, status=1)["directories"][0]["volumes"]
            assert len(volumes) == 2
            for volume in volumes:
                assert ".idx does not exist; -dir.idx names the directory of the indexes" in str(volume[problem])
            run_json(capsys, command, "-volumeId=3", directory, status=1)
            assert not list(directory.glob("*.idx"))
            run_json(capsys, command, f"-dir.idx={index}", directory)
        store = open_at(place(directory, index))
        assert all(store.get_volume(vid).read(99, cookie=COOKIE).needle.data == b"" for vid in (3, 4))
        store.close()

    def test_an_info_file_that_cannot_be_parsed_is_told_of(self, tmp_path, capsys):
        """It would say that offsets have 5 bytes. An index with 4 would be that of another volume."""
        make_volume(tmp_path / "a", offset_width_bytes=5)
        before = (tmp_path / "a/3.idx").read_bytes()
        (tmp_path / "a/3.vif").write_bytes(b'{"version":3,"bytesOff')
        (volume,) = run_json(capsys, "fix", "-offset.bytes=5", tmp_path / "a", status=1)["directories"][0]["volumes"]
        assert not volume["is_changed"]
        assert volume["problems"][0].startswith(".vif cannot be parsed: ")
        (tmp_path / "a/3.idx").unlink()
        (volume,) = run_json(capsys, "fix", "-indexIsLost", tmp_path / "a", status=1)["directories"][0]["volumes"]
        assert "-offset.bytes sets the width" in volume["problems"][0]
        assert not (tmp_path / "a/3.idx").exists()
        run_json(capsys, "fix", "-indexIsLost", "-offset.bytes=5", tmp_path / "a", status=1)
        assert (tmp_path / "a/3.idx").read_bytes() == before

    def test_a_flag_that_cannot_be_used_makes_no_index(self, tmp_path, capsys):
        make_volume(tmp_path / "a")
        (tmp_path / "a/3.idx").unlink()
        assert main(["fix", "-indexIsLost=maybe", str(tmp_path / "a")]) == 2
        assert "-indexIsLost=maybe: 'maybe' cannot be used" in capsys.readouterr().err
        assert not (tmp_path / "a/3.idx").exists()

    def test_a_directory_that_a_server_has_is_left_alone(self, tmp_path, capsys):
        make_volume(tmp_path / "a")
        store = open_at(tmp_path / "a")
        for command in ("fix", "compact"):
            assert main([command, str(tmp_path / "a")]) == 1
            assert "is in use" in capsys.readouterr().err
        store.close()

    def test_what_is_unfinished_is_left_to_the_next_start(self, tmp_path, capsys):
        make_volume(tmp_path / "a")
        (tmp_path / "a/3.cpd").write_bytes(b"x")
        before = {path: path.read_bytes() for path in (tmp_path / "a").glob("3.*")}
        (volume,) = run_json(capsys, "fix", tmp_path / "a", status=1)["directories"][0]["volumes"]
        assert "something is unfinished" in volume["problems"][0]
        assert {path: path.read_bytes() for path in (tmp_path / "a").glob("3.*")} == before

    def test_a_volume_that_cannot_be_read_does_not_end_the_others(self, tmp_path, capsys):
        """A directory in the place of its index gives an error for each read."""
        make_volume(tmp_path / "a")
        make_volume(tmp_path / "a", vid=4)
        good = (tmp_path / "a/4.idx").read_bytes()
        (tmp_path / "a/4.idx").write_bytes(good[:32])
        (tmp_path / "a/3.idx").unlink()
        (tmp_path / "a/3.idx").mkdir()
        (sick, well) = run_json(capsys, "fix", tmp_path / "a", status=1)["directories"][0]["volumes"]
        assert sick["base"].endswith("/3")
        assert sick["is_changed"] is False
        assert "Is a directory; the old index or a whole new one is in its place" in sick["problems"][0]
        assert (well["is_changed"], well["problems"]) == (True, [])
        assert (tmp_path / "a/4.idx").read_bytes() == good


class TestCompact:
    def test_what_was_deleted_goes(self, tmp_path, capsys):
        data = make_volume(tmp_path / "a")
        before = (tmp_path / "a/3.dat").stat().st_size
        (volume,) = run_json(capsys, "compact", tmp_path / "a")["directories"][0]["volumes"]
        assert (volume["before_bytes"], volume["problem"]) == (before, "")
        assert volume["after_bytes"] == (tmp_path / "a/3.dat").stat().st_size < before
        assert read_all(tmp_path / "a", data) == data
        assert main(["check", str(tmp_path / "a")]) == 0

    def test_a_volume_that_cannot_be_is_told_and_left(self, tmp_path, capsys):
        data = make_volume(tmp_path / "a")
        with (tmp_path / "a/3.dat").open("r+b") as dat:
            dat.seek(8 + 3)
            dat.write(b"?" * 40)
        (tmp_path / "a/3.vif").unlink()
        make_volume(tmp_path / "a", vid=4)
        idx = tmp_path / "a/3.idx"
        idx.write_bytes(b"".join(row[:8] + b"\0\0\xff\xff" + row[12:] for row in batched(idx.read_bytes())))
        first, second = run_json(capsys, "compact", tmp_path / "a", status=1)["directories"][0]["volumes"]
        assert first["problem"]
        assert (second["problem"], second["after_bytes"] < second["before_bytes"]) == ("", True)
        assert data

    def test_a_volume_that_cannot_be_opened_is_told(self, tmp_path, capsys):
        make_volume(tmp_path / "a")
        make_volume(tmp_path / "a", vid=4)
        with (tmp_path / "a/3.dat").open("r+b") as dat:
            dat.write(b"\x09")
        found = run_json(capsys, "compact", tmp_path / "a", status=1)
        assert not found["is_well"]
        first, second = found["directories"][0]["volumes"]
        assert first["problem"].startswith("not loaded: ")
        assert first["before_bytes"] == first["after_bytes"] == (tmp_path / "a/3.dat").stat().st_size
        assert (Path(second["name"]).name, second["problem"]) == ("4", "")
        assert main(["compact", "-volumeId=4", str(tmp_path / "a")]) == 0
        assert main(["compact", "-volumeId=3", str(tmp_path / "a")]) == 1

    def test_of_two_volumes_of_one_id_one_is_told(self, tmp_path, capsys):
        make_volume(tmp_path / "a")
        make_volume(tmp_path / "b", collection="c")
        for file in (tmp_path / "b").glob("c_3.*"):
            file.rename(tmp_path / "a" / file.name)
        first, second = run_json(capsys, "compact", tmp_path / "a", status=1)["directories"][0]["volumes"]
        assert first["problem"].startswith("not opened, another volume of its id is: ")
        assert second["problem"] == ""

    def test_what_is_left_beside_shards_is_no_volume(self, tmp_path, capsys):
        make_volume(tmp_path / "a")
        make_shards(tmp_path / "a")
        (tmp_path / "a/3.dat").write_bytes((tmp_path / "a/3.dat").read_bytes()[:8])
        (tmp_path / "a/3.idx").write_bytes(b"")
        assert main(["compact", str(tmp_path / "a")]) == 0
        assert capsys.readouterr().out == f"{tmp_path}/a/3: nothing is done: it is erasure-coded\n"


def batched(rows):
    return [rows[at : at + 16] for at in range(0, len(rows), 16)]


class TestExport:
    def test_lists_what_is_live(self, tmp_path, capsys):
        data = make_volume(tmp_path / "a")
        assert main(["export", str(tmp_path / "a")]) == 0
        head, *lines = capsys.readouterr().out.splitlines()
        assert head.split("\t") == [
            "key",
            "name",
            "size",
            "gzip",
            "mime",
            "modified",
            "ttl",
            "deleted",
            "start",
            "stop",
        ]
        rows = [line.split("\t") for line in lines]
        assert [row[:5] for row in rows] == [
            [f"3,{number:02x}{COOKIE:08x}", f"n{number}.txt", str(len(payload)), "false", "text/x"]
            for number, payload in data.items()
        ]

    def test_lists_what_is_stored_under_another_id_than_its_record_carries(self, tmp_path, capsys):
        """As WriteNeedleBlob stores records."""
        data = make_volume(tmp_path / "a")
        store = open_at(tmp_path / "a")
        volume = store.get_volume(3)
        place = volume.handle.get().index.get(2)
        volume.write_blob(0x77, volume.read_blob(place.offset * 8, place.size), place.size)
        volume.delete(2, COOKIE)
        store.close()
        assert main(["export", "-json", str(tmp_path / "a")]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["key"] for row in rows] == [f"3,{number:02x}{COOKIE:08x}" for number in (1, 3, 4, 5, 0x77)]
        assert rows[-1]["size"] == len(data[2])

    def test_lists_everything_as_json_lines(self, tmp_path, capsys):
        make_volume(tmp_path / "a")
        assert main(["export", "-json", "-deleted", str(tmp_path / "a")]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(rows) == 13
        assert [row["deleted"] for row in rows].count(False) == 5
        assert rows[-1]["name"] == "*tombstone"

    def test_writes_a_tar_file_once(self, tmp_path, capsys):
        data = make_volume(tmp_path / "a")
        output = tmp_path / "out.tar"
        argv = ["export", f"-o={output}", "-fileNameFormat={{.Mime}}/{{.Id}}:{{.Name}}", str(tmp_path / "a")]
        assert main(argv) == 0
        with tarfile.open(output) as tar:
            found = {one.name: (tar.extractfile(one).read(), one.mtime) for one in tar}
        assert found == {
            f"text/x/{number:x}:n{number}.txt": (payload, 1_700_000_000 + number) for number, payload in data.items()
        }
        assert main(argv) == 2
        assert "is there already" in capsys.readouterr().err

    def test_names_do_not_lead_out_of_the_directory(self, tmp_path):
        (tmp_path / "a").mkdir()
        store = open_at(tmp_path / "a")
        store.allocate_volume(3)
        for number, name in enumerate((b"../../etc/x", b"/abs", b".."), 1):
            needle = Needle(needle_id=number, cookie=COOKIE, data=b"x", name=name)
            needle.has_name = True
            store.get_volume(3).write(needle)
        store.close()
        output = tmp_path / "out.tar"
        assert main(["export", f"-o={output}", "-fileNameFormat={{.Name}}", str(tmp_path / "a")]) == 0
        with tarfile.open(output) as tar:
            assert tar.getnames() == ["etc/x", "abs", "3,0300001234"]

    def test_newer_and_limit(self, tmp_path, capsys):
        make_volume(tmp_path / "a")
        since = datetime.fromtimestamp(1_700_000_003).strftime("%Y-%m-%dT%H:%M:%S")  # noqa: DTZ006
        assert main(["export", "-json", f"-newer={since}", "-limit=2", str(tmp_path / "a")]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["name"] for row in rows] == ["n3.txt", "n4.txt"]

    @pytest.mark.parametrize(
        ("flag", "why"),
        [
            ("-newer=yesterday", "expected one like"),
            ("-fileNameFormat={{.Size}}", "expected {{.Ext}}"),
            ("-o=out.zip", "should be - or end with .tar"),
            ("-limit=x", "-limit=x: 'x' cannot be used; expected a whole number, 0 or more"),
            ("-limit=-3", "-limit=-3: '-3' cannot be used"),
            ("-deleted=maybe", "-deleted=maybe: 'maybe' cannot be used; expected true or false"),
        ],
    )
    def test_arguments_that_cannot_be_used(self, tmp_path, capsys, flag, why):
        make_volume(tmp_path / "a")
        assert main(["export", flag, str(tmp_path / "a")]) == 2
        told = capsys.readouterr()
        assert why in told.err
        assert not told.out

    def test_damage_is_told(self, tmp_path, capsys):
        make_volume(tmp_path / "a")
        with (tmp_path / "a/3.dat").open("ab") as dat:
            dat.write(b"?" * 24)
        assert main(["export", "-json", str(tmp_path / "a")]) == 1
        told = capsys.readouterr()
        assert len(told.out.splitlines()) == 5
        assert "3.dat from " in told.err

    def test_a_volume_that_cannot_be_read_does_not_end_the_others(self, tmp_path, capsys):
        make_volume(tmp_path / "a")
        make_volume(tmp_path / "a", vid=4)
        (tmp_path / "a/3.idx").unlink()
        (tmp_path / "a/3.idx").mkdir()
        assert main(["export", "-json", str(tmp_path / "a")]) == 1
        told = capsys.readouterr()
        assert "a/3.idx: Is a directory" in told.err
        assert len(told.out.splitlines()) == 5

    def test_what_clients_choose_breaks_no_row(self, tmp_path, capsys):
        """A time that no calendar has, and a name with line feeds and an escape."""
        store = open_at(tmp_path / "a")
        store.allocate_volume(3)
        needle = Needle(needle_id=1, cookie=COOKIE, data=b"x", name=b"a\n1,02\x1b[2J", last_modified_s=2**40 - 1)
        needle.has_name = needle.has_last_modified = True
        store.get_volume(3).write(needle)
        store.close()
        assert main(["export", str(tmp_path / "a")]) == 0
        _, line = capsys.readouterr().out.splitlines()
        assert line.split("\t")[1] == r"a\n1,02\x1b[2J"
        assert str(2**40 - 1) in line
        assert main(["export", "-json", str(tmp_path / "a")]) == 0
        assert json.loads(capsys.readouterr().out)["name"] == "a\n1,02\x1b[2J"

    def test_without_an_index_fix_is_named(self, tmp_path, capsys):
        make_volume(tmp_path / "a")
        (tmp_path / "a/3.idx").unlink()
        assert main(["export", str(tmp_path / "a")]) == 1
        assert "fix makes one" in capsys.readouterr().err


class TestEcVerify:
    @pytest.fixture
    def shards(self, tmp_path):
        make_volume(tmp_path / "a")
        make_shards(tmp_path / "a")
        return tmp_path / "a"

    def damage(self, directory, shard, at=100):
        with (directory / f"3.ec{shard:02d}").open("r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))

    def test_sound_shards(self, shards, capsys):
        (volume,) = run_json(capsys, "ec-verify", shards)["volumes"]
        assert (volume["name"], volume["bad_shards"], volume["missing"], volume["problems"]) == ("3", [], [], [])

    def test_bad_shards_are_named_without_checksums(self, shards, capsys):
        (shards / "3.ecsum").unlink()
        self.damage(shards, 2)
        self.damage(shards, 12, at=5000)
        (volume,) = run_json(capsys, "ec-verify", shards, status=1)["volumes"]
        assert volume["bad_shards"] == [2, 12]
        assert volume["problems"][0] == "shard 2: 1 bytes do not fit the other shards, the first at 100"

    def test_the_checksums_agree(self, shards, capsys):
        self.damage(shards, 7)
        (volume,) = run_json(capsys, "ec-verify", shards, status=1)["volumes"]
        assert volume["problems"][1:] == ["shard 7: blocks 0 differ from the .ecsum"]

    def test_shards_in_several_directories(self, shards, tmp_path, capsys):
        (tmp_path / "b").mkdir()
        for shard in range(3, 9):
            (shards / f"3.ec{shard:02d}").rename(tmp_path / f"b/3.ec{shard:02d}")
        (tmp_path / "b/3.ec05").unlink()
        (volume,) = run_json(capsys, "ec-verify", shards, tmp_path / "b")["volumes"]
        assert (volume["missing"], volume["problems"]) == ([5], [])
        (volume,) = run_json(capsys, "ec-verify", shards, status=1)["volumes"]
        assert "11 at least are needed" in volume["problems"][0]

    def test_a_cut_shard(self, shards, capsys):
        (shards / "3.ec04").write_bytes(b"short")
        assert main(["ec-verify", str(shards)]) == 1
        out = capsys.readouterr().out
        assert "bad shards: 4" in out
        assert "shard 4: 5 bytes long" in out

    def test_empty_shards_alone_are_not_well(self, shards, capsys):
        """What a distribution that failed leaves."""
        for path in shards.glob("3.ec[0-9]*"):
            path.write_bytes(b"")
        (volume,) = run_json(capsys, "ec-verify", shards, status=1)["volumes"]
        assert volume["problems"] == ["no shard has content, so nothing can be verified"]
        assert volume["missing"] == list(range(14))
        assert main(["ec-verify", str(shards)]) == 1
        assert "3: problems (10+4 shards, missing 0, 1," in capsys.readouterr().out

    def test_an_empty_shard_among_others_is_missing(self, shards, tmp_path, capsys):
        (shards / "3.ec05").write_bytes(b"")
        (volume,) = run_json(capsys, "ec-verify", shards)["volumes"]
        assert (volume["missing"], volume["problems"]) == ([5], [])
        assert volume["notes"] == ["empty shard files, which count as missing: 5"]
        (tmp_path / "b").mkdir()
        (shards / "3.ec06").rename(tmp_path / "b/3.ec06")
        (shards / "3.ec06").write_bytes(b"")
        (volume,) = run_json(capsys, "ec-verify", shards, tmp_path / "b")["volumes"]
        assert volume["missing"] == [5]

    @pytest.mark.slow
    def test_each_copy_of_a_shard_is_read(self, shards, tmp_path, capsys):
        """The first directory has a sound copy, the second one a damaged one. Slow: codes a volume."""
        other = tmp_path / "b"
        other.mkdir()
        for shard in (3, 4):
            (other / f"3.ec{shard:02d}").write_bytes((shards / f"3.ec{shard:02d}").read_bytes())
        (volume,) = run_json(capsys, "ec-verify", shards, other)["volumes"]
        assert volume["problems"] == []
        self.damage(other, 4)
        for directories, verdict in (
            ((shards, other), f"with {other}/3.ec04: shard 4: 1 bytes do not fit the other shards, the first at 100"),
            ((other, shards), f"with {shards}/3.ec04: it fits the other shards"),
        ):
            (volume,) = run_json(capsys, "ec-verify", *directories, status=1)["volumes"]
            first, second = (f"{directory}/3.ec04" for directory in directories)
            assert volume["bad_shards"] == [4]
            assert f"shard 4: {second} differs from {first}" in volume["problems"]
            assert verdict in volume["problems"]

    def test_a_directory_that_is_named_twice_has_no_copies(self, shards, capsys):
        self.damage(shards, 4)
        (volume,) = run_json(capsys, "ec-verify", shards, shards, status=1)["volumes"]
        assert not any("differs from" in problem for problem in volume["problems"])

    def test_shards_that_the_volume_does_not_have_are_named(self, shards, capsys):
        (shards / "3.ec14").write_bytes((shards / "3.ec13").read_bytes())
        (volume,) = run_json(capsys, "ec-verify", shards, status=1)["volumes"]
        assert volume["problems"] == [
            f"shard 14: {shards}/3.ec14 is not verified, for the volume has the shards 0 to 13"
        ]

    def test_no_shards(self, tmp_path, capsys):
        assert main(["ec-verify", str(tmp_path)]) == 0
        assert capsys.readouterr().out == "no shards\n"


TOOLS = ["check", "fix", "compact", "export", "ec-verify"]


class TestWhatIsNotDone:
    @pytest.fixture
    def tiered(self, tmp_path):
        """Volume 3 is here, the data of volume 4 is in a tier."""
        make_volume(tmp_path / "a")
        make_volume(tmp_path / "a", vid=4, collection="c")
        file = RemoteFile("s3", "cold", "k/4.dat", 0, (tmp_path / "a/c_4.dat").stat().st_size, 1, ".dat")
        info = VolumeInfo(version=3, files=(file,))
        (tmp_path / "a/c_4.vif").write_text(encode_volume_info(info))
        (tmp_path / "a/c_4.dat").unlink()
        return tmp_path / "a"

    @pytest.mark.parametrize("command", ["fix", "compact"])
    @pytest.mark.parametrize("flags", [(), ("-volumeId=4",), ("-collection=c",)])
    def test_a_volume_in_a_tier(self, tiered, capsys, command, flags):
        found = run_json(capsys, command, *flags, tiered, status=1)
        assert not found["is_well"]
        (directory,) = found["directories"]
        assert directory["left_out"] == [
            {"base": f"{tiered}/c_4", "why": "its data is in remote storage s3.cold as k/4.dat"}
        ]
        assert len(directory["volumes"]) == (0 if flags else 1)
        assert main([command, *flags, str(tiered)]) == 1
        told = capsys.readouterr()
        assert f"{tiered}/c_4: nothing is done: its data is in remote storage s3.cold as k/4.dat" in told.out
        assert "not supported" not in told.err

    def test_the_export_of_a_volume_in_a_tier(self, tiered, capsys):
        assert main(["export", "-json", str(tiered)]) == 1
        told = capsys.readouterr()
        assert len(told.out.splitlines()) == 5
        assert f"{tiered}/c_4: nothing is exported: its data is in remote storage s3.cold as k/4.dat" in told.err

    @pytest.mark.parametrize("command", ["fix", "compact"])
    def test_the_others_are_done_without_it(self, tiered, capsys, command):
        assert run_json(capsys, command, "-volumeId=3", tiered)["is_well"]

    @pytest.mark.parametrize("command", ["check", "fix", "compact", "export"])
    def test_an_erasure_coded_volume(self, tmp_path, capsys, command):
        """Shards have neither an .idx nor room to give back; only an export lacks something."""
        make_volume(tmp_path / "a")
        make_shards(tmp_path / "a")
        for extension in ("dat", "idx"):
            (tmp_path / f"a/3.{extension}").unlink()
        assert main([command, str(tmp_path / "a")]) == (1 if command == "export" else 0)
        told = capsys.readouterr()
        assert f"{tmp_path}/a/3: nothing is " in told.out + told.err
        assert main([command, "-volumeId=3", str(tmp_path / "a")]) == 1

    @pytest.mark.parametrize("command", TOOLS)
    @pytest.mark.parametrize(
        ("flags", "named"),
        [
            (("-volumeId=99",), "volume 99"),
            (("-collection=zz",), "collection zz"),
            (("-volumeId=3", "-collection=zz"), "volume 3 of collection zz"),
        ],
    )
    def test_what_no_directory_has(self, tmp_path, capsys, command, flags, named):
        make_volume(tmp_path / "a")
        make_shards(tmp_path / "a")
        (tmp_path / "b").mkdir()
        assert main([command, *flags, str(tmp_path / "a"), str(tmp_path / "b")]) == 1
        assert f"{named} is not in {tmp_path}/a, {tmp_path}/b" in capsys.readouterr().err
        if command != "export":
            assert named in run_json(capsys, command, *flags, tmp_path / "a", status=1)["problem"]

    @pytest.mark.parametrize("command", TOOLS[:4])
    def test_what_one_of_the_directories_has(self, tmp_path, capsys, command):
        make_volume(tmp_path / "a")
        (tmp_path / "b").mkdir()
        assert main([command, "-volumeId=3", str(tmp_path / "a"), str(tmp_path / "b")]) == 0

    @pytest.mark.parametrize("command", TOOLS[:4])
    def test_an_info_file_that_cannot_be_read_is_a_problem_of_its_volume(self, tmp_path, capsys, command):
        for vid in (3, 4):
            make_volume(tmp_path / "a", vid=vid)
        (tmp_path / "a/3.vif").unlink()
        (tmp_path / "a/3.vif").mkdir()
        status = main([command, "-json", str(tmp_path / "a")])
        told = capsys.readouterr()
        if command == "export":
            # It reads no .vif of a volume with a .dat.
            assert (status, len(told.out.splitlines())) == (0, 10)
            return
        assert status == 1
        (directory,) = json.loads(told.out)["directories"]
        sick, well = directory["volumes"]
        why = sick.get("problem") or sick["problems"][0]
        assert "3.vif" in why
        assert "Is a directory" in why
        assert not well.get("problem")
        assert not well.get("problems")


def run_program(*argv, **options):
    return subprocess.run(
        [sys.executable, "-m", "supervisor.cli.main", *argv], stderr=subprocess.PIPE, text=True, check=False, **options
    )


@pytest.mark.parametrize("command", TOOLS)
@pytest.mark.slow
def test_an_output_that_cannot_be_written(tmp_path, command):
    """Slow: starts the program twice."""
    make_volume(tmp_path / "a")
    for flag in ("-json=true", "-json=false"):
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            done = run_program(command, flag, str(tmp_path / "a"), stdout=full)
        assert done.stderr == "weed-volume-py: the output cannot be written: No space left on device\n"
        assert done.returncode == 1


@pytest.mark.parametrize("command", TOOLS)
@pytest.mark.slow
def test_a_reader_that_goes_ends_the_output_quietly(tmp_path, command):
    """Slow: starts the program."""
    make_volume(tmp_path / "a")
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run_program(command, str(tmp_path / "a"), stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("command", TOOLS)
def test_a_bar_shows_how_far_the_work_is_where_somebody_looks(tmp_path, capsys, monkeypatch, command):
    make_volume(tmp_path / "a")
    if command == "ec-verify":
        make_shards(tmp_path / "a")
    for stream, has_bar in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        assert main([command, "-json", str(tmp_path / "a")]) == 0
        assert ("100%" in stream.getvalue() or f"{command} " in stream.getvalue()) is has_bar
        assert command not in capsys.readouterr().out


@pytest.mark.parametrize("command", TOOLS)
def test_each_tool_explains_itself(command, capsys):
    assert main([command, "-h"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"Usage: weed-volume-py {command} [flags] DIR...")
    assert "-json" in told
