"""Load of small objects on one server: GETs, POSTs and DELETEs, by wrk where it is found and else by `generator.py`.

A generator is a process of its own. Each answer is checked by its status, and afterwards the server is asked how many
needles it has. Whatever failed makes the figures mean nothing, and ends the bench.
"""

import json
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench import generator
from bench.lines import Figure
from bench.processor_time import used_by
from harness.server import RPC_LIMIT_S, VolumeServer

from native_handlers.pb import volume_server_pb2

BUILT_IN = "built-in"
WRK = "wrk"
WRK_SLACK_S = 30
STORING_CONNECTIONS = 8
_SIZES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
POSTS = """
local id = {first_id} - 1
local headers = {{["Content-Type"] = "multipart/form-data; boundary={boundary}"}}
local body = {form}
request = function()
  id = id + 1
  return wrk.format("POST", string.format("/{volume},%x{cookie}", id), headers, body)
end
"""


@dataclass(frozen=True)
class Target:
    """A server as it is loaded.

    Args:
        address: where it is reached: its own, or that of a front.
        pids: the processes that serve, and start all others that do.
    """

    name: str
    server: VolumeServer
    address: tuple
    pids: tuple

    def used_s(self):
        """Processor seconds so far."""
        return sum(used_by(pid) for pid in self.pids)


class LoadFailed(SystemExit):
    """A request failed. Ends the bench with its message."""


class ObjectLoad:
    """Loads servers. A context manager: the built-in generator starts with it and ends with it.

    Args:
        wrk: its path, or None.
        directory: for its scripts.
    """

    def __init__(self, wrk, directory):
        self._wrk, self._directory = wrk, directory
        self.name = WRK if wrk else BUILT_IN

    def __enter__(self):
        command = [sys.executable, "-I", str(Path(generator.__file__))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(WRK_SLACK_S)
        self._process.stdout.close()

    def get(self, target, fid, size_bytes, connections, seconds):
        """The `Figure` of GETs of one object, which has `size_bytes`."""
        plan = {"kind": "get", "target": f"/{fid}", "bytes": size_bytes, "connections": connections, "seconds": seconds}
        if not self._wrk:
            return self._built_in(target, plan)[0]
        figure, _, mean_bytes = self._run_wrk(target, plan)
        if mean_bytes < size_bytes:
            raise LoadFailed(f"{target.name}: answers of {mean_bytes:.0f} bytes for an object of {size_bytes}")
        return figure

    def post(self, target, volume_id, size_bytes, connections, seconds):
        """The `Figure` of POSTs of objects to the empty volume, each with an id of its own."""
        plan = {"kind": "post", "volume": volume_id, "first_id": 1, "ids": 0, "bytes": size_bytes}
        plan |= {"connections": connections, "seconds": seconds}
        under_way = 0
        if self._wrk:
            under_way = connections
            form = _lua_string(generator.form_of(b"x" * size_bytes).decode())
            script = POSTS.format(**plan, cookie=generator.COOKIE, boundary=generator.BOUNDARY, form=form)
            figure, answered, _ = self._run_wrk(target, plan, script)
        else:
            figure, answered = self._built_in(target, plan)
        needles = _status(target.server, volume_id).file_count
        _expect(target, volume_id, "needles", needles, answered, answered + under_way)
        return figure

    def delete(self, target, volume_id, size_bytes, connections, count):
        """The `Figure` of DELETEs of `count` objects of the empty volume. They are stored before the time begins.

        The built-in generator makes them in every case: wrk ends by the time, and not when there is nothing left.
        """
        plan = {"volume": volume_id, "first_id": 1, "ids": count, "bytes": size_bytes, "seconds": 0}
        self._built_in(target, plan | {"kind": "post", "connections": STORING_CONNECTIONS})
        figure, _ = self._built_in(target, plan | {"kind": "delete", "connections": connections})
        deleted = _status(target.server, volume_id).file_deleted_count
        _expect(target, volume_id, "deleted needles", deleted, count, count)
        return figure

    def _built_in(self, target, plan):
        """The `Figure`, and how many requests were answered."""
        host, port = target.address
        used_s = target.used_s()
        self._process.stdin.write(json.dumps(plan | {"host": host, "port": port}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"failure": "the generator ended"}
        if answer["failure"]:
            raise LoadFailed(f"{target.name}, {plan['kind']}: {answer['failure']}: the figures would mean nothing")
        if not answer["done"]:
            raise LoadFailed(f"{target.name}, {plan['kind']}: no request was answered in {plan['seconds']} s")
        taken_s, used_s = answer["taken_s"], target.used_s() - used_s
        return Figure(answer["done"] / taken_s, answer["used_s"] / taken_s, used_s / taken_s), answer["answered"]

    def _run_wrk(self, target, plan, script=""):
        """The `Figure`, the number of answers, and their mean size in bytes."""
        whole_s = max(1, round(plan["seconds"]))
        command = [self._wrk, "-t1", f"-c{plan['connections']}", f"-d{whole_s}s", "--timeout=30s"]
        if script:
            path = self._directory / f"{plan['kind']}.lua"
            path.write_text(script)
            command += ["-s", str(path)]
        command.append(f"http://{target.address[0]}:{target.address[1]}{plan.get('target', '/')}")
        before, used_s = resource.getrusage(resource.RUSAGE_CHILDREN), target.used_s()
        ended = subprocess.run(command, capture_output=True, text=True, timeout=whole_s + WRK_SLACK_S, check=False)
        after, used_s = resource.getrusage(resource.RUSAGE_CHILDREN), target.used_s() - used_s
        try:
            done, taken_s, received_bytes = parse_wrk(ended.stdout)
        except ValueError as error:
            raise LoadFailed(f"{target.name}, {plan['kind']}: {error}: the figures would mean nothing") from error
        own_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Figure(done / taken_s, own_s / taken_s, used_s / taken_s), done, received_bytes / done


def parse_wrk(text):
    """The number of answers, the seconds and the received bytes of wrk's report. Raises ValueError where any failed."""
    bad = re.search(r"(Non-2xx or 3xx responses: \d+|Socket errors: .*)", text)
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m), ([\d.]+)(B|KB|MB|GB) read", text)
    if bad or not total or not int(total[1]):
        raise ValueError(f"wrk reports {bad[1] if bad else text!r}")
    taken_s = float(total[2]) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}[total[3]]
    return int(total[1]), taken_s, float(total[4]) * _SIZES[total[5]]


def _lua_string(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r").replace("\n", "\\n") + '"'


def _status(server, volume_id):
    request = volume_server_pb2.VolumeStatusRequest(volume_id=volume_id)
    return server.rpc.VolumeStatus(request, timeout=RPC_LIMIT_S)


def _expect(target, volume_id, what, seen, lowest, highest):
    if not lowest <= seen <= highest:
        wanted = f"{lowest:,}" if lowest == highest else f"{lowest:,} to {highest:,}"
        raise LoadFailed(
            f"{target.name}, volume {volume_id}: {seen:,} {what}, not {wanted}: the figures would mean nothing"
        )
