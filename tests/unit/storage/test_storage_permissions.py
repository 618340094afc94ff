"""What the modes of a volume's files forbid, to root and to others. Upstream checks only the owner's bits of .dat, also
for root; the system decides about the .idx.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.stores import open_at

from native_handlers.format.needle import Needle
from native_handlers.storage.model.errors import ReadOnly, StorageError
from native_handlers.storage.model.report import FindingKind

COOKIE = 0xC0FFEE
NOBODY = 65534
SCRIPT = """
import json, os, sys
from pathlib import Path
from native_handlers.format.needle import Needle
from native_handlers.storage.directory.location import LocationConfig
from native_handlers.storage.store import StoreConfig, open_store

path, user = Path(sys.argv[1]), int(sys.argv[2])
# Only here: another user may not be allowed to read what is imported.
os.setgroups([])
os.setgid(user)
os.setuid(user)
store = open_store(StoreConfig((LocationConfig(path, path, 8),)))
volume = store.find_volume(7)
said = {"kinds": [finding.kind.name for finding in store.findings], "is_loaded": volume is not None}
if volume is not None:
    said["is_read_only"] = volume.is_read_only
    said["data"] = bytes(store.get_volume(7).read(1, cookie=0xC0FFEE).needle.data).decode()
    if not volume.is_read_only:
        store.get_volume(7).write(Needle(needle_id=2, cookie=1, data=b"more"))
store.close()
print(json.dumps(said))
"""


@pytest.fixture
def made(tmp_path):
    with closing(open_at(tmp_path)) as store:
        store.allocate_volume(7)
        store.get_volume(7).write(Needle(needle_id=1, cookie=COOKIE, data=b"data"))
    return tmp_path


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may open what its mode forbids")
@pytest.mark.parametrize("mode", [0o444, 0o400, 0])
@pytest.mark.parametrize("extension", ["idx", "vif"])
def test_root_is_not_kept_from_writing_by_the_mode_of_another_file_than_dat(made, extension, mode):
    (made / f"7.{extension}").chmod(mode)
    with closing(open_at(made)) as store:
        assert store.findings == []
        store.get_volume(7).write(Needle(needle_id=2, cookie=COOKIE, data=b"more"))
        store.get_volume(7).delete(1, COOKIE)


def test_the_mode_of_dat_counts_for_root_too(made):
    (made / "7.dat").chmod(0o444)
    with closing(open_at(made)) as store:
        assert [finding.kind for finding in store.findings] == [FindingKind.MADE_READ_ONLY]
        with pytest.raises(ReadOnly):
            store.get_volume(7).delete(1, COOKIE)
        with pytest.raises(StorageError):
            store.mark_writable(store.get_volume(7))
    (made / "7.dat").chmod(0o644)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.slow
class TestAnotherUser:
    """Slow: starts a program as another user."""

    @pytest.fixture
    def theirs(self, made):
        """A directory outside pytest's: another run may close pytest's directory to other users at any time."""
        with TemporaryDirectory() as directory:
            path = Path(directory)
            for file in made.iterdir():
                shutil.copy(file, path)
            for one in (path, *path.iterdir()):
                os.chown(one, NOBODY, NOBODY)
            yield path

    def run(self, path):
        command = [sys.executable, "-c", SCRIPT, str(path), str(NOBODY)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @pytest.mark.parametrize(
        ("name", "mode", "wanted"),
        [
            ("7.dat", 0o644, {"kinds": [], "is_loaded": True, "is_read_only": False, "data": "data"}),
            ("7.idx", 0o444, {"kinds": ["MADE_READ_ONLY"], "is_loaded": True, "is_read_only": True, "data": "data"}),
            ("7.dat", 0o444, {"kinds": ["MADE_READ_ONLY"], "is_loaded": True, "is_read_only": True, "data": "data"}),
            ("7.vif", 0o444, {"kinds": [], "is_loaded": True, "is_read_only": False, "data": "data"}),
            ("7.vif", 0, {"kinds": ["VIF_UNREADABLE"], "is_loaded": True, "is_read_only": False, "data": "data"}),
            ("7.dat", 0o200, {"kinds": ["NOT_LOADED"], "is_loaded": False}),
            ("7.idx", 0, {"kinds": ["NOT_LOADED"], "is_loaded": False}),
        ],
    )
    def test_what_they_may_not_write_is_read_only(self, theirs, name, mode, wanted):
        (theirs / name).chmod(mode)
        assert self.run(theirs) == wanted
