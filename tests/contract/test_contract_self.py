"""A server that gets its own address as a source, and files with names that no protocol sends. Go's server loses the
volume that it copies from itself, and tails itself without end.
"""

import grpc
import pytest
from harness.calls import code_and_text
from harness.fixtures import ServerFactory
from support.ports import LOOPBACK
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb import volume_server_pb2 as pb

pytestmark = [
    pytest.mark.native_rpcs,
    pytest.mark.only(lambda implementation: implementation.is_front),
]


def spellings(server):
    """Addresses that all lead to `server`."""
    http, rpc = server.layout.http_port, server.layout.grpc_port
    return {
        "as-it-calls-itself": f"{server.url}.{rpc}",
        "localhost": f"localhost:{http}.{rpc}",
        "another-loopback-address": f"127.0.0.2:{http}.{rpc}",
        "mapped": f"[::ffff:127.0.0.1]:{http}.{rpc}",
        "another-http-port": f"{LOOPBACK}:{http + 1}.{rpc}",
        "grpc-port-alone": f"{LOOPBACK}:{rpc - 10000}",
    }


SPELLINGS = (
    "as-it-calls-itself",
    "localhost",
    "another-loopback-address",
    "mapped",
    "another-http-port",
    "grpc-port-alone",
)


@pytest.fixture(scope="module")
def everywhere(implementation, master, weed, tmp_path_factory):
    """A server that listens on every address, and its stored needles."""
    factory = ServerFactory(implementation, tmp_path_factory.mktemp("everywhere"), master, weed)
    yield factory("-ip.bind=0.0.0.0")
    for made in factory.made:
        made.end()


class TestItself:
    @pytest.fixture(params=SPELLINGS)
    def address(self, request, everywhere):
        return spellings(everywhere)[request.param]

    @pytest.fixture
    def needles(self, everywhere):
        """The needles of the volume before and after: one that stays, one that is deleted."""
        fid, gone = everywhere.store(b"stays"), everywhere.new_fid()
        everywhere.store(b"goes", fid=gone)
        assert everywhere.http("DELETE", f"/{gone}").status == 202
        dat = everywhere.data_dir / f"{everywhere.volume_id}.dat"
        before = dat.stat().st_size
        yield
        assert everywhere.read(fid).body == b"stays"
        assert everywhere.read(gone).status == 404
        assert dat.stat().st_size == before

    @pytest.mark.usefixtures("needles")
    def test_it_does_not_copy_a_volume_from_itself(self, everywhere, address):
        request = pb.VolumeCopyRequest(volume_id=everywhere.volume_id, source_data_node=address)
        code, text = code_and_text(lambda: list(everywhere.rpc.VolumeCopy(request, timeout=LIMIT_S)))
        assert (code, text) == (
            grpc.StatusCode.UNKNOWN,
            f"volume server {everywhere.url} cannot copy a volume from itself",
        )

    @pytest.mark.usefixtures("needles")
    def test_it_does_not_tail_itself(self, everywhere, address):
        request = pb.VolumeTailReceiverRequest(
            volume_id=everywhere.volume_id, source_volume_server=address, idle_timeout_seconds=1
        )
        code, text = code_and_text(lambda: everywhere.rpc.VolumeTailReceiver(request, timeout=LIMIT_S))
        assert (code, text) == (
            grpc.StatusCode.UNKNOWN,
            f"volume server {everywhere.url} cannot tail a volume from itself",
        )

    def test_it_does_not_copy_shards_from_itself(self, everywhere, address):
        """Go would truncate the file that it reads."""
        for extension in (".ec00", ".ecx"):
            (everywhere.data_dir / f"88{extension}").write_bytes(b"shard")
        request = pb.VolumeEcShardsCopyRequest(
            volume_id=88, shard_ids=[0], copy_ecx_file=True, source_data_node=address
        )
        code, text = code_and_text(lambda: everywhere.rpc.VolumeEcShardsCopy(request, timeout=LIMIT_S))
        assert (code, text) == (
            grpc.StatusCode.UNKNOWN,
            f"volume server {everywhere.url} cannot copy shards from itself",
        )
        assert {(everywhere.data_dir / f"88{extension}").read_bytes() for extension in (".ec00", ".ecx")} == {b"shard"}


