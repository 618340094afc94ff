"""Permissions: tokens and the white list, checked for the true client by the server that the client calls."""

import json
import signal
import time

import grpc
import jwt
import pytest
from harness.http1 import fetch
from support.waiting import LIMIT_S, wait_until

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


@pytest.mark.only(lambda implementation: implementation.name != "mixed-http-forwarded")
def test_keys_guard_writes_and_reads_and_a_hang_up_changes_them(fresh_server):
    """A backend beside native volumes gets no SIGHUP, because it would open these too: it keeps its keys."""
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


@pytest.mark.only(lambda implementation: not implementation.is_go and implementation.mode != "exec")
def test_a_token_writes_no_file_but_its_own(fresh_server):
    """Go checks the token for the file id in one place of the path, and writes the file id in another."""
    server = fresh_server(security=toml(write_key=WRITE_KEY))
    fid = server.new_fid()
    volume_id, own = fid.split(",")
    victim = f"{volume_id},{own[:-8]}ff{own[-8:]}"
    server.store(b"the victim's", bearer(WRITE_KEY, victim), fid=victim)
    other = victim.split(",")[1]
    for tail in (f"/x,{other}", f"_x,{other}", f".,{other}", f"/x%2C{other}", f"/x,{other}.jpg", f"/x,{other}_1"):
        for method in ("PUT", "POST"):
            path = f"/{volume_id}/{own}{tail}"
            assert answer(server.http(method, path, bearer(WRITE_KEY, fid), b"the intruder's")) == WRONG_JWT, path
    assert server.read(victim).body == b"the victim's"
    assert server.http("PUT", f"/{volume_id}/{own}/x,{own}", bearer(WRITE_KEY, fid), b"own").status == 201
    assert server.read(fid).body == b"own"


NATIVE = pytest.mark.only(lambda implementation: "native" in {implementation.mode, implementation.backend})


def secured_manifest(server):
    """(file id of a manifest, file id of its chunk). Each was uploaded with its own token."""
    chunk, fid = server.new_fid(), server.new_fid()
    server.store(b"a chunk", bearer(WRITE_KEY, chunk), fid=chunk)
    entry = {"fid": chunk, "offset": 0, "size": 7}
    text = json.dumps({"size": 7, "chunks": [entry]}).encode()
    return server.store(text, bearer(WRITE_KEY, fid), fid=fid, query="?cm=true"), chunk


def test_a_manifest_reads_no_file_that_its_token_does_not(fresh_server):
    server = fresh_server(security=toml(write_key=WRITE_KEY, read_key=READ_KEY))
    fid, chunk = secured_manifest(server)
    assert server.http("HEAD", f"/{fid}", bearer(READ_KEY, fid)).get("Content-Length") == "7"
    refused = server.http("GET", f"/{fid}", bearer(READ_KEY, fid))
    assert (refused.status, b"a chunk" in refused.body) == (500, False)
    assert server.http("GET", f"/{chunk}", bearer(READ_KEY, chunk)).body == b"a chunk"


@NATIVE
def test_a_manifest_deletes_no_file_that_its_token_does_not(fresh_server):
    """Go deletes them, by an RPC that knows no tokens."""
    server = fresh_server(security=toml(write_key=WRITE_KEY))
    fid, chunk = secured_manifest(server)
    refused = server.http("DELETE", f"/{fid}", bearer(WRITE_KEY, fid))
    assert answer(refused) == (401, {"error": f"Delete chunks error: chunk delete {chunk}: wrong jwt"})
    assert server.read(fid).body == server.read(chunk).body == b"a chunk"
    # A client with all the tokens deletes each chunk with its own token, then the manifest alone.
    assert server.http("DELETE", f"/{chunk}", bearer(WRITE_KEY, chunk)).status == 202
    assert server.http("DELETE", f"/{fid}?cm=false", bearer(WRITE_KEY, fid)).status == 202
    assert server.read(fid).status == server.read(chunk).status == 404


@NATIVE
def test_a_token_covers_a_file_and_those_that_follow_it_in_a_manifest_too(fresh_server):
    server = fresh_server(security=toml(write_key=WRITE_KEY, read_key=READ_KEY))
    fid = server.new_fid()
    for number, data in ((1, b"first, "), (2, b"second")):
        assert server.http("PUT", f"/{fid}_{number}", bearer(WRITE_KEY, fid), data).status == 201
    entries = [{"fid": f"{fid}_1", "offset": 0, "size": 7}, {"fid": f"{fid}_2", "offset": 7, "size": 6}]
    server.store(
        json.dumps({"size": 13, "chunks": entries}).encode(), bearer(WRITE_KEY, fid), fid=fid, query="?cm=true"
    )
    assert server.http("GET", f"/{fid}", bearer(READ_KEY, fid)).body == b"first, second"
    assert server.http("DELETE", f"/{fid}", bearer(WRITE_KEY, fid)).status == 202
    assert server.http("GET", f"/{fid}_1", bearer(READ_KEY, fid)).status == 404


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
        server.rpc.AllocateVolume(request, timeout=LIMIT_S)
    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert raised.value.details() == "not authorized: 127.0.0.1"
    assert server.rpc.Ping(pb.PingRequest(), timeout=LIMIT_S).start_time_ns
