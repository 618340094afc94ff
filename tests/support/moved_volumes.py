"""A master and servers whose volumes move during a request, and what servers answer then."""

from __future__ import annotations

from dataclasses import dataclass, field

from native_handlers.http import holders
from native_handlers.http.context import Location, LookupFailed
from native_handlers.http.holders import HOLDER_HEADER, NO, YES
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.volume_servers import VolumeServerFailed, VolumeServerFailureKind, VolumeServerResponse
from support.http_native import SETTINGS, fetch, make_context

FID = "/4,0212345678"
HELLO = b"hello world, hello world"
SELF = Location(SETTINGS.self_url, SETTINGS.self_url)
OLD = Location("127.0.0.1:8081", "old:8081")
NEW = Location("127.0.0.1:8082", "new:8082")
THIRD = Location("127.0.0.1:8083", "third:8083")


@dataclass
class Master:
    """A master. `known` is the cached answer. Each refresh takes the next of `answers`; the last one stays."""

    known: list
    answers: list = field(default_factory=list)
    refreshes: int = 0

    async def locations(self, vid, *, refresh=False):
        if refresh:
            self.refreshes += 1
            if self.answers:
                self.known = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(self.known, str):
            raise LookupFailed(vid, self.known)
        return list(self.known)


def missing(*_):
    """The answer of a server of this project without the volume, to a request for holders only."""
    return 500, [(HOLDER_HEADER, NO)], b'{"error":"volume 4 not found"}'


def absent(*_):
    """The answer of a server of this project without the volume, to a deletion."""
    return 404, [(HOLDER_HEADER, NO)], b'{"size":0}'


def go_absent(*_):
    """The answer of an upstream server without the needle, or without the volume."""
    return 404, [], b'{"size":0}'


def no_needle(*_):
    """The answer of a server of this project that has the volume without the needle."""
    return 404, [(HOLDER_HEADER, YES)], b'{"size":0}'


def read_only(*_):
    return 500, [], b'{"error":"failed to write to local disk: volume 4 is read only"}'


def written(*_):
    return 201, [], b'{"size":24}'


def deleted(*_):
    return 202, [], b'{"size":44}'


def unreachable(url):
    raise VolumeServerFailed(url, VolumeServerFailureKind.CONNECTION_REFUSED, "connection refused")


def body(*_):
    return 200, [("Content-Length", "24")], HELLO


def volume_gone(*_):
    return 404, [(HOLDER_HEADER, NO)], b""


def go_not_found(*_):
    return 404, [], b""


@dataclass
class Servers:
    """Other servers by address: a function, or a list of functions of which the last one stays."""

    by_url: dict
    asked: list = field(default_factory=list)
    requests: list = field(default_factory=list)

    async def request(self, method, url, target, headers, body):
        self.asked.append(url)
        self.requests.append((method, target, headers))
        serves = self.by_url[url]
        if isinstance(serves, list):
            serves = serves.pop(0) if len(serves) > 1 else serves[0]
        status, fields, answer = serves(url)
        return VolumeServerResponse(status, Headers(fields), chunks(answer))


async def chunks(data):
    yield data


def servers(**by_name):
    names = {"old": OLD, "new": NEW, "third": THIRD}
    return Servers({names[name].url: serves for name, serves in by_name.items()})


async def put(context, target=FID, body=HELLO, headers=()):
    return await fetch("http.write", context, method="PUT", target=target, headers=headers, body=body)


async def store_alone(store):
    """Puts the needle of FID into this store only."""
    context = make_context(store=store, lookup=Master([SELF, OLD]), volume_servers=servers(old=written))
    assert (await put(context)).status == 201
    return store


def shorten_holder_wait(monkeypatch):
    """Holders that deny a volume are asked again for 0.3 s, and not for seconds."""
    monkeypatch.setattr(holders, "HOLDER_WAIT_S", 0.3)
