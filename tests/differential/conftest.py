"""Go's programs, and two servers with equal, empty volumes: Go's and a native one. Skipped without `weed`."""

from pathlib import Path

import pytest
from go_pair import open_pair
from harness import implementations
from harness.master import Master
from harness.server import RPC_LIMIT_S, VolumeServer
from support.command_line import Machine

from native_handlers.pb import volume_server_pb2

PLAIN, WITH_TTL, READ_ONLY, ABSENT = 3, 4, 5, 99
"""Ids of the volumes. The last one has no volume."""


@pytest.fixture(scope="session")
def weed_program():
    """The Go program. Skips the test without one."""
    weed, why_not = implementations.find_weed()
    if weed is None:
        pytest.skip(why_not)
    return Path(weed).resolve()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A running Go server and the native handlers, for modules that are skipped without `weed`."""
    with open_pair(tmp_path_factory.mktemp("native"), tmp_path_factory.mktemp("go")) as both:
        yield both


@pytest.fixture(scope="session")
def both(tmp_path_factory):
    """(Go's server, the native server), each with its own master, because they hold volumes of the same ids."""
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
