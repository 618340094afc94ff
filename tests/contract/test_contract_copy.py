"""CopyFile, ReceiveFile and VolumeCopy as other servers and the shell use them, also between native and Go servers."""

import itertools
import os
import threading
import time
from pathlib import Path

import grpc
import pytest
from harness import implementations
from harness.calls import code_and_text
from harness.fixtures import ServerFactory
from harness.processes import memory_bytes, reset_peak_memory
from harness.transfer import MIB
from support.descriptors import links_of
from support.ports import LOOPBACK, free_port
from support.waiting import LIMIT_S, wait_until

from native_handlers.format.crc import crc32c
from native_handlers.format.idx import encode_entry
from native_handlers.format.needle import Needle, encode_needle_parts
from native_handlers.format.types import to_stored
from native_handlers.pb import volume_server_pb2 as pb

ANY_REVISION = 2**32 - 1
ALL = 2**63 - 1
COPY_ROUTES = "phase: 1\nroutes:\n  grpc.CopyFile: native\n  grpc.ReceiveFile: native\n  grpc.VolumeCopy: native\n"

pytestmark = pytest.mark.native_rpcs

only_native = pytest.mark.only(lambda implementation: implementation.mode == "native")


def copy_request(volume_id, **fields):
    settings = {"ext": ".dat", "compaction_revision": ANY_REVISION, "stop_offset": ALL, **fields}
    return pb.CopyFileRequest(volume_id=volume_id, **settings)


def copied(server, volume_id, **fields):
    return list(server.rpc.CopyFile(copy_request(volume_id, **fields), timeout=LIMIT_S))


def unknown(text):
    return grpc.StatusCode.UNKNOWN, text


def info(volume_id, **fields):
    return pb.ReceiveFileRequest(info=pb.ReceiveFileInfo(**{"volume_id": volume_id, "ext": ".tmprecv", **fields}))


def content(data):
    return pb.ReceiveFileRequest(file_content=data)


def received(server, *messages):
    return server.rpc.ReceiveFile(iter(messages), timeout=LIMIT_S)


def volume_with_needles(server, count=5, size_bytes=1_500_000, **fields):
    """A volume of several CopyFile messages, and its contents by file id."""
    volume_id = server.new_volume(**fields)
    fids = [server.new_fid(volume_id) for _ in range(count)]
    data = {fid: os.urandom(size_bytes) for fid in fids}
    for fid, payload in data.items():
        server.store(payload, [("Content-Type", "application/octet-stream")], fid=fid)
    return volume_id, data


def copy_volume(target, source_address, volume_id, **fields):
    request = pb.VolumeCopyRequest(volume_id=volume_id, source_data_node=source_address, **fields)
    return list(target.rpc.VolumeCopy(request, timeout=60))


def address_of(server):
    return f"{server.url}.{server.layout.grpc_port}"


def names(directory, volume_id):
    return sorted(path.name for path in directory.iterdir() if path.name.startswith(f"{volume_id}."))


def open_descriptors(server):
    """Descriptors of files in the data directory: the server's and its child's."""
    pids = (server.process.pid, *server.child_pids())
    links = (link for pid in pids for link in links_of(pid).values())
    return sorted(link for link in links if link.startswith(str(server.data_dir)))


@pytest.fixture(scope="module")
def volume(server):
    """A volume of several CopyFile messages."""
    return volume_with_needles(server)


@pytest.fixture(scope="module")
def volume_id(server):
    """An empty volume."""
    return server.new_volume()


@pytest.fixture(scope="module")
def source(implementation, master, weed, tmp_path_factory):
    """Another server of the same implementation."""
    factory = ServerFactory(implementation, tmp_path_factory.mktemp("source"), master, weed)
    yield factory()
    for made in factory.made:
        made.end()


