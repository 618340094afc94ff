"""An administrator's operations on a volume: allocate, mount, unmount, mark, configure, describe, delete. For each RPC:
its effect, repetition, refusals and their texts, and what maintenance forbids.
"""

import contextlib
import json
import os

import grpc
import pytest
from harness.calls import LIMIT_S, call, maintenance, refusal
from support.ports import LOOPBACK
from support.waiting import wait_until

from native_handlers.pb import master_pb2, methods
from native_handlers.pb import volume_server_pb2 as pb

ABSENT = 999_999
pytestmark = pytest.mark.native_rpcs


@pytest.fixture
def make_volume(server):
    """Makes volumes that are deleted after the test."""
    made = []

    def make(**fields):
        made.append(server.new_volume(**fields))
        return made[-1]

    yield make
    for volume_id in made:
        with contextlib.suppress(grpc.RpcError):
            call(server, "VolumeDelete", volume_id=volume_id)


@pytest.fixture
def volume_id(make_volume):
    return make_volume()


def files_of(server, name):
    return sorted(path.suffix for path in server.data_dir.glob(f"{name}.*"))


def put(server, volume_id, data=b"data", status=201):
    fid = server.new_fid(volume_id)
    reply = server.http("PUT", f"/{fid}", body=data)
    assert reply.status == status, reply
    return fid


class TestAllocate:
    def test_it_is_there_with_its_properties(self, server, make_volume):
        volume_id = make_volume(collection="life", ttl="3d")
        status = call(server, "VolumeSyncStatus", volume_id=volume_id)
        assert (status.collection, status.replication, status.ttl) == ("life", "000", "3d")
        assert (status.version, status.compact_revision, status.idx_file_size, status.tail_offset) == (3, 0, 0, 8)
        assert files_of(server, f"life_{volume_id}") == [".dat", ".idx", ".vif"]

    def test_again_is_refused(self, server, volume_id):
        text = refusal(server, "AllocateVolume", volume_id=volume_id, version=3)
        assert text == f"Volume Id {volume_id} already exists!"

    @pytest.mark.parametrize(
        ("fields", "text"),
        [
            ({"replication": "zz"}, None),
            ({"replication": "-01"}, "unknown replication type: -01"),
            ({"ttl": "ad"}, None),
            ({"disk_type": "ssd"}, "No more free space left"),
            ({"disk_type": "../x"}, "No more free space left"),
        ],
    )
    def test_what_makes_no_volume(self, server, fields, text):
        told = refusal(server, "AllocateVolume", **({"volume_id": 1_000_999, "version": 3} | fields))
        assert text is None or told == text
        assert files_of(server, "1000999") == []
        assert refusal(server, "VolumeStatus", volume_id=1_000_999) == "not found volume id 1000999"

    @pytest.mark.only(lambda implementation: implementation.has_our_rpcs)
    @pytest.mark.parametrize("version", [0, 9])
    def test_versions_that_there_are_not(self, server, version):
        """Go refuses with the same text, and leaves files."""
        told = refusal(server, "AllocateVolume", volume_id=1_000_999, version=version)
        assert told == f"volume super block version {version} is not supported"
        assert files_of(server, "1000999") == []

    def test_a_name_that_is_no_name_makes_nothing(self, server):
        before = sorted(server.base.rglob("*.dat"))
        with pytest.raises(grpc.RpcError):
            call(server, "AllocateVolume", volume_id=1_000_999, version=3, collection="no/such/directory")
        assert sorted(server.base.rglob("*.dat")) == before

    @pytest.mark.only(lambda implementation: implementation.has_our_rpcs)
    def test_a_collection_never_leads_out_of_the_directory(self, server):
        """Go makes the files."""
        for collection in ("../evil", "/evil"):
            told = refusal(server, "AllocateVolume", volume_id=1_000_999, version=3, collection=collection)
            assert told == f'invalid collection "{collection}"'
        assert not list(server.base.rglob("evil*"))


