"""The router's names, checked against upstream: the answer of a real server shows which of its handlers made it. Needs
a `weed` (WEED_BINARY or the PATH).
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import subprocess
from dataclasses import dataclass

import pytest
from support.ports import free_ports
from support.waiting import LIMIT_S as START_LIMIT_S
from support.waiting import wait_until

from native_handlers.http_model.message import Listener
from supervisor.routing.match import match_http

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get"]
PATHS = [
    "/status",
    "/status/",
    "/%73tatus",
    "/STATUS",
    "/status%2f",
    "/status;x",
    "/healthz",
    "/healthz/",
    "/readyz",
    "/ui/index.html",
    "/ui%2findex.html",
    "/ui/",
    "/favicon.ico",
    "/favicon%2Eico",
    "/favicon.ico/",
    "/seaweedfsstatic/",
    "/seaweedfsstatic/none",
    "/seaweedfsstatic%2fnone",
    "/seaweedfsstaticx",
    "/stats/counter",
    "/stats",
    "/",
    "/3,01637037d6",
    "/3/01637037d6",
    "/.../x",
    "/a/%2e%2e/status",
]


@dataclass(frozen=True)
class Weed:
    ports: dict[Listener, int]


@pytest.fixture(scope="module")
def weed(tmp_path_factory, weed_program):
    program = weed_program
    home = tmp_path_factory.mktemp("weed")
    for name in ("config", "master", "volume"):
        (home / name).mkdir()
    master, master_grpc, port, public, grpc = free_ports(5)
    base = [program, f"-config_dir={home / 'config'}"]
    master_flags = [
        "master",
        "-telemetry=false",
        "-ip=127.0.0.1",
        f"-port={master}",
        f"-port.grpc={master_grpc}",
        f"-mdir={home / 'master'}",
    ]
    volume_flags = ["volume", "-ip=127.0.0.1", f"-port={port}", f"-port.public={public}", f"-port.grpc={grpc}"]
    volume_flags += [f"-dir={home / 'volume'}", f"-master=127.0.0.1:{master}.{master_grpc}", "-preStopSeconds=0"]
    with contextlib.ExitStack() as stack:
        for flags in (master_flags, volume_flags):
            process = subprocess.Popen([*base, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(end, process)
        wait_until(lambda: is_healthy(port), "weed to be healthy")
        yield Weed({Listener.ADMIN: port, Listener.PUBLIC: public})


def end(process):
    process.terminate()
    try:
        process.wait(START_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def is_healthy(port):
    with contextlib.suppress(OSError):
        return ask(port, "GET", "/healthz").status == 200


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def ask(port, method, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_LIMIT_S)
    with contextlib.closing(connection):
        connection.request(method, path, headers={"Content-Length": "0"})
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def handler_seen(answer):
    """The handler that made an answer, as far as the answer shows it."""
    allowed = answer.headers.get("access-control-allow-methods")
    if "server" not in answer.headers:
        return "files"
    if answer.headers.get("content-type", "").startswith("text/html"):
        return "ui"
    if answer.headers.get("content-type") == "application/json" and answer.status == 200:
        return "status"
    if allowed:
        return "public options" if "PUT" not in allowed else "options"
    if b"unsupported method" in answer.body:
        return "invalid"
    return "nothing" if answer.status == 200 else "objects"


EXPECTED = {
    "http.status": "status",
    "http.healthz": "nothing",
    "http.readyz": "nothing",
    "http.ui": "ui",
    "http.favicon": "files",
    "http.static": "files",
    "http.stats": "objects",
    "http.options": "options",
    "http.read": "objects",
    "http.write": "objects",
    "http.delete": "objects",
    "http.invalid": "invalid",
    "http.public.favicon": "files",
    "http.public.static": "files",
    "http.public.options": "public options",
    "http.public.read": "objects",
    "http.public.other": "nothing",
}


@pytest.mark.slow
def test_a_real_server_answers_each_request_as_its_route_says(weed):
    """Slow: the first test starts a master and a volume server."""
    wrong = []
    for listener, method, path in itertools.product(Listener, METHODS, PATHS):
        route = match_http(listener, method, path)
        seen = handler_seen(ask(weed.ports[listener], method, path))
        if seen != EXPECTED[route.name]:
            wrong.append(f"{listener.value} {method} {path}: named {route.name}, answered by {seen}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["//status", "/./status", "/x/../status", "/3,01/../status"])
def test_an_unclean_path_is_never_acted_upon(weed, path):
    """Slow: see above. The route of such a path depends on its method; the answer is a redirect in each case."""
    for method in ("GET", "POST", "DELETE"):
        answer = ask(weed.ports[Listener.ADMIN], method, path)
        assert (answer.status, answer.headers["location"]) == (307, "/status")
        assert match_http(Listener.ADMIN, method, path).access.volume_id_in == "path"
