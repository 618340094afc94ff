"""All operations at once on one native server: clients write, overwrite, delete and read, while their volumes are
vacuumed, unmounted and mounted, encoded into shards and decoded. At the end every needle is compared.

SOAK_SECONDS is the duration; a minute if the variable is not set.
"""

import os
import random
import threading
from collections import Counter
from contextlib import contextmanager

import pytest
from harness.http1 import Connection
from harness.implementations import ALL
from harness.server import VolumeServer

from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.check import check_directory

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
SEED = os.environ.get("SOAK_SEED", "soak")
VOLUMES = 4
CLIENTS = 4
LIMIT_S = 120.0
MAX_FILES = 150
"""The number of files of a client in a volume."""
SIZES = (1, 200, 5000, 90_000)


class Volume:
    """A volume, and what answers may be expected now.

    Its state is `writable`; `read-only`, in which reads find everything; or `away`, in which no answer is certain.
    `changes` counts the changes of the state: an answer counts only if the state did not change meanwhile.
    """

    def __init__(self, volume_id):
        self.id = volume_id
        self.state = "writable"
        self.changes = 0
        self.operations = []
        """The operations and requests, the last one last."""
        self._lock = threading.Lock()
        self._deletions = 0
        self._has_two_forms = False
        self._bell = threading.Condition(self._lock)

    def enter(self, state):
        with self._lock:
            self.state = state
            self.changes += 1

    def look(self):
        with self._lock:
            return self.state, self.changes

    @contextmanager
    def deleting(self):
        """Inside, the volume does not exist in two forms: with both, deletions go to the shards, and reads to the
        volume.
        """
        with self._bell:
            assert self._bell.wait_for(lambda: not self._has_two_forms, LIMIT_S)
            self._deletions += 1
        try:
            yield
        finally:
            with self._bell:
                self._deletions -= 1
                self._bell.notify_all()

    @contextmanager
    def changing_form(self):
        with self._bell:
            self._has_two_forms = True
            assert self._bell.wait_for(lambda: not self._deletions, LIMIT_S)
        try:
            yield
        finally:
            with self._bell:
                self._has_two_forms = False
                self._bell.notify_all()


class Client:
    """Has its own files in every volume. `files` has the content of each, None for a deleted one."""

    def __init__(self, server, volumes, seed):
        self.server, self.volumes = server, volumes
        self.files = {volume.id: {} for volume in volumes}
        self.wrong, self.done = [], Counter()
        self._history = {}
        """The requests about each file, and their answers."""
        self._rng = random.Random(seed)
        self._connection = Connection(server.admin, limit_s=LIMIT_S)

    def close(self):
        self._connection.socket.close()

    def step(self):
        volume = self._rng.choice(self.volumes)
        files = self.files[volume.id]
        living = [fid for fid, data in files.items() if data is not None]
        chance = self._rng.random()
        if len(living) < 5 or (chance < 0.15 and len(files) < MAX_FILES):
            self._write(volume, self.server.new_fid(volume.id))
        elif chance < 0.3:
            self._write(volume, self._rng.choice(list(files)))
        elif chance < 0.4:
            self._delete(volume, self._rng.choice(living))
        else:
            self._read(volume, self._rng.choice(list(files)))

    def _ask(self, volume, method, fid, body=None):
        """The answer, and the volume's state if it did not change meanwhile."""
        before = volume.look()
        volume.operations.append(f"{method} {fid}(")
        reply = self._connection.request(method, f"/{fid}", [], body)
        volume.operations.append(f"){fid} {reply.status}")
        state = before[0] if volume.look() == before else "away"
        return reply, state

    def _note(self, volume, fid, what, state, reply):
        said = reply.body[:100] if reply.status != 200 else f"{len(reply.body)} bytes {reply.body[:8].hex()}"
        of_fid = [one for one in volume.operations if fid in one or "Volume" in one]
        operations = " ".join(of_fid[-80:])
        self.wrong.append((what, fid, state, reply.status, said, self._history.get(fid, [])[-6:], operations))

    def _write(self, volume, fid):
        data = self._rng.randbytes(self._rng.choice(SIZES))
        reply, state = self._ask(volume, "PUT", fid, data)
        self.done["PUT", state, reply.status] += 1
        self._history.setdefault(fid, []).append(("PUT", state, reply.status, len(data), data[:8].hex()))
        if reply.status in {201, 204}:  # 204: it is what was there
            self.files[volume.id][fid] = data
        elif state == "writable":
            self._note(volume, fid, "PUT", state, reply)

    def _delete(self, volume, fid):
        with volume.deleting():
            reply, state = self._ask(volume, "DELETE", fid)
        self.done["DELETE", state, reply.status] += 1
        self._history.setdefault(fid, []).append(("DELETE", state, reply.status))
        if reply.status == 202:
            self.files[volume.id][fid] = None
        elif state == "writable":
            self._note(volume, fid, "DELETE", state, reply)

    def _read(self, volume, fid):
        reply, state = self._ask(volume, "GET", fid)
        self.done["GET", state, reply.status] += 1
        data = self.files[volume.id][fid]
        is_right = reply.status == 404 if data is None else (reply.status, reply.body) == (200, data)
        # A volume that is away may be not found. A found needle must be right all the same.
        if not is_right and (state != "away" or reply.status == 200):
            self._note(volume, fid, "GET", state, reply)