class TestCopyFile:
    @pytest.mark.parametrize("extension", [".dat", ".idx", ".vif"])
    def test_a_file_comes_whole_and_tells_its_time_once(self, server, volume, extension):
        messages = copied(server, volume[0], ext=extension)
        path = server.data_dir / f"{volume[0]}{extension}"
        assert b"".join(message.file_content for message in messages) == path.read_bytes()
        assert [bool(message.modified_ts_ns) for message in messages] == [True] + [False] * (len(messages) - 1)
        assert messages[0].modified_ts_ns == path.stat().st_mtime_ns
        assert max(len(message.file_content) for message in messages) <= 2 * MIB

    @pytest.mark.parametrize("stop", [1, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1])
    def test_it_stops_where_it_is_told_to(self, server, volume, stop):
        messages = copied(server, volume[0], stop_offset=stop)
        expected = (server.data_dir / f"{volume[0]}.dat").read_bytes()[:stop]
        assert b"".join(message.file_content for message in messages) == expected

    @pytest.mark.parametrize("stop", [0, 2**63, 2**64 - 1])
    def test_nothing_of_a_file_is_a_message_with_its_time(self, server, volume, stop):
        (message,) = copied(server, volume[0], stop_offset=stop)
        assert (message.file_content, message.modified_ts_ns > 0) == (b"", True)

    def test_the_revision_must_fit(self, server, volume):
        assert copied(server, volume[0], compaction_revision=0)
        refused = code_and_text(lambda: copied(server, volume[0], compaction_revision=1))
        assert refused == unknown(f"volume {volume[0]} is compacted")

    def test_a_missing_file(self, server, volume):
        path = server.data_dir / f"{volume[0]}.missing"
        refused = code_and_text(lambda: copied(server, volume[0], ext=".missing"))
        assert refused == unknown(f"open {path}: no such file or directory")
        assert copied(server, volume[0], ext=".missing", ignore_source_file_not_found=True) == []
        assert copied(server, volume[0], ext=".missing", stop_offset=0) == []

    def test_an_absent_volume(self, server):
        assert code_and_text(lambda: copied(server, 999_999)) == unknown("not found volume id 999999")

    @pytest.mark.parametrize(
        ("extension", "shown"),
        [("", '""'), ("dat", '"dat"'), ("./../x", '"./../x"'), (".d\n", '".d\\n"'), (".ä", '".ä"'), (".a.b", '".a.b"')],
    )
    def test_an_extension_that_is_none(self, server, volume, extension, shown):
        refused = code_and_text(lambda: copied(server, volume[0], ext=extension))
        assert refused == unknown(f"invalid file extension {shown}")

    @pytest.mark.parametrize(
        ("collection", "shown"), [("..", '".."'), ("../x", '"../x"'), ("a/b", '"a/b"'), ("a\\b", '"a\\\\b"')]
    )
    @pytest.mark.parametrize("is_coded", [False, True])
    def test_a_collection_that_leads_elsewhere(self, server, volume, collection, shown, is_coded):
        refused = code_and_text(lambda: copied(server, volume[0], collection=collection, is_ec_volume=is_coded))
        assert refused == unknown(f"invalid collection {shown}")

    def test_files_of_coded_volumes(self, server):
        for extension in (".ec00", ".ecx", ".ecj", ".vif"):
            (server.data_dir / f"coded_77{extension}").write_bytes(extension.encode())
        fields = {"collection": "coded", "is_ec_volume": True}
        for extension in (".ec00", ".ecx", ".ecj", ".vif"):
            (message,) = copied(server, 77, ext=extension, **fields)
            assert message.file_content == extension.encode()
        refused = code_and_text(lambda: copied(server, 77, ext=".ec01", **fields))
        assert refused == unknown("CopyFile not found ec volume id 77")
        assert code_and_text(lambda: copied(server, 77, ext=".ec01", stop_offset=0, **fields)) == refused
        assert copied(server, 77, ext=".ec01", ignore_source_file_not_found=True, **fields) == []

    def test_a_client_that_goes_leaves_no_file_open(self, server, volume):
        volume_id, data = volume
        server.read(next(iter(data)))
        before = open_descriptors(server)
        for stop in range(10):
            call = server.rpc.CopyFile(copy_request(volume_id, stop_offset=ALL - stop), timeout=LIMIT_S)
            next(call)
            call.cancel()
        wait_until(lambda: open_descriptors(server) == before, "the files to be let go of")


