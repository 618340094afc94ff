"""`python -m tests.bench --only walk`: how far one request travels through the source.

Counts the functions of this project that one warm request enters, their files, and the moves from one file to another.
Each kind of request runs in a process of its own, in a server that is whole: the embedded master, the listeners, the
store. Functions of the client, of the embedded master and of libraries are not counted.

`heartbeat` is no request. It is what a heartbeat does for one volume that has changed, without a server: the look at
the store, the model of the node, and the message.
"""

import argparse
import dis
import itertools
import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import grpc
import trio

from native_handlers.format.needle import Needle
from native_handlers.pb import volume_server_pb2
from native_handlers.storage.directory.location import LocationConfig
from native_handlers.storage.store import StoreConfig, open_store
from supervisor.app import serve_until_stopped
from supervisor.assembly.collector import without_collection
from supervisor.assembly.lifecycle import StopRequest
from supervisor.assembly.node import make_node
from supervisor.cli.load_small import load_quickstart
from supervisor.cluster.heartbeat_encoder import HeartbeatEncoder
from supervisor.cluster.identity import NodeIdentity
from supervisor.cluster.node_model import NodeModel
from supervisor.cluster.store_source import StoreLook
from supervisor.embedded_master import serve_embedded_master
from supervisor.net.http_send import http_date
from supervisor.quickstart import master_config
from tests.support.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (f"{ROOT}/native_handlers/", f"{ROOT}/supervisor/")
MASTER = f"{ROOT}/supervisor/embedded_master/"
BOUNDS = {
    "get": {"files": 20, "moves": 30},
    "get ordinary": {"files": 35, "moves": 100},
    "put": {"files": 40, "moves": 120},
    "put ordinary": {"files": 43, "moves": 120},
    "forwarded": {"files": 25, "moves": 80},
    "forwarded ordinary": {"files": 26, "moves": 80},
    "VolumeStatus": {"files": 25, "moves": 55},
    "heartbeat": {"files": 27, "moves": 80},
}
"""The most that a request of each kind may enter: docs/architecture.md. The fast paths decline the ordinary ones."""
_DECLINED_FIELD = "X-Note: a \r\n"
"""The fast paths leave a value with a blank behind it to the parser."""
KINDS = tuple(BOUNDS)
WARM_UPS = 3
WALKS, MOST_WALKS = 5, 30
"""Tasks of the server that run meanwhile are counted too. So the walk with the fewest functions is the request's."""
PAUSE_S = 0.2
"""The pause before each walk. What the requests before have left to do is done in it, and is not counted."""
LIMIT_S = 120


@dataclass
class Walk:
    """What was entered while `is_on`. Resumed coroutines count once, at their first step."""

    is_on: bool = False
    steps: list = field(default_factory=list)

    def profile(self, frame, event, _argument):
        code = frame.f_code
        if not self.is_on or event != "call" or not code.co_filename.startswith(PACKAGES):
            return
        if code.co_filename.startswith(MASTER):
            return
        if frame.f_lasti <= _start_of(code):
            self.steps.append((code.co_filename.removeprefix(f"{ROOT}/"), code.co_qualname))

    def figures(self):
        files = [file for file, _ in self.steps]
        moves = sum(here != there for here, there in itertools.pairwise(files))
        return {"functions": len(set(self.steps)), "files": len(set(files)), "moves": moves}


@cache
def _start_of(code):
    """Where the body of a function begins: behind what makes the cells of closures, and the coroutine, of some."""
    return next(one.offset for one in dis.get_instructions(code) if one.opname == "RESUME")


def print_walks(*, shows_steps=False):
    """One line for each kind of request."""
    print(f"{'request':<20}{'functions':>10}{'files':>7}{'moves':>7}")
    for kind in KINDS:
        got, steps = measure_walk(kind, shows_steps=shows_steps)
        print(f"{kind:<20}{got['functions']:>10}{got['files']:>7}{got['moves']:>7}")
        for step in steps:
            print(f"    {step}")


