"""Volumes written here are read by upstream's program, and the other way round. Skipped where there is no `weed`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from native_handlers.format.fid import parse_file_id
from native_handlers.format.idx import iter_entries
from native_handlers.format.needle import Needle, actual_size
from native_handlers.format.ttl import Ttl
from native_handlers.storage.disk_location import LocationConfig
from native_handlers.storage.errors import Deleted
from native_handlers.storage.store import Store, StoreConfig, open_store

if TYPE_CHECKING:
    from pathlib import Path

WEED = os.environ.get("WEED_BINARY") or shutil.which("weed")
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
    return open_store(StoreConfig((LocationConfig(path, path, 8),), offset_width_bytes=width))


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
        store.write_needle(7, sample(number))
    for number in range(1, 65, 10):
        store.write_needle(7, Needle(needle_id=number, cookie=0xC0FFEE00 + number, data=b"second"))
    for number in range(5, 65, 10):
        store.delete_needle(7, number, 0xC0FFEE00 + number)
    store.close()
    return path


def live() -> dict[int, bytes]:
    payloads = {number: bytes(sample(number).data) for number in range(1, 65) if number % 10 != 5}
    return payloads | dict.fromkeys(range(1, 65, 10), b"second")


def check_content(store: Store, vid: int) -> None:
    for number, payload in live().items():
        read = store.read_needle(vid, number, cookie=0xC0FFEE00 + number)
        assert read.needle.data == payload
    for number in range(5, 65, 10):
        with pytest.raises(Deleted):
            store.read_needle(vid, number, cookie=None)


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
    """A vacuum by upstream decodes each live record and encodes it again; apart from order they must be ours."""
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


def test_a_volume_vacuumed_by_upstream_is_read_here(written, tmp_path):
    weed("compact", f"-dir={written}", "-collection=c", "-volumeId=7", "-method=data", cwd=tmp_path)
    other = tmp_path / "theirs"
    other.mkdir()
    (written / "c_7.cpd").rename(other / "c_7.dat")
    (written / "c_7.cpx").rename(other / "c_7.idx")
    store = opened(other)
    assert store.findings == []
    for number, payload in live().items():
        assert store.read_needle(7, number, cookie=None).needle.data == payload
    report = store.volume_reports()[0]
    assert (report.compact_revision, report.deleted_byte_count, str(report.replica_placement)) == (1, 0, "001")
    store.close()


# ---- against a running server


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def fetch(url: str, *, method: str = "GET", body: bytes | None = None) -> bytes:
    request = urllib.request.Request(
        url, data=body, method=method, headers={"Content-Type": "application/octet-stream"}
    )  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read()


def wait_for(condition, seconds: float = 30):
    """Polls until `condition` answers something true; the pause only spares the machine."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, KeyError, ValueError):
            if found := condition():
                return found
        assert time.monotonic() < deadline, "not ready in time"
        select.select([], [], [], 0.05)


@pytest.fixture
def cluster(tmp_path):
    """A master and a volume server of upstream's; yields (master url, volume url, directory, stop the server)."""
    http_m, grpc_m, http_v, grpc_v = free_ports(4)
    directory = tmp_path / "go"
    for name in ("go", "m", "conf"):
        (tmp_path / name).mkdir()
    common = [WEED, f"-config_dir={tmp_path / 'conf'}", f"-logdir={tmp_path}"]
    master = [*common, "master", "-ip=127.0.0.1", f"-port={http_m}", f"-port.grpc={grpc_m}", f"-mdir={tmp_path / 'm'}"]
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
                wait_for(lambda: json.loads(fetch(f"{master_url}/cluster/status")).get("IsLeader"))

        def stop() -> None:
            processes[1].terminate()
            processes[1].wait(timeout=60)

        wait_for(lambda: fetch(f"{volume_url}/healthz") == b"")
        yield master_url, volume_url, directory, stop


@pytest.mark.slow
def test_a_volume_written_by_a_running_upstream_server_is_read_and_continued_here(cluster):
    """Slow: starts two servers of upstream's."""
    master_url, volume_url, directory, stop = cluster
    payloads = {}
    first = wait_for(lambda: json.loads(fetch(f"{master_url}/dir/assign"))["fid"])
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
        assert store.read_needle(vid, number, cookie=0xC0FFEE00 + number).needle.data == payload
    for number in (3, 7):
        with pytest.raises(Deleted):
            store.read_needle(vid, number, cookie=None)
    report = store.find_volume(vid).report()
    # Both servers count the deletions' rows of a reopened index alike, in memory as after a restart.
    assert report.content_size_bytes == status["Size"]
    assert (report.file_count, report.delete_count) == (status["FileCount"], status["DeleteCount"])
    assert report.deleted_byte_count == status["DeletedByteCount"]
    store.write_needle(vid, Needle(needle_id=100, cookie=1, data=b"ours"))
    assert store.find_volume(vid).size_bytes == report.size_bytes + actual_size(9, 3)
    store.close()