class TestMountAndUnmount:
    def test_closed_and_opened_again_it_has_what_it_had(self, server, volume_id):
        fid = put(server, volume_id)
        for _ in range(2):
            call(server, "VolumeUnmount", volume_id=volume_id)
        assert refusal(server, "VolumeStatus", volume_id=volume_id) == f"not found volume id {volume_id}"
        assert server.read(fid).status == 404
        assert files_of(server, volume_id) == [".dat", ".idx", ".vif"]
        for _ in range(2):
            call(server, "VolumeMount", volume_id=volume_id)
        assert server.read(fid).body == b"data"

    def test_what_is_not_there(self, server):
        call(server, "VolumeUnmount", volume_id=ABSENT)
        assert refusal(server, "VolumeMount", volume_id=ABSENT) == f"volume {ABSENT} not found on disk"

    def test_maintenance_does_not_matter(self, server, volume_id):
        with maintenance(server):
            call(server, "VolumeUnmount", volume_id=volume_id)
            call(server, "VolumeMount", volume_id=volume_id)


class TestDelete:
    def test_only_when_empty(self, server, make_volume):
        empty, full = make_volume(), make_volume()
        fid = put(server, full)
        told = refusal(server, "VolumeDelete", volume_id=full, only_empty=True)
        assert told == f"DeleteVolume {full}: volume not empty"
        assert server.read(fid).body == b"data"
        call(server, "VolumeDelete", volume_id=empty, only_empty=True)
        call(server, "VolumeDelete", volume_id=full)
        assert files_of(server, empty) == files_of(server, full) == []
        assert server.read(fid).status == 404

    def test_one_that_was_emptied_is_not_empty(self, server, volume_id):
        fid = put(server, volume_id)
        assert server.http("DELETE", f"/{fid}").status == 202
        told = refusal(server, "VolumeDelete", volume_id=volume_id, only_empty=True)
        assert told == f"DeleteVolume {volume_id}: volume not empty"

    def test_again_and_what_never_was(self, server, volume_id):
        call(server, "VolumeDelete", volume_id=volume_id)
        for absent in (volume_id, ABSENT):
            told = refusal(server, "VolumeDelete", volume_id=absent)
            assert told == f"delete volume {absent} not found on disk"

    def test_a_closed_one_is_not_found_and_stays(self, server, volume_id):
        call(server, "VolumeUnmount", volume_id=volume_id)
        assert refusal(server, "VolumeDelete", volume_id=volume_id) == f"delete volume {volume_id} not found on disk"
        assert files_of(server, volume_id) == [".dat", ".idx", ".vif"]
        call(server, "VolumeMount", volume_id=volume_id)

    def test_a_new_one_of_the_same_id_has_nothing_of_the_old(self, server, volume_id):
        fid = put(server, volume_id)
        call(server, "VolumeDelete", volume_id=volume_id)
        call(server, "AllocateVolume", volume_id=volume_id, version=3)
        assert server.read(fid).status == 404
        assert call(server, "VolumeStatus", volume_id=volume_id).file_count == 0


class TestMarking:
    def test_read_only_and_back(self, server, volume_id):
        fid = put(server, volume_id)
        for _ in range(2):
            call(server, "VolumeMarkReadonly", volume_id=volume_id)
        assert call(server, "VolumeStatus", volume_id=volume_id).is_read_only
        put(server, volume_id, status=500)
        assert server.http("DELETE", f"/{fid}").status == 500
        assert server.read(fid).body == b"data"
        for _ in range(2):
            call(server, "VolumeMarkWritable", volume_id=volume_id)
        assert not call(server, "VolumeStatus", volume_id=volume_id).is_read_only
        put(server, volume_id)

    @pytest.mark.parametrize("persist", [False, True])
    def test_it_outlives_a_reload_if_asked_to(self, server, volume_id, persist):
        call(server, "VolumeMarkReadonly", volume_id=volume_id, persist=persist)
        assert json.loads((server.data_dir / f"{volume_id}.vif").read_text())["readOnly"] is persist
        call(server, "VolumeUnmount", volume_id=volume_id)
        call(server, "VolumeMount", volume_id=volume_id)
        assert call(server, "VolumeStatus", volume_id=volume_id).is_read_only is persist
        call(server, "VolumeMarkWritable", volume_id=volume_id)
        call(server, "VolumeUnmount", volume_id=volume_id)
        call(server, "VolumeMount", volume_id=volume_id)
        assert not call(server, "VolumeStatus", volume_id=volume_id).is_read_only

    def test_deletions_may_go_on(self, server, volume_id):
        fid = put(server, volume_id)
        call(server, "VolumeMarkReadonly", volume_id=volume_id, can_delete=True)
        assert call(server, "VolumeStatus", volume_id=volume_id).is_read_only
        put(server, volume_id, status=500)
        assert server.http("DELETE", f"/{fid}").status == 202

    def test_what_is_not_there_even_in_maintenance(self, server):
        with maintenance(server):
            for name in ("VolumeMarkReadonly", "VolumeMarkWritable"):
                assert refusal(server, name, volume_id=ABSENT) == f"volume {ABSENT} not found"


