"""Routes about the server instead of its data: status, health, pages, methods and headers, on both ports."""

import re

import pytest
from harness.http1 import Connection, fetch

REQUEST_ID = re.compile(r"[0-9A-F]{24}")
SERVER = re.compile(r"SeaweedFS Volume (30|8000)GB \d+\.\d+")
ORIGIN = [("Origin", "http://app.example")]


def test_status_has_the_disks_the_version_and_the_volumes(server):
    volume_id = server.volume_id
    reply = server.http("GET", "/status")
    assert (reply.status, reply.get("Content-Type")) == (200, "application/json")
    assert reply.get("X-Content-Type-Options") == "nosniff"
    status = reply.json()
    assert sorted(status) == ["DiskStatuses", "Version", "Volumes"]
    (disk,) = status["DiskStatuses"]
    assert disk["dir"] == str(server.data_dir)
    assert disk["all"] == disk["used"] + disk["free"]
    assert set(disk) == {"dir", "all", "used", "free", "percent_free", "percent_used"}
    assert re.match(r"(30|8000)GB \d+\.\d+", status["Version"])
    listed = {volume["Id"]: volume for volume in status["Volumes"]}
    assert list(listed) == sorted(listed)
    assert listed[volume_id]["Version"] == 3


def test_status_describes_a_volume_as_go_does(server):
    volume_id = server.new_volume(collection="pics", ttl="3d")
    (volume,) = (one for one in server.http("GET", "/status").json()["Volumes"] if one["Id"] == volume_id)
    assert volume.pop("ModifiedAtSecond") > 1_600_000_000
    assert volume == {
        "Collection": "pics",
        "DiskType": "",
        "RemoteStorageName": "",
        "ReplicaPlacement": {},
        "Ttl": {"Count": 3, "Unit": 3},
        "Size": 0,
        "DeletedByteCount": 0,
        "Id": volume_id,
        "DiskId": 0,
        "CompactRevision": 0,
        "FileCount": 0,
        "DeleteCount": 0,
        "Version": 3,
        "ReadOnly": False,
    }


def test_status_counts_what_is_written_and_deleted(server):
    volume_id = server.new_volume()

    def counted():
        (volume,) = (one for one in server.http("GET", "/status").json()["Volumes"] if one["Id"] == volume_id)
        return volume["FileCount"], volume["DeleteCount"]

    fid = server.store(b"one", fid=server.new_fid(volume_id))
    server.store(b"two", fid=server.new_fid(volume_id))
    assert counted() == (2, 0)
    assert server.http("DELETE", f"/{fid}").status == 202
    assert counted() == (2, 1)


def test_status_is_indented_on_request_and_answers_any_method(server):
    assert server.http("GET", "/status?pretty=y").body.startswith(b'{\n  "DiskStatuses": [\n    {\n      "dir"')
    assert server.http("POST", "/status", body=b"").status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_health_is_a_200_without_a_body(server, path, method):
    reply = server.http(method, path, body=b"" if method == "POST" else None)
    assert (reply.status, reply.body) == (200, b"")


def test_ui_is_a_page(server):
    reply = server.http("GET", "/ui/index.html")
    assert (reply.status, reply.get("Content-Type")) == (200, "text/html; charset=utf-8")
    assert b"<title>SeaweedFS " in reply.body
    assert b"</html>" in reply.body


@pytest.mark.parametrize("port", ["admin", "public"])
def test_static_files_are_on_both_ports_and_carry_no_ids(server, port):
    reply = fetch(getattr(server, port), "GET", "/favicon.ico")
    assert (reply.status, reply.get("Content-Type")) == (200, "image/x-icon")
    assert reply.body.startswith(b"\x00\x00\x01\x00")
    assert reply.get("Server") is None
    assert reply.get("X-Amz-Request-Id") is None
    missing = fetch(getattr(server, port), "GET", "/seaweedfsstatic/no-such-file")
    assert (missing.status, missing.body) == (404, b"404 page not found\n")


@pytest.mark.parametrize(
    ("port", "methods"), [("admin", "PUT, POST, GET, DELETE, OPTIONS"), ("public", "GET, OPTIONS")]
)
def test_options_names_the_methods_of_its_port(server, port, methods):
    reply = fetch(getattr(server, port), "OPTIONS", "/1,abc")
    assert (reply.status, reply.body) == (200, b"")
    assert reply.get("Access-Control-Allow-Methods") == methods
    assert reply.get("Access-Control-Allow-Headers") == "*"
    assert reply.get("Access-Control-Allow-Origin") is None


@pytest.mark.parametrize("port", ["admin", "public"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_an_origin_is_answered_with_cors(server, port, method):
    reply = fetch(getattr(server, port), method, "/1,zz", ORIGIN)
    assert reply.get("Access-Control-Allow-Origin") == "*"
    assert reply.get("Access-Control-Allow-Credentials") == "true"


@pytest.mark.parametrize("method", ["PATCH", "TRACE", "PROPFIND"])
def test_an_unknown_method_is_refused_on_the_admin_port(server, method):
    reply = server.http(method, "/1,01637037d6")
    assert (reply.status, reply.json()) == (400, {"error": f"unsupported method {method}"})


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_the_public_port_does_nothing_but_read_and_says_ok(server, method):
    fid = server.store(b"untouched")
    body = b"changed" if method in {"POST", "PUT"} else None
    reply = fetch(server.public, method, f"/{fid}", body=body)
    assert (reply.status, reply.body) == (200, b"")
    assert server.read(fid).body == b"untouched"


def test_the_public_port_reads(server):
    fid = server.store(b"for all")
    assert fetch(server.public, "GET", f"/{fid}").body == b"for all"


@pytest.mark.parametrize("path", ["/status", "/healthz", "/readyz", "/ui/index.html"])
def test_the_public_port_has_no_control_plane(server, path):
    reply = fetch(server.public, "GET", path)
    assert (reply.status, reply.body) == (400, b"")


@pytest.mark.parametrize("path", ["/stats/counter", "/stats/memory", "/stats/disk", "/", "/metrics"])
def test_paths_that_are_no_file_ids_are_bad_requests(server, path):
    reply = server.http("GET", path)
    assert (reply.status, reply.body) == (400, b"")


def test_the_request_id_is_made_by_the_server(server):
    replies = [server.http("GET", path, [("x-amz-request-id", "MINE")]) for path in ("/status", "/healthz", "/1,zz")]
    ids = [reply.get_all("x-amz-request-id") for reply in replies]
    assert all(len(one) == 1 and REQUEST_ID.fullmatch(one[0]) for one in ids)
    assert len({one[0] for one in ids}) == 3


@pytest.mark.parametrize("path", ["/status", "/healthz", "/ui/index.html", "/1,zz", "/99999,01637037d6"])
def test_the_server_header_names_the_program_once(server, path):
    (value,) = server.http("GET", path).get_all("Server")
    assert SERVER.fullmatch(value)


def test_every_answer_is_dated_once(server):
    assert len(server.http("GET", "/status").get_all("Date")) == 1


def test_connections_are_kept_for_the_next_request(server):
    with Connection(server.admin) as connection:
        for path in ("/status", "/healthz", "/1,zz", "/favicon.ico", "/99999,01637037d6"):
            for method in ("GET", "HEAD"):
                assert connection.request(method, path).status in {200, 400, 404}
