"""Following a volume: the sent records, the receiver's volume, and a move under a writer that loses nothing."""

import itertools
import shutil
import subprocess
import threading
from random import Random

import grpc
import pytest
from harness.implementations import Implementation
from harness.server import VolumeServer
from support.waiting import LIMIT_S, wait_until

from native_handlers.format.idx import iter_entries
from native_handlers.format.needle import actual_size, parse_needle
from native_handlers.pb import volume_server_pb2 as pb

pytestmark = pytest.mark.native_rpcs

MESSAGE_BYTES = 2 << 20
LARGE = Random(7).randbytes(2 * MESSAGE_BYTES)
"""Content that no client and no server compresses."""
IDLE_ROUNDS = 2
NOT_EXEC = pytest.mark.only(lambda implementation: implementation.mode != "exec")
"""The program that answers is upstream's."""


@pytest.fixture(scope="module")
def other_server(master, weed, tmp_path_factory):
    """A native server to move volumes to and from."""
    made = VolumeServer(Implementation("other", mode="native"), tmp_path_factory.mktemp("other"), master, weed)
    yield made
    assert made.stop() == 0
    assert "Traceback" not in (made.base / "server.log").read_text()


def address_of_source(server):
    """host:port.grpcPort, the notation of servers among themselves."""
    return f"{server.url}.{server.layout.grpc_port}"


def tail(server, volume_id, since_ns=0, idle=0):
    request = pb.VolumeTailSenderRequest(volume_id=volume_id, since_ns=since_ns, idle_timeout_seconds=idle)
    return server.rpc.VolumeTailSender(request, timeout=LIMIT_S)


def receive(target, source, volume_id, since_ns=0, idle=1):
    request = pb.VolumeTailReceiverRequest(
        volume_id=volume_id,
        since_ns=since_ns,
        idle_timeout_seconds=idle,
        source_volume_server=address_of_source(source),
    )
    return target.rpc.VolumeTailReceiver.future(request, timeout=LIMIT_S)


def incremental(server, volume_id, since_ns=0):
    request = pb.VolumeIncrementalCopyRequest(volume_id=volume_id, since_ns=since_ns)
    return b"".join(one.file_content for one in server.rpc.VolumeIncrementalCopy(request, timeout=LIMIT_S))


def file_of(server, volume_id, ext):
    return server.data_dir / f"{volume_id}{ext}"


def records_of(server, volume_id):
    """(offset, needle) of each record, in the order of the index."""
    dat = file_of(server, volume_id, ".dat").read_bytes()
    rows = iter_entries(file_of(server, volume_id, ".idx").read_bytes(), 4)
    places = [(row.offset * 8, actual_size(max(row.size, 0), 3)) for row in rows]
    return [(offset, parse_needle(dat[offset : offset + length], 3)) for offset, length in places]


def delete(server, fid):
    assert server.http("DELETE", f"/{fid}").status == 202


def refused(call):
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code(), raised.value.details()


def test_volumes_that_are_not_here(server):
    unknown = grpc.StatusCode.UNKNOWN
    assert refused(lambda: next(tail(server, 77_777))) == (unknown, "not found volume id 77777")
    assert refused(lambda: incremental(server, 77_778)) == (unknown, "not found volume id 77778")
    call = receive(server, server, 77_779)
    assert refused(call.result) == (unknown, "receiver not found volume id 77779")


def test_an_idle_volume_gives_heartbeats_and_then_the_end(server):
    messages = list(tail(server, server.new_volume(), idle=IDLE_ROUNDS))
    assert messages == [pb.VolumeTailSenderResponse(is_last_chunk=True, version=3)] * IDLE_ROUNDS


def test_records_are_sent_as_they_are_on_disk(server):
    volume_id = server.new_volume()
    fids = [server.store(b"payload %d" % number, fid=server.new_fid(volume_id)) for number in range(3)]
    delete(server, fids[1])
    large = server.store(LARGE, fid=server.new_fid(volume_id))
    assert large
    records = records_of(server, volume_id)
    stream = tail(server, volume_id)
    sent = [next(stream) for _ in range(4 + 3)]
    stream.cancel()
    assert [one.is_last_chunk for one in sent] == [True] * 4 + [False, False, True]
    assert [len(one.needle_body) for one in sent[4:6]] == [MESSAGE_BYTES] * 2
    assert len({one.needle_header for one in sent[4:]}) == 1
    assert {one.version for one in sent} == {3}
    raw = b"".join(one.needle_header + one.needle_body for one in sent[:4])
    raw += sent[4].needle_header + b"".join(one.needle_body for one in sent[4:])
    assert raw == file_of(server, volume_id, ".dat").read_bytes()[records[0][0] :]


