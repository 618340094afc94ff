"""The kept hashes of shards are those of the shards that Go's server makes. Skipped without `weed`."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from harness import implementations
from harness.master import Master
from harness.server import RPC_LIMIT_S, VolumeServer
from support.golden_volumes import (
    DAT_BYTES,
    HASHES,
    LARGE_ROWS_DAT_BYTES,
    LARGE_ROWS_HASHES,
    hashes_of,
    hashes_of_checksums,
    write_golden_volume,
    write_large_rows_volume,
)

from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.erasure_coding.bitrot import parse_checksums
from supervisor.backend.version import ask_version

VID = 11


@pytest.fixture(scope="module")
def go_server(weed_program, tmp_path_factory):
    if ask_version(weed_program, os.environ).offset_width_bytes != 4:
        pytest.skip("the volumes have offsets of 4 bytes")
    base = tmp_path_factory.mktemp("golden")
    known = {one.name: one for one in implementations.ALL}
    master = Master(base / "master", weed_program)
    try:
        server = VolumeServer(known["go"], base / "server", master, weed_program, [])
        try:
            yield server
        finally:
            server.end()
    finally:
        master.process.end()


def test_go_gives_the_kept_hashes(go_server):
    """Shows the content of golden_shards.json as it should be, where it is not."""
    found = {}
    for volume_id, name in enumerate(DAT_BYTES, VID):
        write_golden_volume(go_server.data_dir, volume_id, name)
        go_server.rpc.VolumeMount(pb.VolumeMountRequest(volume_id=volume_id), timeout=RPC_LIMIT_S)
        request = pb.VolumeEcShardsGenerateRequest(volume_id=volume_id)
        go_server.rpc.VolumeEcShardsGenerate(request, timeout=RPC_LIMIT_S)
        found[name] = hashes_of(go_server.data_dir, volume_id)
    assert found == HASHES, json.dumps(found, indent=1)


@pytest.mark.slow
def test_go_gives_the_kept_hashes_of_blocks_of_1_gib(go_server):
    """Slow: Go's server writes 15 GiB of shards."""
    needed_bytes = 2 * LARGE_ROWS_DAT_BYTES
    if shutil.disk_usage(go_server.data_dir).free < needed_bytes:
        pytest.skip(f"the shards need {needed_bytes >> 30} GiB of room")
    volume_id = VID + len(DAT_BYTES)
    write_large_rows_volume(go_server.data_dir, volume_id)
    try:
        go_server.rpc.VolumeMount(pb.VolumeMountRequest(volume_id=volume_id), timeout=RPC_LIMIT_S)
        request = pb.VolumeEcShardsGenerateRequest(volume_id=volume_id)
        go_server.rpc.VolumeEcShardsGenerate(request, timeout=10 * RPC_LIMIT_S)
        checksums = parse_checksums((go_server.data_dir / f"{volume_id}.ecsum").read_bytes())
        found = hashes_of_checksums(checksums)
    finally:
        for path in go_server.data_dir.glob(f"{volume_id}.*"):
            path.unlink()
    assert found == LARGE_ROWS_HASHES, json.dumps(found, indent=1)
