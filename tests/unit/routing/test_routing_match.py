"""Which request is which route, as the muxes of a running upstream server answered them."""

from __future__ import annotations

import pytest

from native_handlers.http_model.message import Listener
from supervisor.routing.match import match_grpc, match_http
from supervisor.routing.registry import ROUTES, Protocol

ANY_METHOD = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "CONNECT", "get"]


@pytest.mark.parametrize("method", ANY_METHOD)
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/status", "http.status"),
        ("/%73tatus", "http.status"),
        ("/healthz", "http.healthz"),
        ("/readyz", "http.readyz"),
        ("/ui/index.html", "http.ui"),
        ("/ui/index%2Ehtml", "http.ui"),
        ("/favicon.ico", "http.favicon"),
        ("/seaweedfsstatic", "http.static"),
        ("/seaweedfsstatic/", "http.static"),
        ("/seaweedfsstatic/a/b.png", "http.static"),
        ("/seaweedfs%73tatic/a", "http.static"),
    ],
)
def test_fixed_admin_paths_answer_every_method(method, path, name):
    assert match_http(Listener.ADMIN, method, path).name == name


@pytest.mark.parametrize(
    "path",
    [
        "/3,01637037d6",
        "/3/01637037d6/name.txt",
        "/",
        "/status/",
        "/STATUS",
        "/status;x",
        "/status%2f",
        "/%2fstatus",
        "/healthz/",
        "/ui/",
        "/ui/index.html/",
        "/ui%2findex.html",
        "/favicon.ico/",
        "/seaweedfsstaticx",
        "/seaweedfsstatic%2fx",
        "/stats",
        "/stat/x",
        "//status",
        "/./status",
        "/x/../status",
        "/%zz",
        "",
    ],
)
@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("GET", "http.read"),
        ("HEAD", "http.read"),
        ("POST", "http.write"),
        ("PUT", "http.write"),
        ("DELETE", "http.delete"),
        ("OPTIONS", "http.options"),
        ("PATCH", "http.invalid"),
        ("CONNECT", "http.invalid"),
        ("get", "http.invalid"),
        ("", "http.invalid"),
    ],
)
def test_any_other_admin_path_goes_by_its_method(path, method, name):
    assert match_http(Listener.ADMIN, method, path).name == name


@pytest.mark.parametrize(
    ("method", "name"),
    [("GET", "http.stats"), ("HEAD", "http.stats"), ("POST", "http.write"), ("OPTIONS", "http.options")],
)
@pytest.mark.parametrize("path", ["/stats/counter", "/stats/", "/%73tats/disk"])
def test_stats_is_a_route_for_reads_alone(path, method, name):
    assert match_http(Listener.ADMIN, method, path).name == name


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/3,01637037d6", "http.public.read"),
        ("HEAD", "/3,01637037d6", "http.public.read"),
        ("GET", "/status", "http.public.read"),
        ("GET", "/stats/counter", "http.public.read"),
        ("GET", "/ui/index.html", "http.public.read"),
        ("OPTIONS", "/status", "http.public.options"),
        ("POST", "/3,01637037d6", "http.public.other"),
        ("DELETE", "/3,01637037d6", "http.public.other"),
        ("PATCH", "/", "http.public.other"),
        ("POST", "/favicon.ico", "http.public.favicon"),
        ("DELETE", "/seaweedfsstatic/x", "http.public.static"),
        ("GET", "/seaweedfsstatic", "http.public.static"),
    ],
)
def test_public_listener(method, path, name):
    assert match_http(Listener.PUBLIC, method, path).name == name


@pytest.mark.parametrize("target", ["*", "x:80", "http://x/status", "x/stats/y%"])
def test_a_target_that_is_no_path_goes_by_its_method(target):
    assert match_http(Listener.ADMIN, "OPTIONS", target).name == "http.options"
    assert match_http(Listener.PUBLIC, "GET", target).name == "http.public.read"


@pytest.mark.parametrize("route", [route for route in ROUTES if route.protocol is Protocol.GRPC], ids=lambda r: r.name)
def test_rpcs_are_found_by_their_paths(route):
    assert {match_grpc(path) for path in route.answers.split(" and ")} == {route}


@pytest.mark.parametrize("path", ["", "/", "/volume_server_pb.VolumeServer/Nope", "volume_server_pb.VolumeServer/Ping"])
def test_an_unknown_rpc_has_no_route(path):
    assert match_grpc(path) is None
