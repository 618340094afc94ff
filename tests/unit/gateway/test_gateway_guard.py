"""The guard over HTTP: white list for writes only, tokens per kind of access, swapped as one."""

from __future__ import annotations

import hmac
import warnings
from base64 import urlsafe_b64encode

import jwt
import pytest
from support.security import security

from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import Listener, Request
from supervisor.gateway.guard import MAX_KNOWN_TOKEN_CHARS, MAX_KNOWN_TOKENS, Guard, TokenVerifier
from supervisor.routing.match import match_http
from supervisor.routing.registry import TokenKey
from supervisor.wire.jwt import BadToken, verified_token

FID = "3,01637037d6"


def request(method="GET", target=f"/{FID}", *fields, host="10.0.0.1"):
    return Request(method, target, Headers(fields), None, Listener.ADMIN, host, 1, "ID")


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("POST", "/x,01637037d6", 400),
        ("POST", "/3,zz", 401),
        ("PUT", "/x,zz", 400),
        ("DELETE", "/3,zz", 400),
        ("DELETE", "/x,01637037d6", 401),
        ("GET", "/x,zz", 401),
        ("HEAD", "/stats/x", 401),
        ("OPTIONS", "/x,zz", None),
    ],
)
def test_ids_that_upstream_looks_at_first_are_refused_first(method, target, status):
    """The same against a running `weed`: test_http_native_guard_against_go.py."""
    guard = Guard(security(write=b"w", read=b"r"))
    got = token_status(guard, request(method, target))
    assert (got and got[0]) == status
    assert token_status(Guard(security()), request(method, target)) is None


def route_of(req):
    return match_http(req.listener, req.method, req.raw_path)


def token(key, fid=FID, **claims):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return jwt.encode({"fid": fid, **claims}, key, "HS256")


def host_status(guard, req):
    refusal = guard.refuse_host(route_of(req), req)
    return refusal and (refusal.status, refusal.body)


def token_status(guard, req):
    refusal = guard.refuse_token(route_of(req), req)
    return refusal and (refusal.status, refusal.body)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_host_that_is_not_in_the_list_may_not_write(method):
    guard = Guard(security(white_list=["10.0.0.0/24"]))
    assert host_status(guard, request(method)) is None
    assert host_status(guard, request(method, host="10.0.1.1")) == (401, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_header_cannot_put_a_host_into_the_list(method):
    guard = Guard(security(white_list=["10.0.0.1"]))
    req = request(method, f"/{FID}", ("X-Forwarded-For", "10.0.0.1"), ("X-Real-Ip", "10.0.0.1"), host="10.0.0.2")
    assert host_status(guard, req) == (401, b"")


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", f"/{FID}"), ("HEAD", f"/{FID}"), ("OPTIONS", f"/{FID}"), ("PATCH", f"/{FID}"), ("POST", "/status")],
)
def test_the_list_is_about_writes_alone(method, target):
    assert host_status(Guard(security(white_list=["10.0.0.9"])), request(method, target)) is None


def test_an_empty_list_lets_everybody_write_also_with_a_key():
    assert host_status(Guard(security(write=b"key")), request("POST")) is None


def test_a_bad_network_is_logged_and_left_out(caplog):
    guard = Guard(security(white_list=["10.0.0.0/99"]))
    assert guard.allows("8.8.8.8")
    assert "'10.0.0.0/99' is no network" in caplog.text
    assert "every host may write" in caplog.text


def test_an_entry_with_blanks_is_taken_as_it_is_and_said_so(caplog):
    guard = Guard(security(white_list=["10.0.0.1", " 10.0.0.2", ""]))
    assert guard.allows("10.0.0.1")
    assert not guard.allows("10.0.0.2")
    assert "' 10.0.0.2' is no host" in caplog.text
    assert "'' is no host" in caplog.text


@pytest.mark.parametrize(
    ("method", "key", "is_asked"),
    [
        ("POST", "write", True), ("PUT", "write", True), ("DELETE", "write", True),
        ("GET", "read", True), ("HEAD", "read", True),
        ("GET", "write", False), ("HEAD", "write", False), ("POST", "read", False), ("DELETE", "read", False),
        ("OPTIONS", "write", False), ("PATCH", "write", False),
    ],
)  # fmt: skip
def test_each_key_guards_its_own_methods(method, key, is_asked):
    guard = Guard(security(**{key: b"secret"}), now_s=lambda: 100.0)
    refusal = (401, b'{"error":"wrong jwt"}')
    assert token_status(guard, request(method)) == (refusal if is_asked else None)
    good = f"/{FID}?jwt={token(b'secret', exp=200)}"
    assert token_status(guard, request(method, good)) is None
    late = f"/{FID}?jwt={token(b'secret', exp=100)}"
    assert token_status(guard, request(method, late)) == (refusal if is_asked else None)


