"""Tails, incremental copies and reads of everything cost little memory, however large the volume (see also
test_contract_copy.py::TestLargeVolumes). Slow: gigabytes are read.
"""

import pytest
from harness.processes import memory_bytes, reset_peak_memory
from harness.transfer import MIB

from native_handlers.format.crc import crc32c
from native_handlers.format.idx import encode_entry
from native_handlers.format.needle import Needle, encode_needle_parts
from native_handlers.format.types import to_stored
from native_handlers.pb import volume_server_pb2 as pb

pytestmark = [pytest.mark.slow, pytest.mark.only(lambda implementation: implementation.mode == "native")]

LIMIT_S = 120.0
ALLOWED_GROWTH_BYTES = 64 * MIB
COOKIE = 0x637037D6
PAYLOAD = bytes(3 * MIB)
FIRST_NS = 1_700_000_000 * 10**9
SOME, MANY, MORE = 4, 64, 256
"""Needles: 12 MiB to warm up, 192 MiB to write, 768 MiB to read."""


def large_volume(server, count):
    """A volume with `count` needles of 3 MiB. Their payloads are holes in the file."""
    volume_id = server.new_volume()
    server.rpc.VolumeUnmount(pb.VolumeUnmountRequest(volume_id=volume_id), timeout=LIMIT_S)
    checksum = crc32c(PAYLOAD)
    paths = (server.data_dir / f"{volume_id}{extension}" for extension in (".dat", ".idx"))
    with next(paths).open("r+b") as dat, next(paths).open("ab") as idx:
        offset = dat.seek(0, 2)
        for number in range(1, count + 1):
            needle = Needle(number, COOKIE, PAYLOAD, checksum=checksum, append_at_ns=FIRST_NS + number)
            for part in encode_needle_parts(needle, 3):
                if part is PAYLOAD:
                    dat.seek(len(PAYLOAD), 1)
                else:
                    dat.write(part)
            idx.write(encode_entry(number, to_stored(offset), needle.size, 4))
            offset = dat.tell()
    server.rpc.VolumeMount(pb.VolumeMountRequest(volume_id=volume_id), timeout=LIMIT_S)
    return volume_id


def tailed(server, volume_id):
    request = pb.VolumeTailSenderRequest(volume_id=volume_id, idle_timeout_seconds=1)
    return sum(len(one.needle_body) for one in server.rpc.VolumeTailSender(request, timeout=LIMIT_S))


def copied(server, volume_id):
    request = pb.VolumeIncrementalCopyRequest(volume_id=volume_id)
    return sum(len(one.file_content) for one in server.rpc.VolumeIncrementalCopy(request, timeout=LIMIT_S))


def read(server, volume_id):
    request = pb.ReadAllNeedlesRequest(volume_ids=[volume_id])
    return sum(len(one.needle_blob) for one in server.rpc.ReadAllNeedles(request, timeout=LIMIT_S))


def read_slowly(server, volume_id):
    """A client that takes a message only when nothing else can be done: untaken messages accumulate."""
    request = pb.ReadAllNeedlesRequest(volume_ids=[volume_id])
    stream = server.rpc.ReadAllNeedles(request, timeout=LIMIT_S)
    taken = 0
    for one in stream:
        taken += len(one.needle_blob)
        for _ in range(20):
            server.rpc.Ping(pb.PingRequest(), timeout=LIMIT_S)
    return taken


class Watch:
    """The growth of the process since it was warm."""

    def __init__(self, server):
        self._pid = server.process.pid
        reset_peak_memory(self._pid)
        self._before = memory_bytes(self._pid, "VmRSS")

    @property
    def growth_bytes(self):
        return memory_bytes(self._pid, "VmHWM") - self._before


@pytest.mark.parametrize("stream", [tailed, copied, read, read_slowly])
def test_sending(fresh_server, stream):
    server = fresh_server()
    stream(server, large_volume(server, SOME))
    count = MANY if stream is read_slowly else MORE
    volume_id = large_volume(server, count)
    watch = Watch(server)
    assert stream(server, volume_id) >= count * len(PAYLOAD)
    assert watch.growth_bytes < ALLOWED_GROWTH_BYTES


def test_receiving_a_tail(fresh_server):
    source, target = fresh_server(), fresh_server()

    def receive(count):
        volume_id = large_volume(source, count)
        request = pb.AllocateVolumeRequest(volume_id=volume_id, replication="000", version=3)
        target.rpc.AllocateVolume(request, timeout=LIMIT_S)
        address = f"{source.url}.{source.layout.grpc_port}"
        request = pb.VolumeTailReceiverRequest(
            volume_id=volume_id, idle_timeout_seconds=1, source_volume_server=address
        )
        target.rpc.VolumeTailReceiver(request, timeout=LIMIT_S)
        return target.data_dir / f"{volume_id}.dat"

    receive(SOME)
    watch = Watch(target)
    assert receive(MANY).stat().st_size > MANY * len(PAYLOAD)
    assert watch.growth_bytes < ALLOWED_GROWTH_BYTES
