"""Two servers with equal, empty volumes: Go's and our own. Skipped where there is no `weed`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "contract"))

from harness import implementations
from harness.master import Master
from harness.server import RPC_LIMIT_S, VolumeServer

from native_handlers.pb import volume_server_pb2

PLAIN, WITH_TTL, READ_ONLY, ABSENT = 3, 4, 5, 99
"""Ids of the volumes; there is none of the last."""


@pytest.fixture(scope="session")
def both(tmp_path_factory):
    """(Go's server, ours), each with a master of its own, for they hold volumes of the same ids."""
    weed, why_not = implementations.find_weed()
    if weed is None:
        pytest.skip(why_not)
    known = {one.name: one for one in implementations.ALL}
    started = []
    try:
        for name in ("go", "native"):
            base = tmp_path_factory.mktemp(f"differential-{name}")
            master = Master(base / "master", weed)
            started.append(master.process)
            server = VolumeServer(known[name], base / "server", master, weed, ["-fileSizeLimitMB=2"])
            started.append(server)
            _make_volumes(server)
        yield started[1], started[3]
    finally:
        for one in reversed(started):
            one.end()


def _make_volumes(server):
    for volume_id, ttl in ((PLAIN, ""), (WITH_TTL, "3d"), (READ_ONLY, "")):
        fields = {"volume_id": volume_id, "ttl": ttl, "replication": "000", "version": 3}
        server.rpc.AllocateVolume(volume_server_pb2.AllocateVolumeRequest(**fields), timeout=RPC_LIMIT_S)
    request = volume_server_pb2.VolumeMarkReadonlyRequest(volume_id=READ_ONLY)
    server.rpc.VolumeMarkReadonly(request, timeout=RPC_LIMIT_S)
