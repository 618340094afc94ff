"""The answers of the control routes, byte for byte where a client may depend on the bytes."""

from __future__ import annotations

import json

import pytest
from support.http_native import REQUEST_ID, FakeNode, fetch, make_context

from native_handlers.http.context import EcVolumeRow, HttpContext, NodeDetails
from native_handlers.http.handlers import HTTP_HANDLERS
from native_handlers.http.reply import with_fields
from native_handlers.http.settings import HttpSettings
from native_handlers.http_model.headers import HeaderMap
from native_handlers.http_model.message import Listener, Response
from supervisor.routing.registry import ROUTES_BY_NAME

VOLUME = {
    "Collection": "",
    "DiskType": "",
    "RemoteStorageName": "",
    "ReplicaPlacement": {},
    "Ttl": {"Count": 0, "Unit": 0},
    "Size": 2048,
    "DeletedByteCount": 0,
    "ModifiedAtSecond": 1795400010,
    "Id": 4,
    "DiskId": 0,
    "CompactRevision": 0,
    "FileCount": 7,
    "DeleteCount": 0,
    "Version": 3,
    "ReadOnly": False,
}
DISK = {"dir": "/data", "all": 270, "used": 188, "free": 82, "percent_free": 30.146055, "percent_used": 69.85394}


def node_with_data():
    return FakeNode(statuses=[{**VOLUME, "Id": 9}, VOLUME], disk_rows=[DISK])


async def test_status_is_upstreams_json_to_the_byte():
    answer = await fetch("http.status", make_context(node=FakeNode(statuses=[VOLUME], disk_rows=[DISK])))
    assert answer.status == 200
    assert answer.body == (
        b'{"DiskStatuses":[{"dir":"/data","all":270,"used":188,"free":82,"percent_free":30.146055,'
        b'"percent_used":69.85394}],"Version":"30GB 4.44 ","Volumes":[{"Collection":"","DiskType":"",'
        b'"RemoteStorageName":"","ReplicaPlacement":{},"Ttl":{"Count":0,"Unit":0},"Size":2048,"DeletedByteCount":0,'
        b'"ModifiedAtSecond":1795400010,"Id":4,"DiskId":0,"CompactRevision":0,"FileCount":7,"DeleteCount":0,'
        b'"Version":3,"ReadOnly":false}]}'
    )


async def test_status_headers_and_their_case():
    answer = await fetch("http.status")
    assert list(answer.headers) == [
        ("Content-Type", "application/json"),
        ("Server", "SeaweedFS Volume 30GB 4.44"),
        ("X-Amz-Request-Id", REQUEST_ID),
        ("X-Content-Type-Options", "nosniff"),
    ]


async def test_status_sorts_volumes_by_id_and_says_null_for_none():
    answer = json.loads((await fetch("http.status", make_context(node=node_with_data()))).body)
    assert [row["Id"] for row in answer["Volumes"]] == [4, 9]
    empty = json.loads((await fetch("http.status")).body)
    assert empty["Volumes"] is None
    assert empty["DiskStatuses"] is None


async def test_findings_are_there_when_there_are_any():
    row = {"Path": "/data/4", "Kind": "IDX_LOST", "Text": "why"}
    answer = await fetch("http.status", make_context(node=FakeNode(finding_rows=[row])))
    assert answer.body.endswith(b'"Findings":[{"Path":"/data/4","Kind":"IDX_LOST","Text":"why"}]}')


@pytest.mark.parametrize("query", ["?pretty=1", "?pretty=false", "?a=b&pretty=x"])
async def test_pretty_with_any_value_indents(query):
    answer = await fetch("http.status", target=f"/status{query}")
    assert answer.body == b'{\n  "DiskStatuses": null,\n  "Version": "30GB 4.44 ",\n  "Volumes": null\n}'


async def test_callback_does_not_make_jsonp():
    answer = await fetch("http.status", target="/status?callback=f")
    assert answer.headers.get("Content-Type") == "application/json"
    assert answer.body.startswith(b"{")


async def test_empty_pretty_does_not_indent():
    assert b"\n" not in (await fetch("http.status", target="/status?pretty=")).body


