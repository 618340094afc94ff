"""Volumes whose files may not be read or written, opened by Go and by the store: the served volumes, and the operations
that each accepts. Slow: a Go server is started over a directory of many volumes. Skipped without `weed`.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil

import pytest
from go_volume_server import go_volume_server
from harness.implementations import weed_program
from support.stores import open_at, place

from native_handlers.format.needle import Needle
from native_handlers.format.vif import VolumeInfo, encode_volume_info
from native_handlers.storage.model.errors import ReadOnly

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(weed_program() is None, reason="no weed program: WEED_BINARY or PATH"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the system refuses others than root what the modes say"),
]

COOKIE = 0x12345678
MODES = (0o644, 0o444, 0o200, 0)
COMBINATIONS = list(itertools.product(MODES, MODES, MODES, (False, True)))
"""The modes of .dat, of .idx, of .vif, and whether the .vif says that the volume is read-only."""


def make_volumes(path):
    store = open_at(place(path, max_volumes=len(COMBINATIONS) + 1))
    for volume_id in range(1, len(COMBINATIONS) + 1):
        store.allocate_volume(volume_id).write(Needle(needle_id=1, cookie=COOKIE, data=b"data"))
    store.close()
    for volume_id, (*modes, is_marked) in enumerate(COMBINATIONS, 1):
        if is_marked:
            (path / f"{volume_id}.vif").write_text(encode_volume_info(VolumeInfo(version=3, read_only=True)))
        for extension, mode in zip((".dat", ".idx", ".vif"), modes, strict=True):
            (path / f"{volume_id}{extension}").chmod(mode)


def of_go(port):
    """For each served volume: whether it reports read-only, and whether reading, writing and deleting succeed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(method, target, body=None):
        connection.request(method, target, body)
        response = connection.getresponse()
        return response.status, response.read()

    volumes = {one["Id"]: one["ReadOnly"] for one in json.loads(ask("GET", "/status")[1])["Volumes"]}
    found = {}
    for volume_id in range(1, len(COMBINATIONS) + 1):
        if volume_id in volumes:
            fid = f"/{volume_id},01{COOKIE:08x}"
            steps = (
                ask("GET", fid),
                ask("PUT", f"{fid}?type=replicate", b"new data"),
                ask("DELETE", f"{fid}?type=replicate"),
            )
            found[volume_id] = (volumes[volume_id], *(status < 300 for status, _ in steps))
    connection.close()
    return found


def of_ours(path):
    store = open_at(place(path, max_volumes=len(COMBINATIONS) + 1, min_free_percent=0.0))
    found = {}
    try:
        for volume in store.volumes():
            is_read_only = volume.is_read_only
            steps = [
                lambda volume=volume: volume.read(1, cookie=COOKIE),
                lambda volume=volume: volume.write(Needle(needle_id=1, cookie=COOKIE, data=b"new data")),
                lambda volume=volume: volume.delete(1, COOKIE),
            ]
            found[volume.id] = (is_read_only, *map(succeeds, steps))
    finally:
        store.close()
    return found


def succeeds(step):
    try:
        step()
    except ReadOnly:
        return False
    return True


def test_each_volume_fares_as_with_go(tmp_path):
    make_volumes(tmp_path / "made")
    shutil.copytree(tmp_path / "made", tmp_path / "own")
    flags = (f"-dir={tmp_path / 'made'}", "-max=500", "-minFreeSpace=0")
    (tmp_path / "go").mkdir()
    with go_volume_server(weed_program(), tmp_path / "go", None, *flags) as (admin, _):
        theirs = of_go(admin)
    ours = of_ours(tmp_path / "own")
    for volume_id, combination in enumerate(COMBINATIONS, 1):
        *modes, is_marked = combination
        expected = theirs.get(volume_id)
        if is_marked and expected is not None and not modes[2] & 0o400:
            # Upstream checks the mode of the .vif, and so ignores a mark that it could read.
            expected = (True, True, False, False)
        assert ours.get(volume_id) == expected, combination