class TestReceiveFile:
    def test_a_file_beside_a_volume(self, server, volume_id):
        pieces = [os.urandom(size) for size in (1, 1_000_000, 3_000_000)]
        sent = [info(volume_id, file_size=4_000_001), *map(content, pieces)]
        assert received(server, *sent) == pb.ReceiveFileResponse(bytes_written=4_000_001)
        assert (server.data_dir / f"{volume_id}.tmprecv").read_bytes() == b"".join(pieces)

    def test_shards(self, server):
        rows = bytes(16 * 17)  # whole rows, with offsets of four bytes and of five
        for extension, data in ((".ec00", b"shard"), (".ecx", rows), (".ecsum", b"sums")):
            answer = received(server, info(55, ext=extension, collection="pics", is_ec_volume=True), content(data))
            assert answer == pb.ReceiveFileResponse(bytes_written=len(data))
            assert (server.data_dir / f"pics_55{extension}").read_bytes() == data

    def test_files_of_a_volume_that_is_to_come(self, server):
        assert not received(server, info(66, ext=".dat", disk_type="hdd"), content(b"x")).error
        assert names(server.data_dir, 66) == ["66.dat.copying"]

    @pytest.mark.parametrize(
        ("messages", "error"),
        [
            pytest.param([content(b"x")], "file info must be sent first", id="content-first"),
            pytest.param([pb.ReceiveFileRequest()], "unknown message type", id="nothing"),
            pytest.param([info(99)], "volume 99 not found", id="absent"),
            pytest.param(
                [info(99, disk_type="tape")], "no tape disk location with a free slot for volume 99", id="disk-type"
            ),
            pytest.param(
                [info(99, ext=".ec00", is_ec_volume=True, disk_id=5)], "invalid disk_id 5: only have 1 disks", id="disk"
            ),
            pytest.param([info(99, ext="x")], 'invalid file extension "x"', id="extension"),
            pytest.param([info(99, collection="../x")], 'invalid collection "../x"', id="collection"),
        ],
    )
    def test_violations_are_told_within_the_answer(self, server, messages, error):
        assert received(server, *messages) == pb.ReceiveFileResponse(error=error)
        assert names(server.data_dir, 99) == []

    def test_a_stream_that_breaks_leaves_nothing(self, server, volume_id):
        before = names(server.data_dir, f"{volume_id}"), open_descriptors(server)
        written = threading.Event()

        def broken():
            yield info(volume_id)
            yield content(bytes(100_000))
            yield content(bytes(100_000))
            written.set()
            threading.Event().wait(LIMIT_S)

        call = server.rpc.ReceiveFile.future(broken(), timeout=LIMIT_S)
        assert written.wait(LIMIT_S)
        wait_until(lambda: open_descriptors(server) != before[1], "the file to be opened")
        call.cancel()
        wait_until(lambda: (names(server.data_dir, volume_id), open_descriptors(server)) == before, "the clean-up")

    @pytest.mark.only(lambda implementation: implementation.has_our_rpcs)
    def test_what_a_volume_works_with_is_safe(self, server):
        """Upstream overwrites the file in place."""
        fid = server.store(b"safe")
        volume_id = int(fid.split(",")[0])
        for extension in (".dat", ".idx"):
            answer = received(server, info(volume_id, ext=extension), content(b"x"))
            text = f"volume {volume_id} is mounted and works with its {extension}; unmount before ReceiveFile"
            assert answer.error == text
        assert server.read(fid).body == b"safe"


class TestVolumeCopy:
    def test_a_volume_that_the_source_does_not_have(self, server, source):
        text = "read volume file status failed, rpc error: code = Unknown desc = not found volume id 99"
        fid = server.store(b"stays")
        assert code_and_text(lambda: copy_volume(server, address_of(source), 99)) == unknown(text)
        volume_id = int(fid.split(",")[0])
        refused = code_and_text(lambda: copy_volume(server, address_of(source), volume_id))
        assert refused == unknown(text.replace("99", str(volume_id)))
        assert server.read(fid).body == b"stays"

    def test_a_source_that_is_not_there(self, server):
        fid = server.store(b"stays")
        nowhere = f"{LOOPBACK}:{free_port()}.{free_port()}"
        code, text = code_and_text(lambda: copy_volume(server, nowhere, int(fid.split(",")[0])))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert text.startswith("read volume file status failed, rpc error: code = Unavailable desc = ")
        assert server.read(fid).body == b"stays"

    def test_it_takes_the_place_of_the_one_that_is_here(self, server, source):
        volume_id, data = volume_with_needles(source, count=2, size_bytes=1000)
        request = pb.AllocateVolumeRequest(volume_id=volume_id, replication="000", version=3)
        server.rpc.AllocateVolume(request, timeout=LIMIT_S)
        fid = server.store(b"goes", fid=f"{volume_id},aa637037d6")
        *_, last = copy_volume(server, address_of(source), volume_id)
        assert last.last_append_at_ns
        assert {key: server.read(key).body for key in data} == data
        assert server.read(fid).status == 404
        assert names(server.data_dir, volume_id) == [
            f"{volume_id}{extension}" for extension in (".dat", ".idx", ".vif")
        ]

    def test_no_disk_of_that_type(self, server, source):
        volume_id = source.new_volume()
        refused = code_and_text(lambda: copy_volume(server, address_of(source), volume_id, disk_type="tape"))
        assert refused == unknown("no space left for disk type tape")

    @pytest.mark.only(lambda implementation: implementation.mode == "native" or implementation.has_native_rpcs)
    def test_at_the_pace_of_the_server(self, fresh_server, source):
        """-maintenanceMBps. The copy takes at least the time of its bytes; without a stopwatch no more can be said. Go
        checks its pace only after 100 ms, when so small a volume is already copied.
        """
        target = fresh_server("-maintenanceMBps=1")
        volume_id, data = volume_with_needles(source, count=3, size_bytes=MIB)
        began_s = time.monotonic()
        copy_volume(target, address_of(source), volume_id)
        assert time.monotonic() - began_s > 2.9
        assert {key: target.read(key).body for key in data} == data

    def test_in_maintenance(self, fresh_server):
        server = fresh_server()
        server.rpc.SetState(pb.SetStateRequest(state=pb.VolumeServerState(maintenance=True)), timeout=LIMIT_S)
        text = f"volume server {server.url} is in maintenance mode"
        assert code_and_text(lambda: copy_volume(server, "127.0.0.1:1", 1)) == unknown(text)
        assert code_and_text(lambda: received(server, info(1), content(b"x"))) == unknown(text)


