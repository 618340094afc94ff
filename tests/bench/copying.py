"""The cost of a volume's copy: CopyFile at the client, in MB/s and as a ratio to Go's in the same round, and the
latency of small calls beside it.
"""

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from native_handlers.pb import volume_server_pb2 as pb

MB = 10**6
METHOD = "/volume_server_pb.VolumeServer/CopyFile"
PING_LIMIT_S = 10.0
STREAMS = 4


def print_copies(servers, baseline, rounds, mib):
    """A table of all `servers` for one copy, and one for several at once; nothing where `mib` is 0."""
    if not mib:
        return
    volumes = {server.name: volume_with_file(server, mib) for server in servers}
    for streams in (1, STREAMS):
        _print_table(servers, volumes, baseline, rounds, mib, streams)


def _print_table(servers, volumes, baseline, rounds, mib, streams):  # noqa: PLR0913, PLR0917
    rates = {server.name: [] for server in servers}
    pings_ms = {server.name: [] for server in servers}
    for _ in range(rounds):
        for server in servers:
            rate, pings = _copy(server, volumes[server.name], streams)
            rates[server.name].append(rate)
            pings_ms[server.name] += pings
    print(f"\n{streams} CopyFile at once of {mib} MiB each, {rounds} interleaved rounds; Ping meanwhile\n")
    print(f"{'server':<14}{'MB/s':>8}{'spread':>14}{'of Go':>8}{'Ping median':>14}{'slowest':>11}")
    for name, seen in rates.items():
        row = f"{name:<14}{statistics.median(seen):>8,.0f}{f'{min(seen):,.0f}-{max(seen):,.0f}':>14}"
        ratio = "-"
        if baseline in rates:
            ratio = f"{statistics.median(a / b for a, b in zip(seen, rates[baseline], strict=True)):.2f}"
        pings = pings_ms[name] or [float("nan")]
        print(f"{row}{ratio:>8}{f'{statistics.median(pings):.1f} ms':>14}{f'{max(pings):.1f} ms':>11}")


def volume_with_file(server, mib):
    """A new volume's id. Beside the volume lies a file of `mib` MiB, which CopyFile knows as `.bench`."""
    volume_id = server.new_volume()
    with (server.data_dir / f"{volume_id}.bench").open("wb") as file:
        for _ in range(mib):
            file.write(bytes(1 << 20))
    return volume_id


def copy_once(server, volume_id, mib):
    """MB/s of one copy, not decoded. Ends the bench where it has another length."""
    started_s = time.monotonic()
    count = _read(server, volume_id)
    taken_s = time.monotonic() - started_s
    if count < mib << 20:
        raise SystemExit(f"{server.name}: a copy of {count:,} bytes: the figures would mean nothing")
    return count / taken_s / MB


def _copy(server, volume_id, streams):
    """MB/s of `streams` copies at once, not decoded, and how long each Ping took meanwhile in ms."""
    pings_ms, is_over = [], threading.Event()
    with server.open_channel() as other, ThreadPoolExecutor(streams) as threads:
        pinging = threading.Thread(target=_ping, args=(other, pings_ms, is_over))
        pinging.start()
        started_s = time.monotonic()
        count = sum(threads.map(_read, [server] * streams, [volume_id] * streams))
        taken_s = time.monotonic() - started_s
        is_over.set()
        pinging.join()
    return count / taken_s / MB, pings_ms


def _read(server, volume_id):
    """The bytes of one copy, on a connection of its own."""
    request = pb.CopyFileRequest(
        volume_id=volume_id, ext=".bench", compaction_revision=2**32 - 1, stop_offset=2**63 - 1
    )
    with server.open_channel() as channel:
        return sum(len(message) for message in channel.unary_stream(METHOD)(request.SerializeToString()))


def _ping(channel, pings_ms, is_over):
    call = channel.unary_unary("/volume_server_pb.VolumeServer/Ping")
    while not is_over.wait(0.02):
        started_s = time.monotonic()
        call(b"", timeout=PING_LIMIT_S)
        pings_ms.append((time.monotonic() - started_s) * 1000)