@pytest.mark.parametrize(
    ("path", "is_allowed"),
    [
        (f"/{FID}", True),
        (f"/{FID}.jpg", True),
        (f"/{FID}_1", True),
        (f"/{FID}_1.jpg", True),
        ("/3/01637037d6", True),
        ("/3/01637037d6/name.txt", True),
        ("/3%2C01637037d6", True),
        ("/3,01637037d7", False),
        ("/4,01637037d6", False),
        ("/status/3,01637037d6", False),
    ],
)
def test_a_token_is_for_the_file_that_the_path_names(path, is_allowed):
    guard = Guard(security(read=b"secret"))
    req = request("GET", path, ("Authorization", f"Bearer {token(b'secret')}"))
    assert (token_status(guard, req) is None) is is_allowed


class TestVerifiedTokensThatAreRemembered:
    ROUTE = match_http(Listener.ADMIN, "GET", f"/{FID}")

    def test_a_token_is_refused_as_soon_as_it_expires_and_before_it_begins(self):
        times = []
        guard, good = Guard(security(read=b"r"), now_s=lambda: times[-1]), token(b"r", nbf=100, exp=110)
        for now_s, is_admitted in ((99.9, False), (100.0, True), (109.9, True), (110.0, False), (105.0, True)):
            times.append(now_s)
            assert guard.admits_token(self.ROUTE, good, FID) is is_admitted
            assert (token_status(guard, request("GET", f"/{FID}?jwt={good}")) is None) is is_admitted
        assert guard.rules.verifiers[TokenKey.READ].known_tokens == 1

    def test_a_token_that_is_remembered_is_for_its_own_file_alone(self):
        guard = Guard(security(read=b"r"))
        assert guard.admits_token(self.ROUTE, token(b"r"), FID)
        assert not guard.admits_token(self.ROUTE, token(b"r"), FID[:-1] + "7")
        assert not guard.admits_token(self.ROUTE, token(b"r"), FID.upper())

    def test_other_keys_know_no_token(self):
        guard = Guard(security(read=b"r"))
        assert guard.admits_token(self.ROUTE, token(b"r"), FID)
        guard.update(security(read=b"s"))
        assert not guard.admits_token(self.ROUTE, token(b"r"), FID)
        guard.update(security(read=b"r"))
        assert guard.rules.verifiers[TokenKey.READ].known_tokens == 0
        assert guard.admits_token(self.ROUTE, token(b"r"), FID)

    def test_no_refused_token_is_remembered(self):
        verifier = TokenVerifier(b"r")
        for bad in ("", "a.b.c", token(b"s"), token(b"r")[:-1], token(b"r", exp="soon")):
            with pytest.raises(BadToken):
                verifier.verified(bad)
        assert verifier.known_tokens == 0

    @pytest.mark.slow
    def test_the_memory_is_bounded(self):
        """Slow: thousands of tokens."""
        verifier, long = TokenVerifier(b"r"), token(b"r", iss="x" * MAX_KNOWN_TOKEN_CHARS)
        assert verifier.verified(long) == verified_token(long, b"r")
        assert verifier.known_tokens == 0
        for number in range(MAX_KNOWN_TOKENS + 10):
            verifier.verified(signed(b'{"fid":"3,%d"}' % number))
        assert verifier.known_tokens == MAX_KNOWN_TOKENS

    def test_a_route_without_a_key_needs_no_token(self):
        assert Guard(security(write=b"w")).admits_token(self.ROUTE, "", FID)


def signed(claims, key=b"r"):
    """As `token`, in fewer steps."""
    text = b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in (b'{"alg":"HS256"}', claims))
    return (text + b"." + urlsafe_b64encode(hmac.digest(key, text, "sha256")).rstrip(b"=")).decode()


def test_what_a_token_covers_besides_the_file_of_the_path():
    guard = Guard(security(write=b"w", read=b"r"), now_s=lambda: 100.0)

    def scope(key, **claims):
        req = request("GET", "/4,01", ("Authorization", f"Bearer {token(key, **claims)}"))
        return guard.readable(req), guard.changeable(req)

    assert scope(b"r") == (FID, "")
    assert scope(b"w") == ("", FID)
    assert scope(b"w", exp=100) == ("", "")
    assert scope(b"w", fid=None) == ("", "")
    assert (guard.readable(request()), guard.changeable(request())) == ("", "")
    keyless = Guard(security())
    assert (keyless.readable(request()), keyless.changeable(request())) == (None, None)


def test_list_and_keys_change_together():
    guard = Guard(security(write=b"old", white_list=["10.0.0.1"]))
    assert (guard.rules.keys.write_key, guard.allows("10.0.0.2")) == (b"old", False)
    guard.update(security(read=b"new", white_list=["10.0.0.2"]))
    keys = guard.rules.keys
    assert (keys.write_key, keys.read_key) == (b"", b"new")
    assert guard.allows("10.0.0.2")
    assert not guard.allows("10.0.0.1")


def test_an_empty_white_list_names_nobody():
    assert not Guard(security()).names("10.0.0.1")
    guard = Guard(security(white_list=["10.0.0.0/8"]))
    assert guard.names("10.0.0.1")
    assert not guard.names("192.0.2.1")