class Upkeep:
    """Runs the operations of operators and the master on one volume after the other."""

    def __init__(self, server, seed):
        self.server, self.done = server, Counter()
        self._rng = random.Random(seed)

    def step(self, volume):
        work = self._rng.choice([self.vacuum, self.vacuum, self.compact_and_drop, self.remount, self.mark, self.code])
        work(volume)
        self.done[work.__name__] += 1

    def call(self, volume, name, **fields):
        volume.operations.append(f"{name}(")
        request = getattr(pb, f"{name}Request")(volume_id=volume.id, **fields)
        answer = getattr(self.server.rpc, name)(request, timeout=LIMIT_S)
        answer = list(answer) if name == "VacuumVolumeCompact" else answer
        volume.operations.append(f"){name}")
        return answer

    def vacuum(self, volume):
        self.call(volume, "VacuumVolumeCompact")
        self.call(volume, "VacuumVolumeCommit")
        self.call(volume, "VacuumVolumeCleanup")

    def compact_and_drop(self, volume):
        self.call(volume, "VacuumVolumeCompact")
        self.call(volume, "VacuumVolumeCleanup")

    def remount(self, volume):
        volume.enter("away")
        self.call(volume, "VolumeUnmount")
        self.call(volume, "VolumeMount")
        volume.enter("writable")

    def mark(self, volume):
        volume.enter("read-only")
        self.call(volume, "VolumeMarkReadonly")
        self.call(volume, "VolumeMarkWritable")
        volume.enter("writable")

    def code(self, volume):
        volume.enter("read-only")
        self.call(volume, "VolumeMarkReadonly")
        self.call(volume, "VolumeEcShardsGenerate")
        with volume.changing_form():
            self.call(volume, "VolumeEcShardsMount", shard_ids=range(14))
            self.call(volume, "VolumeDelete")
        lost = self._rng.sample(range(14), self._rng.randrange(5))
        if lost:
            self.call(volume, "VolumeEcShardsUnmount", shard_ids=lost)
            self.call(volume, "VolumeEcShardsDelete", shard_ids=lost)
            rebuilt = self.call(volume, "VolumeEcShardsRebuild").rebuilt_shard_ids
            assert sorted(rebuilt) == sorted(lost)
            self.call(volume, "VolumeEcShardsMount", shard_ids=lost)
        self.decode(volume)

    def decode(self, volume):
        with volume.changing_form():
            self.call(volume, "VolumeEcShardsToVolume")
            self.call(volume, "VolumeMount")
            self.call(volume, "VolumeEcShardsUnmount", shard_ids=range(14))
        self.call(volume, "VolumeEcShardsDelete", shard_ids=range(14))
        volume.enter("writable")


def run_for(seconds, *steps):
    """Runs each of `steps` repeatedly in its own thread. Raises the error of one of them."""
    over, failures = threading.Event(), []

    def run(step):
        try:
            while not over.is_set():
                step()
        except BaseException as error:  # noqa: BLE001  raised below, in the test's thread
            failures.append(error)
            over.set()

    threads = [threading.Thread(target=run, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    over.wait(seconds)
    over.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def assert_all_is_right(server, clients):
    for client in clients:
        for files in client.files.values():
            for fid, data in files.items():
                reply = server.read(fid)
                assert (reply.status == 404) if data is None else (reply.body == data), (fid, reply.status)


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS + 240)
def test_nothing_is_lost_in_a_soak(tmp_path, master, weed):
    """Slow: SOAK_SECONDS of work for all processors."""
    (native,) = [one for one in ALL if one.name == "native"]
    server = VolumeServer(native, tmp_path, master, weed)
    clients = []
    try:
        volumes = [Volume(server.new_volume()) for _ in range(VOLUMES)]
        clients = [Client(server, volumes, f"{SEED}-{number}") for number in range(CLIENTS)]
        for client in clients:
            for _ in range(60):
                client.step()
        upkeeps = [Upkeep(server, f"{SEED}-upkeep-{volume.id}") for volume in volumes]
        work = [
            lambda upkeep=upkeep, volume=volume: upkeep.step(volume)
            for upkeep, volume in zip(upkeeps, volumes, strict=True)
        ]
        run_for(SECONDS, *work, *(client.step for client in clients))
        print(sum((one.done for one in upkeeps), Counter()), sum((one.done for one in clients), Counter()))
        for client in clients:
            print(*client.wrong[:3], sep="\n")
        assert not any(client.wrong for client in clients), "some answers were wrong; see the output"
        assert {volume.state for volume in volumes} == {"writable"}
        assert_all_is_right(server, clients)
        assert server.stop() == 0
        server.restart()
        assert_all_is_right(server, clients)
        assert server.stop() == 0
        assert "Traceback" not in (server.base / "server.log").read_text()
        report = check_directory(server.data_dir)
        assert report.is_healthy, report
    finally:
        for client in clients:
            client.close()
        server.end()
