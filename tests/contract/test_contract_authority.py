"""Both engines on the same volumes: native HTTP, forwarded RPCs. Each volume changes hands when the other engine is
used.
"""

import fcntl
import itertools
import shutil
import signal
import threading
from contextlib import contextmanager

import grpc
import pytest
from harness.http1 import Connection
from harness.implementations import Implementation, find_weed
from harness.server import VolumeServer
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.disk.directory_lock import LOCK_FILE_NAME
from native_handlers.storage.disk.session_mark import SESSION_FILE_NAME

TABLE = """
phase: 2
routes:
  "grpc.*": forward
"""


@pytest.fixture(scope="module", params=["native", "go"])
def shared(request, master, weed, tmp_path_factory):
    """A server with native HTTP, whose RPCs go to a child."""
    if request.param == "go" and weed is None:
        pytest.skip(find_weed()[1])
    base = tmp_path_factory.mktemp(f"shared-{request.param}")
    table = base / "routes.yaml"
    table.write_text(TABLE)
    server = VolumeServer(
        Implementation(f"shared-{request.param}", mode="mixed", backend=request.param),
        base / "server",
        master,
        weed,
        [f"-routes={table}"],
    )
    server.table = table
    assert server.volume_id, "the volume that the tests share is made while the child lives"
    yield server
    assert server.stop() == 0
    assert "Traceback" not in (server.base / "server.log").read_text()
    assert not (server.data_dir / SESSION_FILE_NAME).exists(), "both have ended in good order"


def status_of(server, fid):
    """The child's answer about a needle, once it has the volume."""
    volume_id, _, rest = fid.partition(",")
    request = pb.VolumeNeedleStatusRequest(volume_id=int(volume_id), needle_id=int(rest[:-8], 16))
    return server.rpc.VolumeNeedleStatus(request, timeout=LIMIT_S)


def wait_for_child(server):
    """Returns when volumes can change hands again, in both directions."""
    fid = server.new_fid()
    wait_until(lambda: server.http("PUT", f"/{fid}", [], b"x").status == 201, "native writes to work again")
    wait_until(lambda: code_of_call(server, fid) is None, "forwarded calls to work again")


def code_of_call(server, fid):
    """The code with which a forwarded call about `fid` fails; None for a call that succeeds."""
    try:
        status_of(server, fid)
    except grpc.RpcError as error:
        return error.code()
    return None


def is_locked(directory):
    with (directory / LOCK_FILE_NAME).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_file_goes_through_both_engines(shared):
    fid = shared.new_fid(shared.new_volume())
    shared.store(b"first", fid=fid)
    assert status_of(shared, fid).size > 0
    assert shared.read(fid).body == b"first"
    shared.store(b"second", fid=fid)
    assert status_of(shared, fid).size > 0
    assert shared.read(fid).body == b"second"
    results = shared.rpc.BatchDelete(pb.BatchDeleteRequest(file_ids=[fid]), timeout=LIMIT_S).results
    assert [result.status for result in results] == [202]
    assert shared.read(fid).status == 404
    again = shared.new_fid(int(fid.partition(",")[0]))
    shared.store(b"third", fid=again)
    assert shared.http("DELETE", f"/{again}").status == 202
    with pytest.raises(grpc.RpcError):
        status_of(shared, again)


def test_a_volume_that_was_deleted_by_rpc_is_gone_for_both(shared):
    fid = shared.new_fid(shared.new_volume())
    shared.store(b"x", fid=fid)
    shared.rpc.VolumeDelete(pb.VolumeDeleteRequest(volume_id=int(fid.partition(",")[0])), timeout=LIMIT_S)
    assert shared.read(fid).status == 404
    assert shared.http("PUT", f"/{fid}", [], b"x").status != 201


def test_a_collection_that_was_deleted_by_rpc_is_gone_for_both(shared):
    volumes = [shared.new_volume(collection="doomed") for _ in range(2)]
    fid = shared.store(b"x", fid=shared.new_fid(volumes[0]))
    shared.rpc.DeleteCollection(pb.DeleteCollectionRequest(collection="doomed"), timeout=LIMIT_S)
    assert shared.read(fid).status == 404
    assert not list(shared.data_dir.glob("doomed_*.dat"))