@only_native
class TestCopiesThatAreCutOff:
    """At this pace the copies would take hours. Upstream continues without its client."""

    @pytest.fixture
    def servers(self, fresh_server):
        source, target = fresh_server(), fresh_server()
        volume_id, _ = volume_with_needles(source)
        return source, target, volume_id

    def start(self, servers, **options):
        """The running call. grpcio cancels a call that nobody holds any more: a caller keeps the answer."""
        source, target, volume_id = servers
        request = pb.VolumeCopyRequest(
            volume_id=volume_id, source_data_node=address_of(source), io_byte_per_second=1000
        )
        call = target.rpc.VolumeCopy(request, **options)
        wait_until(lambda: f"{volume_id}.dat.arriving" in names(target.data_dir, volume_id), "the copy to begin")
        return call

    def assert_gone(self, servers):
        source, target, volume_id = servers
        wait_until(lambda: names(target.data_dir, volume_id) == [], "what had been copied to be gone")
        for server, extensions in ((source, (".dat", ".idx")), (target, ())):
            expected = sorted(str(server.data_dir / f"{volume_id}{extension}") for extension in extensions)
            wait_until(lambda: open_volume_files(server, volume_id) == expected, "files to be let go of")  # noqa: B023

    def test_by_a_client_that_cancels(self, servers):
        self.start(servers).cancel()
        self.assert_gone(servers)

    def test_by_the_deadline(self, servers):
        source, target, volume_id = servers
        request = pb.VolumeCopyRequest(
            volume_id=volume_id, source_data_node=address_of(source), io_byte_per_second=1000
        )
        for limit_s in (1.5, 6, 24):  # a slow machine needs longer to begin at all
            call = target.rpc.VolumeCopy(request, timeout=limit_s)
            arriving = f"{volume_id}.dat.arriving"
            wait_until(lambda: not call.is_active() or arriving in names(target.data_dir, volume_id))  # noqa: B023
            if call.is_active():
                break
        assert code_and_text(lambda: list(call))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        self.assert_gone(servers)

    def test_by_the_death_of_the_source(self, servers):
        source, target, volume_id = servers
        request = pb.VolumeCopyRequest(volume_id=volume_id, source_data_node=address_of(source), io_byte_per_second=MIB)
        call = target.rpc.VolumeCopy(request, timeout=LIMIT_S)
        wait_until(lambda: f"{volume_id}.dat.arriving" in names(target.data_dir, volume_id), "the copy to begin")
        source.process.kill()
        code, text = code_and_text(lambda: list(call))
        assert code is grpc.StatusCode.UNKNOWN
        assert text.startswith(f"failed to copy {volume_id}.")
        assert "rpc error: code = Unavailable" in text
        assert names(target.data_dir, volume_id) == []
        assert target.http("GET", "/healthz").status == 200

    def test_by_the_death_of_the_target(self, servers):
        """The next start of the target removes the rest of the copy."""
        _, target, volume_id = servers
        call = self.start(servers)
        target.process.kill()
        assert code_and_text(lambda: list(call))[0] is grpc.StatusCode.UNAVAILABLE
        assert f"{volume_id}.dat.arriving" in names(target.data_dir, volume_id)
        target.restart()
        assert names(target.data_dir, volume_id) == []


