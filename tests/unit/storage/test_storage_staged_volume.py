"""Files of a volume that another server decoded and sent here: they become a volume, all or none, and replace none."""

import errno
import shutil

import pytest
from support import stores
from support.disks import bring_back, take_out_of_service
from support.files import PlannedFiles

from native_handlers.format.crc import crc32c
from native_handlers.format.needle import Needle
from native_handlers.storage.model.errors import Deleted, DiskUnavailable, NotFound
from native_handlers.storage.model.file_kinds import STAGED
from native_handlers.storage.system.files import OS_FILES
from native_handlers.storage.transfer.staged_volume import NotStaged, adopt_staged

VID = 7
COOKIE = 5
STEPS = ("sync", "sync_directory", "rename", "unlink")
SENT = [f"{VID}{extension}{STAGED}" for extension in (".dat", ".idx", ".vif")]


def needle(number):
    data = bytes((number,)) * 100
    return Needle(needle_id=number, cookie=COOKIE, data=data, checksum=crc32c(data))


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """A directory with the sent files: needles 1 to 3, of which 2 is deleted in the .idx alone, as Go decodes it where
    its compaction fails.
    """
    directory = tmp_path_factory.mktemp("sent")
    store = stores.open_at(directory)
    store.allocate_volume(VID)
    for number in (1, 2, 3):
        store.get_volume(VID).write(needle(number))
    store.close()
    rows = (directory / "7.idx").read_bytes()
    (directory / "7.idx").write_bytes(rows + (2).to_bytes(8, "big") + bytes(4) + b"\xff" * 4)
    for extension in (".dat", ".idx", ".vif"):
        (directory / f"7{extension}").rename(directory / f"7{extension}{STAGED}")
    return directory


def lay(sent, directory):
    directory.mkdir(exist_ok=True)
    for name in SENT:
        shutil.copy(sent / name, directory)


def adopt(store, files):
    adopt_staged(files, store.locations, "", VID, "")


def names(directory):
    return sorted(path.name for path in directory.iterdir() if path.name.startswith("7."))


def check(store):
    for number in (1, 3):
        assert store.get_volume(VID).read(number, cookie=COOKIE).needle.data == needle(number).data
    with pytest.raises((Deleted, NotFound)):
        store.get_volume(VID).read(2, cookie=COOKIE)


@pytest.mark.parametrize("failing_step", range(1, 10))
def test_a_failure_at_any_step(sent, disk, failing_step):
    """The sent files have their names again, and the next attempt succeeds; or all have their final names."""
    steps = 0

    def fail_once(operation, _target):
        nonlocal steps
        steps += operation in STEPS
        if operation in STEPS and steps == failing_step:
            raise OSError(errno.EIO, "no")

    files = PlannedFiles()
    store = stores.open_at(disk, files=files)
    lay(sent, disk)
    files.before = fail_once
    with pytest.raises(OSError, match="no"):
        adopt(store, files)
    if "7.dat" not in names(disk):
        assert names(disk) == SENT
        adopt(store, files)
    store.mount_volume(VID)
    check(store)
    store.close()


def test_a_failure_that_cannot_be_undone(sent, disk):
    """The files that have their names are removed by the next start: the .dat would get an index of all its records."""
    files = PlannedFiles(matches=lambda path: path.name in {"7.idx", "7.dat"})
    store = stores.open_at(disk, files=files)
    lay(sent, disk)
    files.plan["rename"] = 1, errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        adopt(store, files)
    assert "7.note" in names(disk)
    store.close()
    store = stores.open_at(disk)
    assert store.find_volume(VID) is None
    assert names(disk) == []
    store.close()


@pytest.mark.parametrize("cut_at", range(1, 11))
def test_a_cut_at_any_step(sent, disk, cut_at):
    files = PlannedFiles(steps_of=STEPS)
    store = stores.open_at(disk, files=files)
    lay(sent, disk)
    files.steps, files.cut_at = 0, cut_at
    try:
        adopt(store, files)
    except OSError:
        pass
    else:
        assert cut_at == 10, "there are nine steps"
    files.cut_at = None
    store.close()
    store = stores.open_at(disk)
    if store.find_volume(VID) is not None:
        check(store)
    else:
        assert names(disk) == []
    store.close()


class TestWhatIsHere:
    """It is not replaced."""

    @pytest.fixture
    def disks(self, tmp_path):
        return [tmp_path / name for name in ("a", "b")]

    @pytest.fixture
    def store(self, sent, disks):
        """The files are sent to the second disk. The first one has a volume of that id, which is not mounted."""
        store = stores.open_at(disks[0])
        store.allocate_volume(VID)
        store.get_volume(VID).write(needle(9))
        store.close()
        store = stores.open_at(*disks)
        store.unmount_volume(VID)
        lay(sent, disks[1])
        yield store
        store.close()

    @pytest.mark.parametrize("is_beside", [False, True], ids=["on another disk", "beside"])
    def test_a_volume_that_is_not_mounted(self, store, disks, is_beside):
        if is_beside:
            for name in SENT:
                shutil.move(disks[1] / name, disks[0])
        before = {path: path.read_bytes() for disk in disks for path in disk.glob("7.*")}
        with pytest.raises(NotStaged, match=r"staged volume 7 already exists on this server: .*a/7\.dat"):
            adopt(store, OS_FILES)
        assert {path: path.read_bytes() for disk in disks for path in disk.glob("7.*")} == before

    def test_a_volume_on_a_disk_that_is_out_of_service(self, store, disks):
        """It would be there twice when the disk is back."""
        before = {path: path.read_bytes() for disk in disks for path in disk.glob("7.*")}
        take_out_of_service(store.locations[0])
        with pytest.raises(DiskUnavailable, match=f"disk {disks[0]} is out of service"):
            adopt(store, OS_FILES)
        bring_back(store.locations[0])
        assert {path: path.read_bytes() for disk in disks for path in disk.glob("7.*")} == before

    def test_a_volume_in_a_remote_tier(self, store, disks):
        for name in ("7.dat", "7.idx"):
            (disks[0] / name).unlink()
        vif = '{"version":3,"files":[{"backendType":"s3","backendId":"cold","key":"k","fileSize":"100"}]}'
        (disks[0] / "7.vif").write_text(vif)
        with pytest.raises(NotStaged, match=r"a/7\.vif says that its data is in a remote tier"):
            adopt(store, OS_FILES)
        assert (disks[0] / "7.vif").read_text() == vif
        # Without an index it is damage.
        (disks[0] / "7.vif").unlink()

    def test_a_dat_without_records_is_none(self, store, disks):
        """Upstream's servers made such files beside a .vif of shards."""
        (disks[0] / "7.idx").unlink()
        (disks[0] / "7.dat").write_bytes((disks[0] / "7.dat").read_bytes()[:8])
        for name in SENT:
            shutil.move(disks[1] / name, disks[0])
        adopt(store, OS_FILES)
        store.mount_volume(VID)
        check(store)