def test_a_volume_that_was_unmounted_by_rpc_stays_so(shared):
    fid = shared.store(b"x", fid=shared.new_fid(shared.new_volume()))
    volume_id = int(fid.partition(",")[0])
    shared.rpc.VolumeUnmount(pb.VolumeUnmountRequest(volume_id=volume_id), timeout=LIMIT_S)
    assert shared.read(fid).status == 404
    shared.rpc.VolumeMount(pb.VolumeMountRequest(volume_id=volume_id), timeout=LIMIT_S)
    assert shared.read(fid).body == b"x"


def test_the_status_has_the_volumes_of_both(shared):
    here, there = shared.new_volume(), shared.new_volume()
    shared.store(b"x", fid=shared.new_fid(here))
    listed = [volume["Id"] for volume in shared.http("GET", "/status").json()["Volumes"]]
    assert {here, there} <= set(listed)
    assert len(listed) == len(set(listed))


def test_the_master_hears_of_no_hand_over(shared):
    fid = shared.new_fid(shared.new_volume())
    volume_id = int(fid.partition(",")[0])
    wait_until(lambda: shared.is_known(volume_id), "the master to know the volume")
    done, gaps = threading.Event(), []

    def watch():
        while not done.wait(0.005):
            gaps.append(not shared.is_known(volume_id))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for number in range(10):
            shared.store(b"%d" % number, fid=fid)
            assert status_of(shared, fid).size > 0
        wait_until(lambda: len(gaps) > 20, "the master to be asked often enough")
    finally:
        done.set()
        watcher.join()
    assert not any(gaps)


