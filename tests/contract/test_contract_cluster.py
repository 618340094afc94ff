"""A server as the master and other servers see it: registration, assignment, look-up, replication."""

import pytest
from harness.master import Master
from support.waiting import wait_until

ASSIGN = "/dir/assign?writableVolumeCount=1"


def topology_node(server):
    """The master's entry for the server."""
    topology = server.master.get("/dir/status")["Topology"]
    nodes = [
        node
        for center in topology["DataCenters"]
        for rack in center["Racks"]
        for node in rack["DataNodes"]
        if node["Url"] == server.url
    ]
    return nodes[0]


@pytest.fixture
def own_master(tmp_path, weed):
    """A master for one test. The test may end it."""
    made = Master(tmp_path / "own-master", weed)
    yield made
    made.process.end()


def test_the_master_knows_one_server_at_our_address(server):
    node = topology_node(server)
    assert node["PublicUrl"] == f"{server.public[0]}:{server.public[1]}"
    assert node["Max"] == 16
    assert server.master.registered_urls().count(server.url) == 1


def test_an_assigned_id_can_be_written_looked_up_and_read(server):
    assigned = server.master.get(f"{ASSIGN}&dataNode={server.url}")
    assert assigned["url"] == server.url, assigned
    server.store(b"through the master", fid=assigned["fid"])
    volume_id = assigned["fid"].split(",")[0]
    (location,) = server.master.get(f"/dir/lookup?volumeId={volume_id}")["locations"]
    assert location["url"] == server.url
    assert location["publicUrl"] == f"{server.public[0]}:{server.public[1]}"
    assert server.read(assigned["fid"]).body == b"through the master"


def listed_volume_ids(node):
    """The ids of ` 1-3 7`, the master's notation for a node's volumes."""
    spans = (span.partition("-") for span in node["VolumeIds"].split())
    return {number for first, _, last in spans for number in range(int(first), int(last or first) + 1)}


def test_a_new_volume_is_known_to_the_master_soon(server):
    volume_id = server.new_volume()

    def is_known():
        found = server.master.get(f"/dir/lookup?volumeId={volume_id}").get("locations") or []
        return [one["url"] for one in found] == [server.url]

    wait_until(is_known, "the master to know the new volume")
    # The test compares ids, not their number: volumes of an earlier test may leave the list at the same moment.
    node = topology_node(server)
    assert volume_id in listed_volume_ids(node)
    assert node["Volumes"] >= 1


def test_a_read_of_a_volume_that_is_elsewhere_is_proxied(server, fresh_server):
    other = fresh_server()
    fid = server.store(b"from the other side", [("Content-Type", "text/plain")])
    reply = wait_until(lambda: one if (one := other.read(fid)).status == 200 else None, "the proxied read")
    assert (reply.body, reply.get("Content-Type")) == (b"from the other side", "text/plain")
    assert len(reply.get_all("Server")) == 1


def test_replication_goes_to_both_and_a_new_master_finds_both(fresh_server, own_master):
    first, second = fresh_server(master=own_master), fresh_server(master=own_master)
    fid = own_master.get(f"{ASSIGN}&replication=001")["fid"]
    located = own_master.get(f"/dir/lookup?volumeId={fid.split(',')[0]}")["locations"]
    assert {one["url"] for one in located} == {first.url, second.url}
    for writer, reader in ((first, second), (second, first)):
        writer.store(b"on both, by " + writer.url.encode(), fid=fid)
        for server in (writer, reader):
            assert server.read(fid).body == b"on both, by " + writer.url.encode()
    own_master.process.kill()
    assert first.read(fid).status == second.read(fid).status == 200
    assert first.http("GET", "/healthz").status == 200
    own_master.start()
    wait_until(lambda: len(own_master.registered_urls()) == 2, "both servers to register again")
    wait_until(lambda: second.http("DELETE", f"/{fid}").status in {202, 404}, "the delete to reach both")
    assert [first.read(fid).status, second.read(fid).status] == [404, 404]
