"""The tools for directories, on volumes and shards that Go's server made, compared with Go's own tools."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile

import pytest
from harness import implementations
from harness.master import Master
from harness.server import RPC_LIMIT_S, VolumeServer

from native_handlers.pb import volume_server_pb2 as pb
from supervisor.cli.main import main

VID, CODED = 3, 4
FORMS = (
    (b"plain", "text/x", "a.bin"),
    (b"a text that is long enough to be compressed " * 200, "text/plain", "b.txt"),
    (b"no name and no type", "", ""),
    (b"z" * 70_000, "application/octet-stream", "c.tar.gz"),
)


def upload(server, fid, content, mime="", name=""):
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'
    head += f"Content-Type: {mime}\r\n" if mime else ""
    body = b"--x\r\n" + head.encode() + b"\r\n" + content + b"\r\n--x--\r\n"
    reply = server.http("POST", f"/{fid}", [("Content-Type", "multipart/form-data; boundary=x")], body)
    assert reply.status == 201, reply


@pytest.fixture(scope="module")
def made_by_go(weed_program, tmp_path_factory):
    """A directory of a Go server that ended in good order."""
    base = tmp_path_factory.mktemp("tools")
    known = {one.name: one for one in implementations.ALL}
    master = Master(base / "master", weed_program)
    server = VolumeServer(known["go"], base / "server", master, weed_program, [])
    try:
        for volume_id in (VID, CODED):
            request = pb.AllocateVolumeRequest(volume_id=volume_id, replication="000", version=3)
            server.rpc.AllocateVolume(request, timeout=RPC_LIMIT_S)
            fids = [server.new_fid(volume_id) for _ in range(3 * len(FORMS))]
            for fid, form in zip(fids, FORMS * 3, strict=True):
                upload(server, fid, b"overwritten")
                upload(server, fid, *form)
            assert server.http("DELETE", f"/{fids[-1]}").status == 202
        request = pb.VolumeEcShardsGenerateRequest(volume_id=CODED)
        server.rpc.VolumeEcShardsGenerate(request, timeout=RPC_LIMIT_S)
        server.stop()
        yield server.data_dir
    finally:
        server.end()
        master.process.end()


@pytest.fixture
def directory(made_by_go, tmp_path):
    """A copy of the directory for one test."""
    return shutil.copytree(made_by_go, tmp_path / "volumes")


def weed(program, *arguments, cwd):
    environ = os.environ | {"HOME": str(cwd)}
    return subprocess.run(
        [program, *arguments], cwd=cwd, capture_output=True, timeout=60, check=True, env=environ
    ).stdout


def test_the_same_listing(weed_program, directory, capsys):
    for flags in ([], ["-deleted"]):
        theirs = weed(weed_program, "export", f"-dir={directory}", f"-volumeId={VID}", *flags, cwd=directory.parent)
        assert main(["export", f"-volumeId={VID}", *flags, str(directory)]) == 0
        ours = capsys.readouterr().out.splitlines()
        if not flags:
            assert ours == theirs.decode().splitlines()
        else:
            # Go lists an overwritten record like a live one; the native tool marks records that are not live.
            assert [line.split("\t")[8:] for line in ours] == [
                line.split("\t")[8:] for line in theirs.decode().splitlines()
            ]


def test_the_same_tar_file(weed_program, directory):
    found = []
    for tool in ("go", "ours"):
        output = directory.parent / f"{tool}.tar"
        flags = [f"-o={output}", f"-volumeId={VID}", "-fileNameFormat={{.Mime}}/{{.Id}}:{{.Name}}"]
        if tool == "go":
            weed(weed_program, "export", f"-dir={directory}", *flags, cwd=directory.parent)
        else:
            assert main(["export", *flags, str(directory)]) == 0
        with tarfile.open(fileobj=io.BytesIO(output.read_bytes())) as tar:
            found.append([(one.name.strip("/"), one.mtime, one.mode, tar.extractfile(one).read()) for one in tar])
    assert found[0] == found[1]
    assert len(found[1]) == 3 * len(FORMS) - 1


def test_the_same_index(weed_program, directory, capsys):
    """Go sorts the rows of a new index and leaves out overwritten records: the last row of each id is the same."""
    theirs = shutil.copytree(directory, directory.parent / "theirs")
    for place in (theirs, directory):
        (place / f"{VID}.idx").unlink()
    weed(weed_program, "fix", f"-volumeId={VID}", str(theirs), cwd=theirs.parent)
    assert main(["fix", "-indexIsLost", f"-volumeId={VID}", str(directory)]) == 0
    capsys.readouterr()
    listed = []
    for place in (theirs, directory):
        assert main(["export", f"-volumeId={VID}", str(place)]) == 0
        listed.append(capsys.readouterr().out)
    assert listed[0] == listed[1]
    assert (
        weed(weed_program, "export", f"-dir={directory}", f"-volumeId={VID}", cwd=directory.parent).decode()
        == listed[0]
    )


def test_an_index_that_go_wrote_is_found_right(directory, capsys):
    assert main(["fix", "-json", f"-volumeId={VID}", str(directory)]) == 0
    assert json.loads(capsys.readouterr().out)["directories"][0]["volumes"][0]["is_changed"] is False
    assert main(["check", f"-volumeId={VID}", str(directory)]) == 0


def test_go_reads_what_was_compacted(weed_program, directory, capsys):
    before = weed(weed_program, "export", f"-dir={directory}", f"-volumeId={VID}", cwd=directory.parent).decode()
    size = (directory / f"{VID}.dat").stat().st_size
    assert main(["compact", f"-volumeId={VID}", str(directory)]) == 0
    assert (directory / f"{VID}.dat").stat().st_size < size
    after = weed(weed_program, "export", f"-dir={directory}", f"-volumeId={VID}", cwd=directory.parent).decode()
    assert sorted(line.split("\t")[:8] for line in after.splitlines()) == (
        sorted(line.split("\t")[:8] for line in before.splitlines())
    )


def test_shards_that_go_made(directory, capsys):
    assert main(["ec-verify", "-json", str(directory)]) == 0
    (volume,) = json.loads(capsys.readouterr().out)["volumes"]
    assert (volume["name"], volume["problems"], volume["missing"]) == (str(CODED), [], [])
    with (directory / f"{CODED}.ec11").open("r+b") as shard:
        shard.seek(4321)
        shard.write(b"\xff\x00\xff")
    assert main(["ec-verify", "-json", str(directory)]) == 1
    (volume,) = json.loads(capsys.readouterr().out)["volumes"]
    assert volume["bad_shards"] == [11]
