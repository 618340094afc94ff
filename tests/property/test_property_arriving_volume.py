"""A volume that is copied to this server, and servers that are killed or lose power on the way: at every file
operation, with every possible state of the disk. The next start finds the new volume whole, or the earlier state whole.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from support.files import UnsyncedFiles
from support.power_cut_files import PowerCutFiles, all_after_cut
from support.stores import open_at

from native_handlers.format.needle import Needle
from native_handlers.storage.check import check_directory
from native_handlers.storage.disk.session_mark import SESSION_FILE_NAME
from native_handlers.storage.transfer.receive import StagedFile

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.transfer.volume_copy import ArrivingVolume

COOKIE = 0xC0FFEE
VID = 7
NEW = {1: b"new" * 300, 2: b"second" * 100}
OLD = {1: b"old" * 200}
OTHER_BOOT = b"00000000-0000-0000-0000-000000000000"
OWN = {"vol_dir.uuid", SESSION_FILE_NAME, ".weed-volume-py.lock"}
EXTENSIONS = (".dat", ".idx", ".vif")


def fill(store, needles):
    store.allocate_volume(VID)
    for needle_id, data in needles.items():
        store.get_volume(VID).write(Needle(needle_id=needle_id, cookie=COOKIE, data=data), fsync=True)


class Run:
    """One copy: the state of the disk and of the directory at each step, and the states that the next start may
    find.
    """

    def __init__(self, tmp_path: Path, *, old: bool = False, leftovers: tuple[str, ...] = ()) -> None:
        """`old`: whether a volume is there before."""
        self.tmp_path, self.live = tmp_path, tmp_path / "live"
        self.live.mkdir()
        self.files = PowerCutFiles(self.live)
        self.store = open_at(self.live, offset_width_bytes=4, files=self.files)
        if old:
            fill(self.store, OLD)
        for extension in leftovers:
            unfinished = StagedFile(self.files, self.live / f"{VID}{extension}", in_place=True)
            unfinished.write(b"of an earlier copy")
            unfinished.commit()
        self.before = OLD if old else None
        self.allowed = [self.before]
        self.points = []
        self.files.on_step = self._record

    def _record(self) -> None:
        image = {path.name: path.read_bytes() for path in self.live.iterdir() if path.is_file()}
        self.points.append((self.files.disk.copy(), image, list(self.allowed)))

    def receive(self, source: dict[str, bytes]) -> ArrivingVolume:
        arriving = self.store.begin_copy(VID, "", "", len(source[".dat"]))
        arriving.begin()
        for extension, content in source.items():
            file = arriving.receive(extension)
            for start in range(0, len(content), 700):
                file.write(content[start : start + 700])
            file.commit(1_700_000_000 * 10**9)
        arriving.check_sizes(len(source[".dat"]), len(source[".idx"]))
        return arriving

    def copy(self, source: dict[str, bytes]) -> None:
        arriving = self.receive(source)
        self.allowed = [self.before, NEW]
        self.store.mount_copy(arriving)
        self.allowed = [NEW]
        self._record()

    def copy_and_abandon(self, source: dict[str, bytes]) -> None:
        self.store.abandon_copy(self.receive(source))
        self._record()

    def examine_kills(self) -> int:
        """A killed server leaves all of its operations."""
        for number, (_, image, allowed) in enumerate(self.points):
            self._examine(self.tmp_path / f"kill{number}", image, allowed)
        return len(self.points)

    def examine_cuts(self) -> int:
        seen = set()
        for disk, _, allowed in self.points:
            for contents in all_after_cut(disk):
                key = (tuple(sorted(contents.items())), repr(allowed))
                if key not in seen:
                    seen.add(key)
                    self._examine(self.tmp_path / f"cut{len(seen)}", contents, allowed)
        return len(seen)

    def _examine(self, directory: Path, contents: dict[str, bytes], allowed: list) -> None:
        directory.mkdir()
        for name, content in contents.items():
            boot = OTHER_BOOT + content[len(OTHER_BOOT) :]
            (directory / name).write_bytes(boot if name == SESSION_FILE_NAME and content else content)
        store = open_at(directory, offset_width_bytes=4, files=UnsyncedFiles())
        volume = store.find_volume(VID)
        found = None
        if volume is not None:
            found = {key: store.get_volume(VID).read(key, cookie=COOKIE).needle.data for key in NEW if has(store, key)}
            assert not volume.is_read_only
        left = sorted(path.name for path in directory.iterdir() if path.name not in OWN)
        told = [str(finding) for finding in store.findings]
        store.close()
        assert found in allowed, (sorted(contents), told)
        assert left == ([] if found is None else [f"{VID}{one}" for one in EXTENSIONS]), (sorted(contents), told)
        assert check_directory(directory).is_healthy
        shutil.rmtree(directory)


def has(store, key):
    location = store.find_volume(VID).handle.opened.index.get(key)
    return location is not None and location.size > 0


@pytest.fixture
def source(tmp_path):
    """The files of a volume, by extension."""
    directory = tmp_path / "source"
    directory.mkdir()
    store = open_at(directory, offset_width_bytes=4, files=UnsyncedFiles())
    fill(store, NEW)
    store.close()
    return {extension: (directory / f"{VID}{extension}").read_bytes() for extension in EXTENSIONS}


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_a_killed_server(tmp_path, source, old):
    """Slow: some dozens of directories are made and opened."""
    run = Run(tmp_path, old=old)
    run.copy(source)
    assert run.examine_kills() > 15
    run.store.close()


@pytest.mark.slow
def test_a_killed_server_over_what_an_earlier_one_left(tmp_path, source):
    """Slow: some dozens of directories are made and opened."""
    run = Run(tmp_path, leftovers=(".dat", ".note", ".dat.arriving", ".idx.arriving"))
    run.points.clear()
    run.copy(source)
    assert run.examine_kills() > 15
    run.store.close()


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_a_copy_that_is_given_up(tmp_path, source, old):
    """Slow: some dozens of directories are made and opened."""
    run = Run(tmp_path, old=old)
    run.copy_and_abandon(source)
    assert run.examine_kills() > 10
    assert run.examine_cuts() > 20
    run.store.close()


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_a_power_cut(tmp_path, source, old):
    """Slow: hundreds of directories are made and opened."""
    run = Run(tmp_path, old=old)
    run.copy(source)
    assert run.examine_cuts() > 30
    run.store.close()
