"""The kept hashes of shards are those of the shards that Go's server makes. Skipped without `weed`."""

from __future__ import annotations

import json
import os

import pytest
from harness import implementations
from harness.master import Master
from harness.server import RPC_LIMIT_S, VolumeServer
from support.golden_volumes import DAT_BYTES, HASHES, hashes_of, write_golden_volume

from native_handlers.pb import volume_server_pb2 as pb
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