@only_native
class TestWhatIsHereMeanwhile:
    """Upstream deletes the present volume when the source has shown that it has the volume."""

    @pytest.fixture
    def servers(self, fresh_server):
        """A source, and a target that has a volume of the same id."""
        source, target = fresh_server(), fresh_server()
        volume_id, _ = volume_with_needles(source)
        target.allocate(volume_id)
        fid = target.store(b"here", fid=f"{volume_id},aa637037d6")
        return source, target, volume_id, fid

    def start(self, servers, bytes_per_s=1000):
        """The running call, to be kept as above."""
        source, target, volume_id, _ = servers
        request = pb.VolumeCopyRequest(
            volume_id=volume_id, source_data_node=address_of(source), io_byte_per_second=bytes_per_s
        )
        call = target.rpc.VolumeCopy(request)
        wait_until(lambda: f"{volume_id}.dat.arriving" in names(target.data_dir, volume_id), "the copy to begin")
        return call

    def assert_as_before(self, target, volume_id, fid):
        files = [f"{volume_id}{extension}" for extension in (".dat", ".idx", ".vif")]
        wait_until(lambda: names(target.data_dir, volume_id) == files, "what had been copied to be gone")
        assert target.read(fid).body == b"here"
        assert target.http("PUT", f"/{volume_id},ab637037d6", body=b"more").status == 201

    def test_it_is_read_and_takes_no_writes_that_would_be_lost(self, servers):
        _, target, volume_id, fid = servers
        call = self.start(servers)
        assert target.read(fid).body == b"here"
        assert target.http("PUT", f"/{volume_id},ab637037d6", body=b"lost").status == 500
        call.cancel()
        self.assert_as_before(target, volume_id, fid)

    def test_it_stays_when_the_source_dies(self, servers):
        source, target, volume_id, fid = servers
        call = self.start(servers, MIB)
        source.process.kill()
        assert code_and_text(lambda: list(call))[0] is grpc.StatusCode.UNKNOWN
        self.assert_as_before(target, volume_id, fid)

    def test_it_stays_when_this_server_dies(self, servers):
        _, target, volume_id, fid = servers
        call = self.start(servers)
        target.process.kill()
        assert code_and_text(lambda: list(call))[0] is grpc.StatusCode.UNAVAILABLE
        target.restart()
        self.assert_as_before(target, volume_id, fid)


def open_volume_files(server, volume_id):
    return [path for path in open_descriptors(server) if Path(path).name.startswith(f"{volume_id}.")]


MAKES = {one.name: one for one in implementations.ALL}
PAIRS = [
    ("native", "native"),
    ("native", "go"),
    ("go", "native"),
    ("go", "go"),
    ("native", "mixed-go"),
    ("mixed-go", "native"),
]


class TestBetweenServersOfDifferentMakes:
    """The source and target of each pair. Mixed pairs do the copies natively."""

    @pytest.fixture(params=PAIRS, ids="-to-".join)
    def pair(self, request, tmp_path, master, weed):
        factories = []
        for position, name in enumerate(request.param):
            make = MAKES[name]
            if make.needs_weed and weed is None:
                pytest.skip(implementations.find_weed()[1])
            base = tmp_path / f"server{position}"
            base.mkdir()
            table = base / "routes.yaml"
            table.write_text(COPY_ROUTES)
            factories.append(ServerFactory(make, base, master, weed))
            factories[-1](*([f"-routes={table}"] if make.mode == "mixed" else []))
        yield [factory.made[0] for factory in factories]
        for factory in factories:
            for made in factory.made:
                made.end()

    def test_a_volume_arrives_whole(self, pair):
        source, target = pair
        volume_id, data = volume_with_needles(source, collection="pics", ttl="3d")
        gone = data.popitem()[0]
        assert source.http("DELETE", f"/{gone}").status == 202
        *_, last = copy_volume(target, address_of(source), volume_id, collection="pics")
        assert {key: target.read(key).body for key in data} == data
        assert target.read(gone).status == 404
        for extension in (".dat", ".idx"):
            name = f"pics_{volume_id}{extension}"
            here, there = target.data_dir / name, source.data_dir / name
            assert here.read_bytes() == there.read_bytes()
            assert here.stat().st_mtime_ns == there.stat().st_mtime_ns
        appended = (target.data_dir / f"pics_{volume_id}.dat").read_bytes()[-32:]
        assert last.last_append_at_ns == int.from_bytes(appended[20:28], "big"), "the deletion is the last record"
        status = target.rpc.ReadVolumeFileStatus(pb.ReadVolumeFileStatusRequest(volume_id=volume_id), timeout=LIMIT_S)
        assert status.collection == "pics"
        fid = target.store(b"and it takes writes", fid=f"{volume_id},ff637037d6")
        assert target.read(fid).body == b"and it takes writes"
        wait_until(lambda: is_located(target, volume_id), "the master to know of the copy")