@pytest.mark.usefixtures("needles")
class TestAddressesThatOnlyGoReads:
    """Go's server accepts these addresses, and comes back to this server; for some the process ends."""

    needles = TestItself.needles

    @pytest.fixture(params=["", ":1.{}", "localhost:.{}", "localhost:x.{}", "localhost:99999.{}", "localhost:+{}"])
    def address(self, request, everywhere):
        return request.param.format(everywhere.layout.grpc_port)

    def test_of_a_copy(self, everywhere, address):
        request = pb.VolumeCopyRequest(volume_id=everywhere.volume_id, source_data_node=address)
        _, text = code_and_text(lambda: list(everywhere.rpc.VolumeCopy(request, timeout=LIMIT_S)))
        assert "is not a server address" in text

    def test_of_a_tail(self, everywhere, address):
        request = pb.VolumeTailReceiverRequest(
            volume_id=everywhere.volume_id, source_volume_server=address, idle_timeout_seconds=1
        )
        _, text = code_and_text(lambda: everywhere.rpc.VolumeTailReceiver(request, timeout=LIMIT_S))
        assert "is not a server address" in text


class TestNames:
    """The next start would take such files for another volume's, or for a decision."""

    def send(self, server, **fields):
        messages = [
            pb.ReceiveFileRequest(info=pb.ReceiveFileInfo(**fields)),
            pb.ReceiveFileRequest(file_content=b"foreign"),
        ]
        return server.rpc.ReceiveFile(iter(messages), timeout=LIMIT_S).error

    @pytest.mark.parametrize("extension", [".dat", ".idx", ".note", ".cpd", ".cpc", ".arrived", ".ec99"])
    def test_of_an_erasure_coded_volume(self, server, extension):
        volume_id = server.volume_id
        before = sorted(server.data_dir.iterdir())
        error = self.send(server, volume_id=volume_id, collection="0", ext=extension, is_ec_volume=True)
        assert error.startswith(f'invalid file extension "{extension}": an erasure-coded volume has ')
        assert sorted(server.data_dir.iterdir()) == before

    @pytest.mark.parametrize(("extension", "is_coded"), [(".tmprecv", False), (".ec00", True)])
    def test_of_a_second_file_in_the_same_call(self, server, extension, is_coded):
        """Go continues with that file, whatever its name is."""
        volume_id = server.volume_id
        dat = (server.data_dir / f"{volume_id}.dat").read_bytes()
        infos = [
            pb.ReceiveFileInfo(volume_id=volume_id, ext=extension, is_ec_volume=is_coded),
            pb.ReceiveFileInfo(volume_id=volume_id, ext=".dat", is_ec_volume=is_coded),
        ]
        messages = [
            *(pb.ReceiveFileRequest(info=info) for info in infos),
            pb.ReceiveFileRequest(file_content=b"foreign"),
        ]
        try:
            answer = server.rpc.ReceiveFile(iter(messages), timeout=LIMIT_S).error
        except grpc.RpcError as error:
            answer = error.details()
        assert answer == "file info was sent already"
        assert (server.data_dir / f"{volume_id}.dat").read_bytes() == dat

    @pytest.mark.parametrize("says", ['"bytesOffset":5', '"readOnly":true', '"replication":"002"'])
    def test_of_a_vif_that_changes_the_volume_beside_which_it_is_to_lie(self, server, says):
        volume_id = server.volume_id
        server.store(b"of a volume that holds something", fid=server.new_fid(volume_id))
        before = (server.data_dir / f"{volume_id}.vif").read_bytes()
        text = f'{{"version":3,"ecShardConfig":{{"dataShards":10,"parityShards":4}},{says}}}'.encode()
        messages = [
            pb.ReceiveFileRequest(info=pb.ReceiveFileInfo(volume_id=volume_id, ext=".vif", is_ec_volume=True)),
            pb.ReceiveFileRequest(file_content=text),
        ]

        def answer():
            return server.rpc.ReceiveFile(iter(messages), timeout=LIMIT_S).error

        # A front-end knows from the next heartbeat of its child that the volume is not empty any more.
        wait_until(lambda: answer().startswith("the .vif says "), "the refusal")
        assert (server.data_dir / f"{volume_id}.vif").read_bytes() == before

    @pytest.mark.parametrize("extension", [".note", ".cpd", ".cpc", ".cut", ".arrived"])
    def test_beside_a_volume(self, server, extension):
        volume_id = server.volume_id
        before = sorted(server.data_dir.iterdir())
        error = self.send(server, volume_id=volume_id, ext=extension)
        assert error.startswith(f'invalid file extension "{extension}": a volume is sent as ')
        assert sorted(server.data_dir.iterdir()) == before

    def test_of_another_collection_than_the_volume_that_is_here(self, server):
        volume_id = server.volume_id
        before = sorted(server.data_dir.iterdir())
        error = self.send(server, volume_id=volume_id, collection="0", ext=".vif", is_ec_volume=True)
        here = f"volume {volume_id} of collection '' is mounted here"
        assert error == f"{here}; there cannot be one of collection '0' too"
        assert sorted(server.data_dir.iterdir()) == before
