"""Changes of a volume's replica placement and of its index's place: done, refused, and interrupted at each step."""

from __future__ import annotations

import errno
import json
from contextlib import closing

import pytest
from support.files import OPERATIONS, PlannedFiles
from support.stores import place
from support.unreliable_files import Crash

from native_handlers.format.errors import BadReplicaPlacement
from native_handlers.format.needle import Needle
from native_handlers.storage.check import check_directory
from native_handlers.storage.model import errors

COOKIE = 0xC0FFEE


@pytest.fixture
def files():
    """Fails a planned operation once."""
    return PlannedFiles(is_lasting=False, steps_of=OPERATIONS, cut=Crash)


@pytest.fixture
def directories(tmp_path):
    for name in ("data", "index"):
        (tmp_path / name).mkdir()
    return tmp_path / "data", tmp_path / "index"


@pytest.fixture
def open_it(directories, files, opened):
    """Opens a store over the two directories, or over the first one alone."""
    data, index = directories

    def opener(*, apart=False):
        return opened(place(data, index if apart else data), offset_width_bytes=4, files=files, volumes=())

    return opener


def write(store, needle_id, data=b"payload"):
    store.get_volume(7).write(Needle(needle_id=needle_id, cookie=COOKIE, data=data))


def read(store, needle_id):
    return bytes(store.get_volume(7).read(needle_id, cookie=COOKIE).needle.data)


def vif(directories):
    return json.loads((directories[0] / "7.vif").read_text())


class TestReplication:
    @pytest.fixture
    def store(self, open_it):
        store = open_it()
        store.allocate_volume(7, ttl="3d")
        write(store, 1)
        return store

    @pytest.mark.parametrize(("text", "shown"), [("001", "001"), ("1", "001"), ("12345", "123"), ("", "000")])
    def test_it_is_changed_and_kept(self, store, directories, open_it, text, shown):
        before = vif(directories)
        store.configure_volume(7, "010")
        store.configure_volume(7, text)
        assert str(store.find_volume(7).replica_placement) == shown
        assert vif(directories) == before | {"replication": text}
        store.close()
        with closing(open_it()) as again:
            assert str(again.find_volume(7).replica_placement) == shown
            assert read(again, 1) == b"payload"

    def test_listeners_hear_of_it(self, store):
        events = []
        store.add_listener(events.append)
        store.configure_volume(7, "001")
        assert events == [7, 7]
        assert str(store.find_volume(7).report().replica_placement) == "001"

    def test_what_is_no_placement_changes_nothing(self, store, directories):
        volume, before = store.find_volume(7), vif(directories)
        with pytest.raises(BadReplicaPlacement):
            store.configure_volume(7, "bad")
        assert store.find_volume(7) is volume
        assert not volume.is_closed
        assert vif(directories) == before

    def test_a_volume_that_is_nowhere(self, store):
        with pytest.raises(errors.ConfigureFailed) as failed:
            store.configure_volume(9, "001")
        assert (failed.value.step, failed.value.why) == ("", "volume 9 not found on disk")
        assert failed.value.restore_failure == "volume 9 not found on disk"

    def test_a_closed_volume_is_changed_and_opened(self, store):
        store.unmount_volume(7)
        store.configure_volume(7, "001")
        assert str(store.find_volume(7).replica_placement) == "001"

    def test_marks_that_are_kept_stay(self, store):
        store.mark_readonly(store.get_volume(7), persist=True)
        store.configure_volume(7, "001")
        assert store.find_volume(7).is_read_only

    def test_a_vif_that_may_not_be_written(self, store, directories):
        (directories[0] / "7.vif").chmod(0o444)
        before = vif(directories)
        with pytest.raises(errors.ConfigureFailed) as failed:
            store.configure_volume(7, "001")
        path = directories[0] / "7.vif"
        assert failed.value.why == f"volume 7 failed to save vif: failed to check {path} not writable"
        assert failed.value.restore_failure is None
        assert vif(directories) == before
        assert read(store, 1) == b"payload"
        write(store, 2)

    def test_a_vif_that_cannot_be_parsed(self, store, directories):
        whole = (directories[0] / "7.vif").read_text()
        (directories[0] / "7.vif").write_text("{nonsense")
        with pytest.raises(errors.ConfigureFailed, match=r"^volume 7 failed to load vif: "):
            store.configure_volume(7, "001")
        assert read(store, 1) == b"payload"
        assert (directories[0] / "7.vif").read_text() == "{nonsense"
        (directories[0] / "7.vif").write_text(whole)

    @pytest.mark.parametrize(
        ("operation", "step", "why"),
        [
            ("sync", "unmount", "write .*7.dat at "),
            ("rename", "", "^volume 7 failed to save vif: .*7.vif: Input/output error$"),
            ("write", "", "^volume 7 failed to save vif: "),
        ],
    )
    def test_a_failing_disk_leaves_it_as_it_was(self, store, files, directories, operation, step, why):
        before = vif(directories)
        files.plan[operation] = (0, errno.EIO)
        with pytest.raises(errors.ConfigureFailed, match=why) as failed:
            store.configure_volume(7, "001")
        assert (failed.value.step, failed.value.restore_failure) == (step, None)
        assert vif(directories) == before
        assert str(store.find_volume(7).replica_placement) == "000"
        assert read(store, 1) == b"payload"

    def test_a_volume_that_cannot_be_opened_again_is_told(self, store, directories):
        (directories[0] / "7.dat").chmod(0)
        with pytest.raises(errors.ConfigureFailed) as failed:
            store.configure_volume(7, "001")
        assert (failed.value.step, failed.value.why) == ("mount", "volume 7 not found on disk")
        assert store.find_volume(7) is None
        (directories[0] / "7.dat").chmod(0o644)
        store.mount_volume(7)
        assert str(store.find_volume(7).replica_placement) == "001"


