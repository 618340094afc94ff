"""VolumeEcShardsCopy on a disk that fails once while copied shards replace others: one coding stays whole."""

from __future__ import annotations

from contextlib import closing

import pytest
import test_grpc_ec_copy as copies
from support.files import PlannedFiles
from support.stores import NODE, open_at, place
from test_grpc_ec_copy import SendingSource, copying_to, files_in

from native_handlers.grpc.context import RpcFailure

info = copies.TestShardsOfAnotherCoding.info
OLDER = {"7.vif": info(1), "7.ecx": b"\0" * 16, "7.ecj": b"\0" * 8, "7.ec03": b"old", "7.ec05": b"old"}
NEWER = {"7.vif": info(2), "7.ecx": b"\1" * 16, "7.ecj": b"\1" * 8, "7.ec03": b"new", "7.ec05": b"new"}
ALL_FILES = {"shard_ids": [3, 5], "copy_ecx_file": True, "copy_ecj_file": True, "copy_vif_file": True}
STEPS = ("rename", "unlink", "sync_directory")


def retry(_store, _directory, copy):
    copy(**ALL_FILES)


def change_files(store, _directory, _copy):
    """What any operation does that changes the volume's files."""
    with store.ec.exclusive(7):
        pass


def restart(store, directory, _copy):
    store.close()
    open_at(directory).close()


@pytest.mark.parametrize("then", [retry, change_files, restart])
@pytest.mark.slow
def test_leaves_the_older_coding_or_the_newer_one(tmp_path, context, then):
    """Slow: a copy for each operation that may fail."""
    source = SendingSource()
    source.sent |= {name.removeprefix("7"): content for name, content in NEWER.items()}
    seen, told = set(), []
    for failing in range(1, 60):
        directory = tmp_path / str(failing)
        files = PlannedFiles()
        with closing(open_at(place(directory, min_free_percent=0.0), files=files, **NODE)) as store:
            for name, content in OLDER.items():
                (directory / name).write_bytes(content)
            copy = copying_to(directory, store, source, context)
            left = [failing]

            def fail(name, _target, left=left):
                left[0] -= name in STEPS
                if name in STEPS and not left[0]:
                    raise OSError(5, "planned")

            files.before = fail
            try:
                copy(**ALL_FILES)
            except RpcFailure as failure:
                told.append(failure.message)
            if left[0] > 0:
                break
            then(store, directory, copy)
            after = {name: one for name, one in files_in(directory).items() if name in OLDER or "receiving" in name}
            assert after in ((NEWER,) if then is retry else (OLDER, NEWER)), failing
            assert not (directory / "7.ecarrived").exists()
            seen.add(after == OLDER)
    else:
        pytest.fail("the copy never ends")
    assert all("planned" in one for one in told)
    assert seen == ({False} if then is retry else {False, True})


def test_nothing_changes_before_it_is_finished(tmp_path, context):
    """A coding of the volume on this server would be removed by the record later."""
    source = SendingSource()
    source.sent |= {name.removeprefix("7"): content for name, content in NEWER.items()}
    files = PlannedFiles(matches=lambda path: str(path).endswith("7.ec05"))
    directory = tmp_path / "disk"
    with closing(open_at(place(directory, min_free_percent=0.0), files=files, **NODE)) as store:
        for name, content in OLDER.items():
            (directory / name).write_bytes(content)
        copy = copying_to(directory, store, source, context)
        files.plan["unlink"] = 0, 5
        with pytest.raises(RpcFailure, match=r"get their names before the next change here"):
            copy(**ALL_FILES)
        with pytest.raises(OSError, match="Input/output"):
            store.ec_work.delete_shards("", 7, [3])
        with pytest.raises(RpcFailure, match=r"(?i)input/output"):
            copy(**ALL_FILES)
        assert (directory / "7.ec05").read_bytes() == b"old"
        files.plan.clear()
        store.ec_work.delete_shards("", 7, [3])
        left = {name: content for name, content in NEWER.items() if name != "7.ec03"}
        assert {name: content for name, content in files_in(directory).items() if name in OLDER} == left