def test_nothing_is_lost_between_writers_of_both_engines(shared):
    volume_id = shared.new_volume()
    kept, failures = [], []

    def write():
        for _ in range(25):
            fid = shared.new_fid(volume_id)
            reply = shared.http("PUT", f"/{fid}", [], fid.encode())
            (kept if reply.status == 201 else failures).append(fid)

    def delete_and_look():
        for _ in range(15):
            fid = shared.new_fid(volume_id)
            shared.store(b"short-lived", fid=fid)
            results = shared.rpc.BatchDelete(pb.BatchDeleteRequest(file_ids=[fid]), timeout=LIMIT_S).results
            if results[0].status != 202 or shared.read(fid).status != 404:
                failures.append(fid)

    threads = [threading.Thread(target=target) for target in (write, write, delete_and_look)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(shared.read(fid).body == fid.encode() for fid in kept)
    assert len(kept) == 50


def test_a_child_that_is_killed_among_hand_overs_costs_no_acknowledged_write(shared):
    fids = [shared.new_fid(shared.new_volume()) for _ in range(3)]
    kept, codes = {}, set()
    stop = threading.Event()

    def write():
        for number in itertools.count():
            if stop.is_set():
                return
            volume = fids[number % 3].partition(",")[0]
            fid = shared.new_fid(int(volume))
            if shared.http("PUT", f"/{fid}", [], fid.encode()).status == 201:
                kept[fid] = fid.encode()

    def look():
        while not stop.is_set():
            for fid in list(kept)[-3:]:
                codes.add(code_of_call(shared, fid))

    threads = [threading.Thread(target=write), threading.Thread(target=look)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(kept) > 10, "some writes")
    shared.kill_child()
    wait_for_child(shared)
    before = len(kept)
    wait_until(lambda: len(kept) > before + 10, "writes to go on")
    stop.set()
    for thread in threads:
        thread.join()
    assert codes <= {None, grpc.StatusCode.UNAVAILABLE}
    for fid, data in kept.items():
        assert shared.read(fid).body == data
        assert status_of(shared, fid).size > 0


def test_native_volumes_are_read_while_the_child_is_away(shared):
    fid = shared.store(b"still here", fid=shared.new_fid(shared.new_volume()))
    assert shared.read(fid).body == b"still here"
    shared.kill_child()
    assert shared.read(fid).body == b"still here"
    wait_for_child(shared)
    assert shared.http("PUT", f"/{fid}", [], b"changed").status == 201
    assert shared.read(fid).body == b"changed"


def test_an_unknown_volume_is_unknown_to_both(shared):
    assert shared.read("4000000000,01637037d6").status == 404
    with pytest.raises(grpc.RpcError) as caught:
        status_of(shared, "4000000000,01637037d6")
    assert caught.value.code() is grpc.StatusCode.UNKNOWN


def test_the_directory_is_locked_whoever_of_the_two_lives(shared):
    assert is_locked(shared.data_dir)
    shared.kill_child()
    assert is_locked(shared.data_dir)
    wait_for_child(shared)
    assert is_locked(shared.data_dir)


def test_a_hang_up_opens_new_volumes_and_leaves_native_ones_alone(shared):
    fid = shared.store(b"native", fid=shared.new_fid(shared.new_volume()))
    source, _, rest = fid.partition(",")
    assert status_of(shared, fid).size > 0
    copied = int(source) - 100_000
    for extension in (".dat", ".idx", ".vif"):
        shutil.copy(shared.data_dir / f"{source}{extension}", shared.data_dir / f"{copied}{extension}")
    assert shared.read(fid).body == b"native"
    shared.process.send_signal(signal.SIGHUP)
    wait_until(lambda: f"new volumes: {copied}" in shared.process.log_tail(), "the copy to be found")
    assert shared.read(f"{copied},{rest}").body == b"native"
    assert code_of_call(shared, f"{copied},{rest}") is None
    wait_until(lambda: shared.is_known(copied), "the master to know the copy")
    assert shared.read(fid).body == b"native"
    shared.store(b"changed", fid=fid)
    assert shared.read(fid).body == b"changed"


@contextmanager
def flipped(shared, state, *routes):
    """Inside, `routes` are in `state`; afterwards they are in the other state."""
    change = f"{routes[0]} {{}} -> {{}}"
    other = "native" if state == "forward" else "forward"
    put_in_force(shared, TABLE + "".join(f"  {route}: {state}\n" for route in routes), change.format(other, state))
    try:
        yield
    finally:
        put_in_force(shared, TABLE, change.format(state, other))


def forwarded_reads(shared):
    """Inside, reads are forwarded too."""
    return flipped(shared, "forward", "http.read", "http.public.read")


def put_in_force(shared, table, change):
    """Returns when the log reports `change` once more."""
    before = shared.process.log_path.read_text().count(change)
    shared.table.write_text(table)
    wait_until(lambda: shared.process.log_path.read_text().count(change) > before, f"the table to be read: {change}")


def test_routes_are_flipped_while_it_serves(shared):
    fid = shared.store(b"before", fid=shared.new_fid(shared.new_volume()))
    with forwarded_reads(shared):
        assert shared.read(fid).body == b"before"
        shared.store(b"after", fid=fid)
        assert shared.read(fid).body == b"after"
    assert shared.read(fid).body == b"after"


def test_a_client_that_reads_slowly_keeps_nobody_from_writing(shared):
    large = bytes(48 << 20)
    fid = shared.store(large, fid=shared.new_fid(shared.new_volume()))
    other = shared.new_fid(int(fid.partition(",")[0]))
    with forwarded_reads(shared), Connection(shared.admin) as connection:
        connection.send(f"GET /{fid} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        connection.read_head()
        shared.store(b"meanwhile", fid=other)
        assert shared.read(other).body == b"meanwhile"
        assert connection.read_exactly(len(large)) == large
    assert shared.read(other).body == b"meanwhile"


def test_an_endless_native_stream_keeps_no_forwarded_call_waiting(shared):
    """The stream sends everything that the other engine writes meanwhile."""
    fids = [shared.new_fid(shared.new_volume())]
    volume_id = int(fids[0].partition(",")[0])
    fids += [shared.new_fid(volume_id) for _ in range(2)]
    with flipped(shared, "native", "grpc.VolumeTailSender"):
        request = pb.VolumeTailSenderRequest(volume_id=volume_id, since_ns=0, idle_timeout_seconds=0)
        stream = shared.rpc.VolumeTailSender(request, timeout=60.0)
        records = (message.needle_header for message in stream if message.needle_header)
        shared.store(b"before", fid=fids[0])
        assert needle_id_and_size(next(records)) == (needle_id_of(fids[0]), True)
        for number in range(10):
            assert status_of(shared, fids[0]).size > 0, number
        results = shared.rpc.BatchDelete(pb.BatchDeleteRequest(file_ids=fids[:1]), timeout=LIMIT_S).results
        assert [result.status for result in results] == [202]
        shared.store(b"after", fid=fids[1])
        assert status_of(shared, fids[1]).size > 0
        assert needle_id_and_size(next(records)) == (needle_id_of(fids[0]), False)
        assert needle_id_and_size(next(records)) == (needle_id_of(fids[1]), True)
        stream.cancel()
    shared.store(b"at last", fid=fids[2])
    assert shared.read(fids[2]).body == b"at last"


def needle_id_of(fid):
    return int(fid.partition(",")[2][:-8], 16)


def needle_id_and_size(header):
    """The needle id in a record's header, and whether the record has a size. A deletion has none."""
    return int.from_bytes(header[4:12]), bool(int.from_bytes(header[12:16]))
