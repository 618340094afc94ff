"""What erasure coding does with a volume, end to end over its RPCs: MB of the volume a second, and as a ratio to Go."""

import os
import shutil

from measured import measure, print_steps

from native_handlers.pb import volume_server_pb2 as pb

NEEDLE_MIB = 4
LIMIT_S = 600
SHARDS = list(range(14))
LOST = [0, 3, 11, 13]
STEPS = ("encode", "encode again", "rebuild 1", "rebuild 4", "scrub checksums", "scrub local", "decode")


def print_coding(servers, baseline, rounds, volume_mib):
    """`rounds` rounds; in each, every step is done by one server after the other, so that both find the machine's
    memory and disk alike. Ratios are made within a round. The first round is thrown away.
    """
    seen = {step: {server.name: [] for server in servers} for step in STEPS}
    for number in range(rounds + 1):
        for at_once in zip(*(run_round(server, volume_mib) for server in servers), strict=True):
            for server, (step, measured) in zip(servers, at_once, strict=True):
                if number:
                    seen[step][server.name].append(measured)
    title = f"Erasure coding of {volume_mib} MiB in needles of {NEEDLE_MIB} MiB, {rounds} interleaved rounds"
    print_steps(title, seen, baseline, volume_mib << 20)


def run_round(server, volume_mib):
    """Yields each step and what it took, on a volume of its own, and removes the volume at the end."""
    volume_id = server.new_volume()
    payload = os.urandom(NEEDLE_MIB << 20)
    for number in range(1, volume_mib // NEEDLE_MIB + 1):
        server.store(payload, fid=f"{volume_id},{number:x}12345678")
    rpc, ec = server.rpc, {"volume_id": volume_id}

    def timed(step, run):
        return step, measure(server, run, volume_mib << 20)

    def generate():
        rpc.VolumeEcShardsGenerate(pb.VolumeEcShardsGenerateRequest(**ec), timeout=LIMIT_S)

    def rebuild():
        rpc.VolumeEcShardsRebuild(pb.VolumeEcShardsRebuildRequest(**ec), timeout=LIMIT_S)

    def scrub(mode):
        request = pb.ScrubEcVolumeRequest(volume_ids=[volume_id], mode=mode)
        answer = rpc.ScrubEcVolume(request, timeout=LIMIT_S)
        if answer.broken_volume_ids:
            raise SystemExit(f"{server.name}: {answer.details} of a volume that is sound")

    yield timed("encode", generate)
    yield timed("encode again", generate)
    for step, lost in (("rebuild 1", LOST[1:2]), ("rebuild 4", LOST)):
        for shard in lost:
            (server.data_dir / f"{volume_id}.ec{shard:02d}").unlink()
        yield timed(step, rebuild)
    rpc.VolumeEcShardsMount(pb.VolumeEcShardsMountRequest(shard_ids=SHARDS, **ec), timeout=LIMIT_S)
    rpc.VolumeDelete(pb.VolumeDeleteRequest(**ec), timeout=LIMIT_S)
    yield timed("scrub checksums", lambda: scrub(pb.VolumeScrubMode.CHECKSUM))
    yield timed("scrub local", lambda: scrub(pb.VolumeScrubMode.LOCAL))
    yield timed("decode", lambda: rpc.VolumeEcShardsToVolume(pb.VolumeEcShardsToVolumeRequest(**ec), timeout=LIMIT_S))
    rpc.VolumeEcShardsUnmount(pb.VolumeEcShardsUnmountRequest(shard_ids=SHARDS, **ec), timeout=LIMIT_S)
    rpc.VolumeEcShardsDelete(pb.VolumeEcShardsDeleteRequest(full_teardown=True, **ec), timeout=LIMIT_S)
    for path in server.data_dir.glob(f"{volume_id}.*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