async def test_status_shows_the_commit_after_the_version():
    settings = HttpSettings(version="8000GB 4.44", commit="cc8364a0", self_url="h:1", file_size_limit_bytes=1)
    answer = await fetch("http.status", HttpContext(settings=settings, node=FakeNode()))
    assert json.loads(answer.body)["Version"] == "8000GB 4.44 cc8364a0"
    assert answer.headers.get("Server") == "SeaweedFS Volume 8000GB 4.44"


@pytest.mark.parametrize("route", ["http.healthz", "http.readyz"])
@pytest.mark.parametrize(
    ("is_stopping", "is_heartbeating", "status"), [(False, True, 200), (True, True, 503), (False, False, 503)]
)
async def test_health_is_local(route, is_stopping, is_heartbeating, status):
    node = FakeNode(is_stopping=is_stopping, is_heartbeating=is_heartbeating)
    answer = await fetch(route, make_context(node=node))
    assert (answer.status, answer.body) == (status, b"")
    assert answer.headers.get("Server") == "SeaweedFS Volume 30GB 4.44"


async def test_options_without_origin_lists_methods_but_no_cors():
    answer = await fetch("http.options", method="OPTIONS", target="/3,01637037d6")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers.get("Access-Control-Allow-Methods") == "PUT, POST, GET, DELETE, OPTIONS"
    assert answer.headers.get("Access-Control-Allow-Headers") == "*"
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_options_with_origin_allows_it():
    answer = await fetch("http.options", method="OPTIONS", headers={"Origin": "http://a"})
    assert answer.headers.get("Access-Control-Allow-Origin") == "*"
    assert answer.headers.get("Access-Control-Allow-Credentials") == "true"


async def test_public_options_allow_reading_only():
    answer = await fetch("http.public.options", method="OPTIONS", listener=Listener.PUBLIC)
    assert answer.headers.get("Access-Control-Allow-Methods") == "GET, OPTIONS"


async def test_unknown_method_is_the_clients_mistake():
    answer = await fetch("http.invalid", method="PATCH", target="/3,01", headers={"Origin": "x"})
    assert (answer.status, answer.body) == (400, b'{"error":"unsupported method PATCH"}')
    assert answer.headers.get("Access-Control-Allow-Origin") == "*"


async def test_public_port_ignores_other_methods():
    answer = await fetch("http.public.other", method="DELETE", listener=Listener.PUBLIC, target="/3,01637037d6")
    assert (answer.status, answer.body) == (200, b"")


async def test_stats_are_gone():
    answer = await fetch("http.stats", target="/stats/counter")
    assert (answer.status, answer.body) == (400, b"")


@pytest.mark.parametrize("route", ["http.favicon", "http.public.favicon"])
async def test_favicon(route):
    answer = await fetch(route, target="/favicon.ico")
    assert answer.status == 200
    assert answer.headers.get("Content-Type") == "image/x-icon"
    assert answer.body.startswith(b"\0\0\1\0")
    assert "Server" not in answer.headers


@pytest.mark.parametrize(
    ("name", "content_type", "start"),
    [
        ("seaweed50x50.png", "image/png", b"\x89PNG"),
        ("volume.css", "text/css; charset=utf-8", b"/*"),
        ("favicon.ico", "image/x-icon", b"\0\0\1\0"),
    ],
)
async def test_static_files(name, content_type, start):
    answer = await fetch("http.static", target=f"/seaweedfsstatic/{name}")
    assert answer.headers.get("Content-Type") == content_type
    assert answer.body.startswith(start)


@pytest.mark.parametrize("name", ["", "nope", "%2e%2e/handlers.py", "..%2fhandlers.py", "assets/volume.css"])
async def test_static_knows_no_other_file(name):
    answer = await fetch("http.static", target=f"/seaweedfsstatic/{name}")
    assert (answer.status, answer.body) == (404, b"404 page not found\n")


async def test_head_has_the_length_and_no_body():
    answer = await fetch("http.static", method="HEAD", target="/seaweedfsstatic/volume.css")
    full = await fetch("http.static", target="/seaweedfsstatic/volume.css")
    assert answer.body == b""
    assert answer.headers.get("Content-Length") == str(len(full.body))


async def test_client_request_id_and_server_headers_are_ignored():
    answer = await fetch("http.status", headers={"X-Amz-Request-Id": "spoofed"})
    assert answer.headers.get_all("X-Amz-Request-Id") == [REQUEST_ID]