def test_only_what_came_after_a_time(server):
    volume_id = server.new_volume()
    for number in range(4):
        server.store(b"%d" % number * 50, fid=server.new_fid(volume_id))
    dat, records = file_of(server, volume_id, ".dat").read_bytes(), records_of(server, volume_id)
    assert incremental(server, volume_id) == dat[8:]
    for number, (_, needle) in enumerate(records[:-1], 1):
        offset, following = records[number]
        assert incremental(server, volume_id, needle.append_at_ns) == dat[offset:]
        stream = tail(server, volume_id, needle.append_at_ns)
        assert next(stream).needle_header[4:12] == following.needle_id.to_bytes(8, "big")
        stream.cancel()
    last_ns = records[-1][1].append_at_ns
    assert incremental(server, volume_id, last_ns) == b""
    stream = tail(server, volume_id, last_ns)
    assert next(stream).needle_header == b""
    stream.cancel()


def test_what_is_written_later_is_sent_too(server):
    volume_id = server.new_volume()
    stream = tail(server, volume_id)
    assert next(stream).needle_header == b""
    server.store(b"later", fid=server.new_fid(volume_id))
    heartbeats = itertools.takewhile(lambda one: not one.needle_header, stream)
    assert len(list(heartbeats)) < 5
    stream.cancel()


def test_upstreams_backup_follows_a_volume(server, weed, tmp_path):
    """The backup asks for the appends since its own last record, and indexes them itself."""
    if weed is None or server.master.is_embedded:
        pytest.skip("the program that follows is upstream's")
    volume_id = server.new_volume()
    for size in (30, 3000, 30):
        fids = [server.store(b"%d " % number * size, fid=server.new_fid(volume_id)) for number in range(5)]
        delete(server, fids[2])
        where = [f"-master={server.master.address}", f"-dir={tmp_path}", f"-volumeId={volume_id}"]
        command = [weed, f"-config_dir={server.layout.config_dir}", "backup", *where]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=LIMIT_S)
        for ext in (".dat", ".idx"):
            assert (tmp_path / f"{volume_id}{ext}").read_bytes() == file_of(server, volume_id, ext).read_bytes()


@NOT_EXEC
@pytest.mark.parametrize("direction", ["from", "to"])
def test_a_receiver_gets_everything(server, other_server, direction):
    source, target = (server, other_server) if direction == "from" else (other_server, server)
    volume_id = server.new_volume()
    request = pb.AllocateVolumeRequest(volume_id=volume_id, replication="000", version=3)
    other_server.rpc.AllocateVolume(request, timeout=LIMIT_S)
    headers = [("Content-Type", "text/plain"), ("Seaweed-Mine", "kept")]
    fids = [source.store(b"text " * number * 100, headers, fid=source.new_fid(volume_id)) for number in range(1, 5)]
    fids.append(source.store(LARGE, fid=source.new_fid(volume_id)))
    receive(target, source, volume_id).result()
    for fid in fids:
        mine, theirs = source.read(fid), target.read(fid)
        assert (theirs.status, theirs.body) == (200, mine.body)
        for name in ("ETag", "Content-Type", "Seaweed-Mine", "Last-Modified"):
            assert theirs.get(name) == mine.get(name), name
    masked = [
        (needle.needle_id, needle.data, needle.flags, needle.checksum) for _, needle in records_of(source, volume_id)
    ]
    assert masked == [
        (needle.needle_id, needle.data, needle.flags, needle.checksum) for _, needle in records_of(target, volume_id)
    ]


@NOT_EXEC
def test_a_deletion_is_followed(server, other_server):
    """For the native receiver: upstream's stores an empty needle for a deletion."""
    volume_id = server.new_volume()
    request = pb.AllocateVolumeRequest(volume_id=volume_id, replication="000", version=3)
    other_server.rpc.AllocateVolume(request, timeout=LIMIT_S)
    gone, kept = (server.store(b"x" * 100, fid=server.new_fid(volume_id)) for _ in range(2))
    delete(server, gone)
    receive(other_server, server, volume_id).result()
    assert other_server.read(gone).status == 404
    assert other_server.read(kept).status == 200
    assert file_of(other_server, volume_id, ".dat").stat().st_size == file_of(server, volume_id, ".dat").stat().st_size
    assert file_of(other_server, volume_id, ".idx").stat().st_size == file_of(server, volume_id, ".idx").stat().st_size


