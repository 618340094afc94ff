"""Clients that write, overwrite, delete and read while volumes move, and the conditions that must hold at the end. Each
object has one writer. An operation is repeated, at any server, until it is acknowledged: at the end each copy of each
object must have the state of the last acknowledged operation.
"""

import itertools
import random
import threading
import time
from dataclasses import dataclass, field

from harness.http1 import Disconnected

GIVE_UP_S = 40.0
PAUSE_S = 0.05
_NEVER = threading.Event()
DONE = {"PUT": {201, 204}, "DELETE": {202, 404}}


@dataclass
class Report:
    """The observations of all clients together."""

    acknowledged: int = 0
    gave_up: list = field(default_factory=list)
    longest_s: float = 0.0


class Writer(threading.Thread):
    """One client, with its own objects: fid -> content, None for deleted.

    Args:
        servers: those that it may talk to.
        new_fid: makes the id of an object that nobody has.
    """

    def __init__(self, servers, new_fid, seed):
        super().__init__(daemon=True)
        self.servers = list(servers)
        self.new_fid = new_fid
        self.objects = {}
        self.report = Report()
        self.misread = []
        self._random = random.Random(seed)  # noqa: S311  no secret
        self._is_over = threading.Event()

    def run(self):
        for number in itertools.count():
            if self._is_over.is_set():
                return
            self._step(number)

    def end(self):
        self._is_over.set()

    def _step(self, number):
        living = [fid for fid, content in self.objects.items() if content is not None]
        chance = self._random.random()
        if len(living) < 8 or chance < 0.2:
            self._write(self.new_fid(self._random), number)
        elif chance < 0.6:
            self._write(self._random.choice(living), number)
        elif chance < 0.8:
            self._do("DELETE", self._random.choice(living), None)
        else:
            self._read(self._random.choice(living))

    def _write(self, fid, number):
        self._do("PUT", fid, f"{fid} as it was written by step {number};".encode() * 9)

    def _do(self, method, fid, content):
        began_s, said = time.monotonic(), ""
        while time.monotonic() - began_s < GIVE_UP_S:
            server = self._random.choice(self.servers)
            try:
                reply = server.http(method, f"/{fid}", [], content)
            except (OSError, Disconnected) as error:
                said = f"{server.url}: {error!r}"
            else:
                if reply.status in DONE[method]:
                    self.objects[fid] = content
                    self.report.acknowledged += 1
                    self.report.longest_s = max(self.report.longest_s, time.monotonic() - began_s)
                    return
                said = f"{server.url}: {reply.status} {reply.body[:300]!r}"
            _NEVER.wait(PAUSE_S)
        self.report.gave_up.append(f"{method} {fid}: {said}")
        # Some copies may have done the operation.
        self.objects.pop(fid, None)

    def _read(self, fid):
        server = self._random.choice(self.servers)
        try:
            reply = server.read(fid)
        except (OSError, Disconnected):
            return
        if (reply.status, reply.body) != (200, self.objects[fid]):
            self.misread.append(
                f"{fid} at {server.url}: {reply.status} {reply.body[:60]!r}, not {self.objects[fid][:60]!r}"
            )


class Writers:
    """Several writers that run inside the context."""

    def __init__(self, servers, new_fid, count=3, seed=0):
        self._members = [Writer(servers, new_fid, seed * 100 + number) for number in range(count)]

    def __enter__(self):
        for member in self._members:
            member.start()
        return self

    def __exit__(self, *_):
        for member in self._members:
            member.end()
        for member in self._members:
            member.join(GIVE_UP_S * 2)

    @property
    def objects(self):
        return {fid: content for member in self._members for fid, content in member.objects.items()}

    @property
    def acknowledged(self):
        return sum(member.report.acknowledged for member in self._members)

    @property
    def gave_up(self):
        return [line for member in self._members for line in member.report.gave_up]

    @property
    def misread(self):
        return [line for member in self._members for line in member.misread]

    @property
    def longest_s(self):
        return max(member.report.longest_s for member in self._members)


def differences(objects, holders_of):
    """Each copy with a wrong state. `holders_of` gives the servers that have a volume, for its id."""
    found = []
    for fid, content in objects.items():
        wanted = (404, b"") if content is None else (200, content)
        for server in holders_of(int(fid.split(",")[0])):
            reply = server.http("GET", f"/{fid}?proxied=true")  # what is not here is not fetched from elsewhere
            if (reply.status, reply.body) != wanted:
                found.append(f"{fid} at {server.url}: {reply.status} {reply.body[:60]!r}, not {str(wanted)[:80]}")
    return found