async def test_ui_shows_everything_escaped():
    remote = {**VOLUME, "Id": 5, "RemoteStorageName": "s3.default", "Collection": "<b>"}
    node = FakeNode(
        statuses=[VOLUME, remote, {**VOLUME, "Id": 6, "Ttl": {"Count": 3, "Unit": 3}, "ReadOnly": True}],
        disk_rows=[{"dir": "/data <x>", "all": 1 << 30, "used": 1 << 29, "free": 1 << 29}],
        node_details=NodeDetails(
            started_at_s=0,
            masters=("m1:9333",),
            facts=(("Mode", "mixed"), ("Backend", "weed 4.44 & more")),
            links=(("Metrics", "/m?a=1&b=2"),),
            ec_volumes=(EcVolumeRow(8, "ec", 3 << 20, ((0, 1 << 20), (13, 2 << 20)), 0),),
            remote_keys={5: "key/1"},
        ),
    )
    answer = await fetch("http.ui", make_context(node=node), target="/ui/index.html")
    page = answer.body.decode()
    assert answer.headers.get("Content-Type") == "text/html; charset=utf-8"
    assert "<title>SeaweedFS 30GB 4.44</title>" in page
    for shown in (
        "Disk Stats", "System Stats", "Volumes", "Remote Volumes", "Erasure Coding Shards", "/data &lt;x&gt;",
        "1 GiB", "50.0%", "mixed", "weed 4.44 &amp; more", "/m?a=1&amp;b=2", "&lt;b&gt;", "s3.default", "key/1",
        "0: 1 MiB", "13: 2 MiB", "m1:9333", "3d", "read-only", "1970-01-01 00:00:00 UTC",
    ):  # fmt: skip
        assert shown in page, shown
    assert "<b>" not in page


async def test_ui_leaves_out_empty_sections_and_outside_assets():
    page = (await fetch("http.ui")).body.decode()
    assert "Remote Volumes" not in page
    assert "Erasure Coding Shards" not in page
    assert "No volume is here yet." in page
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert 'name="viewport"' in page


async def test_ui_says_when_the_server_is_leaving():
    assert "leaving" in (await fetch("http.ui", make_context(node=FakeNode(is_heartbeating=False)))).body.decode()


async def test_style_follows_the_dark_mode_and_the_width():
    style = (await fetch("http.static", target="/seaweedfsstatic/volume.css")).body
    assert b"prefers-color-scheme: dark" in style
    assert b"max-width: 40rem" in style


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("//status", "/status"),
        ("/a//b/?c=d//e", "/a/b/?c=d//e"),
        ("/a/./b/../c", "/a/c"),
        ("/..", "/"),
        ("/3,01637037d6/../4,02637037d6", "/4,02637037d6"),
        ("/a%2f%2fb//c%20d", "/a%2f%2fb/c%20d"),
        ('//\xe4"<', "/%E4%22%3C"),
        ("/seaweedfsstatic", "/seaweedfsstatic/"),
        ("//seaweedfsstatic?x", "/seaweedfsstatic/?x"),
    ],
)
async def test_unclean_paths_are_redirected_by_every_handler(target, location):
    for route in ("http.read", "http.delete", "http.public.other", "http.static"):
        answer = await fetch(route, target=target)
        assert (answer.status, answer.headers.get("Location")) == (307, location)
        assert "Server" not in answer.headers
    assert answer.body == f'<a href="{location.replace("&", "&amp;")}">Temporary Redirect</a>.\n\n'.encode()
    posted = await fetch("http.write", method="POST", target=target)
    assert (posted.status, posted.body, list(posted.headers)) == (307, b"", [("Location", location)])


@pytest.mark.parametrize("target", ["/", "/a/", "/.a", "/a..b/..c", "/%2e%2e/x", "*", "/a?//"])
async def test_clean_paths_are_not(target):
    assert (await fetch("http.public.other", method="PATCH", target=target)).status == 200


def test_each_handler_is_known_to_the_router():
    assert set(HTTP_HANDLERS) <= set(ROUTES_BY_NAME)


def test_fields_are_added_to_the_map_that_the_answer_has():
    answer = Response(200, HeaderMap([("Etag", "x")]))
    headers = answer.headers
    assert with_fields(answer, ("X-Volume-Holder", "yes")).headers is headers
    assert list(headers) == [("Etag", "x"), ("X-Volume-Holder", "yes")]