def test_maintenance_refuses_what_changes_volumes(server, volume_id):
    with maintenance(server) as text:
        for name, fields in (
            ("AllocateVolume", {"volume_id": 1_000_998, "version": 3}),
            ("VolumeDelete", {}),
            ("VolumeMarkReadonly", {}),
            ("VolumeMarkWritable", {}),
            ("VolumeConfigure", {"replication": "nonsense"}),
            ("VolumeConsolidateIndex", {}),
        ):
            assert refusal(server, name, **({"volume_id": volume_id} | fields)) == text
        for name in ("VolumeStatus", "VolumeSyncStatus", "ReadVolumeFileStatus"):
            call(server, name, volume_id=volume_id)
        call(server, "DeleteCollection", collection="no-such-collection")
    assert not call(server, "VolumeStatus", volume_id=volume_id).is_read_only
    assert call(server, "VolumeSyncStatus", volume_id=volume_id).replication == "000"


def placement_at_master(server, volume_id):
    """The master's placement of the copy on `server`; None before the master knows the copy."""
    target = f"{LOOPBACK}:{server.master.grpc_port}"
    with grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        answer = methods.master(channel).VolumeList(master_pb2.VolumeListRequest(), timeout=LIMIT_S)
    found = [
        volume.replica_placement
        for center in answer.topology_info.data_center_infos
        for rack in center.rack_infos
        for node in rack.data_node_infos
        if node.id == server.url
        for disk in node.diskInfos.values()
        for volume in disk.volume_infos
        if volume.id == volume_id
    ]
    return f"{found[0]:03d}" if found else None


class TestConfigure:
    def test_the_replica_placement_is_changed_for_good(self, server, make_volume):
        volume_id = make_volume(ttl="5d")
        fid = put(server, volume_id)
        before = json.loads((server.data_dir / f"{volume_id}.vif").read_text())
        for replication in ("001", "001", "010"):
            answer = call(server, "VolumeConfigure", volume_id=volume_id, replication=replication)
            assert answer == pb.VolumeConfigureResponse()
            assert call(server, "VolumeSyncStatus", volume_id=volume_id).replication == replication
        assert json.loads((server.data_dir / f"{volume_id}.vif").read_text()) == before | {"replication": "010"}
        call(server, "VolumeUnmount", volume_id=volume_id)
        call(server, "VolumeMount", volume_id=volume_id)
        assert call(server, "VolumeSyncStatus", volume_id=volume_id).replication == "010"
        assert server.read(fid).body == b"data"
        assert not call(server, "VolumeConfigure", volume_id=volume_id, replication="000").error
        put(server, volume_id)

    def test_the_master_hears_of_it(self, server, volume_id):
        wait_until(lambda: placement_at_master(server, volume_id) == "000", "the volume to be known to the master")
        for replication in ("001", "010", "000"):
            call(server, "VolumeConfigure", volume_id=volume_id, replication=replication)
            wait_until(
                lambda wanted=replication: placement_at_master(server, volume_id) == wanted,
                f"the master to know of {replication}",
            )

    @pytest.mark.parametrize("replication", ["bad", "999", "-01"])
    def test_what_is_no_placement(self, server, volume_id, replication):
        answer = call(server, "VolumeConfigure", volume_id=volume_id, replication=replication)
        assert answer.error.startswith("volume configure replication volume_id:")
        assert answer.error.endswith(f"replication type: {replication}")
        assert call(server, "VolumeSyncStatus", volume_id=volume_id).replication == "000"

    def test_what_is_not_there(self, server):
        answer = call(server, "VolumeConfigure", volume_id=ABSENT, replication="001")
        assert answer.error.replace("  ", " ") == (
            f'volume configure volume_id:{ABSENT} replication:"001": volume {ABSENT} not found on disk. '
            f"Also failed to restore mount: volume {ABSENT} not found on disk"
        )

    def test_a_closed_volume_is_configured_and_opened(self, server, volume_id):
        call(server, "VolumeUnmount", volume_id=volume_id)
        assert not call(server, "VolumeConfigure", volume_id=volume_id, replication="001").error
        assert call(server, "VolumeSyncStatus", volume_id=volume_id).replication == "001"

    def test_when_it_cannot_be_changed_it_is_open_as_before(self, server, volume_id):
        fid = put(server, volume_id)
        vif = server.data_dir / f"{volume_id}.vif"
        vif.chmod(0o444)
        try:
            error = call(server, "VolumeConfigure", volume_id=volume_id, replication="001").error
        finally:
            vif.chmod(0o644)
        assert error.endswith(f": volume {volume_id} failed to save vif: failed to check {vif} not writable")
        assert call(server, "VolumeSyncStatus", volume_id=volume_id).replication == "000"
        assert server.read(fid).body == b"data"
        put(server, volume_id)