def measure_walk(kind, *, shows_steps=False):
    """The figures of one kind of request, and its steps where they are wanted."""
    command = [sys.executable, "-m", "tests.bench.walk", kind, *(["--steps"] if shows_steps else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise SystemExit(f"the walk of {kind} failed:\n{done.stdout}{done.stderr}")
    *steps, figures = done.stdout.splitlines()
    return json.loads(figures), steps


def run_walk(kind, walk):
    threading.setprofile(walk.profile)
    sys.setprofile(walk.profile)
    with tempfile.TemporaryDirectory() as directory:
        if kind == "heartbeat":
            walk_heartbeats(walk, Path(directory))
        else:
            trio.run(partial(serve_and_walk, kind, walk, Path(directory)))


def walk_heartbeats(walk, base):
    store = open_store(StoreConfig((LocationConfig(base, base, 8),)))
    store.allocate_volume(1)
    model = NodeModel(["native"])
    look = StoreLook(store, model.source("native"), lambda _: True, removes_expired=True)
    encoder = HeartbeatEncoder(NodeIdentity("127.0.0.1", 8080, 18080, "127.0.0.1:8080"))
    walks = []
    for number in range(1, WARM_UPS + WALKS + 1):
        store.get_volume(1).write(Needle(needle_id=number, cookie=1, data=b"a change"))
        walk.steps, walk.is_on = [], True
        look()
        snapshot = model.snapshot()
        beats = [*encoder.delta_beats(snapshot), encoder.volume_beat(snapshot)]
        walk.is_on = False
        assert beats[-1].volumes[0].file_count == number
        walks.append(walk.steps)
    walk.steps = min(walks[WARM_UPS:], key=len)
    store.close()


async def serve_and_walk(kind, walk, base):
    ports = free_ports(4)
    flags = [f"-dir={base / 'data'}", f"-port={ports[0]}", f"-port.grpc={ports[1]}", "-preStopSeconds=0"]
    flags += ["-mode=proxy", "-backend=native"] if kind.startswith("forwarded") else []
    (base / "data").mkdir()
    master = [f"-master.port={ports[2]}", f"-master.port.grpc={ports[3]}"]
    quickstart = load_quickstart([*flags, *master], {}, base)
    stop = StopRequest()
    node = await trio.to_thread.run_sync(make_node, quickstart.config, stop)
    serving = trio.Event()
    async with trio.open_nursery() as outer:
        await outer.start(serve_embedded_master, master_config(quickstart.master, base / "master", None, 64))
        outer.start_soon(partial(serve_until_stopped, node, on_serving=serving.set))
        await serving.wait()
        with trio.fail_after(LIMIT_S):
            await (walk_calls(walk, ports) if kind == "VolumeStatus" else walk_one(kind, walk, ports))
        stop.ask("walked")
        outer.cancel_scope.cancel()


async def walk_one(kind, walk, ports):
    fid = await assign(ports[2])
    await exchange(ports[0], write_request(fid))
    stream = await trio.open_tcp_stream("127.0.0.1", ports[0])
    async with stream:
        for count in range(WARM_UPS):
            await send(stream, request_of(kind, fid, count))
        walks, counts = [], itertools.count(WARM_UPS)
        while not is_repeated(walks):
            steps = await walk_once(walk, stream, request_of(kind, fid, next(counts)))
            if steps is not None:
                walks.append(steps)
    walk.steps = min(walks, key=len)


def is_repeated(walks):
    """Whether the shortest walk has come twice: no other task of the server was counted with it."""
    lengths = sorted(map(len, walks))
    return len(lengths) >= MOST_WALKS or (len(lengths) >= WALKS and lengths[0] == lengths[1])


async def walk_calls(walk, ports):
    """Calls VolumeStatus. The client decodes nothing, so that it enters no function of this project."""
    volume_id = int((await assign(ports[2])).partition(",")[0])
    request = volume_server_pb2.VolumeStatusRequest(volume_id=volume_id).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
        call = channel.unary_unary("/volume_server_pb.VolumeServer/VolumeStatus")
        walks = []
        for _ in range(WARM_UPS + WALKS):
            await trio.sleep(PAUSE_S)
            with without_collection():
                walk.steps, walk.is_on = [], True
                assert await trio.to_thread.run_sync(partial(call, request, timeout=LIMIT_S))
                await trio.sleep(0.05)  # the server counts the call after it has sent the answer
                walk.is_on = False
            walks.append(walk.steps)
    walk.steps = min(walks[WARM_UPS:], key=len)


def request_of(kind, fid, count):
    """A request of that kind. A PUT writes other content for each `count`."""
    extra = _DECLINED_FIELD if kind.endswith("ordinary") else ""
    return write_request(fid, b"other %d" % count, extra) if kind.startswith("put") else read_request(fid, extra)


async def walk_once(walk, stream, request):
    """The steps of one request; None where a second of the clock began meanwhile.

    What is made once a second, the text of Date, is made before. No collection of the garbage collector comes between.
    """
    await trio.sleep(PAUSE_S)
    with without_collection():
        date = http_date()
        walk.steps, walk.is_on = [], True
        answer = await send(stream, request)
        walk.is_on = False
    assert answer.split()[1] in {b"200", b"201", b"206"}, answer
    return walk.steps if http_date() == date else None


def read_request(fid, extra=""):
    return f"GET /{fid} HTTP/1.1\r\nHost: x\r\n{extra}\r\n".encode()


def write_request(fid, body=b"a small body", extra=""):
    length = f"Content-Type: text/x-c\r\nContent-Length: {len(body)}\r\n"
    return f"PUT /{fid} HTTP/1.1\r\nHost: x\r\n{length}{extra}\r\n".encode() + body


async def assign(port):
    while True:
        answer = await exchange(port, b"GET /dir/assign HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        found = json.loads(answer.partition(b"\r\n\r\n")[2] or b"{}")
        if "fid" in found:
            return found["fid"]
        await trio.sleep(0.05)  # polled until the volume server has registered; `LIMIT_S` bounds it


async def exchange(port, request):
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        return await send(stream, request)


async def send(stream, request):
    """One answer, with its body as far as Content-Length says."""
    await stream.send_all(request)
    got = b""
    while b"\r\n\r\n" not in got:
        got += await stream.receive_some()
    head, _, body = got.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
    while len(body) < int(fields.get(b"content-length", 0)):
        body += await stream.receive_some()
    return head + b"\r\n\r\n" + body


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--steps", action="store_true")
    options = parser.parse_args()
    walked = Walk()
    run_walk(options.kind, walked)
    if options.steps:
        print("\n".join(f"{file}: {name}" for file, name in walked.steps))
    print(json.dumps(walked.figures()))
