"""Who may do what: tokens and the white list, decided for the true client by whoever faces it."""

import signal
import time

import grpc
import jwt
import pytest
from harness.http1 import fetch
from harness.waiting import wait_until

from native_handlers.pb import volume_server_pb2 as pb

STRANGER = "127.0.0.2"
WRITE_KEY, READ_KEY, OTHER_KEY = "w" * 32, "r" * 32, "o" * 32
WRONG_JWT = (401, {"error": "wrong jwt"})


def bearer(key, fid, *, lives_s=60):
    token = jwt.encode({"fid": fid, "exp": int(time.time()) + lives_s}, key, algorithm="HS256")
    return [("Authorization", f"BEARER {token}")]


def toml(write_key="", read_key="", white_list=""):
    return (
        f'[jwt.signing]\nkey = "{write_key}"\n[jwt.signing.read]\nkey = "{read_key}"\n'
        f'[guard]\nwhite_list = "{white_list}"\n'
    )


def answer(reply):
    return reply.status, reply.json()


def assert_write_key_guards(server):
    fid = server.new_fid()
    assert answer(server.http("PUT", f"/{fid}", [], b"x")) == WRONG_JWT
    assert answer(server.http("PUT", f"/{fid}", bearer(OTHER_KEY, fid), b"x")) == WRONG_JWT
    assert answer(server.http("PUT", f"/{fid}", bearer(WRITE_KEY, server.new_fid()), b"x")) == WRONG_JWT
    assert answer(server.http("PUT", f"/{fid}", bearer(WRITE_KEY, fid, lives_s=-5), b"x")) == WRONG_JWT
    assert server.http("PUT", f"/{fid}", bearer(WRITE_KEY, fid), b"guarded").status == 201
    assert answer(server.http("DELETE", f"/{fid}")) == WRONG_JWT
    assert server.http("DELETE", f"/{fid}", bearer(WRITE_KEY, fid)).status == 202


def assert_read_key_guards(server):
    fid = server.new_fid()
    server.store(b"private", bearer(WRITE_KEY, fid), fid=fid)
    token = bearer(READ_KEY, fid)[0][1].split()[1]
    for address in (server.admin, server.public):
        assert answer(fetch(address, "GET", f"/{fid}")) == WRONG_JWT
        assert fetch(address, "HEAD", f"/{fid}").status == 401
        assert fetch(address, "GET", f"/{fid}", bearer(READ_KEY, fid)).body == b"private"
        assert fetch(address, "GET", f"/{fid}?jwt={token}").body == b"private"
        assert fetch(address, "GET", f"/{fid}", [("Cookie", f"AT={token}")]).body == b"private"


def test_keys_guard_writes_and_reads_and_a_hang_up_changes_them(fresh_server):
    server = fresh_server(security=toml(write_key=WRITE_KEY, read_key=READ_KEY))
    assert_write_key_guards(server)
    assert_read_key_guards(server)
    assert server.http("GET", "/ui/index.html").status == 401
    assert server.http("GET", "/status").status == 200
    server.security_file.write_text(toml(write_key=OTHER_KEY))
    server.process.send_signal(signal.SIGHUP)

    def is_accepted():
        fid = server.new_fid()
        return server.http("PUT", f"/{fid}", bearer(OTHER_KEY, fid), b"x").status == 201

    wait_until(is_accepted, "the new key to be taken")
    fid = server.new_fid()
    assert answer(server.http("PUT", f"/{fid}", bearer(WRITE_KEY, fid), b"x")) == WRONG_JWT
    assert server.http("GET", "/ui/index.html").status == 400


def test_the_white_list_goes_by_the_address_of_the_client(fresh_server):
    server = fresh_server("-whiteList=192.0.2.0/24", security=toml(white_list="127.0.0.1"))
    fid = server.store(b"listed")
    forged = [("X-Forwarded-For", "127.0.0.1"), ("X-Real-Ip", "127.0.0.1")]
    for method in ("PUT", "POST", "DELETE"):
        refused = fetch(server.admin, method, f"/{fid}", forged, b"x", source=STRANGER)
        assert (refused.status, refused.body) == (401, b"")
    assert fetch(server.admin, "GET", f"/{fid}", source=STRANGER).body == b"listed"
    assert server.http("DELETE", f"/{fid}").status == 202


def test_a_hang_up_changes_the_white_list(fresh_server):
    server = fresh_server("-whiteList=192.0.2.0/24", security=toml(white_list="127.0.0.1"))
    first, second = server.store(b"1"), server.store(b"2")
    assert fetch(server.admin, "DELETE", f"/{first}", source=STRANGER).status == 401
    server.security_file.write_text(toml(white_list=STRANGER))
    server.process.send_signal(signal.SIGHUP)

    def is_accepted():
        return fetch(server.admin, "DELETE", f"/{first}", source=STRANGER).status == 202

    wait_until(is_accepted, "the new list to be taken")
    assert server.http("DELETE", f"/{second}").status == 401
    assert server.http("GET", f"/{second}").body == b"2"


def test_calls_and_writes_are_refused_to_who_is_not_listed(fresh_server):
    server = fresh_server("-whiteList=192.0.2.0/24")
    assert server.http("PUT", "/1,01637037d6", [], b"x").status == 401
    request = pb.AllocateVolumeRequest(volume_id=1998, replication="000", version=3)
    with pytest.raises(grpc.RpcError) as raised:
        server.rpc.AllocateVolume(request, timeout=10)
    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert raised.value.details() == "not authorized: 127.0.0.1"
    assert server.rpc.Ping(pb.PingRequest(), timeout=10).start_time_ns
