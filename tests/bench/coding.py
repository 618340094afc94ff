"""What erasure coding does with a volume, end to end over its RPCs: MB of the volume a second, and as a ratio to Go."""

import os
import shutil

from measured import measure, print_steps

from native_handlers.pb import volume_server_pb2 as pb

MIB = 1 << 20
NEEDLE_MIB = 4
LIMIT_S = 600
SHARDS = list(range(14))
LOST = [0, 3, 11, 13]
STEPS = ("encode", "encode again", "rebuild 1", "rebuild 4", "scrub checksums", "scrub local", "decode")


def print_coding(servers, baseline, rounds, volume_mib):
    """`rounds` interleaved rounds; ratios are made within a round. The first round is thrown away."""
    seen = {step: {server.name: [] for server in servers} for step in STEPS}
    for number in range(rounds + 1):
        for server in servers:
            measured, size_bytes = run_round(server, volume_mib)
            if number:
                for step in STEPS:
                    seen[step][server.name].append(measured[step])
    title = f"Erasure coding of {volume_mib} MiB in needles of {NEEDLE_MIB} MiB, {rounds} interleaved rounds"
    print_steps(title, seen, baseline, size_bytes)


def run_round(server, volume_mib):
    """Step -> what it took, on a volume of its own; and the length of the .dat."""
    volume_id = server.new_volume()
    payload = os.urandom(NEEDLE_MIB * MIB)
    for number in range(1, volume_mib // NEEDLE_MIB + 1):
        server.store(payload, fid=f"{volume_id},{number:x}12345678")
    dat = server.data_dir / f"{volume_id}.dat"
    size_bytes = dat.stat().st_size
    rpc, ec = server.rpc, {"volume_id": volume_id}
    measured = {}

    def timed(step, run):
        measured[step] = measure(server, run, size_bytes)

    def generate():
        rpc.VolumeEcShardsGenerate(pb.VolumeEcShardsGenerateRequest(**ec), timeout=LIMIT_S)

    def rebuild():
        rpc.VolumeEcShardsRebuild(pb.VolumeEcShardsRebuildRequest(**ec), timeout=LIMIT_S)

    def scrub(mode):
        request = pb.ScrubEcVolumeRequest(volume_ids=[volume_id], mode=mode)
        answer = rpc.ScrubEcVolume(request, timeout=LIMIT_S)
        if answer.broken_volume_ids:
            raise SystemExit(f"{server.name}: {answer.details} of a volume that is sound")

    timed("encode", generate)
    timed("encode again", generate)
    for step, lost in (("rebuild 1", LOST[1:2]), ("rebuild 4", LOST)):
        for shard in lost:
            (server.data_dir / f"{volume_id}.ec{shard:02d}").unlink()
        timed(step, rebuild)
    rpc.VolumeEcShardsMount(pb.VolumeEcShardsMountRequest(shard_ids=SHARDS, **ec), timeout=LIMIT_S)
    rpc.VolumeDelete(pb.VolumeDeleteRequest(**ec), timeout=LIMIT_S)
    timed("scrub checksums", lambda: scrub(pb.VolumeScrubMode.CHECKSUM))
    timed("scrub local", lambda: scrub(pb.VolumeScrubMode.LOCAL))
    timed("decode", lambda: rpc.VolumeEcShardsToVolume(pb.VolumeEcShardsToVolumeRequest(**ec), timeout=LIMIT_S))
    rpc.VolumeEcShardsUnmount(pb.VolumeEcShardsUnmountRequest(shard_ids=SHARDS, **ec), timeout=LIMIT_S)
    rpc.VolumeEcShardsDelete(pb.VolumeEcShardsDeleteRequest(full_teardown=True, **ec), timeout=LIMIT_S)
    for path in server.data_dir.glob(f"{volume_id}.*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return measured, size_bytes