class TestConsolidateIndex:
    def test_without_an_index_directory_nothing_happens(self, server, volume_id):
        fid = put(server, volume_id)
        for _ in range(2):
            call(server, "VolumeConsolidateIndex", volume_id=volume_id)
        assert files_of(server, volume_id) == [".dat", ".idx", ".vif"]
        assert server.read(fid).body == b"data"

    def test_what_is_not_open_here(self, server, volume_id):
        call(server, "VolumeUnmount", volume_id=volume_id)
        for absent in (volume_id, ABSENT):
            assert refusal(server, "VolumeConsolidateIndex", volume_id=absent) == f"volume {absent} not found on disk"

    def test_an_index_beside_its_data_goes_to_the_index_directory(self, fresh_server, tmp_path):
        index = tmp_path / "index"
        index.mkdir()
        server = fresh_server(f"-dir.idx={index}")
        volume_id = server.new_volume()
        fid = put(server, volume_id)
        call(server, "VolumeUnmount", volume_id=volume_id)
        (index / f"{volume_id}.idx").rename(server.data_dir / f"{volume_id}.idx")
        call(server, "VolumeMount", volume_id=volume_id)
        put(server, volume_id)
        assert not (index / f"{volume_id}.idx").exists()
        for _ in range(2):
            call(server, "VolumeConsolidateIndex", volume_id=volume_id)
            assert (index / f"{volume_id}.idx").stat().st_size == 32
            assert files_of(server, volume_id) == [".dat", ".vif"]
        later = put(server, volume_id)
        assert (index / f"{volume_id}.idx").stat().st_size == 48
        call(server, "VolumeUnmount", volume_id=volume_id)
        call(server, "VolumeMount", volume_id=volume_id)
        assert (server.read(fid).body, server.read(later).body) == (b"data", b"data")


class TestDeleteCollection:
    def test_all_of_it_and_nothing_else(self, server, make_volume):
        kept = make_volume(collection="keep")
        gone = [make_volume(collection="gone"), make_volume(collection="gone")]
        fid = put(server, gone[0])
        for _ in range(2):
            call(server, "DeleteCollection", collection="gone")
        assert not list(server.data_dir.glob("gone_*"))
        assert server.read(fid).status == 404
        for volume_id in gone:
            assert refusal(server, "VolumeStatus", volume_id=volume_id) == f"not found volume id {volume_id}"
        call(server, "VolumeStatus", volume_id=kept)

    @pytest.mark.parametrize("name", ["never-was", "..", "../data", "a/b", "*", "%"])
    def test_names_of_nothing(self, server, volume_id, name):
        before = sorted(server.base.rglob("*.dat"))
        call(server, "DeleteCollection", collection=name)
        assert sorted(server.base.rglob("*.dat")) == before


