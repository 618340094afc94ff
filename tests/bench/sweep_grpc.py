"""Clients that begin gRPC calls and do nothing: the latency of another client's Ping, and the longest stall of an HTTP
reader. Both are measured while the calls begin and while they last.
"""

import statistics
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass

import grpc
from harness.raw_calls import RawCalls
from reader_beside import reader_beside
from tables import ms, print_head, print_row

from native_handlers.pb import methods
from native_handlers.pb import volume_server_pb2 as pb

PING_LIMIT_S = 10.0
PAUSE_S = 0.005
FILE_MIB = 16
STREAMS_EACH = 512
ANY_REVISION = 2**32 - 1


@dataclass(frozen=True)
class Load:
    """`count` calls of `name` from one host, at most STREAMS_EACH on a connection. Those that are `asked` send
    their request, and nothing of the answer is read.
    """

    text: str
    name: str = ""
    count: int = 0
    is_asked: bool = False


LOADS = (
    Load("nothing"),
    Load("256 silent Ping", "Ping", 256),
    Load("1,024 silent Ping", "Ping", 1024),
    Load("512 silent VolumeTailSender", "VolumeTailSender", 512),
    Load("1,024 silent ReceiveFile", "ReceiveFile", 1024),
    Load("64 CopyFile, unread", "CopyFile", 64, is_asked=True),
    Load("512 CopyFile, unread", "CopyFile", 512, is_asked=True),
)


def print_sweep(servers, duration_s):
    """A table of all `servers`, load by load."""
    print(f"\nBeside calls of one client that does nothing, {duration_s} s each\n")
    print_head("load", "server", "Ping, median", "slowest", "failed", "read, median", "longest")
    volumes = {server.name: _volume_of(server) for server in servers}
    for load in LOADS:
        for server in servers:
            _measure_and_print(load, server, volumes[server.name], duration_s)


def _measure_and_print(load, server, volume, duration_s):
    volume_id, fid = volume
    message = None
    if load.is_asked:
        message = pb.CopyFileRequest(
            volume_id=volume_id, ext=".dat", compaction_revision=ANY_REVISION, stop_offset=2**62
        ).SerializeToString()
    with ExitStack() as stack:
        channel = stack.enter_context(server.open_channel())
        rpc = methods.volume_server(channel)
        rpc.Ping(pb.PingRequest(), timeout=PING_LIMIT_S)
        with reader_beside(server.admin, f"/{fid}") as stalls:
            for begun in range(0, load.count, STREAMS_EACH):
                raw = stack.enter_context(RawCalls((server.host, server.layout.grpc_port)))
                raw.begin(load.name, min(STREAMS_EACH, load.count - begun), message)
            times_s, failed = _pings(rpc, duration_s)
    print_row(
        load.text,
        server.name,
        ms(statistics.median(times_s), 1),
        ms(max(times_s), 1),
        failed,
        ms(stalls.median_s, 1),
        ms(stalls.longest_s, 1),
    )


def _pings(rpc, duration_s):
    times_s, failed = [], 0
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        started_s = time.perf_counter()
        try:
            rpc.Ping(pb.PingRequest(), timeout=PING_LIMIT_S)
        except grpc.RpcError:
            failed += 1
        times_s.append(time.perf_counter() - started_s)
        threading.Event().wait(PAUSE_S)
    return times_s, failed


def _volume_of(server):
    """A volume with some content, and a small file in it."""
    volume_id = server.new_volume()
    kind = [("Content-Type", "application/octet-stream")]
    for _ in range(FILE_MIB):
        server.store(bytes(1 << 20), kind, fid=server.new_fid(volume_id))
    return volume_id, server.store(b"x" * 1024, kind, fid=server.new_fid(volume_id))