@pytest.mark.slow
def test_a_crash_at_any_step_leaves_the_old_placement_or_the_new(open_it, directories, files):
    """Slow: the store is opened again after a crash at each step."""
    with closing(open_it()) as store:
        store.allocate_volume(7)
        write(store, 1)
    for crash_at in range(1, 100):
        store = open_it()
        store.configure_volume(7, "000")
        files.steps, files.cut_at = 0, crash_at
        try:
            store.configure_volume(7, "001")
        except Crash:
            is_over = False
        else:
            is_over = True
        files.let_all_go_on()
        store.close()
        with closing(open_it()) as again:
            assert str(again.find_volume(7).replica_placement) in {"000", "001"}
            assert read(again, 1) == b"payload"
        assert check_directory(directories[0]).is_healthy
        if is_over:
            break
    assert crash_at > 5, "the steps were met"
    assert is_over


class TestIndexPlace:
    @pytest.fixture
    def store(self, open_it):
        """A volume whose index is beside its data, although there is an index directory."""
        with closing(open_it()) as made:
            made.allocate_volume(7)
            write(made, 1)
        return open_it(apart=True)

    def test_it_goes_to_the_index_directory_and_the_volume_goes_on(self, store, directories, open_it):
        data, index = directories
        volume = store.find_volume(7)
        store.consolidate_index(7)
        assert sorted(path.name for path in data.glob("7.*")) == ["7.dat", "7.vif"]
        assert [path.name for path in index.glob("7.*")] == ["7.idx"]
        assert store.find_volume(7) is volume
        write(store, 2)
        assert (index / "7.idx").stat().st_size == 32
        store.mark_readonly(store.get_volume(7), persist=True)
        store.mark_writable(store.get_volume(7))
        store.close()
        with closing(open_it(apart=True)) as again:
            assert (read(again, 1), read(again, 2)) == (b"payload", b"payload")
            assert not again.findings

    def test_again_changes_nothing(self, store, directories):
        store.consolidate_index(7)
        inode = (directories[1] / "7.idx").stat().st_ino
        store.consolidate_index(7)
        assert (directories[1] / "7.idx").stat().st_ino == inode

    def test_without_an_index_directory_nothing_happens(self, open_it, directories):
        with closing(open_it()) as store:
            store.allocate_volume(8)
            store.consolidate_index(8)
        assert (directories[0] / "8.idx").exists()
        assert not list(directories[1].iterdir())

    def test_a_volume_that_is_not_here(self, store):
        with pytest.raises(errors.VolumeNotFound, match=r"^volume 99 not found on disk$"):
            store.consolidate_index(99)
        store.unmount_volume(7)
        with pytest.raises(errors.VolumeNotFound, match=r"^volume 7 not found on disk$"):
            store.consolidate_index(7)

    def test_a_stray_in_the_way_is_replaced(self, store, directories):
        (directories[1] / "7.idx").write_bytes(b"stale" * 100)
        store.consolidate_index(7)
        assert (directories[1] / "7.idx").stat().st_size == 16
        write(store, 2)
        assert read(store, 2) == b"payload"

    def test_the_sorted_index_of_old_servers_goes(self, store, directories):
        (directories[0] / "7.sdx").write_bytes(b"sorted")
        store.consolidate_index(7)
        assert not list(directories[0].glob("*.sdx"))

    def test_a_read_only_volume(self, store, directories):
        store.mark_readonly(store.get_volume(7))
        store.consolidate_index(7)
        assert (directories[1] / "7.idx").exists()
        assert store.find_volume(7).is_read_only

    @pytest.mark.parametrize("operation", ["rename", "sync"])
    def test_a_failing_disk_leaves_it_where_it_was(self, store, files, directories, operation):
        files.plan[operation] = (0, errno.EIO)
        with pytest.raises(
            errors.IndexMoveFailed, match=r"^relocate index for volume 7: move .idx: Input/output error$"
        ):
            store.consolidate_index(7)
        assert (directories[0] / "7.idx").exists()
        assert not list(directories[1].iterdir())
        write(store, 2)
        store.consolidate_index(7)
        assert (read(store, 1), read(store, 2)) == (b"payload", b"payload")

    def test_to_another_file_system_it_is_copied(self, store, files, directories, open_it):
        files.plan["rename"] = (0, errno.EXDEV)
        store.consolidate_index(7)
        assert not (directories[0] / "7.idx").exists()
        assert [path.name for path in directories[1].iterdir()] == ["7.idx"]
        write(store, 2)
        assert (directories[1] / "7.idx").stat().st_size == 32
        store.close()
        with closing(open_it(apart=True)) as again:
            assert (read(again, 1), read(again, 2)) == (b"payload", b"payload")

    @pytest.mark.parametrize("operation", ["open", "write", "sync_directory", "unlink"])
    def test_a_copy_that_fails_leaves_nothing(self, store, files, directories, operation):
        files.plan |= {"rename": (0, errno.EXDEV), operation: (0, errno.EIO)}
        with pytest.raises(errors.IndexMoveFailed):
            store.consolidate_index(7)
        assert (directories[0] / "7.idx").exists()
        assert not list(directories[1].iterdir())
        write(store, 2)
        assert read(store, 2) == b"payload"


@pytest.mark.parametrize("is_same_device", [True, False])
@pytest.mark.slow
def test_a_crash_at_any_step_of_a_move_loses_nothing(open_it, directories, files, is_same_device):
    """Slow: a move for each step at which it may crash."""
    data, index = directories
    with closing(open_it()) as store:
        store.allocate_volume(7)
        write(store, 1)
    for crash_at in range(1, 100):
        if (index / "7.idx").exists() and not (data / "7.idx").exists():
            (index / "7.idx").rename(data / "7.idx")
        store = open_it(apart=True)
        files.steps, files.cut_at = 0, crash_at
        if not is_same_device:
            files.plan["rename"] = (0, errno.EXDEV)
        try:
            store.consolidate_index(7)
        except Crash:
            is_over = False
        else:
            is_over = True
        files.let_all_go_on()
        store.close()
        with closing(open_it(apart=True)) as again:
            write(again, 100 + crash_at)
            assert read(again, 1) == b"payload"
            assert all(read(again, 100 + one) == b"payload" for one in range(1, crash_at + 1))
        assert check_directory(data, index_path=index).is_healthy
        if is_over:
            break
    assert is_over
    assert crash_at >= 4