class Writer(threading.Thread):
    """Writes needles, and deletes some, until a refusal. `alive` and `dead` are the acknowledged state."""

    def __init__(self, server, volume_id, may_delete):
        super().__init__(daemon=True)
        self.server, self.volume_id, self.may_delete = server, volume_id, may_delete
        self.alive, self.dead, self.refusal = {}, set(), None

    def run(self):
        for number in itertools.count():
            fid, data = self.server.new_fid(self.volume_id), b"written on the way %d" % number
            reply = self.server.http("PUT", f"/{fid}", [], data)
            if reply.status != 201:
                self.refusal = reply
                return
            self.alive[fid] = data
            if self.may_delete and number % 5 == 3:
                victim = next(iter(self.alive))
                if self.server.http("DELETE", f"/{victim}").status == 202:
                    del self.alive[victim]
                    self.dead.add(victim)


@NOT_EXEC
@pytest.mark.parametrize("direction", ["from", "to"])
def test_a_move_under_a_writer_loses_nothing(server, other_server, direction):
    """Copy, mount, tail. The source stops taking writes during the tail; afterwards the target equals the source. Files
    are copied before the writer begins. Source: weed/operation/volume_move/volume_move.go, which stops the writes
    first, and takes late writes from the tail.
    """
    source, target = (server, other_server) if direction == "from" else (other_server, server)
    volume_id = source.new_volume()
    for number in range(10):
        source.store(b"before %d" % number, fid=source.new_fid(volume_id))
    for ext in (".dat", ".idx", ".vif"):
        if file_of(source, volume_id, ext).exists():
            shutil.copy2(file_of(source, volume_id, ext), file_of(target, volume_id, ext))
    since_ns = records_of(source, volume_id)[-1][1].append_at_ns
    target.rpc.VolumeMount(pb.VolumeMountRequest(volume_id=volume_id), timeout=LIMIT_S)

    writer = Writer(source, volume_id, may_delete=direction == "from")
    writer.start()
    wait_until(lambda: len(writer.alive) > 20, "the writer to be under way")
    following = receive(target, source, volume_id, since_ns, idle=IDLE_ROUNDS)
    wait_until(lambda: len(writer.alive) > 60, "more to be written")
    source.rpc.VolumeMarkReadonly(pb.VolumeMarkReadonlyRequest(volume_id=volume_id), timeout=LIMIT_S)
    writer.join(LIMIT_S)
    assert writer.refusal is not None
    following.result()

    statuses = [
        one.rpc.ReadVolumeFileStatus(pb.ReadVolumeFileStatusRequest(volume_id=volume_id), timeout=LIMIT_S)
        for one in (source, target)
    ]
    for field in ("dat_file_size", "idx_file_size", "file_count"):
        mine, theirs = (getattr(status, field) for status in statuses)
        assert theirs >= mine, f"volume.move would refuse: {field}"
    for fid, data in writer.alive.items():
        reply = target.read(fid)
        assert (reply.status, reply.body) == (200, data)
    assert {target.read(fid).status for fid in writer.dead} <= {404}
    assert bool(writer.dead) == (direction == "from")
    source.rpc.VolumeDelete(pb.VolumeDeleteRequest(volume_id=volume_id), timeout=LIMIT_S)
    assert target.read(next(iter(writer.alive))).status == 200


def test_a_source_that_is_killed_ends_its_receiver(fresh_server, other_server):
    source = fresh_server()
    volume_id = source.new_volume()
    other_server.rpc.AllocateVolume(
        pb.AllocateVolumeRequest(volume_id=volume_id, replication="000", version=3), timeout=LIMIT_S
    )
    fid = source.store(b"before the end", fid=source.new_fid(volume_id))
    following = receive(other_server, source, volume_id, idle=0)
    wait_until(lambda: other_server.read(fid).status == 200, "the first needle")
    source.process.end()
    code, _ = refused(following.result)
    assert code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN}
    assert other_server.read(fid).body == b"before the end"
