"""A volume that is copied here, and servers that are killed or lose their power on the way: at every file operation,
with everything that may then be there. The next start finds the volume whole, as it was before, or nothing of it.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from power_cut_files import PowerCutFiles, all_after_cut

from native_handlers.format.needle import Needle
from native_handlers.storage.check import check_directory
from native_handlers.storage.disk_location import LocationConfig
from native_handlers.storage.files import OsFiles
from native_handlers.storage.incoming import IncomingFile
from native_handlers.storage.session_mark import SESSION_FILE_NAME
from native_handlers.storage.store import StoreConfig, open_store

if TYPE_CHECKING:
    from pathlib import Path

COOKIE = 0xC0FFEE
VID = 7
NEW = {1: b"new" * 300, 2: b"second" * 100}
OLD = {1: b"old" * 200}
OTHER_BOOT = b"00000000-0000-0000-0000-000000000000"
OWN = {"vol_dir.uuid", SESSION_FILE_NAME, ".weed-volume-py.lock"}
EXTENSIONS = (".dat", ".idx", ".vif")


class FastFiles(OsFiles):
    """For directories that no power cut comes to."""

    def sync(self, fd):
        pass

    def sync_directory(self, path):
        pass


def open_at(directory: Path, files):
    return open_store(StoreConfig((LocationConfig(directory, directory, 8),), offset_width_bytes=4), files=files)


def fill(store, needles):
    store.allocate_volume(VID)
    for needle_id, data in needles.items():
        store.write_needle(VID, Needle(needle_id=needle_id, cookie=COOKIE, data=data), fsync=True)


class Run:
    """One copy, with the disk and the directory as they were at each step, and what the next start may find."""

    def __init__(self, tmp_path: Path, *, is_replacing: bool, leftovers: tuple[str, ...] = ()) -> None:
        self.tmp_path, self.live = tmp_path, tmp_path / "live"
        self.live.mkdir()
        self.files = PowerCutFiles(self.live)
        self.store = open_at(self.live, self.files)
        if is_replacing:
            fill(self.store, OLD)
        for extension in leftovers:
            unfinished = IncomingFile(self.files, self.live / f"{VID}{extension}", in_place=True)
            unfinished.write(b"of an earlier copy")
            unfinished.commit()
        self.allowed = [None, OLD] if is_replacing else [None]
        # What was being deleted may leave its .vif, which hinders nobody.
        self.residues = [[], [f"{VID}.vif"]] if is_replacing else [[]]
        self.points = []
        self.files.on_step = self._record

    def _record(self) -> None:
        image = {path.name: path.read_bytes() for path in self.live.iterdir() if path.is_file()}
        self.points.append((self.files.disk.copy(), image, list(self.allowed)))

    def copy(self, source: dict[str, bytes]) -> None:
        incoming = self.store.begin_copy(VID, "", "", len(source[".dat"]))
        self.allowed = [None]
        incoming.begin("copying from a test")
        for extension, content in source.items():
            file = incoming.receive(extension)
            for start in range(0, len(content), 700):
                file.write(content[start : start + 700])
            file.commit(1_700_000_000 * 10**9)
        incoming.check_sizes(len(source[".dat"]), len(source[".idx"]))
        self.allowed = [None, NEW]
        self.store.mount_copy(incoming)
        self.allowed = [NEW]
        self._record()

    def examine_kills(self) -> int:
        """What a killed server leaves is all that it had done."""
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
        store = open_at(directory, FastFiles())
        volume = store.find_volume(VID)
        found = None
        if volume is not None:
            found = {key: store.read_needle(VID, key, cookie=COOKIE).needle.data for key in NEW if has(store, key)}
            assert not volume.is_read_only
        left = sorted(path.name for path in directory.iterdir() if path.name not in OWN)
        told = [str(finding) for finding in store.findings]
        store.close()
        assert found in allowed, (sorted(contents), told)
        if found is None:
            assert left in self.residues, (sorted(contents), told)
        assert check_directory(directory).is_healthy
        shutil.rmtree(directory)


def has(store, key):
    location = store.find_volume(VID)._open_files.opened.index.get(key)
    return location is not None and location.size > 0


@pytest.fixture
def source(tmp_path):
    """The files of a volume, by extension."""
    directory = tmp_path / "source"
    directory.mkdir()
    store = open_at(directory, FastFiles())
    fill(store, NEW)
    store.close()
    return {extension: (directory / f"{VID}{extension}").read_bytes() for extension in EXTENSIONS}


@pytest.mark.slow
@pytest.mark.parametrize("is_replacing", [False, True])
def test_a_killed_server(tmp_path, source, is_replacing):
    """Slow: some dozens of directories are made and opened."""
    run = Run(tmp_path, is_replacing=is_replacing)
    run.copy(source)
    assert run.examine_kills() > 15
    run.store.close()


@pytest.mark.slow
def test_a_killed_server_over_what_an_earlier_one_left(tmp_path, source):
    """Slow: some dozens of directories are made and opened."""
    run = Run(tmp_path, is_replacing=False, leftovers=(".dat", ".note", ".vif"))
    run.points.clear()
    run.copy(source)
    assert run.examine_kills() > 15
    run.store.close()


@pytest.mark.slow
@pytest.mark.parametrize("is_replacing", [False, True])
def test_a_power_cut(tmp_path, source, is_replacing):
    """Slow: hundreds of directories are made and opened."""
    run = Run(tmp_path, is_replacing=is_replacing)
    run.copy(source)
    assert run.examine_cuts() > 30
    run.store.close()
