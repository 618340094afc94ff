"""Small calls are answered beside busy streams, whatever the streams send. `make bench` measures the times."""

import subprocess
import sys
from contextlib import contextmanager

import pytest
from harness.calls import call
from harness.processes import clean_environment
from support.waiting import wait_until

STREAMS, CALLS = 4, 100
SPARSE_BYTES = 1 << 40
"""No test runs long enough to read this many."""
REPEATS = 1_000_000
"""How often ReadAllNeedles asks for the volume: this stream does not end by itself either."""
READERS = """
import sys, threading
import grpc
from native_handlers.pb import methods, volume_server_pb2 as pb

target, volume_id, streams, repeats = sys.argv[1], *map(int, sys.argv[2:])
options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
counts = [0] * (2 * streams)

def read(number):
    own = [*options, ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(target, own) as channel:
        rpc = methods.volume_server(channel)
        copy = pb.CopyFileRequest(
            volume_id=volume_id, ext=".sparse", compaction_revision=2**32 - 1, stop_offset=2**63 - 1
        )
        whole = pb.ReadAllNeedlesRequest(volume_ids=[volume_id] * repeats)
        for _ in rpc.CopyFile(copy) if number < streams else rpc.ReadAllNeedles(whole):
            counts[number] += 1

for number in range(2 * streams):
    threading.Thread(target=read, args=(number,), daemon=True).start()
for _ in sys.stdin:
    print(*counts, flush=True)
"""


class Readers:
    """Clients in a process of their own. Each has a stream that does not end."""

    def __init__(self, process):
        self._process = process

    def counts(self):
        """The number of messages that each client received."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return [int(word) for word in self._process.stdout.readline().split()]


@contextmanager
def open_readers(server, volume_id):
    target = f"{server.host}:{server.layout.grpc_port}"
    words = [sys.executable, "-c", READERS, target, volume_id, STREAMS, REPEATS]
    with subprocess.Popen(
        [str(word) for word in words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    ) as process:
        try:
            yield Readers(process)
        finally:
            process.kill()


@pytest.mark.only(lambda implementation: implementation.mode == "native")
def test_small_calls_are_answered_while_streams_go_on(fresh_server):
    server = fresh_server()
    volume_id = server.new_volume()
    for _ in range(8):
        server.store(bytes(1 << 20), [("Content-Type", "application/octet-stream")], fid=server.new_fid(volume_id))
    with (server.data_dir / f"{volume_id}.sparse").open("wb") as file:
        file.truncate(SPARSE_BYTES)
    with open_readers(server, volume_id) as readers:
        wait_until(lambda: all(readers.counts()), "every stream to be under way")
        before = readers.counts()
        for _ in range(CALLS):
            call(server, "Ping")
            call(server, "VolumeStatus", volume_id=volume_id)
        assert len(before) == 2 * STREAMS
        wait_until(
            lambda: all(now > then for then, now in zip(before, readers.counts(), strict=True)), "all to have gone on"
        )
    assert server.stop() == 0
