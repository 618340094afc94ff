"""A server with some hundred volumes: all views report all of them alike, and reads are answered meanwhile."""

import signal
import threading

from harness.server import RPC_LIMIT_S, new_volume_id
from support.waiting import wait_until

from native_handlers.pb import volume_server_pb2 as pb

COUNT = 150
PAGES = ("/status", "/status?pretty=y", "/ui/index.html")


def listed(server):
    return [row["Id"] for row in server.http("GET", "/status").json()["Volumes"]]


def put_copies(server, volume_id, ids):
    """Volumes with the content of `volume_id`. Every second one is in a collection."""
    for number, new_id in enumerate(ids):
        name = f"{'pictures_' if number % 2 else ''}{new_id}"
        for extension in (".dat", ".idx", ".vif"):
            content = (server.data_dir / f"{volume_id}{extension}").read_bytes()
            (server.data_dir / f"{name}{extension}").write_bytes(content)


def test_many_volumes_are_told_of_everywhere_alike_and_read_meanwhile(fresh_server):
    server = fresh_server(f"-max={COUNT + 50}")
    volume_id = server.new_volume()
    fid = server.store(b"in each of them", fid=server.new_fid(volume_id))
    copies = [new_volume_id() for _ in range(COUNT)]
    put_copies(server, volume_id, copies)
    everything = sorted([volume_id, *copies])
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: listed(server) == everything, "all volumes to be listed, by id")
    wait_until(lambda: server.master.volume_count(server.url) == len(everything), "the master to know all")

    answers = {page: [] for page in PAGES}
    asking = [
        threading.Thread(target=lambda page=page: answers[page].extend(server.http("GET", page) for _ in range(5)))
        for page in PAGES
    ]
    for one in asking:
        one.start()
    for each in everything:
        read = server.read(fid.replace(f"{volume_id},", f"{each},"))
        assert (read.status, read.body) == (200, b"in each of them")
    for one in asking:
        one.join()
    for page in PAGES:
        assert [answer.status for answer in answers[page]] == [200] * 5
        assert all(str(each).encode() in answers[page][-1].body for each in everything)
    plain, indented = answers["/status"][-1].json()["Volumes"], answers["/status?pretty=y"][-1].json()["Volumes"]
    assert plain == indented
    assert [row["Id"] for row in plain] == everything

    server.rpc.VolumeUnmount(pb.VolumeUnmountRequest(volume_id=copies[0]), timeout=RPC_LIMIT_S)
    wait_until(lambda: copies[0] not in listed(server), "the volume to be gone")
    wait_until(lambda: server.master.volume_count(server.url) == len(everything) - 1, "the master to hear of it")
    server.rpc.VolumeMount(pb.VolumeMountRequest(volume_id=copies[0]), timeout=RPC_LIMIT_S)
    wait_until(lambda: listed(server) == everything, "the volume to be back")
    wait_until(lambda: server.master.volume_count(server.url) == len(everything), "the master to hear of it")

    server.rpc.DeleteCollection(pb.DeleteCollectionRequest(collection="pictures"), timeout=60)
    left = sorted([volume_id, *copies[::2]])
    wait_until(lambda: listed(server) == left, "the collection to be gone")
    wait_until(lambda: server.master.volume_count(server.url) == len(left), "the master to know what is left")
    assert not list(server.data_dir.glob("pictures_*.dat"))
