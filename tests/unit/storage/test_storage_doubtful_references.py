"""A .vif that cannot be parsed beside an .idx, without a .dat and without shards: it may be all that says where the
data of a volume in a remote tier is.
"""

from contextlib import closing

import pytest
from support.files import UNSYNCED_FILES
from support.stores import open_at, place

from native_handlers.format.idx import encode_entry
from native_handlers.format.needle import Needle
from native_handlers.storage.check import check_directory
from native_handlers.storage.directory.scan import find_data_elsewhere
from native_handlers.storage.model.errors import IdTaken, VolumeExists, VolumeNotFound
from native_handlers.storage.model.report import FindingKind
from native_handlers.storage.transfer.received_files import coded_info_file
from native_handlers.storage.transfer.staged_volume import NotStaged, adopt_staged
from native_handlers.storage.volume.paths import VolumePaths

TORN = b'{"version":3,"files":[{"backendType":"s3"'
EXTENSIONS = (".dat", ".idx", ".vif")

pytestmark = pytest.mark.damage("the .vif is damaged on purpose")


@pytest.fixture
def torn(disk):
    (disk / "7.vif").write_bytes(TORN)
    (disk / "7.idx").write_bytes(encode_entry(1, 1, 10, 4))
    return disk


def test_a_start_tells_of_it(torn):
    with closing(open_at(torn)) as store:
        (finding,) = store.findings
        assert (finding.kind, finding.base) == (FindingKind.NOT_LOADED, torn / "7")
        assert "cannot be parsed" in finding.detail
        with pytest.raises(VolumeNotFound):
            store.mount_volume(7)
    assert (torn / "7.vif").read_bytes() == TORN


def test_the_tools_tell_of_it(torn):
    assert not check_directory(torn).is_healthy
    (found,) = find_data_elsewhere(UNSYNCED_FILES, torn, torn)
    assert "cannot be parsed" in found.why


@pytest.mark.parametrize("beside", ["nothing", "7.ec03"])
def test_without_an_index_or_beside_shards_it_names_nothing(torn, beside):
    if beside == "nothing":
        (torn / "7.idx").unlink()
    else:
        (torn / beside).write_bytes(b"shard")
    assert check_directory(torn).is_healthy
    assert [one for one in find_data_elsewhere(UNSYNCED_FILES, torn, torn) if not one.is_coded] == []


def test_no_other_volume_takes_its_id(torn):
    with closing(open_at(torn)) as store:
        with pytest.raises(IdTaken):
            store.allocate_volume(7, collection="other")
        with pytest.raises(VolumeExists):
            store.allocate_volume(7)


def test_a_volume_that_was_decoded_elsewhere_does_not_replace_it(torn):
    with closing(open_at(torn)) as store:
        for extension in EXTENSIONS:
            (torn / f"7{extension}.copying").write_bytes(b"sent")
        with pytest.raises(NotStaged, match="cannot be parsed"):
            adopt_staged(UNSYNCED_FILES, store.locations, "", 7, "hdd")


@pytest.mark.parametrize("ends", ["commit", "close_complete"])
def test_a_sent_one_of_shards_moves_it_aside(torn, ends):
    sent = coded_info_file(UNSYNCED_FILES, VolumePaths(torn, torn, "", 7), None, 4)
    sent.write(b'{"version":3,"ecShardConfig":{"dataShards":10,"parityShards":4}}')
    if ends == "commit":
        sent.commit()
    else:
        sent.complete()
        sent.close_complete()
    assert (torn / "7.vif.aside").read_bytes() == TORN


@pytest.mark.parametrize("comes_to", ["the same disk", "another disk"])
def test_a_copy_moves_it_aside(torn, other_disk, tmp_path, comes_to):
    with closing(open_at(tmp_path / "source")) as store:
        store.allocate_volume(7)
        store.get_volume(7).write(Needle(needle_id=1, cookie=5, data=b"data"))
    numbers = (50, 3) if comes_to == "the same disk" else (3, 50)
    places = [place(path, max_volumes=count) for path, count in zip((torn, other_disk), numbers, strict=True)]
    with closing(open_at(*places)) as store:
        incoming = store.begin_copy(7, "", "", 1000)
        assert incoming.paths.data_dir == (torn if comes_to == "the same disk" else other_disk)
        incoming.begin()
        for extension in EXTENSIONS:
            file = incoming.receive(extension)
            file.write((tmp_path / f"source/7{extension}").read_bytes())
            file.commit(1)
        store.mount_copy(incoming)
        assert store.get_volume(7).read(1, cookie=5).needle.data == b"data"
    assert (torn / "7.vif.aside").read_bytes() == TORN