class TestDescriptions:
    def test_they_count_what_is_there(self, server, make_volume):
        volume_id = make_volume(collection="told")
        fids = [put(server, volume_id, b"x" * 100) for _ in range(3)]
        assert server.http("DELETE", f"/{fids[0]}").status == 202
        dat, idx = (server.data_dir / f"told_{volume_id}.{name}" for name in ("dat", "idx"))
        status = call(server, "VolumeStatus", volume_id=volume_id)
        assert (status.file_count, status.file_deleted_count, status.is_read_only) == (3, 1, False)
        assert status.volume_size == dat.stat().st_size
        sync = call(server, "VolumeSyncStatus", volume_id=volume_id)
        assert (sync.volume_id, sync.collection, sync.version) == (volume_id, "told", 3)
        assert (sync.tail_offset, sync.idx_file_size) == (dat.stat().st_size, idx.stat().st_size)
        files = call(server, "ReadVolumeFileStatus", volume_id=volume_id)
        assert (files.dat_file_size, files.idx_file_size) == (dat.stat().st_size, idx.stat().st_size)
        assert (files.file_count, files.collection, files.compaction_revision, files.version) == (3, "told", 0, 3)
        assert files.volume_info.version == 3

    def test_of_an_empty_volume(self, server, volume_id):
        assert call(server, "VolumeStatus", volume_id=volume_id) == pb.VolumeStatusResponse(volume_size=8)
        files = call(server, "ReadVolumeFileStatus", volume_id=volume_id)
        assert (files.dat_file_size, files.idx_file_size, files.file_count) == (8, 0, 0)

    def test_a_needle(self, server, volume_id):
        fid = server.store(b"x" * 100, fid=server.new_fid(volume_id), query="?ttl=3d&ts=1700000000")
        needle_id, cookie = int(fid.partition(",")[2][:-8], 16), int(fid[-8:], 16)
        status = call(server, "VolumeNeedleStatus", volume_id=volume_id, needle_id=needle_id)
        assert (status.needle_id, status.cookie, status.ttl) == (needle_id, cookie, "3d")
        assert status.last_modified == 1_700_000_000
        assert status.size > 4
        assert refusal(server, "VolumeNeedleStatus", volume_id=volume_id, needle_id=2**63) == "not found"
        assert server.http("DELETE", f"/{fid}").status == 202
        assert refusal(server, "VolumeNeedleStatus", volume_id=volume_id, needle_id=needle_id) == "already deleted"

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("VolumeStatus", "not found volume id %d"),
            ("VolumeSyncStatus", "not found volume id %d"),
            ("ReadVolumeFileStatus", "not found volume id %d"),
            ("VolumeNeedleStatus", "volume not found %d"),
        ],
    )
    def test_of_what_is_not_open_here(self, server, volume_id, name, text):
        call(server, "VolumeUnmount", volume_id=volume_id)
        for absent in (volume_id, ABSENT, 2**32 - 1):
            assert refusal(server, name, volume_id=absent) == text % absent
        call(server, "VolumeMount", volume_id=volume_id)


@pytest.mark.skipif(os.geteuid() != 0, reason="the mode keeps others than root from writing")
@pytest.mark.parametrize(("extension", "is_read_only"), [("idx", False), ("vif", False), ("dat", True)])
def test_the_mode_of_the_data_file_alone_makes_a_volume_read_only(fresh_server, extension, is_read_only):
    """At the start, by the bits of the file's owner, for root too."""
    server = fresh_server()
    volume_id = server.new_volume()
    fid = server.store(b"data", fid=server.new_fid(volume_id))
    server.stop()
    (server.data_dir / f"{volume_id}.{extension}").chmod(0o444)
    server.restart()
    status = server.rpc.VolumeStatus(pb.VolumeStatusRequest(volume_id=volume_id), timeout=LIMIT_S)
    assert status.is_read_only is is_read_only
    assert server.read(fid).body == b"data"
    wanted = 500 if is_read_only else 201
    assert server.http("PUT", f"/{server.new_fid(volume_id)}", (), b"more").status == wanted
    assert server.http("DELETE", f"/{fid}").status == (500 if is_read_only else 202)