def is_located(server, volume_id):
    found = server.master.get(f"/dir/lookup?volumeId={volume_id}").get("locations") or []
    return server.url in [one["url"] for one in found]


@only_native
class TestLargeVolumes:
    """Slow: gigabytes are read."""

    ALLOWED_GROWTH_BYTES = 64 * MIB

    @pytest.fixture
    def sparse_volume(self, fresh_server):
        """A volume of 4 GiB with two needles, one at each end, and holes between them."""
        server = fresh_server()
        volume_id = server.new_volume()
        first = server.store(b"first", fid=f"{volume_id},01637037d6")
        server.rpc.VolumeUnmount(pb.VolumeUnmountRequest(volume_id=volume_id), timeout=LIMIT_S)
        offset = 4096 * MIB
        needle = Needle(needle_id=2, cookie=0x637037D6, data=b"last", checksum=crc32c(b"last"))
        record = b"".join(encode_needle_parts(needle, 3))
        with (server.data_dir / f"{volume_id}.dat").open("r+b") as dat:
            dat.seek(offset)
            dat.write(record)
        with (server.data_dir / f"{volume_id}.idx").open("ab") as idx:
            idx.write(encode_entry(2, to_stored(offset), needle.size, 4))
        server.rpc.VolumeMount(pb.VolumeMountRequest(volume_id=volume_id), timeout=LIMIT_S)
        last = f"{volume_id},02637037d6"
        assert [server.read(fid).body for fid in (first, last)] == [b"first", b"last"]
        return server, volume_id, offset + len(record)

    @pytest.mark.slow
    def test_copying_one_costs_little_memory(self, sparse_volume):
        """Slow: copies 4 GiB."""
        server, volume_id, size_bytes = sparse_volume
        copied(server, volume_id, stop_offset=16 * MIB)
        reset_peak_memory(server.process.pid)
        before = memory_bytes(server.process.pid, "VmRSS")
        call = server.rpc.CopyFile(copy_request(volume_id), timeout=120)
        assert sum(len(message.file_content) for message in call) == size_bytes
        assert memory_bytes(server.process.pid, "VmHWM") - before < self.ALLOWED_GROWTH_BYTES

    @pytest.mark.slow
    def test_taking_one_in_costs_little_memory(self, fresh_server):
        """Slow: copies 512 MiB between two servers."""
        source, target = fresh_server(), fresh_server()
        volume_id, _ = volume_with_needles(source, count=1, size_bytes=1000)
        copy_volume(target, address_of(source), volume_id)
        volume_id, _ = volume_with_needles(source, count=64, size_bytes=8 * MIB)
        reset_peak_memory(target.process.pid)
        before = memory_bytes(target.process.pid, "VmRSS")
        *progress, _ = copy_volume(target, address_of(source), volume_id)
        assert len(progress) >= 3
        assert memory_bytes(target.process.pid, "VmHWM") - before < self.ALLOWED_GROWTH_BYTES

    @pytest.mark.slow
    def test_being_sent_one_costs_little_memory(self, fresh_server):
        """Slow: sends 512 MiB."""
        server = fresh_server()
        volume_id, block = server.new_volume(), os.urandom(2 * MIB)
        received(server, info(volume_id), content(block))
        reset_peak_memory(server.process.pid)
        before = memory_bytes(server.process.pid, "VmRSS")
        messages = (content(block) for _ in range(256))
        answer = server.rpc.ReceiveFile(itertools.chain([info(volume_id)], messages), timeout=120)
        assert answer.bytes_written == 512 * MIB
        assert memory_bytes(server.process.pid, "VmHWM") - before < self.ALLOWED_GROWTH_BYTES
