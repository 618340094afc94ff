"""What a vacuum and a scrub cost: Compact and Commit of a volume, and ScrubVolume (FULL), in MB/s of its length.

The same volume is given to each server in each round. Four of ten needles were deleted, here and there.
"""

import shutil
from pathlib import Path

import numpy as np
from measured import measure, print_steps

from native_handlers.format import crc
from native_handlers.format.needle import Needle, encode_needle
from native_handlers.format.super_block import SuperBlock
from native_handlers.pb import volume_server_pb2 as pb

STEPS = ("scrub", "vacuum")
NEEDLE_BYTES = (1024, 64 * 1024, 4 << 20)
GARBAGE = 0.4
LIMIT_S = 600.0
VERSION = 3


def print_vacuums(servers, baseline, rounds, mib, base):
    """A table of all `servers` for each size of needles. The volume is scrubbed before it is compacted."""
    for needle_bytes in NEEDLE_BYTES:
        made = base / f"vacuum-{needle_bytes}"
        made.mkdir()
        source_bytes = make_volume(made, mib << 20, needle_bytes)
        seen = {step: {server.name: [] for server in servers} for step in STEPS}
        for number in range(rounds + 1):
            for server in servers:
                measured = run_round(server, made, source_bytes)
                if number:
                    for step in STEPS:
                        seen[step][server.name].append(measured[step])
        shutil.rmtree(made)
        print_steps(
            f"{mib} MiB in needles of {needle_bytes} bytes, {rounds} interleaved rounds", seen, baseline, source_bytes
        )


def run_round(server, made, source_bytes):
    """What a scrub takes, and Compact and Commit together. The first round of a server is to be thrown away."""
    volume_id = server.new_volume()
    server.rpc.VolumeDelete(pb.VolumeDeleteRequest(volume_id=volume_id), timeout=LIMIT_S)
    for extension in (".dat", ".idx"):
        shutil.copyfile(made / f"v{extension}", server.data_dir / f"{volume_id}{extension}")
    server.rpc.VolumeMount(pb.VolumeMountRequest(volume_id=volume_id), timeout=LIMIT_S)
    answers = []

    def scrub():
        request = pb.ScrubVolumeRequest(volume_ids=[volume_id], mode=pb.VolumeScrubMode.FULL)
        answers.append(server.rpc.ScrubVolume(request, timeout=LIMIT_S))

    def vacuum():
        list(server.rpc.VacuumVolumeCompact(pb.VacuumVolumeCompactRequest(volume_id=volume_id), timeout=LIMIT_S))
        request = pb.VacuumVolumeCommitRequest(volume_id=volume_id)
        answers.append(server.rpc.VacuumVolumeCommit(request, timeout=LIMIT_S))

    measured = {"scrub": measure(server, scrub, source_bytes), "vacuum": measure(server, vacuum, source_bytes)}
    scrubbed, vacuumed = answers
    if scrubbed.broken_volume_ids:
        raise SystemExit(f"{server.name}: {scrubbed.details[:3]} of a volume that is sound")
    expected = (made / "live").read_text()
    if str(vacuumed.volume_size) != expected:
        raise SystemExit(f"{server.name}: {vacuumed.volume_size} bytes are left, there should be {expected}")
    server.rpc.VolumeDelete(pb.VolumeDeleteRequest(volume_id=volume_id), timeout=LIMIT_S)
    return measured


def make_volume(directory: Path, size_bytes: int, needle_bytes: int) -> int:
    """Writes v.dat and v.idx, and how long .dat will be after a vacuum; returns how long it is."""
    data = np.random.default_rng(1).integers(0, 256, needle_bytes, np.uint8).tobytes()
    needle = Needle(needle_id=1, cookie=0xC0FFEE, data=data, checksum=crc.crc32c(data), append_at_ns=1)
    record = np.frombuffer(encode_needle(needle, VERSION), np.uint8)
    gone = np.frombuffer(encode_needle(Needle(needle_id=1, cookie=0xC0FFEE, append_at_ns=1), VERSION), np.uint8)
    count = size_bytes // len(record)
    keys = np.arange(1, count + 1, dtype=np.uint64)
    deleted = np.sort(np.random.default_rng(2).choice(keys, int(count * GARBAGE), replace=False))
    head = SuperBlock(VERSION).encode()
    with (directory / "v.dat").open("wb") as file:
        file.write(head)
        for ids, template in ((keys, record), (deleted, gone)):
            step = max(1, (4 << 20) // len(template))
            for start in range(0, len(ids), step):
                some = ids[start : start + step]
                block = np.tile(template, (len(some), 1))
                block[:, 4:12] = some.astype(">u8").view(np.uint8).reshape(-1, 8)
                file.write(block.tobytes())
        length = file.tell()
    rows = np.empty(len(keys) + len(deleted), [("key", ">u8"), ("offset", ">u4"), ("size", ">i4")])
    rows["key"] = np.concatenate([keys, deleted])
    places = len(head) + np.arange(count) * len(record)
    tombs = len(head) + count * len(record) + np.arange(len(deleted)) * len(gone)
    rows["offset"] = np.concatenate([places, tombs]) // 8
    rows["size"][:count], rows["size"][count:] = needle.size, -1
    (directory / "v.idx").write_bytes(rows.tobytes())
    (directory / "live").write_text(str(len(head) + (count - len(deleted)) * len(record)))
    return length
