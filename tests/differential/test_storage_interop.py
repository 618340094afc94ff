"""Upstream's program reads native volumes, and the store reads upstream's. Skipped without `weed`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
from harness.implementations import weed_program
from support.checked_directories import checked_directories
from support.ports import free_ports
from support.stores import open_at
from support.waiting import LIMIT_S, wait_until

from native_handlers.format.fid import parse_file_id
from native_handlers.format.idx import iter_entries
from native_handlers.format.needle import Needle, actual_size, tail_size
from native_handlers.format.ttl import Ttl
from native_handlers.format.types import NEEDLE_HEADER_BYTES
from native_handlers.storage.erasure_coding import decode_volume
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import Deleted

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.store import Store

__all__ = ["checked_directories"]

WEED = weed_program()
pytestmark = pytest.mark.skipif(WEED is None, reason="needs a `weed`: WEED_BINARY is not set and PATH has none")


def weed(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [WEED, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"HOME": str(cwd)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def opened(path: Path, width: int = 4) -> Store:
    path.mkdir(exist_ok=True)
    return open_at(path, offset_width_bytes=width)


def sample(number: int) -> Needle:
    """Needles with every combination of the optional fields, and payloads of every padding."""
    needle = Needle(needle_id=number, cookie=0xC0FFEE00 + number, data=bytes([number]) * (number * 7 % 61 + 1))
    if number & 1:
        needle.has_name, needle.name = True, f"file{number}.txt".encode()
    if number & 2:
        needle.has_mime, needle.mime = True, b"text/plain"
    if number & 12:
        # Far ahead: upstream's vacuum drops a needle with a TTL of its own as soon as this has passed.
        needle.has_last_modified, needle.last_modified_s = True, 4_000_000_000 + number
    if number & 8:
        needle.has_ttl, needle.ttl = True, Ttl(200, 6)
    if number & 16:
        needle.has_pairs, needle.pairs = True, b'{"k":"v"}'
    return needle


@pytest.fixture(params=[1, 2, 3], ids=["v1", "v2", "v3"])
def written(request, tmp_path):
    """A directory with volume 7: needles 1 to 64, some overwritten, some deleted."""
    path = tmp_path / "ours"
    store = opened(path)
    store.allocate_volume(7, collection="c", replication="001", version=request.param)
    for number in range(1, 65):
        store.get_volume(7).write(sample(number))
    for number in range(1, 65, 10):
        store.get_volume(7).write(Needle(needle_id=number, cookie=0xC0FFEE00 + number, data=b"second"))
    for number in range(5, 65, 10):
        store.get_volume(7).delete(number, 0xC0FFEE00 + number)
    store.close()
    return path


def live() -> dict[int, bytes]:
    payloads = {number: bytes(sample(number).data) for number in range(1, 65) if number % 10 != 5}
    return payloads | dict.fromkeys(range(1, 65, 10), b"second")


def check_content(store: Store, vid: int) -> None:
    for number, payload in live().items():
        read = store.get_volume(vid).read(number, cookie=0xC0FFEE00 + number)
        assert read.needle.data == payload
    for number in range(5, 65, 10):
        with pytest.raises(Deleted):
            store.get_volume(vid).read(number, cookie=None)


def test_upstream_exports_what_was_written_here(written, tmp_path):
    target = tmp_path / "out.tar"
    weed(
        "export",
        f"-dir={written}",
        "-collection=c",
        "-volumeId=7",
        f"-o={target}",
        "-fileNameFormat={{.Key}}",
        cwd=tmp_path,
    )
    with tarfile.open(target) as tar:
        found = {parse_file_id(member.name).needle_id: tar.extractfile(member).read() for member in tar}
    assert found == live()


def test_upstream_rebuilds_an_index_that_is_read_here(written, tmp_path):
    (written / "c_7.idx").unlink()
    weed("fix", "-collection=c", "-volumeId=7", str(written), cwd=tmp_path)
    store = opened(written)
    assert store.findings == []
    check_content(store, 7)
    store.close()


@pytest.mark.damage("the vacuum is left before it is decided on")
def test_upstream_encodes_every_record_to_the_same_bytes(written, tmp_path):
    """A vacuum by upstream decodes each live record and encodes it again. Apart from the order the bytes must be the
    native ones.
    """
    weed("compact", f"-dir={written}", "-collection=c", "-volumeId=7", "-method=index", cwd=tmp_path)
    version = (written / "c_7.dat").read_bytes()[0]

    def records(dat: str, idx: str) -> dict[int, bytes]:
        raw = (written / dat).read_bytes()
        rows = list(iter_entries((written / idx).read_bytes(), 4))
        places = {row.needle_id: row for row in rows}
        live_rows = [row for row in places.values() if row.size > 0]
        starts = [(row.needle_id, row.offset * 8, actual_size(row.size, version)) for row in live_rows]
        return {needle_id: raw[start : start + length] for needle_id, start, length in starts}

    theirs = records("c_7.cpd", "c_7.cpx")
    assert theirs.keys() == live().keys()
    assert theirs == records("c_7.dat", "c_7.idx")


def test_a_vacuum_here_leaves_what_upstreams_leaves(written, tmp_path):
    """Except the padding of the records, which upstream leaves to chance."""
    weed("compact", f"-dir={written}", "-collection=c", "-volumeId=7", "-method=index", cwd=tmp_path)
    theirs = {extension: (written / f"c_7{extension}").read_bytes() for extension in (".cpd", ".cpx")}
    for extension in theirs:
        (written / f"c_7{extension}").unlink()
    store = opened(written)
    list(store.find_volume(7).compaction.run(CompactionOptions()))
    ours = {extension: (written / f"c_7{extension}").read_bytes() for extension in theirs}
    store.commit_compaction(store.get_volume(7))
    assert {number: store.get_volume(7).read(number, cookie=None).needle.data for number in live()} == live()
    store.close()
    assert ours[".cpx"] == theirs[".cpx"]
    version = ours[".cpd"][0]
    assert len(ours[".cpd"]) == len(theirs[".cpd"])
    assert ours[".cpd"][:8] == theirs[".cpd"][:8]
    for row in iter_entries(ours[".cpx"], 4):
        start, length = row.offset * 8, NEEDLE_HEADER_BYTES + row.size + tail_size(version)
        assert ours[".cpd"][start : start + length] == theirs[".cpd"][start : start + length]


def test_a_volume_vacuumed_by_upstream_is_read_here(written, tmp_path):
    weed("compact", f"-dir={written}", "-collection=c", "-volumeId=7", "-method=data", cwd=tmp_path)
    other = tmp_path / "theirs"
    other.mkdir()
    (written / "c_7.cpd").rename(other / "c_7.dat")
    (written / "c_7.cpx").rename(other / "c_7.idx")
    store = opened(other)
    assert store.findings == []
    for number, payload in live().items():
        assert store.get_volume(7).read(number, cookie=None).needle.data == payload
    report = store.volume_reports()[0]
    assert (report.compact_revision, report.deleted_byte_count, str(report.replica_placement)) == (1, 0, "001")
    store.close()


@pytest.fixture
def decoded(tmp_path):
    """A directory with volume 7, made of its shards: needle 1 was deleted before the coding, needle 2 in the shards,
    and needle 3 while the .dat was written. Needles 4 to 9 are live.
    """
    path = tmp_path / "decoded"
    store = opened(path)
    store.allocate_volume(7)
    for number in range(1, 10):
        store.get_volume(7).write(sample(number))
    store.get_volume(7).delete(1, 0xC0FFEE01)
    store.ec_work.generate(store.find_volume(7), "")
    for shard in range(14):
        store.ec.mount("", 7, shard)
    store.delete_volume(7, only_empty=False)
    store.ec_reader.delete_needle(7, 2, 0xC0FFEE02)
    with pytest.MonkeyPatch.context() as patched:
        write_dat = decode_volume.write_dat

        def delete_meanwhile(*arguments):
            write_dat(*arguments)
            store.ec_reader.delete_needle(7, 3, 0xC0FFEE03)

        patched.setattr(decode_volume, "write_dat", delete_meanwhile)
        store.ec_work.decode("", 7, was_open=False)
    for shard in range(14):
        store.ec.unmount(7, shard)
    store.ec_work.delete_shards("", 7, range(14))
    store.close()
    return path


@pytest.mark.parametrize("is_fixed", [False, True], ids=["with its index", "with an index that upstream made"])
def test_upstream_finds_what_is_live_in_a_decoded_volume(decoded, tmp_path, is_fixed):
    if is_fixed:
        (decoded / "7.idx").unlink()
        weed("fix", "-volumeId=7", str(decoded), cwd=tmp_path)
    target = tmp_path / "out.tar"
    weed("export", f"-dir={decoded}", "-volumeId=7", f"-o={target}", "-fileNameFormat={{.Key}}", cwd=tmp_path)
    with tarfile.open(target) as tar:
        found = {parse_file_id(member.name).needle_id: tar.extractfile(member).read() for member in tar}
    assert found == {number: sample(number).data for number in range(4, 10)}


# ---- against a running server


def fetch(url: str, *, method: str = "GET", body: bytes | None = None) -> bytes:
    request = urllib.request.Request(
        url, data=body, method=method, headers={"Content-Type": "application/octet-stream"}
    )  # noqa: S310
    with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
        return response.read()


def wait_for(condition, what):
    """Polls until `condition` returns a true value, which servers that start do not."""

    def found():
        with contextlib.suppress(OSError, KeyError, ValueError):
            return condition()

    return wait_until(found, what)


@pytest.fixture
def cluster(tmp_path):
    """A master and a volume server of upstream; yields (master url, volume url, directory, function that stops the
    server).
    """
    http_m, grpc_m, http_v, grpc_v = free_ports(4)
    directory = tmp_path / "go"
    for name in ("go", "m", "conf"):
        (tmp_path / name).mkdir(exist_ok=True)
    common = [WEED, f"-config_dir={tmp_path / 'conf'}", f"-logdir={tmp_path}"]
    master = [*common, "master", "-ip=127.0.0.1", f"-port={http_m}", f"-port.grpc={grpc_m}", f"-mdir={tmp_path / 'm'}"]
    master += ["-telemetry=false"]
    volume = [*common, "volume", "-ip=127.0.0.1", f"-port={http_v}", f"-port.grpc={grpc_v}", f"-dir={directory}"]
    volume += [f"-master=127.0.0.1:{http_m}.{grpc_m}", "-max=8", "-preStopSeconds=0", "-minFreeSpacePercent=0"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    master_url, volume_url = f"http://127.0.0.1:{http_m}", f"http://127.0.0.1:{http_v}"
    with contextlib.ExitStack() as stack:
        processes = []
        for command in (master, volume):
            process = stack.enter_context(subprocess.Popen(command, **quiet))
            stack.callback(process.kill)
            processes.append(process)
            if command is master:
                wait_for(lambda: json.loads(fetch(f"{master_url}/cluster/status")).get("IsLeader"), "a leader")

        def stop() -> None:
            processes[1].terminate()
            processes[1].wait(timeout=60)

        wait_for(lambda: fetch(f"{volume_url}/healthz") == b"", "the volume server to be healthy")
        yield master_url, volume_url, directory, stop


@pytest.mark.slow
def test_a_volume_written_by_a_running_upstream_server_is_read_and_continued_here(cluster):
    """Slow: starts two upstream servers."""
    master_url, volume_url, directory, stop = cluster
    payloads = {}
    first = wait_for(lambda: json.loads(fetch(f"{master_url}/dir/assign"))["fid"], "a file id")
    vid = parse_file_id(first).volume_id
    for number in range(1, 20):
        fid = f"{vid},{number:x}c0ffee{number:02x}"
        payloads[number] = bytes([number]) * number * 1000
        fetch(f"{volume_url}/{fid}", method="PUT", body=payloads[number])
    for number in (3, 7):
        fetch(f"{volume_url}/{vid},{number:x}c0ffee{number:02x}", method="DELETE")
        del payloads[number]
    status = next(v for v in json.loads(fetch(f"{volume_url}/status"))["Volumes"] if v["Id"] == vid)
    stop()

    store = opened(directory)
    assert store.findings == []
    for number, payload in payloads.items():
        assert store.get_volume(vid).read(number, cookie=0xC0FFEE00 + number).needle.data == payload
    for number in (3, 7):
        with pytest.raises(Deleted):
            store.get_volume(vid).read(number, cookie=None)
    report = store.find_volume(vid).report()
    # Both servers count the rows of deletions in a reopened index alike, in memory as after a restart.
    assert report.content_size_bytes == status["Size"]
    assert (report.file_count, report.delete_count) == (status["FileCount"], status["DeleteCount"])
    assert report.deleted_byte_count == status["DeletedByteCount"]
    store.get_volume(vid).write(Needle(needle_id=100, cookie=1, data=b"ours"))
    assert store.find_volume(vid).size_bytes == report.size_bytes + actual_size(9, 3)
    store.close()


@pytest.fixture
def left_to_go(decoded, tmp_path):
    """The decoded volume in the directory of the server of `cluster`."""
    shutil.copytree(decoded, tmp_path / "go")


@pytest.mark.slow
@pytest.mark.usefixtures("left_to_go")
def test_a_decoded_volume_is_read_and_continued_by_a_running_upstream_server(cluster):
    """Slow: starts two upstream servers."""
    _, volume_url, directory, stop = cluster

    def url(number):
        return f"{volume_url}/7,{number:x}{0xC0FFEE00 + number:08x}"

    payloads = {number: sample(number).data for number in range(4, 10)}
    assert {number: fetch(url(number)) for number in payloads} == payloads
    for number in (1, 2, 3):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(url(number))
    fetch(url(100), method="PUT", body=b"theirs")
    stop()
    store = opened(directory)
    assert store.findings == []
    assert store.get_volume(7).read(100, cookie=0xC0FFEE00 + 100).needle.data == b"theirs"
    assert {number: store.get_volume(7).read(number, cookie=None).needle.data for number in payloads} == payloads
    store.close()
